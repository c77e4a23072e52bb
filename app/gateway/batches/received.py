"""A body as it comes, handed to a thread piece by piece: so it may be a gigabyte, and takes a few megabytes of memory.

Whoever sends nothing for too long, or too little in all, is refused, as with any other body.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from typing import TypeVar

from app.gateway.protocol import body as bodies
from app.gateway.protocol.errors import TooLarge, TooSlow
from app.gateway.protocol.exchange import Exchange

PIECE = 1024 * 1024
"""Bytes that are handed on at once."""

_T = TypeVar("_T")


async def in_thread(threads: Executor, work: Callable[..., _T], *args: object) -> _T:
    """What this answers, called in one of these threads. Who is cancelled meanwhile waits for its end all the same, so
    that nothing goes on behind him."""
    future = asyncio.get_running_loop().run_in_executor(threads, work, *args)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        if not future.cancelled():
            future.exception()  # nobody waits for it any more
        raise


async def pieces(exchange: Exchange, *, most: int, seconds: float = bodies.SECONDS) -> AsyncIterator[bytes]:
    """The body of a request that `is_streamed`, in pieces of about `PIECE`, the last one shorter.

    Args:
        exchange: the request.
        most: bytes that it may have.
        seconds: how long nothing may come; and how long all of it may take, beside the time for its bytes.

    Raises:
        TooLarge: it has more, or says so.
        TooSlow: it does not come.
        Gone: the caller left in between.

    """
    assert exchange.receive is not None  # its entry of the table says that it is streamed
    length = next((value for name, value in exchange.headers if name == b"content-length"), b"0")
    if not length.isdigit() or int(length) > most:
        raise TooLarge(f"the body has more than {most:,} bytes", hint="cut it in several files and batches")
    receive = bodies.bounded(exchange.receive, most, seconds)
    kept: list[bytes] = []
    size = 0
    is_last = False
    while not is_last:
        try:
            async with asyncio.timeout(seconds):
                message = await receive()
        except TimeoutError as error:
            raise TooSlow(f"nothing more of the body came for {seconds:.0f} s") from error
        if message["type"] == "http.disconnect":
            raise bodies.Gone
        piece: bytes = message.get("body", b"")
        is_last = not message.get("more_body")
        kept.append(piece)
        size += len(piece)
        if size >= PIECE or (is_last and size):
            yield b"".join(kept)
            kept.clear()
            size = 0
