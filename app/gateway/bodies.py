"""The body of a request: how much may come, and how slowly. Whoever sends too much or too slowly is told so."""

import asyncio

from app.gateway.answers import TooLarge, TooSlow
from app.gateway.exchange import Message, Receive

MOST = 100 * 1024 * 1024
"""Images come inside the body."""

SECONDS = 30.0
"""A body may take so long, and a second more for each `BYTES_PER_SECOND` that have come."""

BYTES_PER_SECOND = 16 * 1024
"""Slower than any line that images are sent over. A byte now and then gains nothing."""


class Gone(Exception):
    """The caller left before all of it had come."""


def bounded(receive: Receive, most: int = MOST, seconds: float = SECONDS) -> Receive:
    """The same, for as long as the body comes as it should.

    Raises:
        TooLarge: more has come than may.
        TooSlow: too little has.

    """
    taken = 0
    began = asyncio.get_running_loop().time()
    is_over = False

    async def receive_some() -> Message:
        nonlocal taken, is_over
        if is_over:
            return await receive()
        try:
            async with asyncio.timeout_at(began + seconds + taken / BYTES_PER_SECOND):
                message = await receive()
        except TimeoutError as error:
            raise TooSlow(f"of the body {taken:,} bytes came, and then too little for too long") from error
        taken += len(message.get("body", b""))
        is_over = not message.get("more_body")
        if taken > most:
            raise too_large(most)
        return message

    return receive_some


async def whole(receive: Receive, said: bytes, most: int = MOST, seconds: float = SECONDS) -> bytes:
    """All of it, whatever was said of its length.

    Raises:
        TooLarge: it has more bytes than anybody may send.
        TooSlow: it does not come.
        Gone: the caller left in between.

    """
    if not said.isdigit() or int(said) > most:
        raise too_large(most)
    receive = bounded(receive, most, seconds)
    pieces = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        pieces.append(message.get("body", b""))
        if not message.get("more_body"):
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def too_large(most: int) -> TooLarge:
    return TooLarge(f"the body has more than {most:,} bytes", hint="send fewer or smaller images at a time")
