"""When lines may be sent, and what happens when that changes while they are."""

from collections.abc import Collection, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from jobs.batches.measuring import SharedTime
from jobs.batches.records import BatchRecord, BatchUse, Estimate
from jobs.batches.start_rules import Decision, NotYet, StartNow
from jobs.core.clock import SystemClock
from jobs.ledger.job import JobState
from jobs.store import keys
from tests.support.batch_runs import GOOD, Gateway, Runs, Said, ids, not_now, runs
from tests.support.stores import Store
from tests.support.waiting import until


def estimated(record: BatchRecord, *_: Any) -> Estimate:
    return Estimate(BatchUse(dollars=0.5), 10.0, None, record.created_at + timedelta(hours=1), "guess")


class Starts:
    """Says one after the other of what it is given; the last one for ever."""

    def __init__(self, *says: Decision) -> None:
        self._says = list(says)
        self.asked: list[tuple[str, tuple[str, ...]]] = []
        self.over_of: list[tuple[str, ...]] = []

    def may_start(self, record: BatchRecord, estimate: Estimate, tiers: Collection[str]) -> Decision:
        self.asked.append((record.id, tuple(tiers)))
        return self._says.pop(0) if len(self._says) > 1 else self._says[0]

    def over(self, record: BatchRecord, tiers: Collection[str]) -> None:
        self.over_of.append(tuple(tiers))


def later(hours: float = 1.0, note: str = "waits for a window") -> NotYet:
    at = SystemClock().now() + timedelta(hours=hours)
    return NotYet(at, at, note)


def job_state(at: Runs, record: BatchRecord) -> JobState | None:
    job = at.store.ledger().reader.latest("batch", record.id)
    return job.state if job else None


def test_a_batch_waits_until_it_may_begin(live_store: Store, tmp_path: Path) -> None:
    """It is read through, says what it waits for and what it will take, and sends nothing; put into the queue, it
    begins."""
    starts = Starts(later(), StartNow())
    with runs(live_store, tmp_path, starts=starts, estimate=estimated) as (at, gateway), at.working():
        record = at.post(10)
        until(lambda: job_state(at, record) is JobState.WAITING)
        batch = at.batches.get(record.id)
        assert (batch.status, batch.note) == ("validating", "waits for a window")
        assert batch.state is not None
        assert (batch.state.starts_at is not None, batch.state.tiers, batch.counts.total) == (True, ("a10g",), 10)
        assert batch.estimate is not None
        assert batch.estimate.use.dollars == 0.5
        assert gateway.came == []

        at.store.ledger().enqueue(batch.job_id or "")
        assert at.ended(record).status == "completed"
        assert starts.over_of == [("a10g",)]
        job = at.store.ledger().reader.latest("batch", record.id)
        assert job is not None
        assert [each.failure_class for each in job.attempts] == [None, None]


def test_a_batch_that_waits_is_cancelled_at_once(live_store: Store, tmp_path: Path) -> None:
    """Its lines say that they were not run."""
    with runs(live_store, tmp_path, starts=Starts(later()), estimate=estimated) as (at, gateway), at.working():
        record = at.post(3)
        until(lambda: job_state(at, record) is JobState.WAITING)
        at.batches.cancel(record.id, by="test")
        batch = at.ended(record)
        assert (batch.status, ids(at.errors(batch)), gateway.came) == ("cancelled", ["id-1", "id-2", "id-3"], [])


def test_lines_wake_a_tier_only_when_the_batch_took_a_wake(live_store: Store, tmp_path: Path) -> None:
    """The pass says so; where a tier falls asleep meanwhile, it is asked again, and the pass says otherwise."""
    may_wake: list[bool] = []

    def says(number: int, times: int) -> Said:
        (written,) = dict(live_store.facts.items(keys.BATCH_PASS)).values()
        may_wake.append(written["may_wake"])
        return GOOD if number < 5 or written["may_wake"] else not_now(10)

    starts = Starts(StartNow(), StartNow(("a10g",), "it will not be done by its deadline"))
    with runs(live_store, tmp_path, Gateway(says), starts=starts, estimate=estimated) as (at, _):
        batch = at.run(at.post(10))
        assert (batch.status, batch.counts.completed) == ("completed", 10)
        assert (may_wake[0], may_wake[-1]) == (False, True)
        assert len(starts.asked) == 2


