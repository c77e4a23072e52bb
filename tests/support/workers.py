"""Workers in threads. No lease of theirs runs out on a busy machine; who wants one to run out moves the clock."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from jobs.core.clock import Clock, SystemClock, isoformat
from jobs.ledger.job import Backoff, Job
from jobs.ledger.ledger import Ledger
from jobs.store import keys
from jobs.worker.attempt import RunningAttempt
from jobs.worker.worker import Timing, Worker
from tests.support.moved_clock import MovedClock
from tests.support.stores import Store
from tests.support.waiting import PATIENCE, until

AT_ONCE = Backoff(first=timedelta(0), longest=timedelta(0))
QUICK = Timing(
    lease=timedelta(seconds=120),
    beat=timedelta(seconds=0.05),
    sweep=timedelta(seconds=0.1),
    poll=timedelta(seconds=0.05),
    grace=timedelta(seconds=2),
)
Work = Callable[[RunningAttempt], Mapping[str, Any]]


PASSED = QUICK.lease.total_seconds() + 1
"""Seconds after which an attempt that did not beat is given up."""


def worker(
    ledger: Ledger, work: Work, *, timing: Timing = QUICK, concurrency: int = 2, clock: Clock | None = None
) -> Worker:
    on = clock or SystemClock()
    return Worker(ledger, "weights", work, clock=on, concurrency=concurrency, timing=timing, backoff=AT_ONCE)


class RunningWorker:
    """A worker in a thread, and how it ended."""

    def __init__(self, worker: Worker) -> None:
        self.stop = threading.Event()
        self.failure: BaseException | None = None
        self.worker = worker
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self.worker.run(self.stop)
        except BaseException as failure:
            self.failure = failure


@contextmanager
def working(worker: Worker) -> Iterator[RunningWorker]:
    running = RunningWorker(worker)
    running.thread.start()
    try:
        yield running
    finally:
        running.stop.set()
        running.thread.join(PATIENCE)
        assert not running.thread.is_alive()


def live_through_a_lease(clock: MovedClock, store: Store, *ids: str) -> None:
    """More than a lease passes, in steps; after each one the first attempts of these jobs beat before the next."""
    for _ in range(5):
        clock.tick(QUICK.lease.total_seconds() / 4)
        since = isoformat(clock.now())
        until(lambda since=since: all(_last_beat(store, id) > since for id in ids))  # type: ignore[misc]


def let_a_lease_pass(clock: MovedClock, ledger: Ledger) -> None:
    """More than a lease passes, in steps; after each one the store has answered this ledger before the next: else its
    worker would take itself out."""
    for _ in range(5):
        clock.tick(QUICK.lease.total_seconds() / 4)
        answers = ledger.heard().answers
        until(lambda answers=answers: ledger.heard().answers > answers)  # type: ignore[misc]


def _last_beat(store: Store, id: str) -> str:
    return str((store.facts.get(keys.beat(id, 1)) or {"at": ""})["at"])


def all_answered() -> None:
    """What hung has been answered, so wait for its threads: the store is closed after them."""
    until(lambda: not [each for each in threading.enumerate() if each.name.startswith(("beat-", "take-", "end-"))])


def post(store: Store, subject: str = "m:latest", attempts: int = 5) -> str:
    return store.ledger().post("pull", subject, {"model": subject}, by="test", attempts=attempts).job.id


def ended(store: Store, id: str) -> Job:
    until(lambda: store.ledger().reader.get(id).has_ended)
    return store.ledger().reader.get(id)
