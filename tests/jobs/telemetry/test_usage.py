"""Promises of jobs.telemetry.usage."""

import sys
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from jobs.core.clock import SystemClock
from jobs.store import keys
from jobs.store.prefixes import beginning
from jobs.telemetry import usage as module
from jobs.telemetry.usage import Row, UsageRecorder, Use, last_used, usage
from jobs.testing.clock import HandClock
from tests.support.call_counts import uncollected
from tests.support.stores import Store
from tests.support.waiting import PATIENCE, until

START = datetime(2026, 1, 1, tzinfo=UTC)


def use(at: datetime = START, model: str = "tiny:latest", **fields: Any) -> Use:
    return Use(at, **{"model": model, "key": "me", "tier": "a10g", "ending": "success", **fields})


class Shaky:
    """A dict in memory that fails when it is told to: before it writes, or after."""

    def __init__(self) -> None:
        self.entries: dict[str, Any] = {}
        self.fails = ""
        self.held = threading.Event()
        self.held.set()

    def put(self, key: Any, value: Any, *, skip_if_exists: bool = False) -> bool:
        assert not skip_if_exists
        self.held.wait(PATIENCE)
        if self.fails == "before":
            raise ConnectionError("not written")
        self.entries[key] = value
        if self.fails == "after":
            raise ConnectionError("written, but the answer was lost")
        return True

    def get(self, key: Any, default: Any = None) -> Any:
        if self.fails == "read":
            raise ConnectionError("not read")
        return self.entries.get(key, default)

    def keys(self, *prefixes: str) -> Iterator[Any]:
        return iter(list(beginning(self.entries, prefixes)))

    def items(self, *prefixes: str) -> Iterator[tuple[Any, Any]]:
        return iter([(key, self.entries[key]) for key in beginning(self.entries, prefixes)])


def count(rows: list[Row]) -> int:
    return sum(row.sums.count for row in rows)


def test_uses_of_a_day_are_added_up(store: Store) -> None:
    """One row for each model, key, tier and ending, with tokens and seconds; a first byte that never came is none."""
    usage_recorder = UsageRecorder(store.facts, store.clock, "w")
    usage_recorder.add(use(prompt_tokens=10, output_tokens=5, first_byte_seconds=0.5, seconds=2.0))
    usage_recorder.add(
        use(START + timedelta(hours=2), prompt_tokens=1, output_tokens=1, first_byte_seconds=0.25, seconds=1.0)
    )
    usage_recorder.add(use(ending="client_gone", seconds=9.0))
    usage_recorder.add(use(START + timedelta(days=1)))

    assert usage_recorder.flush()

    one, two, three = usage(store.facts)
    assert two.as_json() == {
        "day": "2026-01-01",
        "model": "tiny:latest",
        "key": "me",
        "tier": "a10g",
        "ending": "success",
        "count": 2,
        "prompt_tokens": 11,
        "output_tokens": 6,
        "first_bytes": 2,
        "first_byte_seconds": 0.75,
        "seconds": 3.0,
        "last_at": "2026-01-01T02:00:00.000Z",
    }
    assert Row.from_json(two.as_json()) == two
    assert (one.about.ending, one.sums.first_bytes, one.sums.seconds) == ("client_gone", 0, 9.0)
    assert three.about.day == "2026-01-02"
    assert usage(store.facts, since=date(2026, 1, 2)) == [three]


def test_writers_do_not_touch_each_others_sums(store: Store) -> None:
    """Two processes write keys of their own, and a reader adds them up."""
    for writer in ("one", "two"):
        usage_recorder = UsageRecorder(store.facts, store.clock, writer)
        usage_recorder.add(use())
        assert usage_recorder.flush()

    assert {key for key in store.facts.keys() if key.startswith(keys.USAGE)} == {  # noqa: SIM118 - a DictLike
        "usage/2026-01-01/one",
        "usage/2026-01-01/two",
    }
    assert count(usage(store.facts)) == 2


def test_a_writer_that_starts_again_goes_on(store: Store) -> None:
    """The same writer in a new process adds to the sums that it finds."""
    for _ in range(3):
        usage_recorder = UsageRecorder(store.facts, store.clock, "w")
        usage_recorder.add(use())
        assert usage_recorder.flush()

    assert count(usage(store.facts)) == 3


