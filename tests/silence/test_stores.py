"""Worker and ledger on a store that fails or hangs: one end for each attempt, and nothing lost."""

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from loguru import logger

from jobs.core.clock import Clock, SystemClock
from jobs.core.errors import Fenced, StoreFull, StoreTrouble, StoreUnavailable, StoreUnusable
from jobs.ledger.job import JobState
from jobs.ledger.ledger import Ledger
from jobs.worker.attempt import RunningAttempt
from tests.support.failing_stores import EveryNth, Meet, TroubledDict, TroubledQueue, While
from tests.support.moved_clock import MovedClock
from tests.support.stores import Store
from tests.support.waiting import PATIENCE, until
from tests.support.workers import (
    PASSED,
    QUICK,
    RunningWorker,
    all_answered,
    ended,
    let_a_lease_pass,
    live_through_a_lease,
    post,
    worker,
    working,
)


def troubled(store: Store, meet: Meet, clock: Clock | None = None) -> Ledger:
    return Ledger(TroubledQueue(store.queue, meet), TroubledDict(store.facts, meet), clock or SystemClock())


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What is logged from warnings up, and that something is over."""
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(str(message).rstrip()), format="{level} {message}", level="INFO")
    yield lines
    logger.remove(sink)


def brief(run: RunningAttempt) -> Mapping[str, Any]:
    """Work of a few beats that publishes at its end, as a pull does."""
    for _ in range(5):
        run.sleep(0.05)
    run.hold()
    return {"attempt": run.n}


def test_every_third_call_may_fail(live_store: Store) -> None:
    """With a store that fails every third call all jobs succeed, at their first attempt, each worked once."""
    meet, worked = EveryNth(3), Counter[str]()

    def work(run: RunningAttempt) -> Mapping[str, Any]:
        worked[run.job.id] += 1
        return brief(run)

    ledger = troubled(live_store, meet)
    ids = [ledger.post("pull", f"m{n}:latest", {}, by="test").job.id for n in range(4)]
    with working(worker(ledger, work)) as running:
        jobs = [ended(live_store, id) for id in ids]
    assert running.failure is None
    assert meet.met > 20
    assert [job.state for job in jobs] == [JobState.SUCCEEDED] * 4
    assert [[attempt.outcome for attempt in job.attempts] for job in jobs] == [["succeeded"]] * 4
    assert set(worked.values()) == {1}


@pytest.mark.parametrize("trouble", [StoreUnavailable("away"), StoreFull("the disk is full")])
def test_an_outage_longer_than_a_lease_costs_one_attempt(
    live_store: Store, said: list[str], trouble: StoreTrouble
) -> None:
    """A store that takes nothing for longer than a lease costs a running job one attempt, and a queued one none; it is
    said once as it goes and once when it is back."""
    away, clock = While(lambda doing: doing.startswith("put "), trouble), MovedClock()
    hold_on = threading.Event()

    def work(run: RunningAttempt) -> Mapping[str, Any]:
        if run.n == 1 and run.job.subject == "m:latest":
            hold_on.wait(PATIENCE)
        return {"n": run.n}

    first = post(live_store)
    ledger = troubled(live_store, away, clock)
    with working(worker(ledger, work, clock=clock)) as running:
        until(lambda: live_store.ledger().reader.get(first).state is JobState.RUNNING)
        away.begin()
        hold_on.set()  # its work is done, and its end cannot be written down
        second = post(live_store, "other:latest")
        until(lambda: running.worker.trouble is not None)
        let_a_lease_pass(clock, ledger)
        met = len(away.met)
        until(lambda: len(away.met) > met + 2)
        assert live_store.ledger().reader.get(first).attempts[-1].outcome is None
        away.end()
        jobs = [ended(live_store, id) for id in (first, second)]
        until(lambda: running.worker.trouble is None)
    assert running.failure is None
    assert [job.state for job in jobs] == [JobState.SUCCEEDED] * 2
    assert [attempt.outcome for attempt in jobs[0].attempts] == ["lost", "succeeded"]
    assert [attempt.outcome for attempt in jobs[1].attempts] == ["succeeded"]
    told = [line for line in said if "the ledger of lane weights" in line]
    assert [line.split(",")[0] for line in told] == [
        "WARNING the ledger of lane weights fails",
        "INFO the ledger of lane weights answers again",
    ], told


def test_an_end_that_cannot_be_written_is_tried_again(live_store: Store) -> None:
    """A job whose work is done while the store is away ends succeeded, by its first attempt, once the store is back."""
    away, clock = While(lambda doing: doing.startswith("put end/"), StoreUnavailable("away")), MovedClock()
    id = post(live_store)
    away.begin()
    with working(worker(troubled(live_store, away, clock), brief, clock=clock)) as running:
        until(lambda: len(away.met) > 5)
        live_through_a_lease(clock, live_store, id)  # its beats go through, so it stays ours
        away.end()
        job = ended(live_store, id)
    assert running.failure is None
    assert (str(job.state), [attempt.outcome for attempt in job.attempts]) == ("succeeded", ["succeeded"])


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [(StoreUnavailable("away"), "network"), (StoreFull("full"), "disk"), (StoreUnusable("no file"), "network")],
)
def test_a_task_that_meets_the_stores_trouble_is_tried_again(
    live_store: Store, trouble: StoreTrouble, kind: str
) -> None:
    """A task that cannot make sure that it may publish ends its attempt by the class of that trouble, never as a bug,
    and the job is tried again; also where trying again would not help whoever asked the store himself."""
    id = post(live_store)
    publishing = threading.Event()
    away = While(lambda doing: doing.startswith("put beat/") and publishing.is_set(), trouble)
    away.begin()

    def work(run: RunningAttempt) -> Mapping[str, Any]:
        if run.n == 1:
            publishing.set()
        try:
            run.hold()
        finally:
            publishing.clear()
        return {}

    timing = replace(QUICK, beat=timedelta(seconds=60))  # only the task itself beats
    with working(worker(troubled(live_store, away), work, timing=timing)):
        job = ended(live_store, id)
    assert [(attempt.outcome, attempt.failure_class) for attempt in job.attempts] == [
        ("retry", kind),
        ("succeeded", None),
    ]


def test_what_the_system_refuses_is_no_bug(live_store: Store) -> None:
    """An error of the system that nobody translated ends the attempt by what it means: a full disk is tried again."""
    id = post(live_store)

    def work(run: RunningAttempt) -> Mapping[str, Any]:
        if run.n == 1:
            raise OSError(28, "No space left on device", "/somewhere")
        return {}

    with working(worker(live_store.ledger(), work)):
        job = ended(live_store, id)
    assert [(attempt.outcome, attempt.failure_class) for attempt in job.attempts] == [
        ("retry", "disk"),
        ("succeeded", None),
    ]
    assert job.attempts[0].message == "the pull of m:latest: No space left on device (/somewhere)"


def test_a_claim_whose_answer_was_lost_is_ours(live_store: Store) -> None:
    """A claim that was written though its answer was lost is asked for again and worked, at no attempt's cost."""
    lost = threading.Event()

    class LosesAnswer(TroubledDict):
        def put(self, key: Any, value: Any, *, skip_if_exists: bool = False) -> bool:
            done = super().put(key, value, skip_if_exists=skip_if_exists)
            if key.startswith(("claim/", "end/")) and not lost.is_set():
                raise StoreFull("the answer is lost")  # not for a moment, or it would be asked again at once
            return done

    facts = LosesAnswer(live_store.facts, lambda _: None)
    ledger = Ledger(live_store.queue, facts, SystemClock())
    id = post(live_store)
    with working(worker(ledger, brief)):
        until(lambda: live_store.ledger().reader.get(id).state is JobState.RUNNING)
        lost.set()
        job = ended(live_store, id)
    assert [attempt.outcome for attempt in job.attempts] == ["succeeded"]


