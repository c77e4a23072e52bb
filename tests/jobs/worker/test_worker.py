"""What a worker promises: real threads on a real store, and leases that run out only where a test is about that."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from jobs.core.clock import SystemClock
from jobs.core.errors import Corrupt, Fenced, NotFound, PutOff, TooManyRequests, Trouble, Unreachable
from jobs.ledger.job import JobState
from jobs.worker.attempt import RunningAttempt
from jobs.worker.worker import Timing, Worker
from tests.support.stores import Store
from tests.support.waiting import PATIENCE, until
from tests.support.workers import AT_ONCE, QUICK, Work, ended


def worker(store: Store, work: Work, *, concurrency: int = 2, timing: Timing = QUICK) -> Worker:
    return Worker(
        store.ledger(),
        "weights",
        work,
        clock=SystemClock(),
        concurrency=concurrency,
        timing=timing,
        backoff=AT_ONCE,
    )


@contextmanager
def working(*workers: Worker) -> Iterator[threading.Event]:
    stop = threading.Event()
    threads = [threading.Thread(target=each.run, args=(stop,)) for each in workers]
    for thread in threads:
        thread.start()
    try:
        yield stop
    finally:
        stop.set()
        for thread in threads:
            thread.join(timeout=PATIENCE)
        assert not any(thread.is_alive() for thread in threads)


def post(store: Store, subject: str = "m:latest", attempts: int = 3) -> str:
    return store.ledger().post("pull", subject, {"model": subject}, by="test", attempts=attempts).job.id


def failing(*troubles: Exception) -> Work:
    """Work that meets these troubles, one an attempt, and then succeeds."""
    left = list(troubles)

    def work(run: RunningAttempt) -> Mapping[str, Any]:
        if left:
            raise left.pop(0)
        return {"attempt": run.n}

    return work


def test_a_job_is_worked_and_its_result_kept(live_store: Store) -> None:
    """What the task returns is the job's result; the bytes it counted are its last progress."""

    def work(run: RunningAttempt) -> Mapping[str, Any]:
        run.progress.begin("pulling", total=10, completed=0)
        run.progress.advance(10)
        return {"digest": "abc"}

    id = post(live_store)
    with working(worker(live_store, work)):
        job = ended(live_store, id)
    assert job.state is JobState.SUCCEEDED
    assert job.result == {"digest": "abc"}
    assert (job.progress.completed, job.progress.total) == (10, 10)


@pytest.mark.parametrize(
    ("troubles", "outcomes", "state"),
    [
        ([Unreachable("no route")], ["retry", "succeeded"], JobState.SUCCEEDED),
        (
            [Unreachable("a"), TooManyRequests("b", retry_after=timedelta(0))],
            ["retry"] * 2 + ["succeeded"],
            JobState.SUCCEEDED,
        ),
        ([Unreachable("a"), Unreachable("b"), Unreachable("c")], ["retry", "retry", "failed"], JobState.FAILED),
        ([NotFound("no such model")], ["failed"], JobState.FAILED),
        ([Corrupt("flipped"), Corrupt("flipped")], ["retry", "failed"], JobState.FAILED),
        ([Unreachable("a"), Corrupt("flipped")], ["retry", "retry", "succeeded"], JobState.SUCCEEDED),
    ],
)
def test_trouble_is_tried_again_as_often_as_it_is_worth(
    live_store: Store, troubles: list[Trouble], outcomes: list[str], state: JobState
) -> None:
    """Network trouble uses every attempt, damage is worth one more, what cannot help is not tried again."""
    id = post(live_store)
    with working(worker(live_store, failing(*troubles))):
        job = ended(live_store, id)
    assert [attempt.outcome for attempt in job.attempts] == outcomes
    assert job.state is state
    for trouble, attempt in zip(troubles, job.attempts, strict=False):
        assert (attempt.failure_class, attempt.message) == (trouble.failure_class, str(trouble))


def test_a_bug_is_recorded_and_the_worker_lives(live_store: Store) -> None:
    """Whatever a task throws becomes the job's story, once, and the next job is worked."""
    bad, good = post(live_store, "bad:latest"), post(live_store, "good:latest")
    with working(worker(live_store, failing(ZeroDivisionError("oops")), concurrency=1)):
        job, fine = ended(live_store, bad), ended(live_store, good)
    assert (job.state, job.attempts[0].failure_class) == (JobState.FAILED, "bug")
    assert job.attempts[0].message == "ZeroDivisionError: oops"
    assert fine.state is JobState.SUCCEEDED


def test_a_running_job_is_cancelled_within_beats(live_store: Store) -> None:
    """A task that checks often stops soon after somebody asked to cancel."""
    id = post(live_store)
    with working(worker(live_store, forever)):
        until(lambda: live_store.ledger().reader.get(id).state is JobState.RUNNING)
        live_store.ledger().cancel(id, by="me")
        assert ended(live_store, id).state is JobState.CANCELLED


def forever(run: RunningAttempt) -> Mapping[str, Any]:
    while True:
        run.sleep(0.01)


def test_a_stop_hands_the_attempt_back(live_store: Store) -> None:
    """At a stop the running attempt is handed back at once, and another worker takes the job up again."""
    id = post(live_store)
    with working(worker(live_store, forever)) as stop:
        until(lambda: live_store.ledger().reader.get(id).state is JobState.RUNNING)
        stop.set()
    job = live_store.ledger().reader.get(id)
    assert job.state is JobState.WAITING
    assert (job.attempts[0].outcome, job.attempts[0].failure_class) == ("retry", "killed")
    assert job.attempts[0].message == "the worker was asked to stop"
    with working(worker(live_store, failing())):
        assert ended(live_store, id).result == {"attempt": 2}