def test_last_use_of_each_model(store: Store) -> None:
    """The newest use of a model counts, whatever its spelling and ending; what names no model is left out."""
    usage_recorder = UsageRecorder(store.facts, store.clock, "w")
    late = START + timedelta(days=3)
    for each in (
        use(model="Tiny"),
        use(late, model="tiny:latest", ending="upstream_cut"),
        use(model=""),
        use(model="x:1"),
    ):
        usage_recorder.add(each)
    usage_recorder.flush()

    assert last_used(store.facts) == {"tiny:latest": late, "x:1": START}


def test_adding_never_waits_for_the_store() -> None:
    """While a write hangs, uses are taken and summed up at once, and the next flush writes them."""
    facts = Shaky()
    usage_recorder = UsageRecorder(facts, SystemClock(), "w", every=timedelta(milliseconds=1))
    facts.held.clear()
    usage_recorder.add(use())
    usage_recorder.start()
    until(lambda: not usage_recorder._new)

    for _ in range(25):
        usage_recorder.add(use())

    assert (usage_recorder.dropped, usage_recorder.pending) == (0, 26)
    facts.held.set()
    usage_recorder.stop()
    assert (usage_recorder.written, usage_recorder.pending, usage_recorder.dropped) == (26, 0, 0)
    assert count(usage(facts)) == 26


def test_all_uses_between_two_flushes_are_counted(store: Store) -> None:
    """Fifty thousand between two writes, a store that fails once among them: what waits is rows, and no use is lost."""
    facts = Shaky()
    usage_recorder = UsageRecorder(facts, store.clock, "w")
    for number in range(25_000):
        usage_recorder.add(use(model=f"m{number % 7}"))
    facts.fails = "before"
    assert not usage_recorder.flush()
    for number in range(25_000):
        usage_recorder.add(use(model=f"m{number % 7}", prompt_tokens=1))
    new, pending = usage_recorder._new.values(), usage_recorder._pending.values()
    assert [*map(len, new), *map(len, pending)] == [7, 7]
    facts.fails = ""

    assert usage_recorder.flush()

    rows = usage(facts)
    assert (count(rows), sum(row.sums.prompt_tokens for row in rows)) == (50_000, 25_000)
    assert (usage_recorder.written, usage_recorder.dropped, usage_recorder.pending) == (50_000, 0, 0)


