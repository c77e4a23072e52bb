"""A container whose engine is llama-server: the same start, reports, reloads and ends, with the real engine in it."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.engines.llama_server import LLAMA_SERVER
from app.model_server.settings import ServerHost, TierSettings
from app.model_server.starting.engine import engine_environ
from app.model_server.supervisor import ServerSupervisor
from jobs.core.model_name import ModelName
from jobs.ollama.host import OllamaHost
from jobs.store import keys
from jobs.testing.toy_models import all_toys
from jobs.testing.toy_weights import PHRASE
from tests.support.llama_hosts import needs_engine
from tests.support.models_directory import lay
from tests.support.moved_clock import MovedClock
from tests.support.processes import free_port
from tests.support.stores import Store
from tests.support.waiting import PATIENCE, until

HOST = (sys.executable, "-m", "app.llama_host")
"""With the engine of the wheel, where the image has its own."""

TALK = [{"role": "user", "content": "hello"}]


class Case:
    """A server whose engine is llama.cpp, over a directory that stands for the volume."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.folder, self.facts = folder, store.facts
        self.host = OllamaHost(port=free_port())
        self.taken_out = threading.Event()
        self.server: ServerSupervisor | None = None
        self.reloads = 0

    def start(self, *warmed: str) -> ServerSupervisor:
        settings = TierSettings(
            tier="l4",
            gpu_promised=False,
            environ={"OLLAMA_MAX_LOADED_MODELS": "2", "OLLAMA_KEEP_ALIVE": "-1"},
            startup=timedelta(seconds=PATIENCE),
            warmed=tuple(map(ModelName.parse, warmed)),
            probe_every=timedelta(hours=1),
            engine=LLAMA_SERVER,
        )

        def reload(_: timedelta | None) -> None:
            self.reloads += 1

        host = ServerHost(
            volume=self.folder / "models",
            disk=self.folder / "disk",
            container="ta-1",
            facts=self.facts,
            reload=reload,
            end_container=self.taken_out.set,
            address=self.host,
            inherited=os.environ,
            clock=MovedClock(),
            command=HOST,
        )
        self.server = ServerSupervisor(settings, host)
        self.server.start()
        return self.server

    def ask(self, path: str, **body: Any) -> Any:
        answer = httpx.post(f"{self.host.url}{path}", json=body, timeout=PATIENCE)
        assert answer.is_success, answer.text
        return answer.json()

    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = self.facts.get("server/l4/ta-1")
        return found

    def loaded(self) -> list[str]:
        listed = httpx.get(f"{self.host.url}/api/ps", timeout=PATIENCE).json()["models"]
        return sorted(each["name"] for each in listed)


@pytest.fixture
def case(tmp_path: Path, live_store: Store) -> Iterator[Case]:
    case = Case(tmp_path, live_store)
    lay(tmp_path / "models", *all_toys())
    case.facts.put(keys.WEIGHTS_GENERATION, 1)
    yield case
    if case.server is not None:
        case.server.stop()


@needs_engine
def test_a_start_loads_serves_and_reports(case: Case) -> None:
    """It answers with the warmed model in memory, its report says which engine it is and what is loaded, its start is
    told by its phases, and requests of callers are counted, its own loads not among them."""
    server = case.start("toy")

    chatted = case.ask("/v1/chat/completions", model="toy", messages=TALK)
    ranked = case.ask("/v1/rerank", model="toy-rerank", query="a", documents=["a", "b"])

    def told() -> dict[str, Any] | None:
        """What it reports once all has come of what its engine said. Of its start that may be read after it answers,
        and then the bytes are counted to what followed them."""
        server.check()
        report = case.report()
        seconds = {each["kind"]: set(each["seconds"]) for each in report["progress"]}
        of_start, of_load = seconds.get("start", set()), seconds.get("load", set())
        return report if {"weights", "engine", "memory"} <= of_start and {"bytes", "memory"} <= of_load else None

    report = until(told)
    assert chatted["choices"][0]["message"]["content"] == PHRASE
    assert len(ranked["results"]) == 2
    assert (report["engine"], report["state"], report["version"][:1]) == ("llama-server", "serving", "b")
    assert sorted(each["name"] for each in report["loaded"]) == ["toy-rerank:latest", "toy:latest"]
    until(lambda: server.check() or case.report()["requests"]["served"] == 2)  # type: ignore[func-returns-value]
    (start,) = [each for each in report["progress"] if each["kind"] == "start"]
    assert start["model"] == "toy:latest"


@needs_engine
def test_new_weights_are_taken_in(case: Case) -> None:
    """A server that nobody uses takes in what was published, and has in memory again what it had."""
    server = case.start("toy")
    before = case.reloads
    case.facts.put(keys.WEIGHTS_GENERATION, 2)

    until(lambda: server.check() or case.report()["generation"] == 2)  # type: ignore[func-returns-value]

    assert case.reloads == before + 1
    assert case.loaded() == ["toy:latest"]


@needs_engine
def test_its_death_takes_the_container_out(case: Case) -> None:
    """When the host dies, so does the container, and the report says which program it was."""
    case.start()
    assert case.server is not None
    (pid,) = [int(each) for each in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
              if b"app.llama_host" in Path(f"/proc/{each}/cmdline").read_bytes()]  # fmt: skip

    os.kill(pid, signal.SIGKILL)

    assert case.taken_out.wait(PATIENCE)
    assert case.report()["why"] == "llama-server ended by itself with -9"


def test_it_is_led_to_our_code(tmp_path: Path) -> None:
    """The engine that our code starts finds that code, and what its container found before."""
    code = LLAMA_SERVER.code
    found = engine_environ({"PYTHONPATH": "/theirs"}, {}, host=OllamaHost(), models=tmp_path, home=tmp_path, code=code)

    assert found["PYTHONPATH"] == os.pathsep.join([LLAMA_SERVER.code, "/theirs"])
    assert (Path(LLAMA_SERVER.code) / "app" / "engines").is_dir()
    assert LLAMA_SERVER.command[-1].endswith("llama-server")
