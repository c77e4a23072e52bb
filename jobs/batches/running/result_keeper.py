"""Keeps results as they come, several in one step: a result counts once it is on the disk and others could read it.

While one step is under way, the results that come meanwhile wait for the next one. So on a fast disk each is kept at
once, and on a slow one many at a time.
"""

import asyncio
import threading
from collections.abc import Callable

from loguru import logger

from jobs.batches.lines.segments import Result, SegmentWriter
from jobs.batches.records import LineCounts
from jobs.core.clock import Clock
from jobs.core.errors import Trouble

MOST_UNKEPT, MOST_UNKEPT_BYTES = 256, 32 << 20
"""Results that wait to be kept while no more lines are sent; as many again may be under way to the disk."""

AGAIN_SECONDS = 2.0
"""Between two tries at a disk that refuses results."""


def _nothing() -> None:
    return None


class ResultKeeper:
    """Belongs to the event loop, but for the writer, which has one user at a time: under `_lock`."""

    def __init__(self, writer: SegmentWriter, clock: Clock, unkept_seconds: float) -> None:
        self._writer = writer
        self._clock = clock
        self._unkept_seconds = unkept_seconds
        self._kept: Callable[[], None] = _nothing
        self._lock = threading.Lock()
        self._came = asyncio.Event()
        self._new: list[Result] = []
        self._new_bytes = 0
        self._is_over = False
        self._failing_since: float | None = None
        self.trouble: Trouble | None = None
        """Why results are not kept now."""

    @property
    def unkept(self) -> int:
        """How many results do not count yet."""
        return len(self._new) + self._writer.waiting

    @property
    def is_full(self) -> bool:
        """No line is to be sent whose result could not be kept soon."""
        return self.trouble is not None or self.unkept >= MOST_UNKEPT or self._new_bytes >= MOST_UNKEPT_BYTES

    @property
    def counts(self) -> LineCounts:
        """Of the lines whose results count."""
        return self._writer.results.counts

    def on_kept(self, tell: Callable[[], None]) -> None:
        """Whom to tell that results were kept."""
        self._kept = tell

    def keep(self, result: Result) -> None:
        """Have a result kept, soon."""
        self._new.append(result)
        self._new_bytes += len(result.document)
        self._came.set()

    async def run(self) -> None:
        """Keep what comes, until `finish`.

        Raises:
            Trouble: the disk has refused it for long.

        """
        while not self._is_over or self.unkept:
            if not self.unkept:
                await self._came.wait()
                self._came.clear()
                continue
            await self._flush()

    def finish(self, *, is_patient: bool) -> None:
        """Nothing comes any more. Who is not patient gives up at the first refusal."""
        self._is_over = True
        self._unkept_seconds = self._unkept_seconds if is_patient else 0.0
        self._came.set()

    async def _flush(self) -> None:
        new, self._new, self._new_bytes = self._new, [], 0
        try:
            await asyncio.to_thread(self._flushed, new)
        except Trouble as trouble:
            now = self._clock.monotonic()
            if self._failing_since is None:
                self._failing_since = now
                logger.warning("results are not kept for now: {}", trouble)
            self.trouble = trouble
            if now - self._failing_since >= self._unkept_seconds:
                raise
            await asyncio.sleep(AGAIN_SECONDS)
            return
        self._failing_since, self.trouble = None, None
        self._kept()

    def _flushed(self, new: list[Result]) -> None:
        with self._lock:
            for result in new:
                self._writer.append(result)
            self._writer.flush()
