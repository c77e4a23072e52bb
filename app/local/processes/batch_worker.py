"""The process that works on batches of this machine: beside `up`, so that a million lines never hold up the gateway.

It is started when a batch is to be worked on, and leaves when there was none for a while. It dies with `up`. One that
crashes is followed by another after a pause that grows, and is told of until one has stayed; what it was at goes on at
once, since nobody else works there.
"""

import os
import signal
import sys
import threading
from pathlib import Path

from loguru import logger

from app.local.processes.server_process import RESTART_BACKOFF, STABLE_AFTER, ServerProcess
from jobs.core.clock import Clock
from jobs.core.errors import StoreTrouble, Trouble
from jobs.home.home import VARIABLE, Home
from jobs.ledger.kinds import BATCHES_LANE
from jobs.ledger.ledger import Ledger

NAME = "batches"

LOOK_SECONDS = 0.25
"""Between two looks for a batch that is to be worked on."""

GRACE_SECONDS = 10.0
"""For lines under way to end and their results to be kept, when `up` stops."""


class BatchWorker:
    """The main thread starts, checks and stops it; a thread of its own asks the ledger.

    Args:
        home: where batches are.
        clock: the time.
        argv: the command, for who wants another one.

    """

    def __init__(
        self, home: Home, clock: Clock, argv: tuple[str, ...] = (sys.executable, "-m", "app.local.batches")
    ) -> None:
        self._home = home
        self._clock = clock
        self._argv = argv
        self._stopping = threading.Event()
        self._looking = threading.Thread(target=self._look, name="look for batches", daemon=True)
        #: Set by the thread that looks, taken back by the main thread when it starts the process.
        self._is_wanted = threading.Event()
        #: Set by the main thread when the process has crashed; the looking one gives up what it was at, and takes it
        #: back.
        self._has_crashed = threading.Event()
        #: These four are the main thread's own.
        self._process: ServerProcess | None = None
        self._began_at = 0.0
        self._crashes = 0
        self._again_at = 0.0
        #: Replaced by the main thread, read by any.
        self._problem: str | None = None

    def problems(self) -> tuple[str, ...]:
        """What keeps batches from being worked on, or kept them until a moment ago."""
        return (self._problem,) if self._problem else ()

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        process = self._process
        return process.pid if process is not None else None

    def start(self) -> None:
        """Look for batches from now on."""
        self._looking.start()

    def check(self) -> None:
        """See whether it has ended, and start it when it is wanted. Call this from the main thread, often."""
        now = self._clock.monotonic()
        if self._process is not None:
            if self._process.has_ended:
                self._note_end(self._process, now)
            elif self._crashes and now - self._began_at >= STABLE_AFTER.total_seconds():
                self._crashes, self._problem = 0, None
            return
        if now >= self._again_at and (self._crashes or self._is_wanted.is_set()):
            self._is_wanted.clear()
            self._begin(now)

    def stop(self) -> None:
        """Have it hand back what it is at, and end it."""
        self._stopping.set()
        if self._looking.is_alive():
            self._looking.join(GRACE_SECONDS)
        process, self._process = self._process, None
        if process is None:
            return
        process.signal(signal.SIGTERM)
        deadline = self._clock.monotonic() + GRACE_SECONDS
        while not process.has_ended and self._clock.monotonic() < deadline:
            self._clock.wait(0.02)
        process.signal(signal.SIGKILL)
        process.wait()

    def _begin(self, now: float) -> None:
        environ = {**os.environ, VARIABLE: str(self._home.root)}
        try:
            self._process = ServerProcess(NAME, self._argv, env=environ, log=self._log)
        except Trouble as trouble:
            self._put_off(str(trouble), now)
        else:
            self._began_at = now
            logger.info("a worker for batches has come, pid {}", self._process.pid)

    def _note_end(self, process: ServerProcess, now: float) -> None:
        self._process = None
        if process.is_done:
            self._crashes, self._problem = 0, None
            logger.info("the worker for batches has left: there is nothing to do")
            return
        process.signal(signal.SIGKILL)  # what it may have left of its group
        self._has_crashed.set()
        if now - self._began_at >= STABLE_AFTER.total_seconds():
            self._crashes = 0
        self._put_off(process.how_it_ended, now)

    def _put_off(self, how: str, now: float) -> None:
        self._crashes += 1
        pause = RESTART_BACKOFF.delay(self._crashes, 1.0).total_seconds()
        self._again_at = now + pause
        times = "" if self._crashes == 1 else f", {self._crashes} times now"
        self._problem = f"{how}{times}; it is started again, and what it said last is in {self._log}"
        logger.error("{}; it is started again in {:.0f} s, and what it said last is in {}", how, pause, self._log)

    @property
    def _log(self) -> Path:
        return self._home.logs / f"{NAME}.log"

    # The thread that looks

    def _look(self) -> None:
        ledger = self._home.ledger(self._clock)
        while not self._clock.wait(LOOK_SECONDS, self._stopping):
            try:
                self._look_once(ledger)
            except StoreTrouble as trouble:  # the workers of the other lanes tell of it
                logger.debug("whether a batch is to be worked on is not known for now: {}", trouble)

    def _look_once(self, ledger: Ledger) -> None:
        if self._has_crashed.is_set():
            self._has_crashed.clear()
            lost = ledger.sweep(no_worker_lives={BATCHES_LANE}).lost
            logger.warning("the worker for batches has crashed; batches that it was at: {}", len(lost))
        if ledger.has_queued(BATCHES_LANE):
            self._is_wanted.set()
