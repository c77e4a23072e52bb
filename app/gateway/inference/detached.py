"""Requests that go on without their caller, until the first byte of their answer: a load may hang on them.

With several containers of a tier up, the one that took the request may have to load the model for it, and Ollama ends
a load with the request that caused it. How many go on, and for how long, is limited; nobody reads what they answer.
"""

import asyncio
from collections.abc import Callable
from datetime import timedelta

from app.gateway.auth.fair_shares import Shares
from app.gateway.upstream.upstream_client import UpstreamAnswer
from jobs.core.errors import TooManyRequests, Trouble

MOST = 64
"""Of all tiers together. Callers who leave in their hundreds hang on the same few loads."""


class DetachedRequests:
    """Belongs to one event loop."""

    def __init__(self, most: int = MOST, *, keys: int = 1) -> None:
        self._places = Shares("requests without a caller", most, keys=keys, hint="", retry_after=timedelta(0))
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def keep(self, asking: asyncio.Task[UpstreamAnswer], seconds: float, key: str, drop: Callable[[], None]) -> None:
        """Let it go on until its answer begins, or its time is over; when too many of this key or of all do, end it.

        Args:
            asking: what goes on.
            seconds: for how long at most.
            key: whose it is.
            drop: told when its body is needed no more.

        """
        try:
            leave = self._places.take(key)
        except TooManyRequests:
            seconds, leave = 0, _nothing
        task = asyncio.create_task(_see_out(asking, seconds), name="lingering")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: leave())
        task.add_done_callback(lambda _: drop())  # even if it was ended before it began

    async def close(self) -> None:
        """End them all."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _nothing() -> None:
    """It had no place."""


async def _see_out(asking: asyncio.Task[UpstreamAnswer], seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            answer = await asking
    except (TimeoutError, Trouble):  # whom should it be told? He has left
        return
    answer.close()
