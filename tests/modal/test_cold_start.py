"""Cold starts of a deployment, in Modal's own container entrypoint behind Modal's proxy: by their phases, which add up,
with the model that is waited for first, and with a container that is killed on the way.
"""

import shlex
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import modal
import pytest
from modal.client import Client

from app.gateway.inference.proxy import COMMENT_SECONDS
from jobs.core.model_name import ModelName
from jobs.telemetry.cold_starts import PHASES, ColdStart, Phase, read_cold_starts
from jobs.testing.models import LIBRARY, find
from jobs.testing.registry.server import RegistryDouble
from tests.modal.platform.containers import Container, Settings
from tests.modal.platform.isolation import unshare
from tests.modal.platform.plane import Platform
from tests.support.deployments import ADMIN_KEY, APP, TOKEN, deploy, deployed_facts, modal_command, with_secrets
from tests.support.processes import free_port, gpu_programs, nvidia_smi
from tests.support.waiting import PATIENCE, least, until

pytestmark = pytest.mark.skipif(not unshare(), reason="this kernel lets nobody mount, so no volume can be at /models")

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "stream": True}
KEY = {"authorization": f"Bearer {ADMIN_KEY}"}
SLOWLY = "OLLAMA_SIM_LOAD_BYTES_PER_SECOND"


class Case:
    """A deployment whose servers can be held in each phase of their start."""

    def __init__(self, platform: Platform, programs: Path, url: str, client: Client) -> None:
        self.platform, self.url = platform, url
        self.facts = deployed_facts(client)
        self._programs = programs

    def hold(self, phase: str) -> None:
        (self._programs / f"hold-{phase}").touch()
        if phase == "bytes":
            self.platform.settings.environ[SLOWLY] = str(find_size("tiny") // 60)

    def let_go(self) -> None:
        for file in self._programs.glob("hold-*"):
            file.unlink()
        self.platform.settings.environ[SLOWLY] = str(find_size("tiny"))

    def servers(self) -> list[Container]:
        return self.platform.containers("OllamaA10G")

    def starts_with(self, phase: str) -> bool:
        """Whether the gateway tells that a server is in this phase of its start."""
        tiers = httpx.get(f"{self.url}/ops/v1/tiers", headers=KEY, timeout=PATIENCE).json()["tiers"]
        coming = next(each for each in tiers if each["tier"] == "a10g")["coming"]
        return coming is not None and (coming["kind"], coming["phase"]) == ("start", phase)

    def sleep(self) -> None:
        """Have no server there."""
        for server in self.servers():
            self.platform.kill(server)

    def ask(self, lines: list[str], http: httpx.Client) -> float:
        """Ask as a person's program does; the seconds until an answer began."""
        began, first = time.monotonic(), 0.0
        with http.stream("POST", f"{self.url}/v1/chat/completions", json=CHAT, headers=KEY, timeout=PATIENCE) as answer:
            assert answer.status_code == 200, answer.read()
            for line in answer.iter_lines():
                first = first or (time.monotonic() - began if line.startswith("data: ") else 0.0)
                lines.append(line)
        return first

    def start_of(self, server: Container) -> ColdStart:
        """The fact of a server's start, once the gateway has said how long the caller waited."""

        def found() -> list[ColdStart]:
            starts = [each for each in read_cold_starts(self.facts) if each.container == server.id and each.n == 0]
            return [each for each in starts if "handover" in each.seconds or "first_token" in each.seconds]

        starts: list[ColdStart] = until(found, "the fact of the start")
        return starts[0]


def find_size(text: str) -> int:
    model = find(ModelName.parse(text))
    assert model is not None
    return model.layers[0].size


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    """All of it is deployed, with two models of which the other one is warmed; the gateway runs, and no server does."""
    programs = tmp_path_factory.mktemp("bin")
    gpu_programs(programs)
    held = "while [ -e {} ]; do sleep 0.1; done; ".format
    nvidia_smi(programs, held(shlex.quote(str(programs / "hold-weights"))) + "echo 'NVIDIA A10G, 23028'")
    engine = held(shlex.quote(str(programs / "hold-engine")))
    (programs / "ollama").write_text(
        f'#!/bin/sh\n{engine}exec {shlex.quote(sys.executable)} -m jobs.testing.ollama "$@"\n'
    )
    ollama, gateway = free_port(), free_port()
    environ = {
        "OLLAMA_MODAL_GATEWAY_PORT": str(gateway),
        "OLLAMA_HOST": f"127.0.0.1:{ollama}",
        "OLLAMA_SIM_TOKENS_PER_SECOND": "200",
        SLOWLY: str(find_size("tiny")),
    }
    settings = Settings(path_prefix=programs, environ=environ, idle_seconds=60, commit_seconds=0.5)
    with (
        pytest.MonkeyPatch.context() as environment,
        RegistryDouble(LIBRARY) as registry,
        Platform(settings=settings) as platform,
        platform.client() as client,
    ):
        environment.setenv("OLLAMA_MODAL_REGISTRY", registry.url)
        with_secrets(platform)
        deploy(platform)
        assert modal_command(platform, "deploy", "-m", "tests.modal.platform.sample_apps.publishing").returncode == 0
        publish = modal.Function.from_name("publishing", "publish", client=client)
        for number, name in enumerate(("llama3.2", "tiny")):
            publish.remote(name, number + 1)
        url = platform.apps.server_urls[APP, "Gateway"] = f"http://127.0.0.1:{gateway}"
        [id_, secret] = TOKEN.values()
        platform.open_server(APP, "OllamaA10G", port=ollama, token=(id_, secret))
        platform.wait_ready(platform.start_server(APP, "Gateway"))
        yield Case(platform, programs, url, client)


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=PATIENCE) as client:
        yield client


