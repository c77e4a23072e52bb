"""Many threads on one ledger, all of its moves at once."""

import random
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from functools import partial

import pytest

from jobs.core.clock import SystemClock
from jobs.core.errors import Fenced
from jobs.core.progress import Reading
from jobs.ledger.job import Ending, Job
from jobs.ledger.ledger import Ledger
from tests.support.failing_stores import DeafQueue, MemoryDict
from tests.support.stores import Store
from tests.support.waiting import PATIENCE

JOBS = 60
LEASE = timedelta(minutes=1)


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads that take turns every few microseconds, so that what two of them share is seen between any two steps."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def at_once(*works: Callable[[], object]) -> list[BaseException]:
    """Do all of these at the same time; what any of them raised."""
    failures: list[BaseException] = []
    ready = threading.Barrier(len(works))

    def guarded(work: Callable[[], object]) -> None:
        try:
            ready.wait(PATIENCE)
            work()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=guarded, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)
    return failures


@pytest.mark.usefixtures("hasty")
def test_threads_share_a_ledger(live_store: Store) -> None:
    """Posters, workers, sweepers and a canceller on one ledger: none fails, and each attempt has one end."""
    ledger = live_store.ledger()
    ended: Counter[tuple[str, int]] = Counter()
    posting = threading.Semaphore(0)
    is_over = threading.Event()

    def post_some(name: str) -> None:
        for n in range(JOBS // 2):
            ledger.post("pull", f"{name}{n}", {}, by="test")
            posting.release()

    def work() -> None:
        done = random.Random(1)
        while not is_over.is_set():
            id = ledger.next_id("weights", timedelta(milliseconds=20))
            claim = ledger.claim(id, worker="w", lease=LEASE) if id else None
            if claim is None:
                continue
            with suppress(Fenced):
                ledger.beat(claim, Reading(1, 2))
                again = done.random() < 0.3
                ending = Ending("retry", "network", "cut") if again else Ending("succeeded")
                ledger.end(claim, ending, Reading(2, 2))
                ended[claim.job.id, claim.n] += 1

    def sweep() -> None:
        while not is_over.is_set():
            ledger.sweep()
            ledger.heard()

    def look() -> None:
        while not all_ended(ledger.reader.jobs()):
            threading.Event().wait(0.01)
        is_over.set()

    def all_ended(jobs: list[Job]) -> bool:
        return len(jobs) == JOBS and all(job.has_ended for job in jobs)

    works = [lambda: post_some("a"), lambda: post_some("b"), work, work, work, sweep, sweep, look]
    assert at_once(*works) == []
    jobs = ledger.reader.jobs()
    assert set(ended.values()) == {1}
    assert {(job.id, attempt.n) for job in jobs for attempt in job.attempts} == set(ended)


@pytest.mark.usefixtures("hasty")
def test_a_sweep_is_not_disturbed_by_posts() -> None:
    """While some threads sweep a ledger with many open jobs, others post: none of them stumbles."""
    ledger = Ledger(DeafQueue(), MemoryDict(), SystemClock())
    for n in range(300):
        ledger.post("pull", f"open{n}", {}, by="test")
    is_over = threading.Event()

    def post_more(name: str) -> None:
        for n in range(700):
            ledger.post("pull", f"{name}{n}", {}, by="test")
        is_over.set()

    def sweep() -> None:
        while not is_over.is_set():
            ledger.sweep()

    assert at_once(partial(post_more, "a"), partial(post_more, "b"), sweep, sweep, sweep) == []
    assert len(ledger.sweep().enqueued) == 1700
