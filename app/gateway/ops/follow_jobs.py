"""The followers of jobs: by events, by Ollama's frames, or by waiting for the end. Each holds a connection.

A slot is taken when the request comes and is held until its answer has ended, so that no two take the last one.
"""

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any, Self

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from app.gateway.auth.fair_shares import KeyCount, Shares

FOLLOWERS = 256
"""At once, in any of the three ways."""

FULL = timedelta(seconds=10)


class Following:
    """Belongs to one event loop.

    Args:
        most: followers at once.
        keys: how many there are.
    """

    def __init__(self, most: int, keys: KeyCount) -> None:
        self.slots = Shares(
            "followers of jobs", most, keys=keys, hint="ask for /ops/v1/jobs/ID now and then", retry_after=FULL
        )

    def begin(self, request: Request) -> Callable[[], None]:
        """Count a follower, for whom no work is done any more; call what is returned when the follower has gone.

        Raises:
            TooManyRequests: the key has its share of followers, or there are too many.

        """
        leave = self.slots.take(request.state.caller.name)
        request.state.end_work()
        return leave


class Followed(StreamingResponse):
    """A stream that gives back its slot when it has ended, begun or not."""

    leave: Callable[[], None]

    @classmethod
    def held(cls, content: AsyncIterator[bytes], leave: Callable[[], None], **more: Any) -> Self:
        """Beside `__init__`, whose parameters FastAPI reads to describe the answer."""
        stream = cls(content, **more)
        stream.leave = leave
        return stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.leave()
