"""The body of a request: how much may come, and how slowly, and how much all of them may take together.

A body that is too large or too slow is refused. It counts from its first byte until it is needed no more: also
while its caller waits for a server, and while its request goes on after its caller has left.
"""

import asyncio
import ctypes
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

from starlette.types import Message, Receive

from app.gateway.auth.fair_shares import SEVERAL, KeyCount
from app.gateway.protocol.errors import TooLarge, TooSlow
from jobs.core.errors import NetworkTrouble

MOST = 100 * 1024 * 1024
"""Images come inside the body."""

SECONDS = 30.0
"""A body may take so long, and a second more for each `BYTES_PER_SECOND` that have come."""

BYTES_PER_SECOND = 16 * 1024
"""Slower than any line that images are sent over. A byte now and then gains nothing."""


BUDGET = 224 * 1024 * 1024
"""Bytes of all bodies at once. A container of the gateway has 512 MiB, of which it takes 100 without any. Half of it is
more than `MOST`: a key may have so much, and never the other half, unless it is the only one.
"""

RESERVE = 32 * 1024 * 1024
"""Bytes more that only small bodies may take, so that large ones never shut out a question of two lines."""

SMALL = 64 * 1024

LATER = timedelta(seconds=5)
"""When it is worth asking again where the budget is used up: a body goes as soon as its answer begins."""


class Crowded(NetworkTrouble):
    """Other bodies take all the memory that there is for them."""


class Budget:
    """What all bodies take, and those of each key. Belongs to one event loop: no thread takes or gives back."""

    def __init__(
        self, most: int = BUDGET, reserve: int = RESERVE, small: int = SMALL, *, keys: KeyCount = SEVERAL
    ) -> None:
        self._most = most
        self._keys = keys
        self._reserve = reserve
        self._small = small
        self._of_key: dict[str, int] = defaultdict(int)
        self.taken = 0

    def hold(self, key: str) -> "HeldBody":
        """A body of this key, empty as yet."""
        return HeldBody(self, key)

    def has_room(self, key: str, size: int) -> bool:
        """Whether there is room for a whole body of this size."""
        if self.taken + size <= self._most // 2:  # as nearly always: one key may have as much
            return True
        most = self._most_of(size)
        return self._of_key.get(key, 0) + size <= self._share(most) and self.taken + size <= most

    def _most_of(self, size: int) -> int:
        """What all bodies may take, where one of this size is among them."""
        return self._most + (self._reserve if size <= self._small else 0)

    def _share(self, most: int) -> int:
        """What those of one key may take of it."""
        return most // (1 if self._keys.count <= 1 else 2)

    def need_room(self, key: str, size: int, more: int) -> None:
        """
        Args:
            key: whose body it is.
            size: what it has in all with what comes now.
            more: bytes that come now.

        Raises:
            Crowded: there is no room for them.

        """
        most = self._most_of(size)
        if self._of_key[key] + more > self._share(most):
            raise Crowded(
                f"the bodies of this key take {self._of_key[key]:,} bytes already",
                hint="wait until some of its requests are answered",
                retry_after=LATER,
            )
        if self.taken + more > most:
            raise Crowded(
                "the requests under way take all the memory that there is", hint="ask again", retry_after=LATER
            )

    def take(self, key: str, amount: int) -> None:
        self.taken += amount
        self._of_key[key] += amount
        if not self._of_key[key]:
            del self._of_key[key]


class HeldBody:
    """The bytes of one body, counted for as long as they are kept."""

    def __init__(self, budget: Budget, key: str) -> None:
        self._budget = budget
        self._key = key
        self._size = 0
        self._keepers = 0
        #: Grows in its place: pieces that are joined at the end would be there twice, and stop all others meanwhile.
        #: The event loop fills it before anybody reads it and empties it at the end; a thread may read it in between.
        self.data = bytearray()

    def expect(self, size: int) -> None:
        """Refuse a body that announces this length, if there is no room for it now. Announcing takes no room."""
        self._budget.need_room(self._key, size, size)

    def add(self, piece: bytes | bytearray) -> None:
        """
        Raises:
            Crowded: there is no room for it.

        """
        if piece:
            self._budget.need_room(self._key, self._size + len(piece), len(piece))
            self._budget.take(self._key, len(piece))
            self._size += len(piece)
            if isinstance(piece, bytearray) and not self.data:
                self.data = piece  # it is nobody else's
            else:
                self.data += piece

    def keep(self) -> Callable[[], None]:
        """Keep it until what is returned is called, once or more often. With the last keeper the bytes go."""
        self._keepers += 1
        is_kept = True

        def drop() -> None:
            nonlocal is_kept
            if is_kept:
                is_kept = False
                self._keepers -= 1
                if not self._keepers:
                    self._end()

        return drop

    def _end(self) -> None:
        self._budget.take(self._key, -self._size)
        self._size = 0
        try:
            self.data.clear()
        except BufferError:  # a thread reads it at this moment, and frees it when it is done
            return


def give_memory_back() -> None:
    """Have blocks as large as bodies go back to the system when they are freed.

    glibc does so by itself until the first of them is freed; from then on it keeps blocks of up to 32 MB in its heap,
    and hundreds of megabytes stay with a process that needs none. A libc without `mallopt` is left alone.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)


_M_MMAP_THRESHOLD = -3
_LARGE_BLOCK = 512 * 1024


class Gone(Exception):
    """The caller left before all of it had come."""


def bounded(receive: Receive, most: int = MOST, seconds: float = SECONDS) -> Receive:
    """`receive`, for as long as the body comes as it should.

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


async def whole(
    receive: Receive, length: bytes, held: HeldBody, most: int = MOST, *, seconds: float = SECONDS
) -> bytearray:
    """All of it, whatever its Content-Length says.

    Args:
        receive: waits for more.
        length: the Content-Length.
        held: what counts it.
        most: bytes it may have.
        seconds: how long it may take, beside the time for its bytes.

    Raises:
        TooLarge: it has more bytes than anybody may send.
        TooSlow: it does not come.
        Crowded: there is no room for it now.
        Gone: the caller left in between.

    """
    if not length.isdigit() or int(length) > most:
        raise too_large(most)
    held.expect(int(length))
    receive = bounded(receive, most, seconds)
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        held.add(message.get("body", b""))
        if not message.get("more_body"):
            return held.data


def too_large(most: int) -> TooLarge:
    return TooLarge(f"the body has more than {most:,} bytes", hint="send fewer or smaller images at a time")
