"""Claim, run, beat, end: the loop that works one lane.

A worker dies as it likes: what it held runs out of lease and a sweep gives it to the next one. It stops politely too:
every attempt is handed back. This is the one place that catches whatever a task throws, and records it.
"""

import os
import random
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from loguru import logger

from jobs.clock import Clock
from jobs.errors import Cancelled, Fenced, HandedBack, Killed, Trouble
from jobs.ledger import Claim, Ledger
from jobs.record import Backoff, Ending, Job, after_trouble
from jobs.run import Run

Perform = Callable[[Run], Mapping[str, Any]]
"""Does the work of one attempt and returns the job's result; raises `Trouble` or `Interrupted` instead."""


@dataclass(frozen=True)
class Timing:
    """How a worker keeps time. The defaults suit one machine."""

    lease: timedelta = timedelta(seconds=30)
    """A dead worker's job waits this long. Fifteen beats fit in, so a busy disk does not cost an attempt."""
    beat: timedelta = timedelta(seconds=2)
    sweep: timedelta = timedelta(seconds=5)
    poll: timedelta = timedelta(milliseconds=500)
    """The longest wait for a bell, hence for noticing a stop."""
    grace: timedelta = timedelta(seconds=10)
    """How long a stop waits for tasks to notice; what has not by then is handed back over their heads."""


class Worker:
    """Works one lane, `concurrency` jobs side by side.

    Args:
        ledger: where jobs come from and go to.
        lane: whose bells it answers.
        perform: does the work of one attempt.
        before_lost: told of a job before a sweep of ours gives its attempt up for lost.
        name: under which attempts tell who worked on them; where every machine has the same name and the same process
            ids, as containers do, something better has to be handed in.

    """

    def __init__(
        self,
        ledger: Ledger,
        lane: str,
        perform: Perform,
        *,
        clock: Clock,
        concurrency: int = 2,
        timing: Timing | None = None,
        backoff: Backoff | None = None,
        before_lost: Callable[[Job], None] = lambda _: None,
        name: str | None = None,
    ) -> None:
        self.name = name or f"{socket.gethostname()}:{os.getpid()}"
        self._ledger = ledger
        self._lane = lane
        self._perform = perform
        self._clock = clock
        self._concurrency = concurrency
        self._timing = timing or Timing()
        self._backoff = backoff or Backoff()
        self._before_lost = before_lost
        self._changed = threading.Condition()
        self._running: dict[Run, threading.Thread] = {}
        self._sweep_at = clock.now()
        self._busy_at = clock.now()
        self._has_open_jobs = True

    def run(self, stop: threading.Event, *, idle_after: timedelta | None = None) -> None:
        """Work until `stop` is set, or nothing was to do for `idle_after`; then hand back what is running.

        There is something to do as long as the lane has a job that has not ended: one that waits for its next try, or
        one whose worker was killed and whose lease still runs.
        """
        done = threading.Event()
        beater = threading.Thread(target=self._beat_all, args=(done,), name=f"beat-{self._lane}")
        beater.start()
        try:
            while not stop.is_set() and not self._is_idle(idle_after):
                self._sweep_if_due()
                self._take_one(stop)
        finally:
            self._hand_back()
            done.set()
            beater.join()

    def _take_one(self, stop: threading.Event) -> None:
        if len(self._running) >= self._concurrency:
            # A bell taken now would have nobody to answer it; others may be free.
            with self._changed:
                self._changed.wait(self._timing.poll.total_seconds())
            return
        until_sweep = max(timedelta(0), self._sweep_at - self._clock.now())
        id = self._ledger.next_id(self._lane, min(self._timing.poll, until_sweep))
        if id is None:
            return
        if stop.is_set():
            self._ledger.ring(id)
            return
        claim = self._ledger.claim(id, worker=self.name, lease=self._timing.lease)
        if claim is not None:
            self._start(claim)

    def _start(self, claim: Claim) -> None:
        run = Run(claim, self._ledger, self._clock)
        thread = threading.Thread(target=self._work, args=(run,), name=f"job-{run.holder}", daemon=True)
        self._running[run] = thread
        thread.start()

    def _work(self, run: Run) -> None:
        with logger.contextualize(job=run.job.id, attempt=run.n, kind=run.job.kind, subject=run.job.subject):
            logger.info("attempt started")
            try:
                ending = self._ending_of(run)
                if ending is not None:
                    self._end(run, ending)
            finally:
                with self._changed:
                    self._running.pop(run, None)
                    self._busy_at = self._clock.now()
                    self._changed.notify_all()

    def _ending_of(self, run: Run) -> Ending | None:
        try:
            return Ending("succeeded", result=self._perform(run))
        except Fenced as fenced:
            logger.warning("attempt stopped: {}", fenced)
            return None
        except Cancelled:
            return Ending("cancelled")
        except HandedBack:
            return self._handed_back(run)
        except Trouble as trouble:
            logger.warning("attempt met trouble: {}", trouble)
            return self._after(run, trouble)
        except Exception as bug:  # noqa: BLE001 - the worker's edge: whatever a task throws becomes the job's story
            logger.opt(exception=bug).error("attempt ended by a bug")
            return Ending("failed", "bug", f"{type(bug).__name__}: {bug}", "this is our mistake: please report it")

    def _after(self, run: Run, trouble: Trouble) -> Ending:
        now = self._clock.now()
        return after_trouble(run.job, trouble, now=now, backoff=self._backoff, spread=random.random())

    def _handed_back(self, run: Run) -> Ending:
        return self._after(run, Killed("the worker was asked to stop", retry_after=timedelta(0)))

    def _end(self, run: Run, ending: Ending) -> None:
        try:
            job = self._ledger.end(run.claim, ending, run.progress.read())
        except Fenced as fenced:
            logger.warning("attempt came too late to end: {}", fenced)
            return
        logger.info("attempt ended: {}, job {}", ending.outcome, job.state)
        if job.not_before is not None:
            self._sweep_at = min(self._sweep_at, job.not_before)

    def _beat_all(self, done: threading.Event) -> None:
        while not self._clock.wait(self._timing.beat.total_seconds(), done):
            for run in list(self._running):
                self._beat(run)

    def _beat(self, run: Run) -> None:
        try:
            run.beat()
        except Exception as error:  # noqa: BLE001 - the store may be away for a moment; the lease decides, not we
            logger.opt(exception=error).error("could not beat for attempt {}; its lease runs on", run.holder)

    def _sweep_if_due(self) -> None:
        now = self._clock.now()
        if now < self._sweep_at:
            return
        swept = self._ledger.sweep(self._before_lost)
        self._has_open_jobs = self._lane in swept.open_lanes
        for id in swept.lost:
            logger.warning("gave up a silent attempt of job {}", id)
        self._sweep_at = min(filter(None, (now + self._timing.sweep, swept.next_due)))

    def _is_idle(self, idle_after: timedelta | None) -> bool:
        now = self._clock.now()
        if self._running or self._has_open_jobs:
            self._busy_at = now
        return idle_after is not None and now - self._busy_at >= idle_after

    def _hand_back(self) -> None:
        for run in list(self._running):
            run.stop(HandedBack("the worker is stopping"))
        deadline: datetime = self._clock.now() + self._timing.grace
        with self._changed:
            while self._running and self._clock.now() < deadline:
                self._changed.wait(0.1)
        for run in list(self._running):
            # Its thread hangs in something that cannot be interrupted. Ended here, it can no longer publish (P4).
            self._end(run, self._handed_back(run))
            run.stop(Fenced("handed back over its head"))
