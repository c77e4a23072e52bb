"""An engine that is started at the first line of a container, before anything else is there."""

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.model_server.settings import ServerHost, TierSettings
from app.model_server.starting.engine import Engine, address, begun
from app.model_server.supervisor import ServerSupervisor
from jobs.core.clock import SystemClock
from jobs.core.model_name import ModelName
from jobs.models.model_settings import ModelSettings
from jobs.store import keys
from tests.support.checkout import ROOT
from tests.support.models_directory import put, sample, weights_at
from tests.support.ollama_servers import SIMULATOR
from tests.support.processes import free_port
from tests.support.stores import Store
from tests.support.waiting import PATIENCE

BINARY = os.environ.get("OLLAMA_BIN", "")

NO_BINARY = "no real Ollama: set OLLAMA_BIN to the path of an `ollama` binary"

FIRST_LINE = """
import sys
import modal, modal._container_entrypoint
before = set(sys.modules)
from app.model_server.starting import engine
engine.begun({})
print(*sorted(set(sys.modules) - before))
"""


class Case:
    """A container with a volume that has weights, and a program in the engine's place."""

    def __init__(self, folder: Path, program: str) -> None:
        self.folder = folder
        self.weights = weights_at(folder)
        self.checked = folder / "checked_tiers.json"
        self.environ = {
            **os.environ,
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "OLLAMA_HOST": f"127.0.0.1:{free_port()}",
        }
        self.engines: list[Engine] = []
        (folder / "bin").mkdir()
        (folder / "bin/ollama").write_text(f"#!/bin/sh\nexec {program}\n")
        (folder / "bin/ollama").chmod(0o755)

    def tier(self, **settings: Any) -> TierSettings:
        return TierSettings("a10g", gpu_promised=False, environ={}, startup=timedelta(seconds=PATIENCE), **settings)

    def begun(self, settings: TierSettings) -> Engine | None:
        self.checked.write_text(json.dumps({settings.tier: settings.as_json()}))
        engine = begun(self.environ, self.folder / "models", self.checked)
        self.engines += [engine] if engine else []
        return engine

    def listed(self) -> list[str]:
        answer = httpx.get(f"{address(self.environ).url}/api/tags", timeout=PATIENCE).json()
        return sorted(each["name"] for each in answer["models"])


@pytest.fixture
def case(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    case = Case(tmp_path, getattr(request, "param", shlex.join(SIMULATOR)))
    yield case
    for engine in case.engines:
        engine.child.kill()
        engine.child.wait()
        if engine.child.stdout:
            engine.child.stdout.close()


def test_hardly_anything_is_imported_before() -> None:
    """Whoever waits for the engine waits for nothing but this file and where it is to listen."""
    done = subprocess.run(
        [sys.executable, "-c", FIRST_LINE],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )

    assert set(done.stdout.split()) == {
        "app", "app.model_server", "app.model_server.starting", "app.model_server.starting.engine",
        "jobs", "jobs.ollama", "jobs.ollama.host",
    }  # fmt: skip


@pytest.mark.parametrize(
    "case",
    [
        shlex.join(SIMULATOR),
        pytest.param(
            f"{shlex.quote(BINARY)} serve",
            marks=pytest.mark.skipif(
                not BINARY, reason="no real Ollama: set OLLAMA_BIN to the path of an `ollama` binary"
            ),
        ),
    ],
    indirect=True,
    ids=["simulator", "ollama"],
)
@pytest.mark.parametrize("has_settings", [False, True])
def test_it_serves_what_is_shown_to_it_later(case: Case, store: Store, *, has_settings: bool) -> None:
    """It answers before it sees any model; then the server takes it over as it is, and its callers find all of them."""
    for name in ("first", "second"):
        put(case.weights, sample(name, b"weights" * 100))
    store.facts.put(keys.WEIGHTS_GENERATION, 1)
    models = {ModelName.parse("first"): ModelSettings(context=1024)} if has_settings else {}
    settings = case.tier(models=models)
    engine = case.begun(settings)
    assert engine is not None
    server = ServerSupervisor(
        settings,
        ServerHost(
            volume=case.folder / "models",
            disk=engine.disk,
            container="ta-1",
            facts=store.facts,
            reload=lambda _: None,
            end_container=lambda: None,
            address=address(case.environ),
            inherited=case.environ,
            clock=SystemClock(),
            engine=engine,
        ),
    )
    try:
        server.start()

        assert case.listed() == ["first:latest", "second:latest"]
        assert engine.child.poll() is None
    finally:
        server.stop()
    assert engine.child.poll() is not None


def test_it_waits_where_it_cannot_begin(case: Case) -> None:
    """Outside of a server's container, for a volume without weights, and without the program, nothing is started here:
    the server starts it in its turn, and says what is wrong."""
    assert begun(case.environ, case.folder / "models", case.checked) is None
    assert case.begun(case.tier()) is None  # no blobs yet

    put(case.weights, sample("first", b"weights"))
    (case.folder / "bin/ollama").unlink()
    case.environ["PATH"] = str(case.folder / "bin")
    assert case.begun(case.tier()) is None