class CountingLock:
    """A lock that tells how many functions were called each time that it was held."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls = 0
        self.held: list[int] = []

    def __enter__(self) -> None:
        self._lock.acquire()
        self._calls, self._before = 0, sys.getprofile()
        sys.setprofile(self._count)

    def __exit__(self, *_: object) -> None:
        sys.setprofile(self._before)
        self.held.append(self._calls)
        self._lock.release()

    def _count(self, _: FrameType, event: str, __: object) -> None:
        self._calls += event == "call"


def held_for(rows: int) -> list[int]:
    """How much was done each time that the lock was held, with so many rows a day."""
    usage_recorder = UsageRecorder(Shaky(), HandClock(), "w")
    lock = usage_recorder._counting = CountingLock()  # type: ignore[assignment]  # a lock that counts
    with uncollected():
        for number in range(2 * rows):
            usage_recorder.add(use(model=f"m{number % rows}"))
        assert usage_recorder.flush()
        usage_recorder.add(use())
        assert usage_recorder.flush()
    return lock.held


def test_a_flush_holds_up_nobody() -> None:
    """What keeps callers from counting is one use, or taking the sums away: as little for many rows as for few."""
    for rows in (10, 500, 1_000):
        assert max(held_for(rows)) <= 12


def test_a_store_that_fails_costs_nothing_but_time(clock: HandClock) -> None:
    """Sums stay while the store fails, `trouble` says why, and the next flush writes them all."""
    facts = Shaky()
    usage_recorder = UsageRecorder(facts, clock, "w")
    usage_recorder.add(use())
    for facts.fails in ("read", "before", "after"):
        assert not usage_recorder.flush()
        assert usage_recorder.trouble is not None
        assert usage_recorder.trouble.startswith("ConnectionError")
        assert usage_recorder.pending == 1
    facts.fails = ""
    usage_recorder.add(use())

    assert usage_recorder.flush()

    assert (usage_recorder.written, usage_recorder.pending, usage_recorder.trouble) == (2, 0, None)
    assert count(usage(facts)) == 2


def test_days_do_not_pile_up_for_ever(clock: HandClock) -> None:
    """When the store fails for weeks, the oldest days are given up, and counted."""
    facts = Shaky()
    facts.fails = "before"
    usage_recorder = UsageRecorder(facts, clock, "w")
    for day in range(module.MAX_DAYS + 3):
        usage_recorder.add(use(START + timedelta(days=day)))
    usage_recorder.flush()

    assert (usage_recorder.dropped, usage_recorder.pending) == (3, module.MAX_DAYS)
    facts.fails = ""
    usage_recorder.flush()
    assert usage(facts)[0].about.day == "2026-01-04"


def test_callers_cannot_fill_the_ledger_with_names(store: Store) -> None:
    """Beyond the most rows of a day, models that are new share one row without a name; none of their uses is lost."""
    usage_recorder = UsageRecorder(store.facts, store.clock, "w")
    for number in range(2 * module.MAX_ROWS):
        usage_recorder.add(use(model=f"m{number}"))
        if number % 1_500 == 0:
            usage_recorder.flush()
    usage_recorder.flush()

    rows = usage(store.facts)
    assert len(rows) <= module.MAX_ROWS + 1
    assert count(rows) == usage_recorder.written == 2 * module.MAX_ROWS
    assert max(row.sums.count for row in rows if row.about.model == "") >= module.MAX_ROWS


def test_batches_cannot_fill_the_ledger_either(store: Store) -> None:
    """Beyond the most rows of a day, batches that are new share one row, which names none."""
    usage_recorder = UsageRecorder(store.facts, store.clock, "w")
    for number in range(module.MAX_ROWS + 500):
        usage_recorder.add(use(batch=f"batch_{number}"))
        if number % 1_500 == 0:
            usage_recorder.flush()
    usage_recorder.flush()

    rows = usage(store.facts)
    assert len(rows) <= module.MAX_ROWS + 1
    assert count(rows) == usage_recorder.written == module.MAX_ROWS + 500


def test_lines_of_a_batch_are_rows_of_their_own(store: Store) -> None:
    """Beside those of people with the same key and model; a row from before there were batches is one of people, and
    what is written of people now is what was written then. Lines do not count as somebody who asked."""
    usage_recorder = UsageRecorder(store.facts, store.clock, "w")
    for batch in ("", "batch_1", "batch_1", "batch_2"):
        usage_recorder.add(use(batch=batch, seconds=2.0))
    usage_recorder.flush()
    entry = store.facts.get("usage/2026-01-01/w")
    by_batch = {row.get("batch"): row["count"] for row in entry["rows"]}
    assert by_batch == {None: 1, "batch_1": 2, "batch_2": 1}

    store.facts.put("usage/2026-01-01/old", {"v": 1, "rows": [row for row in entry["rows"] if "batch" not in row]})
    rows = usage(store.facts)
    assert [(row.about.batch, row.sums.count, row.sums.seconds) for row in rows] == [
        ("", 2, 4.0),
        ("batch_1", 2, 4.0),
        ("batch_2", 1, 2.0),
    ]
    assert [Row.from_json(row.as_json()) for row in rows] == rows
    asked = module.asked(dict(store.facts.items()))
    assert [sum(models.values()) for models in asked["a10g"].values()] == [1]
    assert last_used(store.facts)["tiny:latest"] == START


def test_rows_that_make_no_sense_are_passed_over(store: Store) -> None:
    """What else stands under such a key spoils no sum."""
    usage_recorder = UsageRecorder(store.facts, store.clock, "w")
    usage_recorder.add(use())
    usage_recorder.flush()
    entry = store.facts.get("usage/2026-01-01/w")
    store.facts.put("usage/2026-01-01/x", {"v": 9, "rows": [{"day": 1}, None, *entry["rows"]]})
    store.facts.put("usage/2026-01-01/y", "nonsense")

    assert count(usage(store.facts)) == 2


class Bookkeeping(RuleBasedStateMachine):
    """Uses, flushes, failures of the store and restarts in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = HandClock()
        self.facts = Shaky()
        self.added = 0
        self.before = 0

    @initialize()
    def begin(self) -> None:
        self.usage_recorder = UsageRecorder(self.facts, self.clock, "w")

    @rule(late=st.integers(0, 3), model=st.sampled_from(["a", "b"]))
    def add(self, late: int, model: str) -> None:
        self.usage_recorder.add(use(self.clock.now() - timedelta(days=late), model))
        self.added += 1

    @rule(fails=st.sampled_from(["", "", "before", "after", "read"]))
    def flush(self, fails: str) -> None:
        self.facts.fails = fails
        self.usage_recorder.flush()
        self.facts.fails = ""

    @rule(days=st.integers(0, 20))
    def pass_time(self, days: int) -> None:
        self.clock.tick(days * 86_400)

    @rule()
    def start_again(self) -> None:
        self.usage_recorder.flush()
        self.before += self.usage_recorder.written + self.usage_recorder.dropped
        self.begin()

    @invariant()
    def nothing_is_counted_twice_or_forgotten(self) -> None:
        """All uses are written, dropped or pending; the store holds those that are written, and at most the pending."""
        usage_recorder = self.usage_recorder
        assert self.before + usage_recorder.written + usage_recorder.dropped + usage_recorder.pending == self.added
        assert count(usage(self.facts)) <= self.added

    def teardown(self) -> None:
        for _ in range(3):
            self.flush("")
        dropped = self.added - count(usage(self.facts))
        assert dropped >= 0
        assert self.usage_recorder.pending == 0


