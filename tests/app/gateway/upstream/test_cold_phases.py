"""A cold start as its callers and the page see it: told by its phases, killed in each of them, and written down."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.gateway.upstream import cold_records
from app.gateway.upstream.cold_records import ColdRecords
from app.gateway.upstream.server_requests import SESSION
from app.model_server.report import Report
from app.model_server.starting.wanted import wanted
from jobs.core.errors import StoreUnavailable
from jobs.store import keys
from jobs.telemetry.cold_starts import PHASES, Phase, Progress, read_cold_starts
from tests.support.dialects import OLLAMA, OPENAI, whole_answer
from tests.support.gateways import CLOCK, ModelList, RunningGateway, asked, gateway, model, tier_entry
from tests.support.scripted_server import Connection, HeardRequest, HeldServer, ScriptedServer
from tests.support.waiting import PATIENCE, least, until

GB = 1_000_000_000
LLAMA = "llama3.2:latest"
BOTH = ModelList([model("llama3.2"), model("qwen3")])
OF_A_START: tuple[Phase, ...] = ("weights", "engine", "bytes", "memory")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def remote(folder: Path, server: ScriptedServer, **options: Any) -> Any:
    """A gateway in front of servers as a platform has them."""
    return gateway(
        folder,
        {"a10g": server.url},
        is_remote=True,
        refresh_seconds=0.02,
        most_containers=2,
        startup=PATIENCE,
        comment_seconds=0.05,
        **options,
    )


def tell(running: RunningGateway, container: str, phase: Phase | None, *, name: str = LLAMA, state: str = "") -> None:
    """Have a container report that this phase goes on, each of those before having taken a hundredth of a second; or
    that all are over."""
    before = OF_A_START if phase is None else OF_A_START[: OF_A_START.index(phase)]
    progress = Progress(
        0, "start", CLOCK.now(), name, phase, dict.fromkeys(before, 0.01), size=2 * GB, read=1_100_000_000
    )
    report = Report("a10g", container, state or ("waking" if phase else "serving"), CLOCK.now(), progress=(progress,))
    running.facts.put(report.key, report.as_json())


def streamed(running: RunningGateway, heard: list[str], client: httpx.Client | None = None, **more: Any) -> float:
    """Ask with a stream, and keep each line as it comes; the seconds until an answer began, which has to be one."""
    body, began, first = {**OPENAI.body, **more}, time.monotonic(), 0.0
    with (client or httpx).stream("POST", running.url + OPENAI.path, json=body, timeout=PATIENCE) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            first = first or (time.monotonic() - began if line.startswith("data: ") else 0.0)
            heard.append(line)
    return first


def hears(lines: list[str], begin: str) -> bool:
    return any(line.startswith(begin) for line in lines)


# -- what is told ------------------------------------------------------------------------------------------------------


def test_each_phase_is_told_in_the_stream_and_to_the_page(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    """Whoever waits with a stream hears of each phase as it comes, and `/ops/v1/tiers` tells the same; in the end the
    phases are a fact, add up to what was waited, and are counted."""
    held_server, lines = HeldServer(awake=False), list[str]()
    with ScriptedServer(whole_answer, opening=held_server) as server, remote(tmp_path, server) as running:
        client = httpx.Client(timeout=PATIENCE)  # to make one takes longer than what is measured
        answer = pool.submit(streamed, running, lines, client)
        told: tuple[tuple[Phase, str], ...] = (
            ("weights", "a10g looks at the weights for llama3.2"),
            ("engine", "a10g starts its engine for llama3.2"),
            ("bytes", "a10g reads llama3.2, 1.1 of 2.0 GB"),
            ("memory", "a10g puts llama3.2 into memory"),
        )
        began = 0.0
        for phase, part in told:
            tell(running, "ta-1", phase)
            until(partial(hears, lines, f": {part}"), part)
            began = began or time.monotonic()
            coming = tier_entry(running)["coming"]
            assert isinstance(coming, dict)
            assert (coming["phase"], coming["model"], coming["words"]) == (phase, LLAMA, part)
        tell(running, "ta-1", None)
        within = time.monotonic() - began
        held_server.awake.set()
        took = answer.result()
        client.close()
        (start,) = until(lambda: read_cold_starts(running.facts), "the fact")
        assert (start.container, start.n, start.kind, start.model) == ("ta-1", 0, "start", LLAMA)
        assert set(start.seconds) == set(PHASES)
        assert within <= start.total <= took  # the client's own time is in it, and this machine's stalls
        assert tier_entry(running)["coming"] is None
        metrics = httpx.get(f"{running.url}/metrics", timeout=PATIENCE).text
        assert 'ollama_modal_cold_seconds_count{phase="bytes",tier="a10g"} 1.0' in metrics
        listed = httpx.get(f"{running.url}/ops/v1/cold", timeout=PATIENCE).json()
        assert [each["total_seconds"] for each in listed["starts"]] == [pytest.approx(start.total, abs=0.002)]
        assert listed["tiers"][0]["median_seconds"].keys() == set(PHASES)


def test_who_asks_for_another_model_is_told_what_the_wait_is_for(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    """While a tier starts with one model, a caller of another hears of that, and that his comes after it."""
    held_server, lines = HeldServer(awake=False), list[str]()
    with (
        ScriptedServer(whole_answer, opening=held_server) as server,
        remote(tmp_path, server, source=BOTH) as running,
    ):
        first, second = pool.submit(asked, running, OLLAMA), pool.submit(streamed, running, lines, model="qwen3")
        tell(running, "ta-1", "bytes")
        until(lambda: ": a10g reads llama3.2, 1.1 of 2.0 GB, then qwen3" in lines, "what the wait is for")
        tell(running, "ta-1", None)
        held_server.awake.set()
        assert first.result().status_code == 200
        assert second.result()


def test_on_one_machine_there_are_fewer_phases(tmp_path: Path) -> None:
    """A server that runs beside the gateway has no container and tells nothing of itself: what is measured is told, a
    load is a load, and no session is sent."""

    def opening(heard: HeardRequest, line: Connection) -> None:
        if heard.only_loads:
            CLOCK.wait(0.6)
        line.document({"version": "1", "done": True})

    with (
        ScriptedServer(whole_answer, opening=opening) as server,
        gateway(tmp_path, {"a10g": server.url}, rented=False) as running,
    ):
        began = time.monotonic()
        assert asked(running, OPENAI).status_code == 200
        took = time.monotonic() - began
        (load,) = until(lambda: read_cold_starts(running.facts), "the fact")
        assert (load.kind, load.container, set(load.seconds)) == ("load", "test", {"memory", "first_token"})
        assert 0.59 <= load.total <= took
        assert running.facts.get(keys.wanted("a10g")) is None
        assert not any(each.header(SESSION.decode()) for each in server.heard)


def test_the_time_left_comes_from_earlier_ones(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    """After one cold start of the tier, whoever waits for the next is told about how long that takes."""
    held_server = HeldServer()
    with ScriptedServer(whole_answer, opening=held_server) as server, remote(tmp_path, server) as running:
        for n in range(3):
            seconds = {"container": 30, "weights": 10, "bytes": 20}
            fact = {"tier": "a10g", "container": f"ta-0{n}", "n": 0, "kind": "start", "at": "2026-11-01T00:00:00Z"}
            running.facts.put(keys.cold("a10g", f"ta-0{n}", 0), {**fact, "seconds": seconds, "size": 2 * GB})
    held_server.awake.clear()
    with ScriptedServer(whole_answer, opening=held_server) as server, remote(tmp_path, server) as running:
        lines = list[str]()
        answer = pool.submit(streamed, running, lines)
        until(lambda: any("gets a container for llama3.2, about 40 s" in line for line in lines), "an estimate")
        held_server.awake.set()
        assert answer.result()


# -- the wake names its model ------------------------------------------------------------------------------------------


def test_the_model_is_named_before_the_first_poke(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    """The request that starts a server finds the fact written already; those who come while it starts are behind it."""
    held_server, named = HeldServer(awake=False), list[list[str]]()

    def opening(heard: HeardRequest, line: Connection) -> None:
        named.append(list(map(str, wanted(running.facts, "a10g", CLOCK.now()))))
        held_server(heard, line)

    with ScriptedServer(whole_answer, opening=opening) as server, remote(tmp_path, server, source=BOTH) as running:
        first = pool.submit(asked, running, OLLAMA, model="qwen3")
        until(lambda: named)
        second = pool.submit(asked, running, OLLAMA)
        until(lambda: len(named[-1]) == 2)
        held_server.awake.set()
        assert (first.result().status_code, second.result().status_code) == (200, 200)
    assert named[0] == ["qwen3:latest"]
    assert ["qwen3:latest", LLAMA] in named


class AwayFacts:
    """A store that does not answer, or not well."""

    def __init__(self, answer: Callable[[], Any]) -> None:
        self._answer = answer

    def get(self, _: Any, default: Any = None) -> Any:
        return self._answer() or default

    def put(self, *_: Any, **__: Any) -> bool:
        return bool(self._answer())

    def items(self, *_: str) -> Iterator[tuple[Any, Any]]:
        self._answer()
        return iter(())

    keys = items


@pytest.mark.parametrize("kind", ["fails", "hangs"])
def test_a_store_that_is_away_stops_no_wake(kind: str) -> None:
    """Whether it fails or does not answer, whoever wakes the tier goes on within a second."""

    def answer(over: threading.Event) -> None:
        if kind == "fails":
            raise StoreUnavailable("the ledger is away")
        over.wait(PATIENCE)

    async def wake() -> float:
        over = threading.Event()

        async def nothing() -> bool:
            return False

        records = ColdRecords(
            AwayFacts(partial(answer, over)),
            CLOCK,
            "test",
            reports=lambda _: (),
            refresh=nothing,
            observe=lambda _: None,
            size_of=lambda _: None,
        )
        records.begin()
        began = time.monotonic()
        await records.want("a10g", {LLAMA: CLOCK.now()})
        took = time.monotonic() - began
        over.set()
        await records.close()
        return took

    bound = cold_records.WANT_SECONDS + 2
    assert least(lambda: asyncio.run(wake()), bound) < bound


# -- to the same container ---------------------------------------------------------------------------------------------


def test_a_load_and_who_waited_for_it_are_one_session(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    """They carry one session id, so that they lean to one container; whoever comes later is free to go anywhere, each
    load has its own, and a caller's own header of that name never passes."""
    held_server = HeldServer(awake=False)
    with (
        ScriptedServer(whole_answer, opening=held_server) as server,
        remote(tmp_path, server, source=BOTH) as running,
    ):
        waiting = [pool.submit(asked, running, OLLAMA, model=name) for name in ("llama3.2", "llama3.2", "qwen3")]
        until(lambda: running.composed.cold_starts["a10g"].state().held == 3)
        held_server.awake.set()
        assert {each.result().status_code for each in waiting} == {200}
        headers = {SESSION.decode(): "mine"}
        httpx.post(running.url + OLLAMA.path, json=OLLAMA.body, headers=headers, timeout=PATIENCE)

    sessions: dict[str, set[str]] = {}
    for each in (*server.loads, *server.asked[:3]):
        sessions.setdefault(each.json["model"].removesuffix(":latest"), set()).add(each.header(SESSION.decode()))
    assert all(len(found) == 1 and "" not in found for found in sessions.values())
    assert sessions["llama3.2"] != sessions["qwen3"]
    assert server.asked[3].header(SESSION.decode()) == ""