def test_a_task_that_ignores_the_stop_is_fenced(live_store: Store) -> None:
    """What does not stop in time is handed back over its head, and can then neither publish nor end."""
    go_on, fenced = threading.Event(), threading.Event()

    def stubborn(run: RunningAttempt) -> Mapping[str, Any]:
        go_on.wait(PATIENCE)
        try:
            run.hold()
        except Fenced:
            fenced.set()
            raise
        return {}

    id = post(live_store)
    with working(worker(live_store, stubborn, timing=replace(QUICK, grace=timedelta(seconds=0.1)))) as stop:
        until(lambda: live_store.ledger().reader.get(id).state is JobState.RUNNING)
        stop.set()
    assert live_store.ledger().reader.get(id).state is JobState.WAITING
    go_on.set()
    assert fenced.wait(PATIENCE)
    assert live_store.ledger().reader.get(id).state is JobState.WAITING


def test_jobs_run_side_by_side_up_to_the_limit(live_store: Store) -> None:
    """No more than `concurrency` jobs of a worker run at once, and that many do."""
    lock, at_once, most = threading.Lock(), 0, 0
    together = threading.Barrier(2)

    def work(run: RunningAttempt) -> Mapping[str, Any]:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        together.wait(PATIENCE)
        with lock:
            at_once -= 1
        return {}

    ids = [post(live_store, f"m{n}:latest") for n in range(6)]
    with working(worker(live_store, work)):
        assert all(ended(live_store, id).state is JobState.SUCCEEDED for id in ids)
    assert most == 2


def test_a_lane_minds_its_own_business(live_store: Store) -> None:
    """A worker of one lane leaves jobs of the other lane alone."""
    warm = live_store.ledger().post("warm", "m:latest", {}, by="x").job.id
    pull = post(live_store)
    with working(worker(live_store, failing())):
        ended(live_store, pull)
    assert live_store.ledger().reader.get(warm).state is JobState.QUEUED


def test_a_beat_that_was_fenced_stops_the_task(live_store: Store) -> None:
    """A worker whose attempt was given up by a sweep elsewhere stops at its next check and ends nothing."""
    id = post(live_store)
    runs: list[RunningAttempt] = []

    def work(run: RunningAttempt) -> Mapping[str, Any]:
        runs.append(run)
        return forever(run) if run.n == 1 else {"n": run.n}

    with working(worker(live_store, work)):
        until(lambda: runs)
        assert live_store.ledger().sweep(no_worker_lives=True).lost == (id,)
        job = ended(live_store, id)
        until(lambda: is_fenced(runs[0]))
    assert [attempt.outcome for attempt in job.attempts] == ["lost", "succeeded"]


def is_fenced(run: RunningAttempt) -> bool:
    try:
        run.check()
    except Fenced:
        return True
    return False


def test_an_idle_worker_goes_home(live_store: Store) -> None:
    """With `idle_after` a worker returns once nothing was to do for that long, with everything done."""
    id = post(live_store)
    worker(live_store, failing()).run(threading.Event(), idle_after=timedelta(seconds=0.3))
    assert live_store.ledger().reader.get(id).state is JobState.SUCCEEDED


def test_a_worker_stays_for_a_job_that_waits(live_store: Store) -> None:
    """With `idle_after` a worker does not leave while a job of its lane waits for its next try."""
    id = post(live_store)
    calls: list[int] = []

    def once_unreachable(run: RunningAttempt) -> dict[str, Any]:
        calls.append(run.n)
        if run.n == 1:
            raise Unreachable("not yet", retry_after=timedelta(seconds=1))
        return {}

    worker(live_store, once_unreachable).run(threading.Event(), idle_after=timedelta(seconds=0.1))

    assert calls == [1, 2]
    assert live_store.ledger().reader.get(id).state is JobState.SUCCEEDED


def early_worker(store: Store, work: Work) -> Worker:
    ledger = store.ledger()
    return Worker(ledger, "batches", work, clock=SystemClock(), timing=QUICK, backoff=AT_ONCE, early=True)


def test_an_early_worker_leaves_what_waits(live_store: Store) -> None:
    """A job that is put off keeps no worker that takes jobs early; its id, once somebody puts it in, starts it."""
    id = live_store.ledger().post("batch", "batch_1", {}, by="test").job.id
    later = SystemClock().now() + timedelta(hours=1)
    calls: list[int] = []

    def put_off_once(run: RunningAttempt) -> dict[str, Any]:
        calls.append(run.n)
        if run.n == 1:
            raise PutOff("the window opens at eight", later)
        return {}

    early_worker(live_store, put_off_once).run(threading.Event(), idle_after=timedelta(seconds=0.3))
    job = live_store.ledger().reader.get(id)
    assert (job.state, job.attempts[0].outcome, job.attempts[0].failure_class) == (JobState.WAITING, "retry", None)
    assert job.attempts[0].message == "the window opens at eight"

    live_store.ledger().enqueue(id)
    early_worker(live_store, put_off_once).run(threading.Event(), idle_after=timedelta(seconds=0.3))
    assert live_store.ledger().reader.get(id).state is JobState.SUCCEEDED
    assert calls == [1, 2]


def test_what_is_put_off_in_its_last_attempt_has_failed(live_store: Store) -> None:
    """P3: no attempt is promised that the job does not have."""
    id = live_store.ledger().post("batch", "batch_1", {}, by="test", attempts=1).job.id

    def put_off(_: RunningAttempt) -> dict[str, Any]:
        raise PutOff("not yet", SystemClock().now())

    early_worker(live_store, put_off).run(threading.Event(), idle_after=timedelta(seconds=0.3))
    job = live_store.ledger().reader.get(id)
    assert (job.state, job.attempts[0].message) == (JobState.FAILED, "not yet, and it has no attempt left")
