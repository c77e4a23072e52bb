"""The few threads that ask the ledger, which is synchronous, for the event loop, which must not wait.

Each has a ledger of its own. Whoever follows the same job shares one look at it, so that a thousand followers cost as
much as one.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import timedelta
from typing import TypeVar

from jobs.core.errors import StoreUnavailable
from jobs.ledger.job import Job
from jobs.ledger.ledger import Ledger
from jobs.ledger.reader import LedgerReader

T = TypeVar("T")

THREADS = 8

MOST_WAITING = 256
"""Questions for which no thread was free yet. Beyond it the ledger is not slow but away, and who asks is told so."""

AWAY_AT_MOST = timedelta(minutes=10)
"""So long a job that cannot be read is followed all the same: it goes on without us."""

LOOK_EVERY = timedelta(milliseconds=500)
"""How often a job that somebody follows is read: as often as its worker beats."""


class LedgerPool:
    def __init__(self, open_ledger: Callable[[], Ledger], *, every: timedelta = LOOK_EVERY) -> None:
        self._open_ledger = open_ledger
        self._every = every.total_seconds()
        self._own = threading.local()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="clerk")
        self._looks: dict[str, asyncio.Future[Job]] = {}
        self._asked = 0  # by the event loop alone, as all of this

    async def do(self, work: Callable[[Ledger], T]) -> T:
        """Let one of them do this with his ledger.

        Raises:
            StoreTrouble: it cannot be asked, or too many wait for it already.

        """
        if self._asked >= THREADS + MOST_WAITING:
            raise StoreUnavailable(f"the ledger is away: {self._asked} questions wait for it")
        about = copy_context()  # what is logged there belongs to the same request
        self._asked += 1
        asked = asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: about.run(lambda: work(self._ledger()))
        )
        asked.add_done_callback(self._answered)
        return await asked

    async def read(self, work: Callable[[LedgerReader], T]) -> T:
        """The same for what only reads."""
        return await self.do(lambda ledger: work(ledger.reader))

    def _answered(self, _: "asyncio.Future[T]") -> None:
        self._asked -= 1

    async def look(self, id: str) -> Job:
        """The job as it stands, or stood a moment ago.

        Raises:
            NotFound: there is no such job.

        """
        look = self._looks.get(id)
        if look is None:
            look = asyncio.ensure_future(self.read(lambda reader: reader.get(id)))
            self._looks[id] = look
            look.add_done_callback(lambda done: self._looked(id, done))
        return await asyncio.shield(look)  # whoever leaves takes nothing from the others

    def _looked(self, id: str, look: "asyncio.Future[Job]") -> None:
        asyncio.get_running_loop().call_later(self._every, self._looks.pop, id, None)
        if not look.cancelled():
            look.exception()  # it is for those who wait, if any still do

    async def follow(self, job: Job) -> AsyncIterator[Job]:
        """The job now, and again after each look, until it has ended; as it was while it cannot be read.

        Raises:
            StoreTrouble: it could not be read for long.

        """
        loop = asyncio.get_running_loop()
        seen_at = loop.time()
        yield job
        while not job.has_ended:
            await asyncio.sleep(self._every)
            try:
                job = await self.look(job.id)
                seen_at = loop.time()
            except StoreUnavailable:
                if loop.time() - seen_at > AWAY_AT_MOST.total_seconds():
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
