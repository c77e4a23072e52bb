"""A server in its container, on a real simulator process: start, reports, new weights, and taking itself out."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.model_server.connections import callers_of
from app.model_server.reload_policy import FIRST_PAUSE, OVERDUE, pause
from app.model_server.report import Report
from app.model_server.settings import ServerHost, TierSettings
from app.model_server.start_failures import refused_starts
from app.model_server.starting.wanted import want
from app.model_server.supervisor import ServerSupervisor
from app.model_server.weights_reload import WeightsReload
from app.platform.errors import NotReloaded
from jobs.core.clock import SystemClock
from jobs.core.errors import CpuFallback, ServerTrouble
from jobs.core.model_name import ModelName
from jobs.ollama.host import OllamaHost
from jobs.store import keys
from jobs.store.sqlite import SqliteDict
from jobs.telemetry.cold_starts import read_cold_starts
from jobs.telemetry.container_time import metered, say_warming
from jobs.weights.removal import remove
from tests.support.models_directory import put, sample, weights_at
from tests.support.moved_clock import MovedClock
from tests.support.ollama_servers import SIMULATOR
from tests.support.processes import free_port, is_running, nvidia_smi, running_with
from tests.support.stores import Store
from tests.support.waiting import PATIENCE, until

LLAMA, OTHER = sample("llama3.2", b"llama" * 1000), sample("other", b"other" * 1000)


@dataclass
class Volume:
    """A mount that shows new weights only after a reload, and refuses one while a test says that a file is open."""

    root: Path
    seen: Path
    reloads: int = 0
    open_files: int = 0
    silent: Any = None
    """When set, called with the limit instead of an answer, which is never given."""
    asked_while: list[bool] = field(default_factory=list)

    def reload(self, within: timedelta | None = None) -> None:
        self.reloads += 1
        if self.silent:
            self.silent(within or timedelta(minutes=2))
            raise NotReloaded("reloading the volume: Modal did not answer")
        if self.open_files:
            self.open_files -= 1
            raise RuntimeError("there are open files preventing the operation")
        self.seen.unlink(missing_ok=True)
        self.seen.symlink_to(self.root / f"at-{self.reloads}")
        weights = self.root / "models"
        copy = self.root / f"at-{self.reloads}"
        copy.mkdir()
        for path in weights.rglob("*") if weights.exists() else ():
            target = copy / path.relative_to(weights)
            target.mkdir(parents=True, exist_ok=True) if path.is_dir() else target.hardlink_to(path)


class Case:
    def __init__(self, folder: Path, store: Store) -> None:
        self.clock = MovedClock()
        self.folder = folder
        self.facts = store.facts
        self.volume = Volume(folder, folder / "mount")
        self.weights = weights_at(folder)
        self.host = OllamaHost(port=free_port())
        self.taken_out = threading.Event()
        self.variables: dict[str, str] = {}
        self.server: ServerSupervisor | None = None
        (folder / "bin").mkdir()
        nvidia_smi(folder / "bin", "echo 'NVIDIA A10G, 23028'")

    def start(
        self, *, gpu: bool = False, warmed: tuple[str, ...] = (), every: float = 3600, command: Any = SIMULATOR
    ) -> ServerSupervisor:
        settings = TierSettings(
            tier="a10g",
            gpu_promised=gpu,
            environ={"OLLAMA_KEEP_ALIVE": "-1"},
            startup=timedelta(seconds=PATIENCE),
            warmed=tuple(map(ModelName.parse, warmed)),
            probe_every=timedelta(seconds=every),
            readers_ahead=4,
        )
        host = ServerHost(
            volume=self.volume.seen,
            disk=self.folder / "disk",
            container="ta-1",
            facts=self.facts,
            reload=self.volume.reload,
            end_container=self.taken_out.set,
            address=self.host,
            inherited={**os.environ, **self.variables},
            clock=self.clock,
            command=command,
        )
        self.server = ServerSupervisor(settings, host)
        self.server.start()
        # What it says beside its start is written a moment later.
        until(lambda: not any(each.name.startswith("start_") for each in threading.enumerate()))
        return self.server

    def publish(self, *models: Any, generation: int) -> None:
        for model in models:
            put(self.weights, model)
        self.facts.put(keys.WEIGHTS_GENERATION, generation)

    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = self.facts.get("server/a10g/ta-1")
        return report

    def ask(self, path: str, body: Any = None, **options: Any) -> Any:
        method = "GET" if body is None else "POST"
        answer = httpx.request(method, f"{self.host.url}{path}", json=body, timeout=PATIENCE, **options)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    def listed(self) -> list[str]:
        return sorted(model["name"] for model in self.ask("/api/tags")["models"])

    def loaded(self) -> list[str]:
        return sorted(model["name"] for model in self.ask("/api/ps")["models"])

    def chat(self, model: str) -> str:
        messages = [{"role": "user", "content": "hello"}]
        return str(self.ask("/api/chat", {"model": model, "messages": messages, "stream": False})["message"]["content"])

    def children(self) -> list[int]:
        return running_with(OLLAMA_HOST=f"127.0.0.1:{self.host.port}")


@pytest.fixture
def case(tmp_path: Path, live_store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    case = Case(tmp_path, live_store)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    yield case
    if case.server is not None:
        case.server.stop()


def test_empty_volume_is_served_as_such(case: Case) -> None:
    """With nothing on the volume the server comes up, lists nothing, reports that, and ends in order."""
    server = case.start()

    assert case.listed() == []
    report = case.report()
    assert (report["state"], report["models"], report["loaded"], report["generation"]) == ("serving", [], [], None)
    assert report["version"]
    [child] = case.children()
    server.stop()
    assert not is_running(child)
    assert case.report()["state"] == "ended"
    assert not case.taken_out.is_set()
    server.stop()


def test_start_takes_the_newest_weights_and_warms(case: Case) -> None:
    """What was published before the start is served, and what the tier warms is in memory before anybody asks."""
    case.publish(LLAMA, OTHER, generation=7)

    case.start(gpu=True, warmed=("LLAMA3.2", "absent"))

    assert case.listed() == ["llama3.2:latest", "other:latest"]
    assert case.loaded() == ["llama3.2:latest"]
    report = case.report()
    assert report["generation"] == 7
    assert report["gpu"] == {"name": "NVIDIA A10G", "vram_bytes": 23028 * 2**20, "count": 1}
    assert [(one["name"], one["size"] == one["size_vram"] > 0) for one in report["loaded"]] == [
        ("llama3.2:latest", True)
    ]
    assert case.chat("llama3.2")


def test_idle_server_takes_in_new_weights(case: Case) -> None:
    """With nothing loaded and nothing in flight, one look is enough: what came is served, what went is not."""
    case.publish(OTHER, generation=1)
    server = case.start()
    remove(case.weights, OTHER.name, still_ours=lambda: None)
    case.publish(LLAMA, generation=2)
    assert case.listed() == ["other:latest"]

    server.check()

    assert case.listed() == ["llama3.2:latest"]
    assert case.chat("llama3.2")
    server.check()
    assert case.report()["generation"] == 2
    assert case.volume.reloads == 2


def test_loaded_and_idle_model_is_put_aside_and_back(case: Case) -> None:
    """A loaded model that was left alone from one look to the next is unloaded for the reload, and loaded again."""
    case.publish(LLAMA, generation=1)
    server = case.start()
    case.chat("llama3.2")
    case.publish(OTHER, generation=2)

    server.check()
    assert case.listed() == ["llama3.2:latest"]
    case.chat("llama3.2")
    server.check()
    assert case.volume.reloads == 1
    server.check()

    assert case.volume.reloads == 2
    assert case.listed() == ["llama3.2:latest", "other:latest"]
    assert case.loaded() == ["llama3.2:latest"]


def test_reload_that_fails_is_tried_again_and_loses_nothing(case: Case) -> None:
    """While a file stays open the weights stay as they are, the model comes back, and a later look succeeds."""
    case.publish(LLAMA, generation=1)
    server = case.start(warmed=("llama3.2",))
    case.publish(OTHER, generation=2)
    server.check()
    case.volume.open_files = 5

    server.check()
    assert case.listed() == ["llama3.2:latest"]
    assert case.loaded() == ["llama3.2:latest"]
    server.check()
    server.check()

    assert case.listed() == ["llama3.2:latest", "other:latest"]
    assert case.loaded() == ["llama3.2:latest"]


def silence(case: Case) -> list[float]:
    """Have no reload answered from now on; the seconds that the server is frozen for each."""
    frozen: list[float] = []

    def wait(limit: timedelta) -> None:
        [child] = case.children()
        # Told to stop it runs no line more, and is seen to have stopped when its turn comes.
        until(lambda: Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        frozen.append(limit.total_seconds())
        case.clock.tick(limit.total_seconds())

    case.volume.silent = wait
    return frozen


def test_a_reload_that_is_not_answered_freezes_the_server_for_seconds(case: Case) -> None:
    """One try within a limit, then none for minutes, each time longer; what is loaded stays, and once the platform
    answers the new weights come."""
    case.publish(LLAMA, generation=1)
    server = case.start(warmed=("llama3.2",))
    case.publish(OTHER, generation=2)
    server.check()
    frozen = silence(case)

    server.check()
    assert (len(frozen), max(frozen)) == (1, 15), f"frozen {len(frozen)} times, {sum(frozen):.0f} s in one look"
    assert case.loaded() == ["llama3.2:latest"]
    for _ in range(3):
        server.check()
    assert len(frozen) == 1
    case.clock.tick(120)
    for _ in range(3):
        server.check()
    assert len(frozen) == 2
    case.volume.silent = None
    case.clock.tick(180)
    server.check()
    assert case.report()["generation"] == 1  # the second rest is longer
    case.clock.tick(60)
    for _ in range(3):
        server.check()

    assert case.listed() == ["llama3.2:latest", "other:latest"]
    assert case.loaded() == ["llama3.2:latest"]


def test_a_pause_ends_with_a_reload_that_is_not_answered(case: Case) -> None:
    """Nobody is held back any longer once the platform has left a reload unanswered, and none is tried again then."""
    case.publish(LLAMA, generation=1)
    server = case.start(warmed=("llama3.2",))
    case.publish(OTHER, generation=2)
    server.check()
    case.clock.tick(OVERDUE.total_seconds())
    case.chat("llama3.2")
    frozen = silence(case)

    server.check()

    assert frozen == [15]
    assert (case.report()["pausing_until"], case.loaded()) == (None, ["llama3.2:latest"])


def test_request_in_flight_is_never_disturbed(case: Case) -> None:
    """While an answer streams, however long, nothing is unloaded or reloaded; afterwards the new weights come."""
    case.variables["OLLAMA_SIM_TOKENS_PER_SECOND"] = "4"
    case.publish(LLAMA, generation=1)
    server = case.start(warmed=("llama3.2",))
    body = {"model": "llama3.2", "messages": [{"role": "user", "content": "hello"}]}
    with httpx.stream("POST", f"{case.host.url}/api/chat", json=body, timeout=PATIENCE) as answer:
        lines = answer.iter_lines()
        next(lines)
        case.publish(OTHER, generation=2)
        for _ in range(3):
            server.check()
        assert case.report()["requests"]["in_flight"] == 1
        assert case.volume.reloads == 1
        assert '"done":true' in list(lines)[-1].replace(" ", "")
    for _ in range(20):
        server.check()
        if case.volume.reloads == 2:
            break
    assert case.listed() == ["llama3.2:latest", "other:latest"]


def test_ledger_out_of_reach_does_not_stop_the_service(case: Case) -> None:
    """When the ledger's dict fails, the server starts and answers all the same."""
    case.publish(LLAMA, generation=1)
    case.facts.close()

    case.start(every=0.1)
    time.sleep(0.5)

    assert case.chat("llama3.2")
    assert not case.taken_out.is_set()


