"""The house stays as drawn: which file may import which, and that what the documents name exists."""

import ast
import importlib
import os
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import typer.main
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from app.image_requirements import LOCK, runtime_part
from tests.support.checkout import ROOT

# Arrows point to a folder on a lower floor, or stay inside their own. A new folder is given its floor here.
FLOORS: dict[str, int] = {
    "jobs/version.py": 0,
    "jobs/core": 0,
    "jobs/http": 1,
    "jobs/store": 1,
    "jobs/ledger": 2,
    "jobs/telemetry": 3,
    "jobs/worker": 3,
    "jobs/weights": 4,
    "jobs/models": 5,
    "jobs/ollama": 5,
    "jobs/registry": 6,
    "jobs/tasks": 7,
    "jobs/home": 8,
    "jobs/cli": 9,
    "jobs/__main__.py": 10,
    "jobs/testing": 6,
    "jobs/testing/registry": 7,
    "jobs/testing/ollama": 7,
    "app/platform": 9,
    "app/image_pinning.py": 10,
    "app/image_requirements.py": 10,
    "app/log_queue.py": 10,
    "app/logs.py": 10,
    "app/resources.py": 10,
    "app/fleet": 11,
    "app/model_server": 12,
    "app/accounting": 13,
    "app/scheduler": 14,
    "app/deployment": 15,
    "app/gateway/auth": 11,
    "app/gateway/protocol": 13,
    "app/gateway/catalog": 14,
    "app/gateway/upstream": 15,
    "app/gateway/inference": 16,
    "app/gateway/ops": 17,
    "app/gateway/dashboard": 18,
    "app/gateway": 19,
    "app/local": 20,
    "app/deploy.py": 20,
    "app/endpoint.py": 20,
    "app/endpoint_v2.py": 20,
    "app/jobs.py": 20,
}

MOST_MODULES = 12
"""In one folder; one that holds more holds two ideas. The simulator, which follows Ollama's own files, is apart."""

