"""The workers of the one-machine stack: one per lane, each in a thread, on ledgers of their own.

A worker that crashes costs nobody else anything: another one takes its place after a pause that grows, and until that
one has stayed `problems` tells of it.
"""

import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

from loguru import logger

from app.local.processes.server_process import RESTART_BACKOFF, STABLE_AFTER
from jobs.core.clock import Clock
from jobs.core.errors import StoreTrouble, Trouble
from jobs.home.home import Home
from jobs.ledger.job import Job
from jobs.ledger.kinds import SERVERS_LANE, WEIGHTS_LANE
from jobs.ledger.ledger import Ledger
from jobs.tasks.context import TaskContext
from jobs.tasks.table import perform
from jobs.weights.staging import staging_subject
from jobs.worker.attempt import RunningAttempt
from jobs.worker.worker import Timing, Worker

TIMING = Timing(lease=timedelta(seconds=20), beat=timedelta(milliseconds=500))
"""Beats feed the progress bar, and a local one costs a millisecond."""

AT_SERVERS = 4
"""Warm-ups side by side: they wait for servers, and those queue by themselves."""


class WorkerThread:
    """Works one lane in a thread of its own: one worker after the other, should any crash.

    Args:
        lane: which one.
        make_worker: makes a worker.
        stop: ends the work.
        clock: for pauses.

    """

    def __init__(self, lane: str, make_worker: Callable[[], Worker], stop: threading.Event, clock: Clock) -> None:
        self.lane = lane
        self._make_worker = make_worker
        self._stop = stop
        self._clock = clock
        self.thread = threading.Thread(target=self.work, name=f"worker-{lane}", daemon=True)
        self._lock = threading.Lock()
        #: These four are guarded by `_lock`: our thread writes, whoever asks for the problem reads.
        self._worker: Worker | None = None
        self._began_at = clock.monotonic()
        self._crashes = 0
        self._why = ""

    def work(self) -> None:
        """Have the lane worked until we are to stop."""
        while not self._stop.is_set():
            try:
                self._work_once()
            except BaseException as failure:  # noqa: BLE001 - a thread's edge: the next one may do better
                self._clock.wait(self._note_crash(failure), self._stop)

    def problem(self) -> str | None:
        """What keeps the lane from being worked, or kept it until a moment ago."""
        with self._lock:
            worker, crashes, why = self._worker, self._crashes, self._why
            if worker is not None and self._clock.monotonic() - self._began_at >= STABLE_AFTER.total_seconds():
                crashes = 0
        if worker is not None and (trouble := worker.trouble) is not None:
            return f"the worker of lane {self.lane} goes on once its ledger does: {trouble}"
        if not crashes:
            return None
        times = "crashed" if crashes == 1 else f"crashed {crashes} times"
        then = "another one comes" if worker is None else "another one has come"
        return f"the worker of lane {self.lane} {times}: {why}; {then}"

    def _work_once(self) -> None:
        worker = self._make_worker()
        with self._lock:
            self._worker, self._began_at = worker, self._clock.monotonic()
        worker.run(self._stop)

    def _note_crash(self, failure: BaseException) -> float:
        """Note it down; how many seconds to wait before the next one."""
        with self._lock:
            if self._worker is not None and self._clock.monotonic() - self._began_at >= STABLE_AFTER.total_seconds():
                self._crashes = 0
            self._worker = None
            self._crashes += 1
            self._why = str(failure) if isinstance(failure, Trouble) else f"{type(failure).__name__}: {failure}"
            pause = RESTART_BACKOFF.delay(self._crashes, 1.0).total_seconds()
        known = logger if isinstance(failure, Trouble) else logger.opt(exception=failure)
        known.error("the worker of lane {} crashed, and another one comes in {:.0f} s: {}", self.lane, pause, self._why)
        return pause


def _index_missing(ledger: Ledger) -> None:
    """Bring in what an older version posted here since, which the next sweep then sees."""
    try:
        ledger.index_missing()
    except StoreTrouble as trouble:
        logger.warning("whether an older version has posted jobs here is not known: {}", trouble)


class Workers:
    """Runs a worker of each lane in a thread, and starts another one where it crashes.

    Args:
        home: where the ledger is.
        context: what the tasks work with.
        clock: the time.
        at_weights: jobs on weights, side by side.
        changed: called when a job has done its work, before it ends.

    """

    def __init__(
        self, home: Home, context: TaskContext, clock: Clock, *, at_weights: int, changed: Callable[[], object]
    ) -> None:
        self._stop = threading.Event()
        self._home = home
        self._clock = clock
        #: Shared by the threads of all jobs; its parts are safe for that.
        self._context = context
        self._changed = changed
        self._concurrency = {WEIGHTS_LANE: at_weights, SERVERS_LANE: AT_SERVERS}
        self._lanes = [
            WorkerThread(lane, partial(self._make_worker, lane), self._stop, clock) for lane in self._concurrency
        ]

    def problems(self) -> tuple[str, ...]:
        """Which lanes are not worked, and why."""
        return tuple(filter(None, (lane.problem() for lane in self._lanes)))

    def start(self) -> None:
        """Give up what a killed `up` was at: this one has the home to itself, so nobody waits for a dead lease."""
        ledger = self._home.ledger(self._clock)
        ledger.sweep(self._fence, no_worker_lives=True)
        for lane in self._lanes:
            lane.thread.start()
        threading.Thread(target=_index_missing, args=(ledger,), name="index of open jobs", daemon=True).start()

    def stop(self) -> None:
        """Let every attempt be handed back, then return."""
        self._stop.set()
        patience = 2 * TIMING.grace.total_seconds()
        for thread in (lane.thread for lane in self._lanes):
            if thread.ident is None:
                continue
            thread.join(patience)
            if thread.is_alive():
                logger.error("{} did not stop within {:.0f} s; its lease will run out", thread.name, patience)

    def _make_worker(self, lane: str) -> Worker:
        """A worker on a ledger of its own: the one before may still wait for an answer from the other."""
        return Worker(
            self._home.ledger(self._clock),
            lane,
            self._perform,
            clock=self._clock,
            concurrency=self._concurrency[lane],
            timing=TIMING,
            before_lost=self._fence,
        )

    def _perform(self, run: RunningAttempt) -> dict[str, Any]:
        result = perform(run, self._context)
        self._changed()
        return result

    def _fence(self, job: Job) -> None:
        """Take the staging of a lost pull from its holder, should that wake up. Any lane's sweep may come first."""
        if job.lane == WEIGHTS_LANE and self._context.weights is not None:
            self._context.weights.release(staging_subject(job))
