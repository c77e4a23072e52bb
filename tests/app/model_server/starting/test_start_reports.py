"""What a server tells of its starts and loads: each once as a fact, few writes meanwhile."""

from collections.abc import Callable

import pytest

from app.model_server.starting.bytes_read import bytes_read
from app.model_server.starting.start_reports import GIVEN_UP_AFTER, StartReports, Weights
from jobs.core.errors import StoreUnavailable
from jobs.store import keys
from jobs.telemetry.cold_starts import TELL_AT_LEAST_EVERY, Progress, read_cold_starts
from jobs.testing.clock import HandClock
from tests.support.failing_stores import TroubledDict
from tests.support.stores import Store

GB = 1_000_000_000


class Case:
    def __init__(
        self, store: Store, read: Callable[[], int | None] = lambda: None, facts: TroubledDict | None = None
    ) -> None:
        self.clock = HandClock()
        self.store = store
        self.told: list[tuple[Progress, ...]] = []
        self.start_reports = StartReports(
            facts or store.facts,
            self.clock,
            "a10g",
            "ta-1",
            tell=lambda: self.told.append(self.start_reports.progress()),
            weights_of=self._weights_of,
            engines_bytes=read,
            read_ahead=lambda: None,
        )

    @staticmethod
    def _weights_of(blob: str) -> Weights | None:
        if blob == "sha256-gone":
            raise FileNotFoundError(blob)
        return Weights("qwen3:latest", 3 * GB) if blob == "sha256-1" else None

    def started(self, *, has_heard: bool = True) -> None:
        """A start with a model, of which the engine has said that it loads it, or its output was not read so far."""
        phases = self.start_reports.begin_start()
        self.clock.tick(1)
        phases.ended("weights")
        self.clock.tick(2)
        phases.ended("engine")
        phases.of("llama3.2:latest", 2 * GB)
        if has_heard:
            self.start_reports.load_began("sha256-2")
            self.clock.tick(4)
            self.start_reports.bytes_are_read()
            self.clock.tick(0.5)
            self.start_reports.load_ended()
        self.start_reports.end_start(lambda: {"sha256-2"})


@pytest.fixture
def case(store: Store) -> Case:
    return Case(store)


def told_of(case: Case) -> list[tuple[str, int]]:
    """The facts of starts and loads, by their numbers."""
    return sorted(((each.kind, each.n) for each in read_cold_starts(case.store.facts)), key=lambda each: each[1])


def test_what_the_engine_says_late_of_a_start_is_no_other_load(case: Case) -> None:
    """Where a server answers before the engine's output was read so far, what comes of its first model is the start's;
    the next load is a load, be it of the same model."""
    case.started(has_heard=False)
    for _ in range(2):
        case.start_reports.load_began("sha256-2")
        case.start_reports.bytes_are_read()
        case.start_reports.load_ended()
    case.start_reports.look()
    assert told_of(case) == [("start", 0), ("load", 1)]


def test_a_load_of_another_model_after_a_silent_start_is_one(case: Case) -> None:
    """An engine that has not told of its first load is taken by its word when it tells of the next ones."""
    case.started(has_heard=False)
    for blob in ("sha256-1", "sha256-2"):
        case.start_reports.load_began(blob)
        case.start_reports.load_ended()
    case.start_reports.look()
    assert told_of(case) == [("start", 0), ("load", 1), ("load", 2)]


def test_a_start_and_a_load_are_facts(case: Case) -> None:
    """Each is written down once when it is over, with its phases, the model and the rate."""
    case.started()
    case.start_reports.load_began("sha256-1")
    case.start_reports.look()
    case.clock.tick(3)
    case.start_reports.bytes_are_read()
    case.clock.tick(1)
    case.start_reports.load_ended()
    case.start_reports.look()
    case.start_reports.stop()

    load, start = read_cold_starts(case.store.facts)
    assert (start.n, start.kind, start.model, start.rate) == (0, "start", "llama3.2:latest", GB / 2)
    assert start.seconds == {"weights": 1, "engine": 2, "bytes": 4, "memory": 0.5}
    assert (load.n, load.kind, load.model, load.size) == (1, "load", "qwen3:latest", 3 * GB)
    assert load.seconds == {"bytes": 3, "memory": 1}


