"""Works on batches until there is none for a while, or somebody asks it to stop. Then it leaves with 0; whatever else
ends it, `up` starts another one.
"""

import os
import signal
import threading
from datetime import timedelta
from functools import partial

from loguru import logger

from app.local.batches.worker_context import fence, task_context
from app.local.workers import TIMING
from app.logs import on_stderr
from jobs.core.clock import SystemClock
from jobs.home.home import home_of
from jobs.ledger.kinds import BATCHES_LANE
from jobs.tasks.table import perform
from jobs.worker.attempt import RunningAttempt
from jobs.worker.worker import Worker

SIDE_BY_SIDE = 4
"""Batches, among which the gateway shares what there is."""

IDLE = timedelta(seconds=30)
"""After so long without a batch it leaves."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_POLL_SECONDS = 0.05


def main() -> int:
    """Work on batches."""
    on_stderr()
    clock, home = SystemClock(), home_of(os.environ)
    stack = home.need_stack()
    context = task_context(home, stack, clock)

    def work(run: RunningAttempt) -> dict[str, object]:
        return perform(run, context)

    worker = Worker(
        home.ledger(clock),
        BATCHES_LANE,
        work,
        clock=clock,
        concurrency=SIDE_BY_SIDE,
        timing=TIMING,
        before_lost=partial(fence, home, stack, clock),
        early=True,
    )
    return run(worker)


def run(worker: Worker) -> int:
    """Have it work until it leaves, or a signal asks it to; 1 when it could not go on."""
    asked: list[int] = []
    for number in SIGNALS:  # only noted: whoever holds a lock when a signal comes is not interrupted
        signal.signal(number, lambda number, _: asked.append(number))
    stop, failures = threading.Event(), list[BaseException]()

    def work() -> None:
        try:
            worker.run(stop, idle_after=IDLE)
        except BaseException as failure:  # noqa: BLE001 - a thread's edge
            failures.append(failure)

    thread = threading.Thread(target=work, name="worker")
    thread.start()
    while thread.is_alive():
        if asked and not stop.is_set():
            logger.info("the worker for batches is asked to stop")
            stop.set()
        thread.join(_POLL_SECONDS)
    if failures:
        logger.opt(exception=failures[0]).error("the worker for batches cannot go on: {}", failures[0])
        return 1
    return 0