def test_one_beat_that_hangs_holds_up_no_other(live_store: Store) -> None:
    """While the beats of one attempt are never answered, another one beats on and succeeds; the first is stopped as
    fenced when its lease is over, and its job goes on."""
    hung, good = post(live_store, "hung:latest"), post(live_store, "good:latest")
    silent, clock = While(lambda doing: doing == f"put beat/{hung}/1"), MovedClock()
    fenced, go_on = threading.Event(), threading.Event()

    def work(run: RunningAttempt) -> Mapping[str, Any]:
        if run.job.id == hung and run.n == 1:
            try:
                while True:
                    run.sleep(0.05)
            except Fenced:
                fenced.set()
                raise
        while run.job.id == good and not go_on.is_set():
            run.sleep(0.05)
        run.hold()
        return {"n": run.n}

    silent.begin()
    with working(worker(troubled(live_store, silent, clock), work, clock=clock)) as running:
        until(lambda: silent.met)
        live_through_a_lease(clock, live_store, good)
        go_on.set()
        jobs = [ended(live_store, id) for id in (hung, good)]
        assert fenced.wait(PATIENCE)
        silent.end()
    all_answered()
    assert running.failure is None
    assert [[attempt.outcome for attempt in job.attempts] for job in jobs] == [["lost", "succeeded"], ["succeeded"]]


