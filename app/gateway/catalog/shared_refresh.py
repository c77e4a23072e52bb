"""What is known, looked up at once for callers who cannot wait for the next refresh: once for all, and not often."""

import asyncio
from collections.abc import Callable

from jobs.core.clock import Clock

WAIT_SECONDS = 5.0
"""So long a caller waits for it; the look-up itself may last longer, where the store is away."""


class SharedRefresh:
    """Belongs to one event loop; the look-up itself runs in a thread.

    Args:
        refresh: looks everything up; false when a part of it failed.
        clock: to leave a pause between two.
        every_seconds: so long a pause.

    """

    def __init__(self, refresh: Callable[[], bool], clock: Clock, every_seconds: float) -> None:
        self._refresh = refresh
        self._clock = clock
        self._every_seconds = every_seconds
        self._running: asyncio.Task[bool] | None = None
        self._ended_at = float("-inf")

    async def __call__(self) -> bool:
        """Have it looked up, by one thread for all who wait; false when that was just done, failed, or takes long."""
        if self._running is None and self._clock.monotonic() - self._ended_at < self._every_seconds:
            return False
        if self._running is None:
            self._running = asyncio.create_task(asyncio.to_thread(self._refresh))
            self._running.add_done_callback(self._ended)
        running = self._running
        await asyncio.wait({running}, timeout=WAIT_SECONDS)
        return running.done() and running.result()

    def _ended(self, _: asyncio.Task[bool]) -> None:
        """Also when every caller has left before its end: the next one gets a new look-up."""
        self._running, self._ended_at = None, self._clock.monotonic()
