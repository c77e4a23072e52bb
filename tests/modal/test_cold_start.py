"""Cold starts of a deployment, in Modal's own container entrypoint behind Modal's proxy: by their phases, which add up,
with the model that is waited for first, and with a container that is killed on the way.
"""

import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import httpx
import modal
import pytest
from modal.client import Client

from jobs.core.model_name import ModelName
from jobs.telemetry.cold_starts import PHASES, ColdStart, read_cold_starts
from jobs.testing.models import LIBRARY, find
from jobs.testing.registry.server import RegistryDouble
from tests.modal.platform.containers import Container, Settings
from tests.modal.platform.isolation import unshare
from tests.modal.platform.plane import Platform
from tests.support.deployments import ADMIN_KEY, APP, TOKEN, deploy, deployed_facts, modal_command, with_secrets
from tests.support.local_stack import Shell
from tests.support.processes import free_port, gpu_programs
from tests.support.waiting import PATIENCE, Stalls, least, until

pytestmark = pytest.mark.skipif(not unshare(), reason="this kernel lets nobody mount, so no volume can be at /models")

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "stream": True}
KEY = {"authorization": f"Bearer {ADMIN_KEY}"}
SLOWLY = "OLLAMA_SIM_LOAD_BYTES_PER_SECOND"
LONG_SECONDS = 10
"""Of one phase: of so long a wait two in a hundred are more than what a busy machine takes to tell of it."""

FOR_EVER = str(int(2000 * PATIENCE))
"""Milliseconds."""

STOPS = "kill -STOP $$"
STOPS_AT_ITS_FIRST_LINE = "sed -i '1i import os, signal; os.kill(os.getpid(), signal.SIGSTOP)' app/__init__.py"


