"""The few threads that ask the ledger, which is synchronous, for the event loop, which must not wait.

Each has a ledger of its own. All who follow a job share one read of it, and all who list jobs one reading of all of
them, so a thousand readers cost as much as one.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from jobs.core.errors import StoreUnavailable
from jobs.core.units import counted
from jobs.ledger.all_jobs import AllJobs
from jobs.ledger.job import Job
from jobs.ledger.kinds import KINDS, Kinds
from jobs.ledger.ledger import Ledger
from jobs.ledger.reader import LedgerReader

T = TypeVar("T")

THREADS = 8

MOST_WAITING = 256
"""Questions for which no thread was free yet. With more the ledger is not slow but away, and others are refused."""

AWAY_AT_MOST = timedelta(minutes=10)
"""So long a job that cannot be read is followed all the same: it goes on without us."""

READ_EVERY = timedelta(milliseconds=500)
"""How often a followed job is read: as often as its worker beats."""


LISTED_FOR = timedelta(seconds=2)
"""So long one reading of all jobs serves whoever lists them."""


@dataclass
class _Reading:
    """One reading of all jobs. The event loop's alone."""

    answer: "asyncio.Future[AllJobs]"
    changes: int
    """How many changes had been made before it began."""
    ended_at: float | None = None

    def serves(self, changes: int, since: float) -> bool:
        """Whether nothing was changed after it began, and it has not failed, nor ended before that moment."""
        if self.changes != changes:
            return False
        if not self.answer.done():
            return True
        failed = self.answer.cancelled() or self.answer.exception() is not None
        return not failed and self.ended_at is not None and self.ended_at > since


class LedgerPool:
    """Belongs to one event loop; its threads share nothing with one another.

    Args:
        open_ledger: a ledger for the thread that calls it.
        every: how often a followed job is read.
        listed_for: how long one reading of all jobs serves.
        kinds: of jobs, by which it is told what supersedes what, and what waits for what.

    """

    def __init__(
        self,
        open_ledger: Callable[[], Ledger],
        *,
        every: timedelta = READ_EVERY,
        listed_for: timedelta = LISTED_FOR,
        kinds: Kinds = KINDS,
    ) -> None:
        self._open_ledger = open_ledger
        self._every = every.total_seconds()
        self._listed_for = listed_for.total_seconds()
        self._kinds = kinds
        #: The last reading of all jobs, for as long as it serves; and the changes made through here so far. Both are
        #: used by the event loop alone.
        self._reading: _Reading | None = None
        self._changes = 0
        #: The ledger of each thread, which opens it when it is first asked.
        self._own = threading.local()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="ledger")
        #: The reads of followed jobs, by id, for as long as they count as new. Used by the event loop alone.
        self._reads: dict[str, asyncio.Future[Job]] = {}
        #: Questions that are not answered and not given up. Counted by the event loop alone.
        self._open = 0

    async def do(self, work: Callable[[Ledger], T]) -> T:
        """Have a thread do this with its ledger; whoever lists jobs afterwards sees what it changed.

        Raises:
            StoreTrouble: it cannot be asked, or too many wait for it already.

        """
        try:
            return await self._ask(work)
        finally:
            self._changes += 1

    async def read(self, work: Callable[[LedgerReader], T]) -> T:
        """Like `do`, for what only reads."""
        return await self._ask(lambda ledger: work(ledger.reader))

    async def jobs(self) -> AllJobs:
        """All jobs, as they were at most `listed_for` ago: read once for all who ask meanwhile.

        Raises:
            StoreTrouble: as `do`.

        """
        since = asyncio.get_running_loop().time() - self._listed_for
        reading = self._reading
        if reading is None or not reading.serves(self._changes, since):
            kinds = self._kinds
            answer = asyncio.ensure_future(self.read(lambda reader: AllJobs.of(reader.jobs(), kinds)))
            reading = self._reading = _Reading(answer, self._changes)
            answer.add_done_callback(lambda _: self._keep_listed(reading))
        return await asyncio.shield(reading.answer)  # a reader who leaves does not end it for the others

    def _keep_listed(self, reading: _Reading) -> None:
        """Its jobs are let go when it serves no longer: between two who look they cost no memory."""
        loop = asyncio.get_running_loop()
        reading.ended_at = loop.time()
        loop.call_later(self._listed_for, self._let_go, reading)
        if not reading.answer.cancelled():
            reading.answer.exception()  # those who wait are told; asyncio complains of a failure that nobody took

    def _let_go(self, reading: _Reading) -> None:
        if self._reading is reading:
            self._reading = None

    async def _ask(self, work: Callable[[Ledger], T]) -> T:
        if self._open >= THREADS + MOST_WAITING:
            raise StoreUnavailable(
                f"the ledger is away: {counted(self._open, 'question waits', 'questions wait')} for it"
            )
        context = copy_context()  # what is logged there belongs to the same request
        self._open += 1
        answer = asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: context.run(lambda: work(self._ledger()))
        )
        answer.add_done_callback(self._close_question)
        return await answer

    def _close_question(self, _: "asyncio.Future[T]") -> None:
        self._open -= 1

    async def job(self, id: str, known: Job | None = None) -> Job:
        """The job as it is, or was a moment ago; with what was `known` of it, at the cost of a look.

        Raises:
            NotFound: there is no such job.

        """
        reading = self._reads.get(id)
        if reading is None:
            read = self.read(lambda reader: reader.get(id) if known is None else reader.look(known))
            reading = self._reads[id] = asyncio.ensure_future(read)
            reading.add_done_callback(lambda done: self._keep_for_a_while(id, done))
        return await asyncio.shield(reading)  # a follower who leaves does not end it for the others

    def _keep_for_a_while(self, id: str, reading: "asyncio.Future[Job]") -> None:
        asyncio.get_running_loop().call_later(self._every, self._reads.pop, id, None)
        if not reading.cancelled():
            reading.exception()  # those who wait are told; asyncio complains of a failure that nobody took

    async def follow(self, job: Job) -> AsyncIterator[Job]:
        """The job now, and again after each read, until it has ended; as it was while it cannot be read.

        Raises:
            StoreTrouble: it could not be read for long.

        """
        loop = asyncio.get_running_loop()
        read_at = loop.time()
        yield job
        while not job.has_ended:
            await asyncio.sleep(self._every)
            try:
                job = await self.job(job.id, job)
                read_at = loop.time()
            except StoreUnavailable:
                if loop.time() - read_at > AWAY_AT_MOST.total_seconds():
                    raise
            yield job

    def close(self) -> None:
        """Let what was begun end, and take nothing more."""
        self._threads.shutdown()

    def _ledger(self) -> Ledger:
        if not hasattr(self._own, "ledger"):
            self._own.ledger = self._open_ledger()
        ledger: Ledger = self._own.ledger
        return ledger
