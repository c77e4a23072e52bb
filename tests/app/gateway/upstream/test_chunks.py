"""Chunks of a stream, in whatever packets they come: what is passed on is what was said, and where it ends is known."""

import asyncio
import itertools
import random
from typing import Any

import pytest

from app.gateway.upstream.connection import Connection
from jobs.core.errors import NetworkTrouble, ServerTrouble

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

PIECES = (b"one", b"data: two\n\n", b"\r\n", b"f\r\n" + b"x" * 15 + b"\r\n", b"0\r\n\r\n", b"y" * 300)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class ServersEnd(asyncio.Transport):
    """The transport of a connection to a server, of which nobody hears."""

    is_aborted = False

    def write(self, data: Any) -> None:
        """Nothing."""

    def abort(self) -> None:
        self.is_aborted = True

    def pause_reading(self) -> None:
        """Nothing."""

    def resume_reading(self) -> None:
        """Nothing."""


async def passed(packets: list[bytes]) -> tuple[bytes, bool, int]:
    """What a reader and its sink get of these packets, whether it ended well, and how many chunks were not parsed."""
    connection, said, past_the_parser = Connection(), [], 0
    connection.connection_made(ServersEnd())

    def take(piece: bytes, as_chunk: bytes) -> bool:
        nonlocal past_the_parser
        past_the_parser += bool(as_chunk)
        assert as_chunk in {b"", chunk(piece)}
        said.append(piece)
        return True

    async def read() -> bool:
        try:
            await connection.head()
            connection.pass_to(take)
            while piece := connection.take() or await connection.read():
                said.append(piece)
        except NetworkTrouble:
            return False
        except ServerTrouble:
            return False
        return True

    connection.ask(b"GET / HTTP/1.1\r\n\r\n", b"")
    reading = asyncio.create_task(read())
    for packet in packets:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if not reading.done():
            connection.data_received(packet)
    await asyncio.sleep(0)
    if not reading.done():
        connection.connection_lost(None)
    return b"".join(said), await reading, past_the_parser


def cut(data: bytes, places: list[int]) -> list[bytes]:
    return [data[start:end] for start, end in itertools.pairwise([0, *places, len(data)]) if start < end]


STREAM = HEAD + b"".join(map(chunk, PIECES)) + b"0\r\n\r\n"


def test_packets_may_end_anywhere() -> None:
    """Wherever the packets of a stream end, all of it is passed on."""

    async def whole() -> None:
        choice = random.Random(7)
        for first in range(1, len(STREAM)):
            others = sorted({first, *choice.sample(range(1, len(STREAM)), choice.randrange(6))})
            said, is_well, _ = await passed(cut(STREAM, others))
            assert (said, is_well) == (b"".join(PIECES), True), others

    asyncio.run(whole())


def test_a_chunk_that_comes_by_itself_is_not_parsed() -> None:
    """Each packet that is one chunk goes on as it came, but for the first and the end."""
    said, is_well, past = asyncio.run(passed([HEAD + chunk(b"zero"), *map(chunk, PIECES), b"0\r\n\r\n"]))
    assert (said, is_well, past) == (b"zero" + b"".join(PIECES), True, len(PIECES))


@pytest.mark.parametrize(
    ("packet", "meant"),
    [
        (b"3;why=not\r\nabc\r\n", b"abc"),
        (b"003\r\nabc\r\n", b"abc"),
        (b"A\r\nabcdefghij\r\n", b"abcdefghij"),
        (b"0x3\r\nabc\r\n", None),
        (b"+3\r\nabc\r\n", None),
        (b" 3\r\nabc\r\n", None),
        (b"-3\r\nabc\r\n", None),
        (b"3\r\nabcd\r\n", None),
        (b"5\r\nabc\r\n", None),
        (b"\r\nabc\r\n", None),
    ],
)
def test_what_is_written_otherwise_is_parsed(packet: bytes, meant: bytes | None) -> None:
    """Lengths in other spellings mean what they mean, and what is none ends the answer."""
    said, is_well, past = asyncio.run(passed([HEAD + chunk(b"zero"), packet, chunk(b"end"), b"0\r\n\r\n"]))
    assert past <= 1
    if meant is None:
        assert not is_well
    else:
        assert (said, is_well) == (b"zero" + meant + b"end", True)
