"""Warm jobs of a deployment: whom they may wake, how often, and what the containers are told of it."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.deployment.servers_worker import Warming
from app.fleet.file import read
from app.fleet.schema import Fleet, parse
from app.model_server.report import Report
from app.scheduler.wake_budget import Wakes
from jobs.core.clock import SystemClock, parse_moment
from jobs.core.errors import NotFound, StoreUnavailable
from jobs.core.retry import NEVER
from jobs.ledger.job import Ending, Job, JobState
from jobs.ledger.kinds import SERVERS_LANE
from jobs.ollama.client import OllamaClient
from jobs.registry.client import Registry
from jobs.store import keys
from jobs.store.sqlite import SqliteDict
from jobs.tasks.context import TaskContext
from jobs.telemetry.container_time import is_warming
from jobs.testing.ollama.server import OllamaDouble
from jobs.testing.registry.server import RegistryDouble
from jobs.worker.attempt import RunningAttempt
from jobs.worker.worker import Timing, Worker
from tests.support.stores import Store, ended_job
from tests.support.waiting import PATIENCE, until


def fleet_with(wakes: int) -> Fleet:
    document = read()
    document["tiers"]["a10g"]["own_wakes_per_day"] = wakes
    return parse(document, "test")


@dataclass
class Case:
    store: Store
    server: OllamaClient

    def warm(self, by: str, *, wakes: int) -> Job:
        fleet = fleet_with(wakes)
        context = TaskContext(
            clock=SystemClock(),
            registry=Registry(clock=SystemClock()),
            servers={"a10g": self.server},
            tiers=fleet.catalog_tiers(),
            declared_tier=lambda _: "a10g",
        )
        request = {"model": "llama3.2", "tier": "a10g"}
        ledger = self.store.ledger()
        id = ledger.post("warm", "llama3.2:latest", request, by=by, attempts=1).job.id
        warming = Warming(context, fleet, self.store.facts, SystemClock())
        timing = Timing(sweep=timedelta(seconds=0.1), poll=timedelta(seconds=0.1))
        worker = Worker(ledger, SERVERS_LANE, warming.perform, clock=SystemClock(), timing=timing)
        worker.run(threading.Event(), idle_after=timedelta(seconds=0.3))
        return ledger.reader.get(id)

    def used(self) -> int:
        return Wakes(self.store.facts, fleet_with(9)).used("a10g", SystemClock().now())

    def warming(self) -> Any:
        return self.store.facts.get("warming/a10g")


@pytest.fixture(scope="module")
def server() -> Iterator[OllamaClient]:
    with RegistryDouble() as registry, OllamaDouble(registry=registry.url) as double:
        httpx.post(f"{double.url}/api/pull", json={"model": "llama3.2", "stream": False}, timeout=PATIENCE)
        with OllamaClient(double.url, policy=NEVER) as ollama:
            yield ollama


@pytest.fixture
def case(live_store: Store, server: OllamaClient) -> Case:
    return Case(live_store, server)


def test_a_person_wakes_as_often_as_she_likes(case: Case) -> None:
    """What a person asks for is done, with no wake of our own to spend on it, and the containers know till when."""
    assert case.warm("anna@laptop", wakes=0).state is JobState.SUCCEEDED
    assert case.used() == 0
    assert parse_moment(case.warming()["until"]) <= SystemClock().now()


def test_our_own_wakes_are_counted(case: Case) -> None:
    """What nobody asked for takes one of the day's wakes, and is refused with the remedy when none is left."""
    assert case.warm("nightly", wakes=1).state is JobState.SUCCEEDED
    assert case.used() == 1
    refused = case.warm("nightly", wakes=1)
    assert refused.state is JobState.FAILED
    assert refused.attempts[-1].failure_class == "refused"
    assert "its 1 wake of our own for today is used up" in str(refused.attempts[-1].message)
    assert "own_wakes_per_day" in str(refused.attempts[-1].hint)


def test_a_tier_that_is_up_need_not_be_woken(case: Case) -> None:
    """Warming a tier that serves already takes no wake."""
    report = Report("a10g", "ta-1", "serving", SystemClock().now())
    case.store.facts.put(report.key, report.as_json())
    assert case.warm("nightly", wakes=0).state is JobState.SUCCEEDED
    assert case.used() == 0


def test_a_window_wakes_once_for_all_its_models(case: Case) -> None:
    """The warm-ups of a window ride on its own wake, however many models it names; without one they are refused."""
    assert case.warm("window", wakes=0).state is JobState.FAILED
    assert [case.warm("window", wakes=1).state for _ in range(2)] == [JobState.SUCCEEDED] * 2
    assert case.used() == 1


# -- side by side, and in vain -----------------------------------------------------------------------------------------


class Gate:
    """A server that loads each model when a test lets it."""

    def __init__(self, server: OllamaClient) -> None:
        self._server = server
        self.loading: dict[str, threading.Event] = {}
        self.asked: list[str] = []

    def version(self) -> str:
        return self._server.version()

    def load(self, name: str, **_: Any) -> None:
        self.asked.append(name)
        assert self.loading[name].wait(PATIENCE)
        raise NotFound("that is all that this one does")


