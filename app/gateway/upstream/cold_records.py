"""The cold starts that this gateway waited for: written down, counted, and remembered for what the next ones will take.

And which models its callers wait for, told to the servers before the first of them is woken. All of it waits for the
ledger in threads, and for none of it a caller waits longer than `WANT_SECONDS`.
"""

import asyncio
import threading
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import datetime, timedelta

from loguru import logger

from app.gateway.upstream.cold_wait import Waited, alone, joined
from app.gateway.upstream.cold_words import reported
from app.model_server.report import Report
from app.model_server.starting.wanted import tell
from jobs.core.clock import Clock
from jobs.core.errors import StoreTrouble
from jobs.store.protocols import DictLike
from jobs.telemetry.cold_starts import ColdStart, read_cold_starts

WANT_SECONDS = 0.5
"""A store that takes longer must not stop a wake: then the server loads what is warmed, and the model after it."""

SETTLE_AFTER = timedelta(minutes=2)
"""A load for which no caller was left to be answered is written down without a first token."""

_ASK_EVERY_SECONDS = 2.0
_ASK_TIMES = 5
"""A server writes how its start or load went within some seconds."""

_KEPT = 256
_LOOKED_BACK = timedelta(days=30)


class ColdRecords:
    """Belongs to the event loop, but that any thread may read `history`, which is replaced as a whole.

    Args:
        facts: the ledger's dict.
        clock: the time.
        writer: names this process.
        reports: what the servers of a tier said last.
        refresh: has that read anew, unless it was just done.
        observe: counts one that is over.
        size_of: of a model that is known here, in bytes.

    """

    def __init__(
        self,
        facts: DictLike,
        clock: Clock,
        writer: str,
        *,
        reports: Callable[[str], Sequence[Report]],
        refresh: Callable[[], Awaitable[bool]],
        observe: Callable[[ColdStart], object],
        size_of: Callable[[str], int | None],
    ) -> None:
        self._facts = facts
        self._clock = clock
        self._writer = writer
        self._reports = reports
        self._refresh = refresh
        self._observe = observe
        self.size_of = size_of
        self._recent: deque[ColdStart] = deque(maxlen=_KEPT)
        #: Newest first; replaced by the event loop, read by any thread.
        self.history: tuple[ColdStart, ...] = ()
        self._tasks: set[asyncio.Task[None]] = set()
        #: Held, for a tier, by the thread that tells it what is waited for: who comes later knows more.
        self._telling: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def begin(self) -> None:
        """Look up how earlier ones went, beside whatever else there is to do."""
        self._go(self._look_back(), "earlier cold starts")

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def want(self, tier: str, models: Mapping[str, datetime]) -> None:
        """Tell the servers of a tier which models are waited for, and since when; not for long, and whatever happens.

        One round trip, for which the wake waits. Models may be added meanwhile by the event loop.
        """
        writing = asyncio.ensure_future(asyncio.to_thread(self._want, tier, models, self._telling[tier]))
        writing.add_done_callback(_retrieve)
        await asyncio.wait({writing}, timeout=WANT_SECONDS)
        if not writing.done():
            logger.warning("the ledger takes long to note that {} is waited for on tier {}", ", ".join(models), tier)

    def _want(self, tier: str, models: Mapping[str, datetime], telling: threading.Lock) -> None:
        with telling:
            tell(self._facts, tier, dict(models))

    def settled(self, waited: Waited, *, is_remote: bool) -> None:
        """Write down and count a wait that is over, with what its server tells of it."""
        self._go(self._record(waited, is_remote=is_remote), f"cold start of {waited.tier}")

    async def _record(self, waited: Waited, *, is_remote: bool) -> None:
        size = self.size_of(waited.model) if waited.model else None
        start = await self._joined(waited, size, is_remote=is_remote) if is_remote or waited.woke else None
        if start is None:
            start = alone(waited, self._writer, size, is_remote=is_remote)
        self._recent.appendleft(start)
        self.history = tuple(self._recent)
        self._observe(start)
        try:
            await asyncio.to_thread(self._facts.put, start.key, start.as_json())
        except StoreTrouble as trouble:
            logger.warning("a cold start of tier {} could not be written down: {}", waited.tier, trouble)

    async def _joined(self, waited: Waited, size: int | None, *, is_remote: bool) -> ColdStart | None:
        """The last one that starts counts: the one before it was killed, and what it told is told of no more."""
        start = None
        for _ in range(_ASK_TIMES):
            reports = self._reports(waited.tier)
            start = joined(waited, reports, size, tells_loads=is_remote) or start
            going_on = reported(reports, self._clock.now())
            if start is not None and (going_on is None or going_on[1].kind == "load"):
                return start
            await asyncio.sleep(_ASK_EVERY_SECONDS)
            await self._refresh()
        return start

    async def _look_back(self) -> None:
        try:
            since = self._clock.now() - _LOOKED_BACK
            found = await asyncio.to_thread(read_cold_starts, self._facts, since)
        except StoreTrouble as trouble:
            logger.warning("how long earlier cold starts took is not known: {}", trouble)
            return
        self._recent.extend(found[: _KEPT - len(self._recent)])
        self.history = tuple(self._recent)

    def _go(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _retrieve(writing: "asyncio.Future[None]") -> None:
    if not writing.cancelled() and (trouble := writing.exception()) is not None:
        logger.warning("that a model is waited for is not told: {}: {}", type(trouble).__name__, trouble)