TestBookkeeping = Bookkeeping.TestCase
TestBookkeeping.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["", "before", "after", "read"])), max_size=12))
def test_what_is_in_the_store_is_what_was_written(steps: list[tuple[int, str]]) -> None:
    """Whatever flushes failed on the way, at the end the store's sum is the number of uses that were added."""
    facts, clock = Shaky(), HandClock()
    usage_recorder = UsageRecorder(facts, clock, "w")
    for uses, fails in steps:
        for _ in range(uses):
            usage_recorder.add(use())
        facts.fails = fails
        usage_recorder.flush()
    facts.fails = ""
    assert usage_recorder.flush()

    assert count(usage(facts)) == usage_recorder.written == sum(uses for uses, _ in steps)
    assert (usage_recorder.pending, usage_recorder.dropped) == (0, 0)


def test_old_days_are_read_on_demand_only(store: Store) -> None:
    """A reader that names no day gets the newest ninety; one that does gets all since then."""
    usage_recorder = UsageRecorder(store.facts, store.clock, "w")
    for days in (0, 10, 99):
        usage_recorder.add(use(START + timedelta(days=days)))
    usage_recorder.flush()

    assert [row.about.day for row in usage(store.facts)] == ["2026-01-11", "2026-04-10"]
    assert len(usage(store.facts, since=date(2025, 1, 1))) == 3


def test_stopping_writes_what_is_left(store: Store) -> None:
    """A gateway that ends in order loses no use."""
    usage_recorder = UsageRecorder(store.facts, SystemClock(), "w", every=timedelta(hours=1))
    usage_recorder.start()
    usage_recorder.add(use())

    usage_recorder.stop()

    assert count(usage(store.facts)) == 1


@pytest.mark.parametrize("text", ["2026-01-01T23:59:59+00:00", "2026-01-02T01:00:00+02:00"])
def test_days_are_those_of_utc(store: Store, text: str) -> None:
    """A use belongs to the day that it was in UTC."""
    usage_recorder = UsageRecorder(store.facts, store.clock, "w")
    usage_recorder.add(use(datetime.fromisoformat(text)))
    usage_recorder.flush()

    assert [row.about.day for row in usage(store.facts)] == ["2026-01-01"]
