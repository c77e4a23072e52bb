"""What crashes beside the gateway has a successor, after a pause that grows, and is told of until that one stays."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from app.local.processes.server_process import STABLE_AFTER, Restarter, ServerProcess, stop
from app.local.workers import WorkerThread
from jobs.core.clock import SystemClock
from jobs.core.errors import StoreFull, StoreUnavailable
from jobs.ledger.job import JobState
from jobs.ledger.ledger import Ledger
from jobs.testing.clock import HandClock
from jobs.worker.worker import Worker
from tests.support.failing_stores import TroubledDict, TroubledQueue, While
from tests.support.moved_clock import MovedClock
from tests.support.stores import Store
from tests.support.waiting import PATIENCE, until
from tests.support.workers import AT_ONCE, PASSED, QUICK, all_answered, post


class NoteClock(HandClock):
    """A clock of the test's hand that notes how long each pause was; it ends the work after so many."""

    def __init__(self, stop: threading.Event, pauses: int) -> None:
        super().__init__()
        self.pauses: list[float] = []
        self._stop = stop
        self._most = pauses

    def wait(self, seconds: float, wake: threading.Event | None = None) -> bool:
        self.pauses.append(seconds)
        if len(self.pauses) >= self._most:
            self._stop.set()
        return super().wait(seconds, wake)


class Crashing:
    """Stands in for a worker: each run does the next thing."""

    def __init__(self, runs: Iterator[Callable[[], None]]) -> None:
        self._runs = runs
        self.trouble = None

    def run(self, _: threading.Event) -> None:
        next(self._runs)()


def crash() -> None:
    raise ZeroDivisionError("oops")


def test_a_worker_that_crashes_is_followed_by_another() -> None:
    """The pauses grow to a minute, one that stayed begins anew, and the problem says what crashed and how often."""
    stopping = threading.Event()
    clock = NoteClock(stopping, 9)
    told: list[str | None] = []

    def stay() -> None:
        told.append(lane_thread.problem())
        clock.tick(STABLE_AFTER.total_seconds())
        told.append(lane_thread.problem())
        crash()

    runs = iter([crash] * 7 + [stay, crash])
    hire: Any = lambda: Crashing(runs)  # noqa: E731
    lane_thread = WorkerThread("weights", hire, stopping, clock)
    assert lane_thread.problem() is None
    lane_thread.work()
    assert clock.pauses == [1, 2, 4, 8, 16, 32, 60, 1, 2]
    assert told == [
        "the worker of lane weights crashed 7 times: ZeroDivisionError: oops; another one has come",
        None,
    ]
    assert (
        lane_thread.problem()
        == "the worker of lane weights crashed 2 times: ZeroDivisionError: oops; another one comes"
    )


def test_a_worker_that_cannot_be_made_is_tried_again() -> None:
    """A ledger that cannot even be opened costs a pause, not the lane."""
    stopping = threading.Event()
    clock = NoteClock(stopping, 2)

    def hire() -> Worker:
        raise StoreFull("the disk is full")

    lane_thread = WorkerThread("weights", hire, stopping, clock)
    lane_thread.work()
    assert clock.pauses == [1, 2]
    assert lane_thread.problem() == "the worker of lane weights crashed 2 times: the disk is full; another one comes"