def test_a_server_counts_its_seconds(case: Case) -> None:
    """The start counts as cold, a look while a request is in flight as serving, one with nobody as idle, and one while
    somebody warms its tier as warming."""
    server = case.start()

    def counted() -> dict[str, float]:
        [found] = metered(dict(case.facts.items()))
        return {share: seconds for share, seconds in found.seconds.items() if seconds}

    assert set(counted()) == {"cold"}
    server.check()
    assert set(counted()) == {"cold", "idle"}
    with socket.create_connection((case.host.host, case.host.port)):
        server.check()
    assert set(counted()) == {"cold", "idle", "serving"}
    say_warming(case.facts, "a10g", SystemClock().now() + timedelta(minutes=1))
    server.check()
    assert set(counted()) == {"cold", "idle", "serving", "warming"}


def test_a_server_says_that_it_wakes(case: Case) -> None:
    """From the first moment of its start a server says that it is waking, so that nobody starts another for that."""
    states = []

    class Recorder(SqliteDict):
        def put(self, key: Any, value: Any, *, skip_if_exists: bool = False) -> bool:
            if key.startswith("server/"):
                states.append(value["state"])
            return super().put(key, value, skip_if_exists=skip_if_exists)

    case.facts = Recorder(case.folder / "recorded.sqlite")
    case.start().stop()
    case.facts.close()
    assert [state for state, _ in groupby(states)] == ["waking", "serving", "ended"]