def test_a_deadline_that_cannot_hold_is_told_while_it_runs(live_store: Store, tmp_path: Path) -> None:
    """Not only before its first line; and a line that is held up is told instead as long as it is."""
    is_full = [True]

    def says(number: int, _: int) -> Said:
        return not_now(0.1) if number >= 5 and is_full[0] else GOOD

    starts = Starts(StartNow((), "it will not be done by its deadline"))
    with runs(live_store, tmp_path, Gateway(says), starts=starts, estimate=estimated) as (at, _), at.working():
        record = at.post(10)
        until(lambda: at.batches.get(record.id).counts.completed == 4)  # said by whoever watches the lines
        assert at.batches.get(record.id).note == "it will not be done by its deadline"
        is_full[0] = False
        assert at.ended(record).note == ""


def test_a_batch_that_may_not_wake_its_tier_goes_back(live_store: Store, tmp_path: Path) -> None:
    """What is done is kept; the rest is done when the tier is awake, and nothing twice."""
    asleep = [True]

    def says(number: int, _: int) -> Said:
        return not_now(10) if number >= 5 and asleep[0] else GOOD

    starts = Starts(StartNow(), later(note="a10g must not be woken"), StartNow())
    with runs(live_store, tmp_path, Gateway(says), starts=starts, estimate=estimated) as (at, gateway), at.working():
        record = at.post(10)
        until(lambda: job_state(at, record) is JobState.WAITING)
        batch = at.batches.get(record.id)
        assert (batch.status, batch.note, batch.counts.completed) == ("in_progress", "a10g must not be woken", 4)
        asleep[0] = False
        at.store.ledger().enqueue(batch.job_id or "")
        assert at.ended(record).counts.completed == 10
        assert [gateway.times(n) for n in range(1, 5)] == [1, 1, 1, 1]


def test_a_batch_that_would_be_too_dear_is_refused(live_store: Store, tmp_path: Path) -> None:
    """Before a line was sent, with what it would cost."""
    with runs(live_store, tmp_path, estimate=estimated) as (at, gateway):
        batch = at.run(at.post(10, max_dollars=0.25))
        assert (batch.status, batch.errors[0].code, gateway.came) == ("failed", "max_dollars_exceeded", [])


def test_a_batch_ends_when_its_dollars_are_spent(live_store: Store, tmp_path: Path) -> None:
    """What is done is kept; the others say why they were not run."""

    def shared(_: str) -> Any:
        def times(_: object) -> Mapping[str, SharedTime]:
            return {}

        return times

    priced = {"dollars_per_second": {"a10g": 1000.0}, "shared_times": shared}
    with runs(live_store, tmp_path, Gateway(room=1), estimate=estimated, **priced) as (at, _):
        batch = at.run(at.post(2000, max_dollars=5.0))
        assert (batch.status, batch.errors[0].code) == ("failed", "budget_spent")
        done = len(at.output(batch))
        assert 0 < done < 2000
        assert len(at.errors(batch)) == 2000 - done
        assert batch.use.dollars is not None
        assert batch.use.dollars >= 5.0


def test_what_a_batch_measured_is_learnt(live_store: Store, tmp_path: Path) -> None:
    """The next estimate rests on it."""
    with runs(live_store, tmp_path) as (at, _):
        at.run(at.post(20))
        until(lambda: live_store.facts.get(keys.batch_speed("a10g", "m")))


def test_a_deadline_that_passes_while_it_waits_ends_it(live_store: Store, tmp_path: Path) -> None:
    """It is expired when its time comes, with nothing done, and says so of each line."""
    starts = Starts(later(hours=1 / 3600))
    with runs(live_store, tmp_path, starts=starts, estimate=estimated) as (at, _):
        batch = at.run(at.post(3, expires_in=timedelta(seconds=0.5)))
        assert (batch.status, len(at.errors(batch))) == ("expired", 3)
