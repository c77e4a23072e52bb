"""Requests that go on after their caller has left, until the first byte of their answer: a load may hang on them.

With several containers of a tier up, the one that took the request may have to load the model for it, and Ollama ends
a load with the request that caused it. How many go on, and for how long, is limited; what they answer is thrown away.
"""

import asyncio
from collections.abc import Callable
from datetime import timedelta

from app.gateway.auth.fair_shares import ONE, KeyCount, Shares
from app.gateway.upstream.upstream_client import UpstreamAnswer
from jobs.core.errors import TooManyRequests, Trouble

MOST = 64
"""Of all tiers together. Callers who leave in their hundreds hang on the same few loads."""


class DetachedRequests:
    """Belongs to one event loop, but that any thread may ask how many there are."""

    def __init__(self, most: int = MOST, *, keys: KeyCount = ONE) -> None:
        self._shares = Shares("requests without a caller", most, keys=keys, hint="", retry_after=timedelta(0))
        #: Changed by the event loop alone; its length may be read by any thread.
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def keep(self, asking: asyncio.Task[UpstreamAnswer], seconds: float, key: str, drop: Callable[[], None]) -> None:
        """Let it go on until its answer begins, or its time is over; when too many of this key or of all do, end it.

        Args:
            asking: what goes on.
            seconds: for how long at most.
            key: the caller's.
            drop: called when its body is needed no more.

        """
        try:
            give_back = self._shares.take(key)
        except TooManyRequests:
            seconds, give_back = 0, _nothing
        task = asyncio.create_task(_until_begun(asking, seconds), name="detached")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: give_back())
        task.add_done_callback(lambda _: drop())  # even if it was ended before it began

    async def close(self) -> None:
        """End them all."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _nothing() -> None:
    """For a request that holds no share."""


async def _until_begun(asking: asyncio.Task[UpstreamAnswer], seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            answer = await asking
    except (TimeoutError, Trouble):  # its caller has left, so nobody is told
        return
    answer.close()
