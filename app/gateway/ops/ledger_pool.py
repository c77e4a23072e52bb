"""The few threads that ask the ledger, which is synchronous, for the event loop, which must not wait.

Each has a ledger of its own. All who follow a job share one read of it, and all who list jobs one look at what goes on
and has changed, so a thousand readers cost as much as one.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from datetime import timedelta
from typing import TypeVar

from app.gateway.catalog.shared_answer import SHARED_FOR, SharedAnswer
from jobs.core.clock import Clock, SystemClock
from jobs.core.errors import StoreUnavailable
from jobs.core.units import counted
from jobs.ledger.job import Job
from jobs.ledger.kinds import KINDS, Kinds
from jobs.ledger.ledger import Ledger
from jobs.ledger.reader import LedgerReader
from jobs.listing.looks import JobLooks, Look

T = TypeVar("T")

THREADS = 8

MOST_WAITING = 256
"""Questions for which no thread was free yet. With more the ledger is not slow but away, and others are refused."""

AWAY_AT_MOST = timedelta(minutes=10)
"""So long a job that cannot be read is followed all the same: it goes on without us."""

READ_EVERY = timedelta(milliseconds=500)
"""How often a followed job is read: as often as its worker beats."""


FORGOTTEN_AFTER = timedelta(minutes=5)
"""When nobody has listed jobs for so long, no more of them are kept in memory than what a look needs."""


NO_JOB = "no-such-job"


def _reach(reader: LedgerReader) -> None:
    reader.find(NO_JOB)


class LedgerPool:
    """Belongs to one event loop; its threads share nothing with one another.

    Args:
        open_ledger: a ledger for the thread that calls it.
        every: how often a followed job is read.
        listed_for: how long one look at the jobs serves, and what else is shared.
        kinds: of jobs, by which it is told what supersedes what, and what waits for what.
        clock: the time.

    """

    def __init__(
        self,
        open_ledger: Callable[[], Ledger],
        *,
        every: timedelta = READ_EVERY,
        listed_for: timedelta = SHARED_FOR,
        kinds: Kinds = KINDS,
        clock: Clock | None = None,
    ) -> None:
        self._open_ledger = open_ledger
        self._every = every.total_seconds()
        self._looks = JobLooks(clock or SystemClock(), kinds)
        self.shared_for = listed_for
        self._looked = SharedAnswer(lambda: self.read(self._looks.look), listed_for)
        self._reached = SharedAnswer(lambda: self.read(_reach), listed_for)
        #: These two are the event loop's alone, as is when the jobs are let go.
        self.changes = 0
        """How many changes were made through here so far: who has made one is shown what it led to."""
        self._listed_at = float("-inf")
        self._forgetting: asyncio.TimerHandle | None = None
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
            self.changes += 1

    def changed_elsewhere(self) -> None:
        """Something was changed by other means than through here, which who did it is to see at once."""
        self.changes += 1

    async def read(self, work: Callable[[LedgerReader], T]) -> T:
        """Like `do`, for what only reads."""
        return await self._ask(lambda ledger: work(ledger.reader))

    async def look_up(self, work: Callable[[Ledger], T]) -> T:
        """Like `do`, for what takes a whole ledger and changes nothing."""
        return await self._ask(work)

    async def look(self) -> Look:
        """How the jobs stand, as they did at most `listed_for` ago: looked at once for all who ask meanwhile. Who has
        changed something through here is shown it.

        Raises:
            StoreTrouble: as `do`.

        """
        if self._forgetting is not None:
            self._forgetting.cancel()
        self._forgetting = asyncio.get_running_loop().call_later(FORGOTTEN_AFTER.total_seconds(), self._forget)
        look = await self._looked(self.changes)
        self._listed_at = asyncio.get_running_loop().time()
        return look

    async def reach(self) -> None:
        """Insist that the ledger answers: asked once for all who ask meanwhile, and not when it has answered just now.

        Raises:
            StoreTrouble: as `do`.

        """
        if asyncio.get_running_loop().time() - self._listed_at >= self.shared_for.total_seconds():
            await self._reached()

    def _forget(self) -> None:
        with suppress(RuntimeError):  # closed meanwhile
            self._threads.submit(self._looks.forget)  # which waits for a look that is under way

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