def test_a_start_reads_its_model_ahead(case: Case) -> None:
    """What is written down of a start says how many bytes of which model came in, and how fast they were read."""
    case.publish(LLAMA, OTHER, generation=1)
    want(case.facts, "a10g", "other:latest", case.clock.now(), since=case.clock.now())

    case.start(warmed=("llama3.2",))

    [cold] = until(lambda: [each for each in read_cold_starts(case.facts) if each.kind == "start"])
    assert (cold.model, cold.size) == ("other:latest", 5000)
    assert cold.bytes_per_second


def test_death_takes_the_container_out(case: Case) -> None:
    """When ollama is killed under the server, the report says so and the container goes."""
    case.start()

    [child] = case.children()
    os.kill(child, signal.SIGKILL)

    assert case.taken_out.wait(PATIENCE)
    assert (case.report()["state"], case.report()["why"]) == ("failed", "ollama ended by itself with -9")


def test_an_ollama_that_ends_at_the_end_of_its_start_is_no_start(case: Case, tmp_path: Path) -> None:
    """One that ends after its last check, before anybody watches it, is refused at once: no probe need miss it."""

    class Ending(SqliteDict):
        """Writes the first report when ollama has been asked for the last time, has ended, and that was noticed."""

        def put(self, key: str, value: Any, *, skip_if_exists: bool = False) -> bool:
            if isinstance(value, dict) and value.get("state") == "waking":
                until(lambda: case.server is not None and case.server._last_running)
                for child in case.children():
                    os.kill(child, signal.SIGKILL)
                until(lambda: "ollama _await_end" not in {thread.name for thread in threading.enumerate()})
            return super().put(key, value, skip_if_exists=skip_if_exists)

    case.facts = Ending(tmp_path / "facts.sqlite")
    case.publish(LLAMA, generation=1)

    with pytest.raises(ServerTrouble, match="ollama ended with -9 as soon as it had started"):
        case.start(warmed=("llama3.2",))

    assert case.report()["state"] == "refused"
    case.facts.close()