DOCUMENTS = [ROOT / name for name in ("README.md", "app/README.md", "app/clients.md", "jobs/README.md")]


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def python_files(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


@cache
def ours() -> dict[str, Path]:
    return {name_of(path): path for path in python_files("app", "jobs")}


@cache
def imports(path: Path) -> frozenset[str]:
    """Every module the file imports anywhere, those inside functions and under TYPE_CHECKING included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: import by full name, so that a reader sees where it lives"
            module = str(node.module)
            found.update(
                f"{module}.{alias.name}" if f"{module}.{alias.name}" in ours() else module for alias in node.names
            )
    return frozenset(found)


def is_below(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def place(name: str) -> str:
    """The folder of a module; the module itself where it stands in the root of app or jobs."""
    path = ours()[name].relative_to(ROOT)
    return str(path if len(path.parts) == 2 else path.parent)


def test_each_folder_has_its_floor() -> None:
    """Every folder of app and jobs is drawn in FLOORS, and nothing that is not there."""
    assert {place(name) for name in ours() if name not in {"app", "jobs"}} == set(FLOORS)


def test_imports_point_downward() -> None:
    """Between folders every import points to a lower floor; in the root of app, at most to the same."""
    modules = [name for name in ours() if name not in {"app", "jobs"}]

    upward = [
        f"{name} (floor {FLOORS[place(name)]}) imports {target} (floor {FLOORS[place(target)]})"
        for name in modules
        for target in sorted(imports(ours()[name]))
        if target in modules
        and place(target) != place(name)
        and FLOORS[place(target)] >= FLOORS[place(name)] + (is_root(name) and is_root(target))
    ]

    assert not upward, upward


def is_root(name: str) -> bool:
    return place(name).endswith(".py")


def folders() -> list[Path]:
    """Every folder of ours that holds modules, but for the two roots."""
    found = {path.parent for path in python_files("app", "jobs")} - {ROOT / "app", ROOT / "jobs"}
    return sorted(found)


@pytest.mark.parametrize("folder", folders(), ids=lambda folder: str(folder.relative_to(ROOT)))
def test_a_folder_says_what_it_holds(folder: Path) -> None:
    """A folder's __init__.py says in a sentence what lives there, and in a line each what its files are for; it holds
    few enough to be one idea."""
    told = ast.get_docstring(ast.parse((folder / "__init__.py").read_text("utf-8"))) or ""
    first, _, lines = told.partition("\n\n")
    named = re.findall(r"^(\w+) {2,}\S", lines, re.MULTILINE)
    there = sorted(path.stem for path in folder.glob("*.py") if path.name != "__init__.py")

    assert first.endswith((".", ":"))
    assert sorted(named) == there
    assert len([name for name in there if name != "__main__"]) <= MOST_MODULES or folder.parent.name == "testing"


def test_jobs_stands_alone() -> None:
    """Nothing under jobs imports app or modal, so the same code runs on one machine and on a platform."""
    wrong = [
        f"{name} imports {target}"
        for name, path in ours().items()
        if is_below(name, "jobs")
        for target in sorted(imports(path))
        if is_below(target, "app") or is_below(target, "modal")
    ]

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
    return frozenset({*sys.stdlib_module_names, *packages, *with_modal, "app", "jobs"})


def test_images_bring_what_is_imported() -> None:
    """Whatever app and jobs import, wherever they do it, a container has; the development tools are not there."""
    wrong = [
        f"{name} imports {target}"
        for name, path in ours().items()
        for target in sorted(imports(path))
        if target.partition(".")[0] not in shipped()
    ]

    assert not wrong, wrong


def test_nobody_asks_for_an_installation() -> None:
    """Nothing of app and jobs reads an installation's metadata: a container holds our source and none of it."""
    asking = {"importlib.metadata", "importlib_metadata", "pkg_resources"}

    wrong = [f"{name} imports {target}" for name, path in ours().items() for target in sorted(imports(path) & asking)]

    assert not wrong, wrong


def test_images_bring_our_data() -> None:
    """Of jobs only Python files go into an image, so there is no other file that could be read."""
    others = {path.name for path in (ROOT / "jobs").rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"}}

    assert others == {"README.md", "py.typed"}


def test_doubles_are_not_leant_on() -> None:
    """Nothing under jobs imports jobs.testing but jobs.testing itself."""
    wrong = [
        f"{name} imports {target}"
        for name, path in ours().items()
        if is_below(name, "jobs") and not is_below(name, "jobs.testing")
        for target in sorted(imports(path))
        if is_below(target, "jobs.testing")
    ]

    assert not wrong, wrong


def test_no_circles() -> None:
    """No set of files imports one another."""
    graph = {name: {target for target in imports(path) if target in ours()} for name, path in ours().items()}

    TopologicalSorter(graph).prepare()


def test_packages_import_nothing() -> None:
    """An __init__.py says what lives in the folder and imports nothing; every import names its file."""
    wrong = [str(path) for path in python_files("app", "jobs") if path.name == "__init__.py" and imports(path)]

    assert not wrong, wrong


def fenced(text: str) -> list[str]:
    return re.findall(r"^```[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_readme_maps_what_exists() -> None:
    """README's map has a line for every folder of app and jobs, and none for what is not there."""
    text = (ROOT / "README.md").read_text("utf-8")
    drawn = re.findall(r"^([\w./-]+/)  +\S", fenced(text.split("## The map")[1])[0], re.MULTILINE)

    assert not [path for path in drawn if not (ROOT / path).is_dir()]
    there = {f"{folder.relative_to(ROOT).as_posix()}/" for folder in folders()} | {"app/", "jobs/"}
    assert {path for path in drawn if path.startswith(("app/", "jobs/"))} == there


@cache
def subcommands() -> frozenset[str]:
    """What `ollama-modal` understands. Imported here, so that a broken command line fails only the tests about it."""
    importlib.import_module("app.local.main")  # adds `up`
    app: Any = importlib.import_module("jobs.cli.main").app
    return frozenset(typer.main.get_group(app).commands)


def pixi_tasks() -> dict[str, Any]:
    tasks: dict[str, Any] = tomllib.loads((ROOT / "pixi.toml").read_text("utf-8"))["tasks"]
    return tasks


def is_command(line: str) -> bool:
    """Whether a command line of ours names a script, a module or a subcommand that exists."""
    words = shlex.split(line)
    match words:
        case ["ollama-modal", subcommand, *_]:
            return subcommand in subcommands()
        case ["modal", "deploy" | "run" as verb, *rest] if "-m" in rest:
            module, _, function = rest[rest.index("-m") + 1].partition("::")
            path = ours().get(module)
            return path is not None and (verb == "deploy" or f"def {function}(" in path.read_text("utf-8"))
        case ["python", "-m", module, *_]:
            return module in ours()
        case ["uv", "run", "--script", script, *_]:
            return (ROOT / script).exists()
        case [script, *_] if script.startswith("scripts/"):
            return os.access(ROOT / script, os.X_OK)
        case _:
            return False


@pytest.mark.parametrize("task", sorted(pixi_tasks()))
def test_pixi_tasks_exist(task: str) -> None:
    """Every pixi task says what it does and runs a command that exists."""
    assert pixi_tasks()[task]["description"]
    assert is_command(pixi_tasks()[task]["cmd"]), pixi_tasks()[task]["cmd"]


def test_pixi_refers_to_the_one_list() -> None:
    """pixi.toml names no Python package of its own, only this project, and serves the platforms we promise."""
    pixi = tomllib.loads((ROOT / "pixi.toml").read_text("utf-8"))

    assert pixi["pypi-dependencies"] == {"ollama-modal": {"path": ".", "editable": True}}
    assert set(pixi["dependencies"]) == {"python", "ollama", "uv"}
    assert set(pixi["workspace"]["platforms"]) == {"linux-64", "linux-aarch64", "osx-arm64"}


def code(text: str) -> list[str]:
    """Each line of a document that is set as code."""
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))
    return [line for block in fenced(text) for line in block.splitlines()] + spans


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_name_what_exists(document: Path) -> None:
    """Every command that a README shows can be run: subcommands, scripts, pixi tasks, module paths."""
    lines = "\n".join(code(document.read_text("utf-8")))

    wrong = [
        f"ollama-modal {name}" for name in re.findall(r"\bollama-modal ([a-z]\w*)", lines) if name not in subcommands()
    ]
    wrong += [script for script in re.findall(r"\bscripts/[\w.-]+", lines) if not (ROOT / script).exists()]
    wrong += [f"pixi run {task}" for task in re.findall(r"\bpixi run ([\w-]+)", lines) if task not in pixi_tasks()]
    wrong += [line for line in re.findall(r"\bmodal (?:run|deploy) [^\n]*-m [\w.:]+", lines) if not is_command(line)]
    wrong += [f"-m {name}" for name in re.findall(r"\bpython -m ((?:app|jobs)[\w.]*)", lines) if name not in ours()]
    assert not wrong, wrong


def test_every_test_states_its_promise() -> None:
    """Every test has a docstring."""
    bare = [
        f"{path.name}:{node.lineno} {node.name}"
        for path in python_files("tests")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]

    assert not bare, bare


def pins() -> dict[str, str]:
    """The lock's blocks by package: the pin, its hashes, and who wants it."""
    blocks = re.split(r"^(?=[a-z])", (ROOT / "requirements.lock").read_text("utf-8"), flags=re.MULTILINE)[1:]
    return {canonicalize_name(block.partition("==")[0]): block for block in blocks}


def wanted() -> dict[str, Requirement]:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    listed = [*pyproject["project"]["dependencies"], *pyproject["dependency-groups"]["dev"]]
    return {canonicalize_name(each.name): each for each in map(Requirement, listed)}


def test_lock_is_in_step() -> None:
    """The lock pins what pyproject.toml lists, each within its range, and nothing that it no longer lists."""
    locked = pins()

    assert {name for name, block in locked.items() if "ollama-modal (pyproject.toml" in block} == set(wanted())
    for name, requirement in wanted().items():
        version = locked[name].partition("==")[2].split()[0]
        assert requirement.specifier.contains(version), f"{requirement} is locked at {version}"


def test_lock_pins_bytes_not_places() -> None:
    """Every pin has hashes, and the lock names no index, so it serves behind any of them."""
    assert not [name for name, block in pins().items() if "--hash=sha256:" not in block]
    assert not re.findall(r"://|--\S*index\S*|--find-links", (ROOT / "requirements.lock").read_text("utf-8"))


def kept_files() -> Iterator[Path]:
    """What a checkout holds beside what tools leave behind; works without git."""
    ignored = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text("utf-8").splitlines()]
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if name != ".git" and not any(map(Path(name).match, ignored))]
        yield from (Path(folder, name) for name in files if name != ".git" and not any(map(Path(name).match, ignored)))


def test_no_file_knows_one_machine() -> None:
    """No file holds a path of somebody's machine or the address of a package index."""
    foreign = re.compile(r"/root/\.|/home/\w|https?://[^ \"]*/simple\b|/packages/[0-9a-f]{2}/")

    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in kept_files()
        for match in foreign.finditer(path.read_text("utf-8", errors="replace"))
    ]

    assert not found, found