def test_the_phases_add_up(case: Case, http: httpx.Client) -> None:
    """A sleeping tier, asked for the model that is not warmed: each phase is a fact, together they are what the caller
    waited, and the model that he asked for was the one in memory when the server was ready."""
    started: list[tuple[Container, ColdStart]] = []

    def difference() -> float:
        case.sleep()
        lines: list[str] = []
        took = case.ask(lines, http)
        [server] = case.servers()
        started.append((server, case.start_of(server)))
        assert lines[-2:] == ["data: [DONE]", ""]
        return abs(took - started[-1][1].total) - max(0.02 * took, 0.15)

    assert least(difference, 0) <= 0
    server, start = started[-1]
    assert set(start.seconds) == set(PHASES)
    assert (start.model, start.kind, start.size) == ("tiny:latest", "start", find_size("tiny"))
    told = httpx.get(f"{case.url}/ops/v1/cold", headers=KEY, timeout=PATIENCE).json()["starts"]
    assert server.id in {each["container"] for each in told}
    assert (
        f'ollama_modal_cold_seconds_count{{phase="engine",tier="a10g"}} {len(started)}.0'
        in httpx.get(f"{case.url}/metrics", headers=KEY, timeout=PATIENCE).text
    )


@pytest.mark.parametrize("phase", ["container", "weights", "engine", "bytes"])
def test_a_container_killed_on_the_way(case: Case, http: httpx.Client, phase: Phase) -> None:
    """Killed before its first line, or in a phase of its start: its caller is held, told, and served by the next one,
    and the whole of his wait is the start of that one."""

    def difference() -> float:
        case.sleep()
        case.hold(phase)
        lines: list[str] = []
        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(case.ask, lines, http)
            try:
                first = until(lambda: [each for each in case.servers() if each.process], "a container")[0]
                if phase != "container":
                    until(lambda: case.starts_with(phase), f"a container in phase {phase}")
            finally:
                case.let_go()
            case.platform.kill(first)
            took = asking.result()

        [second] = case.servers()
        start = case.start_of(second)
        assert second.id != first.id
        if took >= 2 * COMMENT_SECONDS:  # else the wait may be over before anything is told
            assert any(line.startswith((": waking a10g", ": a10g ")) for line in lines)
        assert lines[-2:] == ["data: [DONE]", ""]
        assert start.seconds["container"] > 0
        return abs(took - start.total) - max(0.02 * took, 0.25)

    assert least(difference, 0) <= 0