def test_model_on_the_cpu_takes_the_container_out(case: Case) -> None:
    """A model that runs on the CPU where a GPU was promised is no service: the container goes."""
    case.variables["OLLAMA_SIM_VRAM"] = "cpu"
    case.publish(LLAMA, generation=1)
    case.start(gpu=True, every=0.2)
    case.chat("llama3.2")

    assert case.taken_out.wait(PATIENCE)
    assert case.report()["why"] == "llama3.2:latest runs on the CPU, though a GPU was promised"


def test_model_on_the_cpu_is_refused_at_the_start(case: Case) -> None:
    """When the warmed model already lands on the CPU, the server does not start, and leaves nothing running."""
    case.variables["OLLAMA_SIM_VRAM"] = "cpu"
    case.publish(LLAMA, generation=1)

    with pytest.raises(CpuFallback, match="runs on the CPU, though a GPU was promised"):
        case.start(gpu=True, warmed=("llama3.2",))
    assert case.children() == []


def test_tier_without_a_gpu_may_run_on_the_cpu(case: Case) -> None:
    """Where no GPU is promised, none is looked for and the CPU is no fault."""
    (case.folder / "bin/nvidia-smi").unlink()
    case.variables["OLLAMA_SIM_VRAM"] = "cpu"
    case.publish(LLAMA, generation=1)

    server = case.start(warmed=("llama3.2",))
    server.check()

    assert case.report()["gpu"] is None
    assert not case.taken_out.is_set()


def test_promised_gpu_that_is_not_there_is_refused(case: Case) -> None:
    """Without the GPU that was promised nothing is started, and the message says what is missing."""
    nvidia_smi(case.folder / "bin", "exit 9")

    with pytest.raises(CpuFallback, match="a GPU was promised, but nvidia-smi ended with 9"):
        case.start(gpu=True)
    assert case.children() == []
    assert case.report()["state"] == "refused"