def test_a_worker_that_took_itself_out_has_a_successor(live_store: Store) -> None:
    """A store that stops to answer one worker is asked by the next, which goes on with the job; it is told of."""
    clock = MovedClock()
    stopping, silent = threading.Event(), While()
    id = post(live_store)
    hired: list[Worker] = []

    def work(run: Any) -> dict[str, Any]:
        if run.n == 1:
            silent.begin()
            while True:
                run.sleep(0.05)
        return {}

    def hire() -> Worker:
        ledger = (
            Ledger(live_store.queue, live_store.facts, clock)
            if hired
            else Ledger(TroubledQueue(live_store.queue, silent), TroubledDict(live_store.facts, silent), clock)
        )
        hired.append(Worker(ledger, "weights", work, clock=clock, timing=QUICK, backoff=AT_ONCE))
        return hired[-1]

    lane_thread = WorkerThread("weights", hire, stopping, clock)
    thread = threading.Thread(target=lane_thread.work, daemon=True)
    thread.start()
    try:
        until(lambda: len(silent.met) > 1)  # the thread that takes and the one that beats wait, for whatever it is
        clock.tick(PASSED)
        until(lambda: live_store.ledger().reader.get(id).state is JobState.SUCCEEDED)
        assert len(hired) == 2
        problem = lane_thread.problem()
        assert problem is not None
        assert "takes itself out" in problem
        assert problem.endswith("another one has come")
    finally:
        stopping.set()
        silent.end()
        thread.join(PATIENCE)
    assert not thread.is_alive()
    all_answered()


def test_trouble_with_the_store_is_told_while_it_lasts(live_store: Store) -> None:
    """A worker that waits for its ledger has not crashed, and its thread says what it waits for."""
    away = While(trouble=StoreUnavailable("nobody answers"))
    away.begin()
    ledger = Ledger(TroubledQueue(live_store.queue, away), TroubledDict(live_store.facts, away), SystemClock())
    stopping = threading.Event()

    def hire() -> Worker:
        return Worker(ledger, "weights", lambda _: {}, clock=SystemClock(), timing=QUICK)

    lane_thread = WorkerThread("weights", hire, stopping, SystemClock())
    thread = threading.Thread(target=lane_thread.work, daemon=True)
    thread.start()
    until(lane_thread.problem)
    assert lane_thread.problem() == "the worker of lane weights goes on once its ledger does: nobody answers"
    away.end()
    until(lambda: lane_thread.problem() is None)
    stopping.set()
    thread.join(PATIENCE)
    assert not thread.is_alive()


# -- servers -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def child(tmp_path: Path) -> Iterator[ServerProcess]:
    """A process that waits for its end."""
    script = "import sys, time; print('begun', flush=True); time.sleep(600)"
    started = ServerProcess(
        "sleeper", [sys.executable, "-c", script], env=dict(os.environ), log=tmp_path / "sleeper.log"
    )
    yield started
    stop([started], SystemClock())


def test_a_server_that_ends_is_started_again(child: ServerProcess, clock: HandClock) -> None:
    """It comes back after a pause that grows, with what it said kept, and is told of until it has stayed up."""
    restarts = Restarter([child], clock)
    restarts.check()
    assert restarts.problems() == ()
    for times, pause in enumerate((1, 2, 4), start=1):
        pid = child.pid
        until(partial(has_begun, child, times))
        os.kill(pid, signal.SIGKILL)
        until(lambda: child.has_ended)
        restarts.check()
        assert f"sleeper (pid {pid}) ended by SIGKILL" in restarts.problems()[0]
        assert "it is being started again" in restarts.problems()[0]
        clock.tick(pause - 0.1)
        restarts.check()
        assert child.pid == pid
        clock.tick(0.2)
        restarts.check()
        assert child.pid != pid
        assert "it was started again" in restarts.problems()[0]
    until(partial(has_begun, child, 4))
    clock.tick(STABLE_AFTER.total_seconds() + 1)
    restarts.check()
    assert restarts.problems() == ()


def has_begun(child: ServerProcess, times: int) -> bool:
    return child.log.read_text().count("begun") == times


def test_a_server_that_cannot_be_started_is_tried_again(child: ServerProcess, clock: HandClock) -> None:
    """A start that the system refuses is a problem with a pause, and ends nobody else."""
    restarts = Restarter([child], clock)
    child.signal(signal.SIGKILL)
    until(lambda: child.has_ended)
    restarts.check()
    log, child.log = child.log, child.log.parent  # a folder cannot be written to
    clock.tick(2)
    restarts.check()
    (problem,) = restarts.problems()
    assert problem.startswith("starting sleeper: Is a directory")
    child.log = log
    clock.tick(3)
    restarts.check()
    assert not child.has_ended
