"""A file on its way to a caller: read piece by piece in threads, all of it or a range.

No file is open between two pieces, so a caller who reads slowly keeps no volume from being refreshed.
"""

import re
from collections.abc import Callable
from concurrent.futures import Executor

from loguru import logger

from app.gateway.batches.received import in_thread
from app.gateway.protocol import dialects
from app.gateway.protocol.exchange import Exchange
from jobs.core.errors import NotFound, Trouble

PIECE = 256 * 1024
"""Bytes that are read at once."""

_RANGE = re.compile(rb"bytes=([0-9]{0,18})-([0-9]{0,18})")


def range_of(asked: bytes, size: int) -> range | None:
    """Which bytes of a file of this size a `Range` wants; None for all, as also where it wants several ranges, or says
    something that we do not know. Empty where there are no such bytes."""
    found = _RANGE.fullmatch(asked.strip())
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:
        return range(max(0, size - int(found[2])), size)
    first = int(found[1])
    last = int(found[2]) if found[2] else size - 1
    return None if found[2] and last < first else range(min(first, size), min(last + 1, size))


async def send_file(
    exchange: Exchange,
    threads: Executor,
    read: Callable[[int, int], bytes],
    *,
    size: int,
    content_type: bytes,
) -> None:
    """Answer with a file, or with the range of it that was asked for.

    Args:
        exchange: the request.
        threads: where it is read.
        read: reads so many bytes from an offset.
        size: of the file.
        content_type: of the answer.

    Raises:
        Trouble: it cannot be read, and nothing was sent yet. What fails later leaves the answer without its end.

    """
    asked = next((value for name, value in exchange.headers if name == b"range"), b"")
    part = range_of(asked, size) if asked else None
    if part is not None and not part:
        document = dialects.error(exchange.entry.speech, 416, f"the file has {size:,} bytes", exchange.id)
        await exchange.answer(document, 416, more=[(b"content-range", b"bytes */%d" % size)])
        return
    status = 200 if part is None else 206
    wanted = range(size) if part is None else part
    is_head = exchange.method == "HEAD"
    first = b"" if is_head or not wanted else await in_thread(threads, read, wanted.start, min(PIECE, len(wanted)))
    headers = [
        (b"content-type", content_type),
        (b"content-length", b"%d" % len(wanted)),
        (b"accept-ranges", b"bytes"),
        *((b"content-range", b"bytes %d-%d/%d" % (part.start, part.stop - 1, size)) for part in (part,) if part),
    ]
    await exchange.begin(status, headers)
    if is_head:
        await exchange.end()
        return
    try:
        await _send(exchange, threads, read, wanted, first)
    except Trouble as trouble:
        logger.warning("an answer ends before its end: {}", type(trouble).__name__)


async def _send(
    exchange: Exchange, threads: Executor, read: Callable[[int, int], bytes], wanted: range, piece: bytes
) -> None:
    at = wanted.start + len(piece)
    while at < wanted.stop:
        await exchange.write(piece)
        piece = await in_thread(threads, read, at, min(PIECE, wanted.stop - at))
        if not piece:
            raise NotFound("the file has become shorter")
        at += len(piece)
    await exchange.end(piece)