@pytest.mark.parametrize("taken", [KeyboardInterrupt, SystemExit])
def test_a_start_that_is_taken_away_was_not_refused(case: Case, taken: type[BaseException]) -> None:
    """A container that goes while its server starts says that it has ended, so that nobody takes the tier for broken;
    nothing is left running."""
    case.publish(LLAMA, generation=1)
    gone = threading.Event()

    class Leaving(MovedClock):
        def wait(self, seconds: float, wake: threading.Event | None = None) -> bool:
            if not gone.is_set() and case.children():
                gone.set()
                raise taken
            return super().wait(seconds, wake)

    case.clock = Leaving()
    with pytest.raises(taken):
        case.start()
    assert case.report()["state"] == "ended"
    assert refused_starts([Report.from_json(case.report())], case.clock.now()).count == 0
    assert case.children() == []


def test_server_that_hangs_is_taken_out(case: Case) -> None:
    """Ollama that listens but no longer answers is given some looks, then the container goes."""
    server = case.start()
    case.ask("/_faults", {"route": "/api/ps", "kind": "status", "value": 500, "times": None})

    for _ in range(2):
        server.check()
    assert (case.report()["state"], case.report()["why"]) == ("serving", "")  # a load may silence it for a while
    server.check()
    assert case.report()["why"].startswith("3 probes in a row without an answer")
    assert not case.taken_out.is_set()
    server.check()

    assert case.taken_out.is_set()


def test_ollama_that_cannot_start_fails_the_start(case: Case) -> None:
    """When ollama ends at once, the start fails with its last words instead of waiting."""
    with pytest.raises(ServerTrouble, match="ended with 4 before it answered: bad driver"):
        case.start(command=(sys.executable, "-c", "print('bad driver'); raise SystemExit(4)"))


def test_connection_that_is_held_keeps_new_weights_waiting(case: Case) -> None:
    """A caller who is connected, though it has said nothing yet, is taken for a request until it hangs up."""
    server = case.start()
    case.publish(LLAMA, generation=1)
    with socket.create_connection((case.host.host, case.host.port)):
        server.check()
        server.check()
        assert case.report()["requests"]["in_flight"] == 1
        assert case.listed() == []
    until(lambda: callers_of(case.host.port) == 0)

    server.check()

    assert case.listed() == ["llama3.2:latest"]


def test_the_end_has_the_last_word(case: Case) -> None:
    """A look that was under way while its server ended does not report it as serving."""
    server = case.start()
    server.stop()
    server.check()
    assert case.report()["state"] == "ended"


# -- a server that is never left alone ---------------------------------------------------------------------------------


def asks_for_a_pause(case: Case) -> bool:
    return case.report()["pausing_until"] is not None


def test_a_server_in_steady_use_takes_in_new_weights(case: Case) -> None:
    """A request between any two looks keeps new weights waiting for minutes, not for ever: a moment without one is then
    enough, and the model that was in memory is there again."""
    case.publish(LLAMA, generation=1)
    server = case.start(warmed=("llama3.2",))
    case.publish(OTHER, generation=2)
    for _ in range(3):
        case.chat("llama3.2")
        server.check()
    assert case.listed() == ["llama3.2:latest"]
    case.clock.tick(OVERDUE.total_seconds())
    case.chat("llama3.2")

    server.check()

    assert case.listed() == ["llama3.2:latest", "other:latest"]
    assert case.loaded() == ["llama3.2:latest"]
    assert (case.report()["generation"], case.report()["pausing_until"]) == (2, None)


