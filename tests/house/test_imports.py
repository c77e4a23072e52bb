"""Which file may import which: rooms have floors, arrows run down, nothing runs in a circle."""

import re
import sys
from functools import cache
from importlib.metadata import packages_distributions

import pytest
from packaging.utils import canonicalize_name

from app.image_requirements import ENGINE, LOCK, runtime_part
from tests.house.drawing import Drawing, circles
from tests.support.checkout import ROOT

# Arrows point to a room on a lower floor, or stay inside their own. A new folder is given its floor here.
FLOORS: dict[str, int] = {
    "jobs/version.py": 0,
    "jobs/core": 0,
    "jobs/http": 1,
    "jobs/store": 1,
    "jobs/access": 2,
    "jobs/access/keys": 3,
    "jobs/ledger": 2,
    "jobs/listing": 3,
    "jobs/telemetry": 3,
    "jobs/archive": 4,
    "jobs/batches": 4,
    "jobs/batches/files": 5,
    "jobs/batches/lines": 6,
    "jobs/batches/running": 7,
    "jobs/worker": 3,
    "jobs/weights": 4,
    "jobs/models": 5,
    "jobs/ollama": 5,
    "jobs/registry": 6,
    "jobs/tasks": 8,
    "jobs/home": 9,
    "jobs/cli/terminal": 2,
    "jobs/cli": 10,
    "jobs/cli/models": 11,
    "jobs/cli/batches": 11,
    "jobs/__main__.py": 12,
    "jobs/testing": 6,
    "jobs/testing/registry": 7,
    "jobs/testing/ollama": 7,
    "app/file_start.py": 0,
    "app/platform": 9,
    "app/engines": 10,
    "app/deploy_refusals.py": 11,
    "app/image_pinning.py": 11,
    "app/image_requirements.py": 10,
    "app/log_queue.py": 10,
    "app/logs.py": 11,
    "app/resources.py": 12,
    "app/fleet": 11,
    "app/model_server/starting": 11,
    "app/model_server": 12,
    "app/accounting": 13,
    "app/scheduler": 14,
    "app/deployment": 15,
    "app/deployment/batches": 18,
    "app/gateway/auth": 11,
    "app/gateway/event_loop": 11,
    "app/gateway/protocol/json_body": 12,
    "app/gateway/protocol": 13,
    "app/gateway/catalog": 14,
    "app/gateway/upstream": 15,
    "app/gateway/lines": 15,
    "app/gateway/inference": 16,
    "app/llama_host": 16,
    "app/gateway/batches": 17,
    "app/gateway/direct": 17,
    "app/gateway/ops": 17,
    "app/gateway/dashboard": 18,
    "app/gateway/dashboard/batches": 18,
    "app/gateway": 19,
    "app/local/commands": 19,
    "app/local/processes": 19,
    "app/local": 20,
    "app/local/batches": 21,
    "app/deploy.py": 21,
    "app/endpoint.py": 20,
    "app/endpoint_v2.py": 20,
    "app/jobs.py": 20,
}

HOUSE = Drawing.of(ROOT)


def is_below(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def test_each_folder_has_its_floor() -> None:
    """Every folder of app and jobs is drawn in FLOORS, and nothing that is not there."""
    assert set(HOUSE.rooms) == set(FLOORS)


def test_imports_point_downward() -> None:
    """What imports from another folder imports from a lower floor."""
    upward = [
        f"{name} (floor {FLOORS[HOUSE.room(name)]}) imports {target} (floor {FLOORS[HOUSE.room(target)]})"
        for name in HOUSE.modules
        for target in sorted(HOUSE.imports[name])
        if HOUSE.room(target) != HOUSE.room(name) and FLOORS[HOUSE.room(target)] >= FLOORS[HOUSE.room(name)]
    ]

    assert not upward, upward


@pytest.mark.parametrize("folder", [room for room in HOUSE.rooms if not room.endswith(".py")])
def test_no_circle_inside_a_folder(folder: str) -> None:
    """The files of a folder have an order, too: none imports one that imports it, however far around."""
    assert not circles(HOUSE.inside(folder))


def test_no_circle_anywhere() -> None:
    """No folders import one another, nor do files of several folders."""
    assert not circles(HOUSE.arrows)
    assert not circles(HOUSE.imports)


def test_jobs_stands_alone() -> None:
    """Nothing under jobs imports app or modal, so the same code runs on one machine and on a platform."""
    wrong = [
        f"{name} imports {target}"
        for name, targets in HOUSE.all_imports.items()
        if is_below(name, "jobs")
        for target in sorted(targets)
        if is_below(target, "app") or is_below(target, "modal")
    ]

    assert not wrong, wrong


def test_doubles_are_not_leant_on() -> None:
    """Nothing under jobs imports jobs.testing but jobs.testing itself."""
    wrong = [
        f"{name} imports {target}"
        for name, targets in HOUSE.all_imports.items()
        if is_below(name, "jobs") and not is_below(name, "jobs.testing")
        for target in sorted(targets)
        if is_below(target, "jobs.testing")
    ]

    assert not wrong, wrong


def test_packages_import_nothing() -> None:
    """An __init__.py says what lives in the folder and imports nothing; every import names its file."""
    wrong = [name for name in HOUSE.paths if name not in HOUSE.modules and HOUSE.all_imports[name]]

    assert not wrong, wrong


@cache
def shipped() -> frozenset[str]:
    """What an image brings to import: the standard library, what the lock has for run time, our source, and modal."""
    text = runtime_part(LOCK.read_text("utf-8"))
    locked = {canonicalize_name(name) for name in re.findall(r"^([a-z0-9][^=]*)==", text, flags=re.MULTILINE)}
    packages = {
        module
        for module, names in packages_distributions().items()
        if any(canonicalize_name(name) in locked for name in names)
    }
    with_modal = {"modal", "grpclib"}  # Modal's client is mounted, with what it needs
    of_an_extra = {ENGINE}  # asked for where there is no `llama-server`, which the images have
    return frozenset({*sys.stdlib_module_names, *packages, *with_modal, *of_an_extra, "app", "jobs"})


def test_images_bring_what_is_imported() -> None:
    """Whatever app and jobs import, wherever they do it, a container has; the development tools are not there."""
    wrong = [
        f"{name} imports {target}"
        for name, targets in HOUSE.all_imports.items()
        for target in sorted(targets)
        if target.partition(".")[0] not in shipped()
    ]

    assert not wrong, wrong


def test_nobody_asks_for_an_installation() -> None:
    """Nothing of app and jobs reads an installation's metadata: a container holds our source and none of it."""
    asking = {"importlib.metadata", "importlib_metadata", "pkg_resources"}

    wrong = [f"{name} imports {target}" for name, targets in HOUSE.all_imports.items() for target in targets & asking]

    assert not wrong, wrong
