"""A clock that is set under a running worker: it sweeps on, and nothing that lives is given up for it."""

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from jobs.core.clock import SystemClock
from jobs.core.errors import Fenced
from jobs.core.progress import Reading
from jobs.ledger.job import Ending, Job, JobState
from jobs.ledger.ledger import Ledger
from jobs.ledger.sweeper import Swept
from jobs.testing.clock import HandClock
from jobs.worker.attempt import RunningAttempt
from jobs.worker.worker import Worker
from tests.support.failing_stores import DeafQueue
from tests.support.moved_clock import MovedClock
from tests.support.stores import Store
from tests.support.waiting import PATIENCE, until
from tests.support.workers import AT_ONCE, QUICK, ended, live_through_a_lease, post, working

LEASE = timedelta(seconds=30)


class CountedSweeps(Ledger):
    """A ledger that counts how often it was swept."""

    sweeps = 0

    def sweep(
        self,
        before_lost: Callable[[Job], None] = lambda _: None,
        *,
        no_worker_lives: bool | Collection[str] = False,
        now: datetime | None = None,
    ) -> Swept:
        self.sweeps += 1
        return super().sweep(before_lost, no_worker_lives=no_worker_lives, now=now)


def test_a_clock_set_back_stops_no_sweep(live_store: Store) -> None:
    """After the clock was set back by a day a worker still puts in the id of a job that the queue lost."""
    clock = MovedClock()
    ledger = Ledger(live_store.queue, live_store.facts, clock)
    ran = threading.Event()

    def work(_: RunningAttempt) -> Mapping[str, Any]:
        ran.set()
        return {}

    slow = replace(QUICK, sweep=timedelta(seconds=1))
    with working(Worker(ledger, "weights", work, clock=clock, timing=slow, backoff=AT_ONCE)):
        first = post(live_store, "first:latest")
        until(lambda: live_store.ledger().reader.get(first).has_ended)
        clock.set(-86_400)
        ran.clear()
        id = silently_posted(live_store)
        assert ran.wait(PATIENCE)
        until(lambda: live_store.ledger().reader.get(id).state is JobState.SUCCEEDED)


def silently_posted(store: Store) -> str:
    """A job whose id is lost before anybody takes it."""
    return Ledger(DeafQueue(), store.facts, SystemClock()).post("pull", "lost:latest", {}, by="test").job.id


def test_a_clock_set_forward_loses_no_attempt(live_store: Store) -> None:
    """After the clock was set forward by a day, running attempts beat on and end: none is given up for lost."""
    clock = MovedClock()
    started, go_on = threading.Barrier(3), threading.Event()

    def work(run: RunningAttempt) -> Mapping[str, Any]:
        started.wait(PATIENCE)
        while not go_on.is_set():
            run.sleep(0.02)
        run.hold()
        return {}

    ledgers = [CountedSweeps(live_store.queue, live_store.facts, clock) for _ in range(2)]

    def one(ledger: Ledger) -> Worker:
        return Worker(ledger, "weights", work, clock=clock, concurrency=1, timing=QUICK, backoff=AT_ONCE)

    ids = [post(live_store, f"m{n}:latest") for n in range(2)]
    with working(one(ledgers[0])), working(one(ledgers[1])):
        started.wait(PATIENCE)
        clock.set(86_400)
        for _ in range(2):
            swept = [each.sweeps for each in ledgers]
            live_through_a_lease(clock, live_store, *ids)
            until(lambda swept=swept: all(each.sweeps >= had + 2 for each, had in zip(ledgers, swept, strict=True)))  # type: ignore[misc]
        go_on.set()
        for id in ids:
            ended(live_store, id)
    jobs = [live_store.ledger().reader.get(id) for id in ids]
    assert [[attempt.outcome for attempt in job.attempts] for job in jobs] == [["succeeded"], ["succeeded"]]


def test_a_holder_goes_by_seconds_that_nobody_sets(store: Store, clock: HandClock) -> None:
    """Set forward by an hour, a clock makes no lease late that has run for less; time that passes does."""
    ledger = store.ledger()
    claim = ledger.claim(post(store), worker="w", lease=LEASE)
    assert claim is not None
    clock.set(3600)
    assert ledger.beat(claim, Reading()) is False
    clock.set(-7200)
    assert ledger.beat(claim, Reading()) is False
    clock.set(7200)
    assert ledger.end(claim, Ending("retry", "network", "cut"), Reading()).state is JobState.WAITING

    again = ledger.claim(claim.job.id, worker="w", lease=LEASE)
    assert again is not None
    clock.tick(LEASE.total_seconds() + 1)
    with pytest.raises(Fenced):
        ledger.beat(again, Reading())


@pytest.mark.parametrize("gone", ["ended", "removed"])
def test_a_holder_that_slept_is_fenced_by_what_happened_meanwhile(store: Store, clock: HandClock, gone: str) -> None:
    """A machine that slept through its lease may go on only when nobody has given its attempt up, however long ago."""
    ledger = store.ledger()
    id = post(store)
    claim = ledger.claim(id, worker="w", lease=LEASE)
    assert claim is not None
    clock.set(3600)  # as after a sleep: the seconds of this machine have not passed
    assert store.ledger().sweep().lost == (id,)
    if gone == "removed":
        for key in [key for key, _ in store.facts.items() if key.split("/")[0] in {"claim", "end", "beat"}]:
            store.facts.pop(key)
    with pytest.raises(Fenced):
        ledger.beat(claim, Reading())
    with pytest.raises(Fenced):
        ledger.end(claim, Ending("succeeded"), Reading())