def test_a_gateways_fuller_word_stays(case: Case) -> None:
    """What a gateway has written of the same start already, which knows the whole, is not written over."""
    case.store.facts.put("cold/a10g/ta-1/0", {"fuller": True})
    case.started()
    case.start_reports.look()
    case.start_reports.stop()

    assert case.store.facts.get("cold/a10g/ta-1/0") == {"fuller": True}


def test_only_news_is_told(case: Case) -> None:
    """A look that finds nothing new writes nothing; the seconds that pass are no news."""
    case.start_reports.begin_start()
    case.start_reports.look()
    told = len(case.told)
    for _ in range(3):
        case.clock.tick(3)
        case.start_reports.look()
    assert len(case.told) == told
    case.start_reports.stop()


def test_bytes_that_come_are_told(store: Store) -> None:
    """While the bytes come, each look tells how many have, as far as the kernel knows."""
    came = iter([1 * GB, 2 * GB])
    case = Case(store, lambda: next(came))
    case.start_reports.begin_start().ended("engine")
    case.start_reports.load_began("sha256-1")
    for _ in range(2):
        case.start_reports.look()
    case.start_reports.stop()

    assert [(each.model, each.read, each.size) for told in case.told for each in told][-2:] == [
        ("qwen3:latest", 1 * GB, 3 * GB),
        ("qwen3:latest", 2 * GB, 3 * GB),
    ]


def test_a_load_that_is_heard_of_no_more_is_over(case: Case) -> None:
    """One that failed says no end: after a while nobody is told any more that it goes on, and it is no fact."""
    case.started()
    case.start_reports.load_began("sha256-1")
    case.clock.tick(GIVEN_UP_AFTER.total_seconds() + 1)
    case.start_reports.look()
    case.start_reports.stop()

    assert all(each.is_over for each in case.start_reports.progress())
    assert [each.kind for each in read_cold_starts(case.store.facts)] == ["start"]


def test_a_ledger_that_is_away_loses_no_fact(store: Store) -> None:
    """What it does not take is written at the next look; each fact once."""
    away = True

    def meet(asked: str) -> None:
        if away and asked.startswith(f"put {keys.COLD}"):
            raise StoreUnavailable("the ledger is away")

    case = Case(store, facts=TroubledDict(store.facts, meet))
    case.started()
    with pytest.raises(StoreUnavailable):
        case.start_reports.look()
    assert read_cold_starts(store.facts) == []
    away = False
    case.start_reports.look()
    case.start_reports.stop()
    assert [each.kind for each in read_cold_starts(store.facts)] == ["start"]


def test_a_blob_that_has_gone_spoils_no_other(case: Case) -> None:
    """A model whose file is not there any more stays without a name; the next one has its own."""
    case.started()
    for blob in ("sha256-gone", "sha256-1"):
        case.start_reports.load_began(blob)
        case.clock.tick(1)
        case.start_reports.load_ended()
        case.start_reports.look()
    case.start_reports.stop()
    loads = [each for each in read_cold_starts(case.store.facts) if each.kind == "load"]
    assert [each.model for each in loads] == ["qwen3:latest", ""]


def test_one_that_goes_on_is_told_of_again(case: Case) -> None:
    """A start of which nothing is news says every ten seconds that it goes on: whoever falls silent is dead."""
    case.start_reports.begin_start()
    case.start_reports.look()
    told = len(case.told)
    for _ in range(3):
        case.clock.tick(TELL_AT_LEAST_EVERY.total_seconds())
        case.start_reports.look()
    assert len(case.told) == told + 3
    case.start_reports.stop()


def test_nobody_knows_of_a_group_that_is_none() -> None:
    """Of processes that are not there no byte is known to have been read."""
    assert bytes_read(2**22 + 1) is None
