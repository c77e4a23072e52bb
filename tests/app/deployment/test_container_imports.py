"""What a server's container imports before its engine is started: somebody waits for each of these modules."""

import json
import os
import subprocess
import sys

import pytest

from app.deployment.server_container import checked_tier, tier_settings
from app.fleet.schema import declared
from app.model_server.settings import TierSettings
from tests.support.checkout import ROOT
from tests.support.waiting import PATIENCE

IN_A_CONTAINER = """
import sys
import modal, modal._container_entrypoint
before = set(sys.modules)
from modal._runtime.task_lifecycle_manager import _TaskLifecycleManager
_TaskLifecycleManager._singleton = object()  # by this the client knows that it is in a container
import app.endpoint
print(*sorted(set(sys.modules) - before))
from jobs.http.libraries_alone import import_libraries_alone
import_libraries_alone()
import jobs.ollama.client
print(*sorted(set(sys.modules) - before))
"""

HEAVY = {
    "httpx", "pydantic", "pydantic_core", "fastapi", "uvicorn", "prometheus_client", "cronsim", "rich", "cryptography",
    "tenacity", "app.fleet.schema", "jobs.ollama.client", "jobs.ledger.ledger", "jobs.ledger.job",
}  # fmt: skip
"""Each takes from a twentieth to a fifth of a second of processor time, or brings one that does."""

MOST = 85
"""Modules of our own, six of them the engines' values. Nothing of them is compiled in a container that has just
started."""


def test_a_container_imports_only_what_starts_its_engine() -> None:
    """No validator, no HTTP client, nothing of the gateway: the fleet was checked where it was deployed. The client
    that follows, while the engine starts, comes without a command line of its own."""
    done = subprocess.run(
        [sys.executable, "-c", IN_A_CONTAINER],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    imported, with_client = (set(line.split()) for line in done.stdout.splitlines())

    assert "app.model_server.supervisor" in imported
    assert not imported & HEAVY
    assert "httpx" in with_client
    assert not with_client & {"rich", "click", "pygments"}
    assert len([each for each in imported if each.partition(".")[0] in ("app", "jobs")]) <= MOST


@pytest.mark.parametrize("name", declared().tiers)
def test_what_a_container_is_brought_is_what_the_fleet_says(name: str) -> None:
    """What was checked for a tier comes out of the file as it went in, what is set for its models included."""
    fleet = declared()
    document = json.loads(checked_tier(fleet, name))

    assert {key: TierSettings.from_json(each) for key, each in document.items()} == {name: tier_settings(fleet, name)}
