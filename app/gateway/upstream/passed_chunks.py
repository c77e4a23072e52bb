"""Chunks of a stream on their way: each that comes whole and by itself goes on as it came, in one step.

A piece costs as much as there is code that is gone through for it, since between two of them the processor has
forgotten all of it. So what the connection, the answer and its tail would each do for one stands here together, and
whatever is not as nearly all are is left to them.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from app.gateway.protocol.dialects import LEAST_KEPT, MOST_KEPT, Tail
from app.gateway.protocol.exchange import ChunkCaller
from app.gateway.protocol.usage_chunk import UsageFilter
from app.gateway.upstream.connection import Connection, Receive

_MOST = 1024
"""Bytes of a chunk that is known: nearly all of a stream are shorter, and of few lengths."""

_heads: dict[int, bytes] = {}
"""What a chunk of so many bytes, all of it counted, begins with as we write it: of those that have come. Any event loop
adds to it, and none changes what is there."""

_NO_USAGE = UsageFilter("")
_NO_USAGE.passes = (b"",)
"""Of a stream in which nothing is taken out."""


class Counted(Protocol):
    """Whose pieces are counted."""

    pieces: int


@dataclass(slots=True)
class BegunStream:
    """A stream of which the caller has a part already.

    Args:
        content_type: as the caller was told it.
        tail: was fed that part.
        usage_filter: has let it pass, where the usage is kept from the caller.
        first_byte_seconds: from the request until it came.
        pieces: that came of it.

    """

    content_type: bytes
    tail: Tail
    usage_filter: UsageFilter | None
    first_byte_seconds: float
    pieces: int = 1


def passing(
    caller: ChunkCaller, server: Connection, tail: Tail, usage_filter: UsageFilter | None, counted: Counted
) -> Callable[[Receive], Receive]:
    """What `Connection.receive_by` takes of a stream whose first chunk has gone to the caller.

    Args:
        caller: where it goes.
        server: where it comes from.
        tail: is fed with it.
        usage_filter: where the usage is kept from the caller: pieces that it may concern are not taken.
        counted: counts them.

    """
    usage = _NO_USAGE if usage_filter is None else usage_filter
    heads, flow, write, time = _heads, caller.flow, caller.transport.write, asyncio.get_running_loop().time
    ends = (*[each + b"\r\n" for each in usage.passes],)
    kept, most, least = tail.kept, MOST_KEPT, LEAST_KEPT

    def make(otherwise: Receive) -> Receive:
        def receive(data: bytes) -> None:
            nonlocal kept
            head = heads.get(len(data))
            if (
                head is None
                or not data.startswith(head)
                or not data.endswith(ends)
                or not server.is_awaited
                or not server.is_between_chunks
                or flow.write_paused
                or usage.held
                or caller.disconnected
            ):
                if head is None:
                    _know(len(data))
                otherwise(data)
                return
            server.quiet_since = time()
            write(data)
            counted.pieces += 1
            if kept is None:
                tail.feed(data[len(head) : -2])
                return
            kept += data[len(head) : -2]
            if len(kept) > most:
                del kept[:-least]

        return receive

    return make


def _know(length: int) -> None:
    """From now on know how a chunk of this length begins, if there is one and it is not long."""
    for digits in range(1, 4):
        size = length - digits - 4
        head = b"%x\r\n" % max(size, 0)
        if 0 < size < _MOST and len(head) == digits + 2:
            _heads[length] = head