# -- a container killed in each phase ----------------------------------------------------------------------------------


class Killed:
    """Servers behind one address, of which the first is killed in a phase, and the second is quick."""

    def __init__(self, phase: str) -> None:
        self.phase = phase
        self.awake, self.killed = threading.Event(), threading.Event()
        self.reached = threading.Event()

    def opening(self, heard: HeardRequest, line: Connection) -> None:
        if not self.awake.is_set():
            line.head(503, "text/plain", "Content-Length: 0")
        elif heard.only_looks:
            line.document({"version": "1"})
        elif self.phase == "bytes" and not self.killed.is_set():
            self._kill(line)
        else:
            line.document({"done": True, "done_reason": "load"})
            if self.phase == "memory" and not self.killed.is_set():
                self._gone()

    def answer(self, heard: HeardRequest, line: Connection) -> None:
        if not self.awake.is_set():
            line.head(503, "text/plain", "Content-Length: 0")
        elif self.phase == "first_token" and not self.killed.is_set():
            self._kill(line)
        else:
            whole_answer(heard, line)

    def _kill(self, line: Connection) -> None:
        self.reached.set()
        assert self.killed.wait(PATIENCE)
        line.reset()

    def _gone(self) -> None:
        self.awake.clear()
        self.reached.set()


@pytest.mark.parametrize("phase", ["asked", "container", "weights", "engine", "bytes", "memory", "first_token"])
def test_a_container_killed_in_each_phase(tmp_path: Path, pool: ThreadPoolExecutor, phase: str) -> None:
    """In whatever phase it is killed, its caller is held, told what goes on, and served by the next one."""
    killed, lines = Killed(phase), list[str]()
    with ScriptedServer(killed.answer, opening=killed.opening) as server, remote(tmp_path, server) as running:
        answer = pool.submit(streamed, running, lines)
        if phase in OF_A_START[:3]:
            tell(running, "ta-1", phase)
        elif phase == "container":
            tell(running, "ta-1", "weights")
        if phase in {"bytes", "memory", "first_token"}:
            if phase != "bytes":
                tell(running, "ta-1", None)
            killed.awake.set()
            assert killed.reached.wait(PATIENCE)
        said = {
            "container": "a10g looks at the weights for llama3.2",
            "weights": "a10g looks at the weights for llama3.2",
            "engine": "a10g starts its engine for llama3.2",
            "bytes": "a10g reads llama3.2, 1.1 of 2.0 GB",
        }.get(phase)
        if said:
            until(lambda: any(said in line for line in lines), said)
        elif phase == "asked":
            until(lambda: any("waking a10g" in line for line in lines), "what is waited for")
        killed.awake.clear()
        killed.killed.set()
        until(lambda: tier_entry(running)["held"] == 1, "a caller who is held")
        tell(running, "ta-2", "engine")
        until(lambda: lines and "a10g starts its engine for llama3.2" in lines[-2:][0], "the next one's phase")
        tell(running, "ta-2", None)
        killed.awake.set()

        assert answer.result()
        assert "data: [DONE]" in lines
        assert json.loads(next(line for line in lines if line.startswith("data: "))[6:])
        starts = until(
            lambda: [each for each in read_cold_starts(running.facts) if each.container == "ta-2"], "the fact"
        )
        assert starts[0].kind == "start"
        assert running.row().about.ending == "success"
