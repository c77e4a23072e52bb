"""The workers of the one-machine stack: one per lane, each in a thread, on ledgers of their own.

A worker that crashes is kept as `failure` for whoever looks; it is never started again behind anybody's back.
"""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from loguru import logger

from jobs.clock import Clock
from jobs.home import Home
from jobs.record import LANES, SERVERS_LANE, WEIGHTS_LANE, Job
from jobs.run import Run
from jobs.tasks import Workshop, perform, staging_subject
from jobs.worker import Timing, Worker

TIMING = Timing(lease=timedelta(seconds=20), beat=timedelta(milliseconds=500))
"""Beats feed the progress bar, and a local one costs a millisecond."""

AT_SERVERS = 4
"""Warm-ups side by side: they wait for servers, and those queue by themselves."""


class Crew:
    """
    Args:
        home: where the ledger is.
        shop: what the tasks work with.
        clock: the time.
        at_weights: jobs on weights, side by side.
        changed: called when a job has done its work, before it ends.
    """

    def __init__(
        self, home: Home, shop: Workshop, clock: Clock, *, at_weights: int, changed: Callable[[], object]
    ) -> None:
        self.failure: BaseException | None = None
        self._stop = threading.Event()
        self._book = home.ledger(clock)
        self._shop = shop
        self._changed = changed
        concurrency = {WEIGHTS_LANE: at_weights, SERVERS_LANE: AT_SERVERS}
        self._workers = {
            lane: Worker(
                home.ledger(clock),
                lane,
                self._perform,
                clock=clock,
                concurrency=concurrency[lane],
                timing=TIMING,
                before_lost=self._fence,
            )
            for lane in LANES
        }
        self._threads = [
            threading.Thread(target=self._work, args=(lane,), name=f"worker-{lane}", daemon=True) for lane in LANES
        ]

    def start(self) -> None:
        """Give up what a killed `up` was at: this one has the home to itself, so nobody waits for a dead lease."""
        self._book.sweep(self._fence, no_worker_lives=True)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let every attempt be handed back, then return."""
        self._stop.set()
        patience = 2 * TIMING.grace.total_seconds()
        for thread in self._threads:
            if thread.ident is None:
                continue
            thread.join(patience)
            if thread.is_alive():
                logger.error("{} did not stop within {:.0f} s; its lease will run out", thread.name, patience)

    def _work(self, lane: str) -> None:
        try:
            self._workers[lane].run(self._stop)
        except BaseException as failure:  # noqa: BLE001 - a thread's edge: `up` ends with it
            logger.opt(exception=failure).error("the worker of lane {} crashed", lane)
            self.failure = failure

    def _perform(self, run: Run) -> dict[str, Any]:
        result = perform(run, self._shop)
        self._changed()
        return result

    def _fence(self, job: Job) -> None:
        """Take the staging of a lost pull from its holder, should that wake up. Any lane's sweep may come first."""
        if job.lane == WEIGHTS_LANE and self._shop.weights is not None:
            self._shop.weights.release(staging_subject(job))
