"""A worker of one lane, as a container runs it: it keeps time for a store across a network, and leaves when idle.

A container that is taken away (SIGINT), or whose day is over, hands its attempts back first. It knows nothing about
what the jobs do.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType

from loguru import logger

from app.deployment.worker_timing import LEASE, LONGEST, SPARE
from app.logs import in_container
from jobs.core.clock import Clock
from jobs.ledger.ledger import Ledger
from jobs.store.protocols import DictLike
from jobs.worker.presence import WorkerPresence
from jobs.worker.worker import Perform, Timing, Worker

IDLE_AFTER = timedelta(seconds=2)
"""Only the call ends then, so that the next one need not wait; the container stays for its scaledown window."""


def timing(length: timedelta = LEASE) -> Timing:
    """All of a worker's times from the one that counts: how long a dead worker's job waits.

    Twelve beats fit into a lease: each is three calls across the network, and some may be lost or late.
    """
    return Timing(
        lease=length,
        beat=length / 12,
        sweep=length / 6,
        poll=min(timedelta(seconds=2), length / 6),
        grace=timedelta(seconds=15),  # of the thirty that the platform grants
    )


def lease() -> timedelta:
    """The lease, or what OLLAMA_MODAL_LEASE_SECONDS says, so that a trial run can have shorter ones."""
    seconds = os.environ.get("OLLAMA_MODAL_LEASE_SECONDS")
    return timedelta(seconds=float(seconds)) if seconds else LEASE


def longest_call() -> timedelta:
    """How long one call works, or what OLLAMA_MODAL_DAY_SECONDS says, so that a trial run can have a shorter day."""
    seconds = os.environ.get("OLLAMA_MODAL_DAY_SECONDS")
    return timedelta(seconds=float(seconds)) if seconds else LONGEST - SPARE


def work(
    ledger: Ledger, facts: DictLike, lane: str, perform: Perform, clock: Clock, *, concurrency: int, early: bool = False
) -> bool:
    """Work the lane until nothing is left to do (true), or this container's time is up (false).

    With `early`, jobs that wait for their time are no work, unless their ids come; then they are taken up (`Worker`).

    Raises:
        KeyboardInterrupt: the container is being taken away. The platform gives the call to another one.

    """
    in_container(lane=lane)
    stop = threading.Event()
    with _interrupts(stop) as interrupts, _stopped_after(stop, longest_call()):
        name = os.environ.get("MODAL_TASK_ID")  # host and process id are the same in every container
        keeping_time = timing(lease())

        def run() -> None:
            worker = Worker(
                ledger, lane, perform, clock=clock, concurrency=concurrency, timing=keeping_time, name=name, early=early
            )
            worker.run(stop, idle_after=IDLE_AFTER)

        WorkerPresence(facts, lane, clock).work(run, lambda: not stop.is_set() and ledger.has_queued(lane))
    if interrupts:
        logger.info("this container is being taken away; what was running is handed back")
        raise KeyboardInterrupt
    return not stop.is_set()


@contextmanager
def _stopped_after(stop: threading.Event, after: timedelta) -> Iterator[None]:
    """Stop in time before the platform ends the call."""
    timer = threading.Timer(after.total_seconds(), stop.set)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def _interrupts(stop: threading.Event) -> Iterator[list[int]]:
    """Have SIGINT set `stop` instead of breaking into whatever the worker does; the signals that came."""
    seen: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        if not seen:
            # A thread of its own: the handler may have broken into the very lock that `set` needs.
            threading.Thread(target=stop.set, name="interrupted").start()
        seen.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)
