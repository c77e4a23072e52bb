"""There is one version, whoever tells it."""

import json
import subprocess
import sys
from pathlib import Path

from starlette.testclient import TestClient

from jobs.version import VERSION
from tests.support.checkout import ROOT
from tests.support.ops_api import ADMIN_KEY, ops_api
from tests.support.waiting import PATIENCE


def said(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout


def test_whoever_tells_the_version_tells_the_same(tmp_path: Path) -> None:
    """What a build would write down, the command, the ops API and its document say one version."""
    built = json.loads(said(sys.executable, "-m", "hatchling", "metadata"))["version"]
    printed = said(sys.executable, "-m", "jobs", "--version")
    with ops_api(tmp_path / "ops") as here:
        asked = TestClient(here.app(), headers={"x-api-key": ADMIN_KEY})
        document = asked.get("/ops/v1/openapi.json").json()["info"]["version"]
        health = asked.get("/ops/v1/health").json()["version"]

    assert {built, printed.removeprefix("ollama-modal ").strip(), document, health} == {VERSION}