def test_two_warm_ups_of_a_tier_leave_each_other_alone(case: Case) -> None:
    """The one that ends first ends neither the other's mark, nor the wake that it rides on."""
    gate = Gate(case.server)
    names = ("llama3.2:latest", "tiny:latest")
    gate.loading = {name: threading.Event() for name in names}
    fleet, clock = fleet_with(1), SystemClock()
    context = TaskContext(
        clock=clock,
        registry=Registry(clock=clock),
        servers={"a10g": gate},  # type: ignore[dict-item]
        tiers=fleet.catalog_tiers(),
        declared_tier=lambda _: "a10g",
    )
    warming = Warming(context, fleet, case.store.facts, clock)
    ledger = case.store.ledger()

    def started(name: str, by: str) -> threading.Thread:
        id = ledger.post("warm", name, {"model": name, "tier": "a10g"}, by=by).job.id
        claim = ledger.claim(id, worker="w", lease=timedelta(minutes=1))
        assert claim is not None
        run = RunningAttempt(claim, ledger, clock)

        def work() -> None:
            with suppress(NotFound):
                warming.perform(run)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        until(lambda: name in gate.asked)
        return thread

    first, second = started(names[0], "nightly"), started(names[1], "anna@laptop")
    gate.loading[names[1]].set()
    second.join(timeout=PATIENCE)
    assert not second.is_alive()
    assert is_warming(case.store.facts, "a10g", clock.now() + timedelta(minutes=1), timedelta(0))
    gate.loading["third:latest"] = threading.Event()
    third = started("third:latest", "nightly")
    assert case.used() == 1  # the budget's one wake is still the first one's
    for event in gate.loading.values():
        event.set()
    for thread in (first, third):
        thread.join(timeout=PATIENCE)
        assert not thread.is_alive()
    assert not is_warming(case.store.facts, "a10g", clock.now() + timedelta(seconds=1), timedelta(0))


class Untold(SqliteDict):
    """A dict that takes no word of a warm-up while a test says so, at its beginning or at its end."""

    now_and_then: tuple[bool, ...] = ()

    def put(self, key: Any, value: Any, *, skip_if_exists: bool = False) -> bool:
        if key.startswith("warming/") and self.now_and_then:
            fails, *rest = self.now_and_then
            self.now_and_then = tuple(rest)
            if fails:
                raise StoreUnavailable(f"writing {key} to the ledger: Modal did not answer within 10 s")
        return super().put(key, value, skip_if_exists=skip_if_exists)


@pytest.mark.parametrize("fails", [(True, False), (False, True), (True, True)])
def test_a_warm_up_succeeds_though_nobody_can_be_told(case: Case, tmp_path: Path, fails: tuple[bool, ...]) -> None:
    """A store that takes no word of it spoils no warm-up, and leaves no trace of one behind for the next."""
    facts, clock, fleet = Untold(tmp_path / "untold.sqlite"), SystemClock(), fleet_with(1)
    context = TaskContext(
        clock=clock,
        registry=Registry(clock=clock),
        servers={"a10g": case.server},
        tiers=fleet.catalog_tiers(),
        declared_tier=lambda _: "a10g",
    )
    warming = Warming(context, fleet, facts, clock)
    ledger = case.store.ledger()

    def warm() -> Any:
        id = ledger.post("warm", "llama3.2", {"model": "llama3.2", "tier": "a10g"}, by="anna@laptop").job.id
        claim = ledger.claim(id, worker="w", lease=timedelta(minutes=1))
        assert claim is not None
        run = RunningAttempt(claim, ledger, clock)
        result = warming.perform(run)
        ledger.end(claim, Ending("succeeded", result=result), run.progress.read())
        return result

    facts.now_and_then = fails
    assert warm()
    assert warm()
    assert not is_warming(facts, "a10g", clock.now() + timedelta(seconds=1), timedelta(0))
    facts.close()


def refuse_starts(case: Case, count: int, seconds_ago: float) -> None:
    for n in range(count):
        at = SystemClock().now() - timedelta(seconds=seconds_ago + n)
        said = Report("a10g", f"ta-{n}", "refused", at, why="nvidia-smi ended with 9")
        case.store.facts.put(said.key, said.as_json())


@pytest.mark.parametrize("by", ["nightly", "window"])
def test_refused_starts_hold_our_own_wakes_back(case: Case, by: str) -> None:
    """A tier whose starts are refused is not woken before its time by what nobody asked for: the job says why, and has
    used up no wake."""
    refuse_starts(case, 3, seconds_ago=5)
    waits = case.warm(by, wakes=1)
    assert waits.attempts[-1].failure_class == "network"
    assert "tier 'a10g' cannot start: 3 starts in a row were refused: nvidia-smi" in str(waits.attempts[-1].message)
    assert case.used() == 0
    assert case.warming() is None


def test_a_start_may_be_tried_in_its_time_and_by_hand(case: Case) -> None:
    """When the pause is over the next warm-up may try again; and a person may at once, who may have mended it."""
    refuse_starts(case, 3, seconds_ago=5)
    assert case.warm("anna@laptop", wakes=0).state is JobState.SUCCEEDED
    refuse_starts(case, 3, seconds_ago=61)
    assert case.warm("nightly", wakes=1).state is JobState.SUCCEEDED


def test_a_model_whose_pull_failed_wakes_nobody(case: Case) -> None:
    """What is known not to be on the volume, since its pull failed, is told at once, with no wake spent on it; a model
    that is there is warmed though its newer version did not come."""
    ended_job(case.store, "llama3.2:latest", Ending("failed", "auth", "the registry wants a login", "use a token"))
    case.store.facts.put(keys.WEIGHTS_MODELS, {"other:latest": {"size": 1, "facts": None}})
    missing = case.warm("nightly", wakes=1).attempts[-1]
    assert missing.failure_class == "not_found"
    assert "failed: the registry wants a login" in str(missing.message)
    assert missing.hint == "use a token"
    assert case.used() == 0
    case.store.facts.put(keys.WEIGHTS_MODELS, {"llama3.2:latest": {"size": 1, "facts": None}})
    assert case.warm("nightly", wakes=1).state is JobState.SUCCEEDED