def test_nobody_is_held_back_while_models_are_loaded_again(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """That the pause is over is told before what was unloaded for it comes back, which may take minutes."""
    case.publish(LLAMA, generation=1)
    server = case.start(warmed=("llama3.2",))
    told: list[tuple[Any, Any]] = []
    load = WeightsReload.load

    def watched(weights_reload: WeightsReload, names: list[ModelName]) -> None:
        told.append((case.report()["generation"], case.report()["pausing_until"]))
        load(weights_reload, names)

    monkeypatch.setattr(WeightsReload, "load", watched)
    case.publish(OTHER, generation=2)
    server.check()
    case.clock.tick(OVERDUE.total_seconds())
    case.chat("llama3.2")
    server.check()
    assert told == [(2, None)]
    assert case.loaded() == ["llama3.2:latest"]


def test_answers_in_flight_end_before_new_weights_come(case: Case) -> None:
    """With no gap in sight the server asks for a pause, awaits what is in flight, and is done once that has ended."""
    case.variables["OLLAMA_SIM_TOKENS_PER_SECOND"] = "4"
    case.publish(LLAMA, generation=1)
    server = case.start(warmed=("llama3.2",))
    case.publish(OTHER, generation=2)
    server.check()
    case.clock.tick(OVERDUE.total_seconds())
    body = {"model": "llama3.2", "messages": [{"role": "user", "content": "hello"}]}
    with httpx.stream("POST", f"{case.host.url}/api/chat", json=body, timeout=PATIENCE) as answer:
        lines = answer.iter_lines()
        next(lines)
        check = threading.Thread(target=server.check)
        check.start()
        until(lambda: asks_for_a_pause(case))
        assert case.volume.reloads == 1
        assert '"done":true' in list(lines)[-1].replace(" ", "")
    check.join(timeout=PATIENCE)
    assert not check.is_alive()

    assert case.listed() == ["llama3.2:latest", "other:latest"]
    assert case.loaded() == ["llama3.2:latest"]
    assert not asks_for_a_pause(case)


def test_a_pause_that_is_too_short_is_followed_by_a_longer_one(case: Case) -> None:
    """An answer that outlasts the pause is left alone; callers go on, and the next pause is twice as long."""
    case.variables["OLLAMA_SIM_TOKENS_PER_SECOND"] = "4"
    case.publish(LLAMA, generation=1)
    server = case.start(warmed=("llama3.2",))
    case.publish(OTHER, generation=2)
    server.check()
    case.clock.tick(OVERDUE.total_seconds())
    body = {"model": "llama3.2", "messages": [{"role": "user", "content": "hello " * 24}]}
    with httpx.stream("POST", f"{case.host.url}/api/chat", json=body, timeout=PATIENCE) as answer:
        lines = answer.iter_lines()
        next(lines)
        check = threading.Thread(target=server.check)
        check.start()
        until(lambda: asks_for_a_pause(case))
        case.clock.tick(FIRST_PAUSE.total_seconds())
        check.join(timeout=PATIENCE)
        assert not check.is_alive()
        assert not asks_for_a_pause(case)
        assert case.volume.reloads == 1
        server.check()
        assert not asks_for_a_pause(case)  # nor at once again
        assert '"done":true' in list(lines)[-1].replace(" ", "")
    assert [pause(tried) / FIRST_PAUSE for tried in (0, 1, 2, 3, 4, 5000)] == [1, 2, 4, 8, 15, 15]


def test_a_connection_that_carries_nothing_does_not_keep_new_weights_out(case: Case) -> None:
    """Whoever stands between may hold connections open: once a pause was asked for, what Ollama uses is what counts."""
    case.publish(LLAMA, generation=1)
    server = case.start(warmed=("llama3.2",))
    case.publish(OTHER, generation=2)
    with socket.create_connection((case.host.host, case.host.port)):
        server.check()
        case.clock.tick(OVERDUE.total_seconds())
        check = threading.Thread(target=server.check)
        check.start()
        until(lambda: asks_for_a_pause(case))
        case.clock.tick(20)
        check.join(timeout=PATIENCE)
        assert not check.is_alive()
        assert case.report()["generation"] == 2
    assert case.listed() == ["llama3.2:latest", "other:latest"]
    assert case.loaded() == ["llama3.2:latest"]


# -- what the GPU is blamed for ----------------------------------------------------------------------------------------


def test_who_asked_for_the_cpu_says_nothing_about_the_gpu(case: Case) -> None:
    """A model that somebody loads with no layer on the GPU is where it was asked to be; the container stays."""
    case.publish(LLAMA, generation=1)
    server = case.start(gpu=True)
    case.ask("/api/generate", {"model": "llama3.2", "options": {"num_gpu": 0}, "stream": False})
    until(lambda: case.ask("/api/ps")["models"][0]["size_vram"] == 0)

    server.check()

    assert not case.taken_out.is_set()
    assert case.report()["loaded"][0]["size_vram"] == 0


def test_a_fallback_after_that_is_one(case: Case) -> None:
    """When the same model is loaded again as usual, and lands on the CPU, the container goes."""
    case.publish(LLAMA, generation=1)
    server = case.start(gpu=True)
    case.ask("/api/generate", {"model": "llama3.2", "options": {"num_gpu": 0}, "stream": False})
    case.ask("/api/generate", {"model": "llama3.2", "keep_alive": 0, "stream": False})
    case.ask("/_faults", {"route": "/api/generate", "kind": "cpu", "times": None})
    case.ask("/api/generate", {"model": "llama3.2", "stream": False})

    server.check()

    assert case.taken_out.is_set()
    assert case.report()["why"] == "llama3.2:latest runs on the CPU, though a GPU was promised"
