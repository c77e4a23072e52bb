"""A kind of job that a worker alone ends (`Kind.ended_by_worker`), and what is claimed before it is due."""

from datetime import timedelta

import pytest

from jobs.core.progress import Reading
from jobs.ledger.attempts import Claim
from jobs.ledger.job import Ending, JobState
from jobs.ledger.ledger import Ledger
from jobs.testing.clock import HandClock
from tests.support.stores import Store

LEASE = timedelta(seconds=30)
LATER = timedelta(hours=6)
LANE = "batches"


@pytest.fixture
def ledger(store: Store) -> Ledger:
    return store.ledger()


def post(ledger: Ledger) -> str:
    return ledger.post("batch", "batch_1", {}, by="test").job.id


def claimed(ledger: Ledger, id: str, *, early: bool = False) -> Claim:
    claim = ledger.claim(id, worker="w1", lease=LEASE, early=early)
    assert claim is not None
    return claim


def put_off(ledger: Ledger, clock: HandClock, id: str) -> None:
    """Its first attempt has it wait for hours, and nothing is in the queue."""
    assert ledger.next_id(LANE, timedelta(0)) == id
    claim = claimed(ledger, id)
    ledger.end(claim, Ending("retry", not_before=clock.now() + LATER), Reading())
    assert ledger.next_id(LANE, timedelta(0)) is None


def test_a_cancel_leaves_the_end_to_a_worker(ledger: Ledger) -> None:
    """One that nobody runs is in the queue, with the wish; whoever claims it ends it as cancelled."""
    id = post(ledger)
    assert ledger.next_id(LANE, timedelta(0)) == id
    asked = ledger.cancel(id, by="test")
    assert (asked.state, asked.cancel_asked) == (JobState.QUEUED, True)
    assert ledger.next_id(LANE, timedelta(0)) == id
    claim = claimed(ledger, id)
    assert claim.job.cancel_asked
    assert ledger.end(claim, Ending("cancelled"), Reading()).state is JobState.CANCELLED


def test_a_cancel_ends_the_wait(ledger: Ledger, clock: HandClock) -> None:
    """One that waits until later is due as soon as somebody asks to cancel it; asked twice, it stays so."""
    id = post(ledger)
    put_off(ledger, clock, id)
    for _ in range(2):
        asked = ledger.cancel(id, by="test")
        assert (asked.state, asked.not_before) == (JobState.WAITING, None)
    assert ledger.sweep().due_lanes == {LANE}
    assert claimed(ledger, id).job.cancel_asked


def test_a_cancel_that_comes_with_the_end_of_an_attempt_is_heard(ledger: Ledger, clock: HandClock) -> None:
    """Its holder has not heard of the wish and puts it off: it is due at once."""
    id = post(ledger)
    assert ledger.next_id(LANE, timedelta(0)) == id
    claim = claimed(ledger, id)
    assert ledger.cancel(id, by="test").state is JobState.RUNNING
    ended = ledger.end(claim, Ending("retry", not_before=clock.now() + LATER), Reading())
    assert (ended.state, ended.not_before) == (JobState.WAITING, None)
    assert ledger.next_id(LANE, timedelta(0)) == id


def test_a_cancelled_one_whose_worker_died_goes_to_the_next(ledger: Ledger, clock: HandClock) -> None:
    """A sweep gives its attempt up and ends nothing: what is there of it has to be finished."""
    id = post(ledger)
    claimed(ledger, id)
    ledger.cancel(id, by="test")
    clock.tick(LEASE.total_seconds() + 1)
    swept = ledger.sweep()
    assert (swept.lost, swept.due_lanes) == ((id,), frozenset({LANE}))
    assert claimed(ledger, id).job.cancel_asked


def test_one_that_waits_is_claimed_early_by_those_alone_who_ask_for_that(ledger: Ledger, clock: HandClock) -> None:
    """An id that somebody puts into the queue starts a waiting job, for a worker that takes jobs early."""
    id = post(ledger)
    put_off(ledger, clock, id)
    ledger.enqueue(id)
    assert ledger.next_id(LANE, timedelta(0)) == id
    assert ledger.claim(id, worker="w1", lease=LEASE) is None
    assert claimed(ledger, id, early=True).n == 2
    assert ledger.claim(id, worker="w2", lease=LEASE, early=True) is None


def test_a_sweep_tells_who_waits_from_who_is_due_and_who_runs(ledger: Ledger, clock: HandClock) -> None:
    """A job that waits keeps no worker of its lane: it is neither due nor run."""
    id = post(ledger)
    swept = ledger.sweep()
    assert (swept.due_lanes, swept.running_lanes) == (frozenset({LANE}), frozenset())
    put_off(ledger, clock, id)
    swept = ledger.sweep()
    assert (swept.due_lanes, swept.running_lanes, swept.open_lanes) == (frozenset(), frozenset(), frozenset({LANE}))
    claimed(ledger, id, early=True)
    assert ledger.sweep().running_lanes == {LANE}