class Hold:
    """Keeps the next container in a phase of its start, for as long as it lives; those after it are not kept.

    What is asked of the platform is not answered, the process is stopped, or the engine takes for ever: so each phase
    goes on until the container is killed in it.
    """

    def __init__(self, platform: Platform, programs: Path, phase: str) -> None:
        self._platform, self._programs, self._phase = platform, programs, phase
        self._usual = dict(platform.settings.environ)
        words = {"asked": STOPS, "container": STOPS_AT_ITS_FIRST_LINE}.get(phase)
        if words:
            platform.settings.words_before = ("sh", "-c", f'{words}; exec "$@"', "sh")
        if phase == "weights":
            platform.wire.meddler = self._keep_the_volume
        if phase == "engine":
            (programs / "hold-engine").touch()
        platform.settings.environ |= {
            "bytes": {SLOWLY: str(find_size("tiny") // int(2 * PATIENCE))},
            "memory": {"OLLAMA_SIM_PLACING_MILLISECONDS": FOR_EVER},
            "first_token": {"OLLAMA_SIM_PROMPT_MILLISECONDS": FOR_EVER},
        }.get(phase, {})

    def _keep_the_volume(self, call: str, container: str) -> Literal["never"] | None:
        is_server = container in {each.id for each in self._platform.containers("OllamaA10G")}
        return "never" if call == "VolumeReload" and is_server else None

    def not_for_the_next(self) -> None:
        """The container that is kept stays so."""
        self._platform.settings.words_before = ()
        self._platform.settings.environ.clear()
        self._platform.settings.environ |= self._usual

    def end(self) -> None:
        self.not_for_the_next()
        self._platform.wire.meddler = lambda *_: None
        (self._programs / "hold-engine").unlink(missing_ok=True)


class Case:
    """A deployment whose servers can be held in each phase of their start."""

    def __init__(self, platform: Platform, programs: Path, url: str, client: Client) -> None:
        self.platform, self.url = platform, url
        self.facts = deployed_facts(client)
        self._programs = programs

    def servers(self) -> list[Container]:
        return self.platform.containers("OllamaA10G")

    @contextmanager
    def held_in(self, phase: str) -> Iterator[Hold]:
        """The next container is kept in that phase."""
        hold = Hold(self.platform, self._programs, phase)
        try:
            yield hold
        finally:
            hold.end()
            for server in self.servers():
                if is_stopped(server.pid):
                    self.platform.kill(server)

    def has_come_to(self, phase: str, server: Container) -> bool:
        """Whether this server is in the phase in which it is held."""
        if phase in {"asked", "container"}:
            return server.process is not None and is_stopped(server.pid)
        if phase == "first_token":
            return any("the model has a prompt" in line for line in server.lines)
        return self.coming() == ("start", phase)

    def coming(self) -> tuple[str, str] | None:
        """What the gateway tells of a start or load that goes on."""
        tiers = httpx.get(f"{self.url}/ops/v1/tiers", headers=KEY, timeout=PATIENCE).json()["tiers"]
        coming = next(each for each in tiers if each["tier"] == "a10g")["coming"]
        return coming and (coming["kind"], coming["phase"])

    def sleep(self) -> None:
        """Have no server there, and the gateway know it."""
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


def hears(lines: list[str], *said: str) -> bool:
    return any(line.startswith(": ") and each in line for line in list(lines) for each in said)


def is_stopped(pid: int) -> bool:
    """Whether the kernel lets it run no more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("latin-1").rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


def find_size(text: str) -> int:
    model = find(ModelName.parse(text))
    assert model is not None
    return model.layers[0].size


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    """All of it is deployed, with two models of which the other one is warmed; the gateway runs, and no server does."""
    programs = tmp_path_factory.mktemp("bin")
    gpu_programs(programs)
    held = f"while [ -e {shlex.quote(str(programs / 'hold-engine'))} ]; do sleep 0.1; done"
    (programs / "ollama").write_text(
        f'#!/bin/sh\n{held}\nexec {shlex.quote(sys.executable)} -m jobs.testing.ollama "$@"\n'
    )
    ollama, gateway = free_port(), free_port()
    environ = {
        "OLLAMA_MODAL_GATEWAY_PORT": str(gateway),
        "OLLAMA_MODAL_COMMENT_SECONDS": "0.2",
        "OLLAMA_MODAL_REFRESH_SECONDS": "1",
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


def test_the_phases_add_up(case: Case, http: httpx.Client, tmp_path: Path) -> None:
    """A sleeping tier, asked for the model that is not warmed: each phase is a fact, together they are what the caller
    waited, but for what his program and the gateway were kept waiting for a processor, and the model that he asked for
    was the one in memory when the server was ready. `cold` and `bench_cold` show one table of it, from afar."""
    started: list[tuple[Container, ColdStart]] = []
    [gateway] = case.platform.containers("Gateway")

    def difference() -> float:
        case.sleep()
        lines: list[str] = []
        case.platform.settings.environ["OLLAMA_SIM_PLACING_MILLISECONDS"] = str(int(1000 * LONG_SECONDS))
        stalls = Stalls(os.getpid(), gateway.pid)
        took = case.ask(lines, http)
        stalled = stalls.seconds
        del case.platform.settings.environ["OLLAMA_SIM_PLACING_MILLISECONDS"]
        [server] = case.servers()
        started.append((server, case.start_of(server)))
        assert lines[-2:] == ["data: [DONE]", ""]
        return abs(took - started[-1][1].total) - 0.02 * took - stalled

    assert least(difference, 0) <= 0
    server, start = started[-1]
    assert set(start.seconds) == set(PHASES)
    assert start.seconds["memory"] >= 0.9 * LONG_SECONDS  # it begins when the last bytes are seen to be there
    assert (start.model, start.kind, start.size) == ("tiny:latest", "start", find_size("tiny"))
    told = httpx.get(f"{case.url}/ops/v1/cold", headers=KEY, timeout=PATIENCE).json()["starts"]
    assert server.id in {each["container"] for each in told}
    assert (
        f'ollama_modal_cold_seconds_count{{phase="engine",tier="a10g"}} {len(started)}.0'
        in httpx.get(f"{case.url}/metrics", headers=KEY, timeout=PATIENCE).text
    )
    person = Shell(tmp_path, {"OLLAMA_MODAL_KEY": ADMIN_KEY})
    shown, measured = person.run("cold", "--url", case.url), person.run_script("bench_cold", "--url", case.url)
    assert shown.returncode == measured.returncode == 0, shown.stderr + measured.stderr
    assert shown.stdout == measured.stdout
    assert "a10g start tiny" in shown.stdout


TOLD: dict[str, tuple[str, ...]] = {
    "asked": ("waking a10g", "a10g gets a container for tiny"),
    "container": ("waking a10g", "a10g gets a container for tiny"),
    "weights": ("a10g looks at the weights",),
    "engine": ("a10g starts its engine",),
    "bytes": ("a10g reads tiny",),
    "memory": ("a10g puts tiny into memory",),
    "first_token": ("a10g",),
}
"""What a caller hears in each phase; while a prompt is read there is nothing to say, and this was said before."""


@pytest.mark.parametrize("phase", TOLD)
def test_a_container_killed_in_each_phase(case: Case, http: httpx.Client, phase: str) -> None:
    """Killed as soon as it is asked for, at its first line, or in a phase of its start or answer: its caller is held,
    told what goes on, told again after the kill, and served by the next one. His wait is the start of that one."""
    case.sleep()
    lines: list[str] = []
    with ThreadPoolExecutor(1) as pool, case.held_in(phase) as hold:
        asking = pool.submit(case.ask, lines, http)
        first = until(lambda: [each for each in case.servers() if each.process], "a container")[0]
        hold.not_for_the_next()
        until(lambda: case.has_come_to(phase, first), f"a container in phase {phase}")
        until(lambda: hears(lines, *TOLD[phase]), f"word of {phase}")
        assert not asking.done()
        heard = len(lines)
        case.platform.kill(first)
        hold.end()
        took = asking.result()

    assert first.exit_code == -signal.SIGKILL
    [second] = case.servers()
    start = case.start_of(second)
    assert second.id != first.id
    assert hears(lines[heard:], "a10g")
    assert lines[-2:] == ["data: [DONE]", ""]
    assert start.seconds["container"] > 0
    if phase == "first_token":  # the start of the first one was over: the caller's wait was for two
        assert start.total < took
    else:
        assert start.total == pytest.approx(took, rel=0.1, abs=1)