def test_a_worker_that_hears_nothing_takes_itself_out(live_store: Store) -> None:
    """A worker whose store answers nothing for longer than a lease ends with an error that says so, its attempts
    fenced; another one goes on with the job, and what hangs hinders neither."""
    id = post(live_store)
    silent, clock = While(), MovedClock()
    fenced = threading.Event()

    def work(run: RunningAttempt) -> Mapping[str, Any]:
        if run.n > 1:
            return {"n": run.n}
        silent.begin()
        try:
            while True:
                run.sleep(0.05)
        except Fenced:
            fenced.set()
            raise

    first = RunningWorker(worker(troubled(live_store, silent, clock), work, clock=clock))
    first.thread.start()
    until(lambda: len(silent.met) > 1)  # the thread that takes and the one that beats wait, for whatever it is
    clock.tick(PASSED)
    first.thread.join(PATIENCE)
    assert isinstance(first.failure, StoreUnavailable)
    assert f"worker {first.worker.name} of lane weights takes itself out" in str(first.failure)
    assert fenced.wait(PATIENCE)
    ledger = Ledger(live_store.queue, live_store.facts, clock)
    with working(worker(ledger, work, clock=clock)):
        job = ended(live_store, id)
    silent.end()
    all_answered()
    assert [attempt.outcome for attempt in job.attempts] == ["lost", "succeeded"]
    assert live_store.ledger().reader.get(id) == job


def test_a_stop_is_obeyed_while_the_store_hangs(live_store: Store) -> None:
    """A worker that is asked to stop while its store answers nothing stops within its grace; its lease runs out."""
    id = post(live_store)
    silent = While()

    def work(run: RunningAttempt) -> Mapping[str, Any]:
        silent.begin()
        while True:
            run.sleep(0.05)

    slow = replace(QUICK, grace=timedelta(seconds=0.5))
    running = RunningWorker(worker(troubled(live_store, silent), work, timing=slow))
    running.thread.start()
    until(lambda: silent.met)
    running.stop.set()
    running.thread.join(PATIENCE)
    assert not running.thread.is_alive()
    assert running.failure is None
    silent.end()
    all_answered()
    assert live_store.ledger().reader.get(id).attempts[0].outcome in {None, "retry"}


def test_a_stop_is_told_to_attempts_though_the_queue_does_not_answer(live_store: Store) -> None:
    """What runs hands itself back at once, though the thread that takes jobs waits for an answer that does not come."""
    id = post(live_store)
    silent = While(lambda doing: doing == "dequeue")

    def work(run: RunningAttempt) -> Mapping[str, Any]:
        silent.begin()
        while True:
            run.sleep(0.05)

    running = RunningWorker(
        worker(troubled(live_store, silent), work, timing=replace(QUICK, grace=timedelta(seconds=PATIENCE)))
    )
    running.thread.start()
    until(lambda: silent.met)
    running.stop.set()
    until(lambda: live_store.ledger().reader.get(id).attempts[0].outcome == "retry", patience=PATIENCE)
    silent.end()
    running.thread.join(PATIENCE)
    assert not running.thread.is_alive()


def test_an_id_that_cannot_be_put_costs_nothing(live_store: Store, said: list[str]) -> None:
    """A job is posted, and ends, though the queue is away; a sweep puts its id in when the queue is back."""
    silent = While(lambda doing: doing in {"enqueue", "count"}, StoreUnavailable("no queue"))
    silent.begin()
    ledger = troubled(live_store, silent)
    posted = ledger.post("pull", "m:latest", {}, by="test")
    assert not posted.attached
    assert ledger.sweep().enqueued == ()
    assert "WARNING job" in said[0]
    silent.end()
    assert ledger.sweep().enqueued == (posted.job.id,)
    with working(worker(ledger, brief)):
        assert ended(live_store, posted.job.id).state is JobState.SUCCEEDED
