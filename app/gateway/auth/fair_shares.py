"""Fair shares: of what the gateway has a limited number of, one key never has all.

A slot is taken at once or not at all, and given back once, however often that is called; a turn is waited for.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from app.gateway.auth.keys import Caller
from jobs.core.errors import TooManyRequests

PARTS = 4
"""One key may have a quarter: it serves a team behind one key, and it takes four greedy keys to shut out a fifth."""


class KeyCount(Protocol):
    """How many keys there are now."""

    @property
    def count(self) -> int: ...


@dataclass(frozen=True)
class SoMany:
    """As many keys as there ever are."""

    count: int


ONE, SEVERAL = SoMany(1), SoMany(2)


def share_of(most: int, caller: Caller) -> int:
    """How many of `most` slots this caller may take, always at least one; the only one who may ask, all."""
    return most if caller.is_only else max(1, most // PARTS)


class Shares:
    """Belongs to one event loop.

    Args:
        what: the slots, in words, as in `followers of jobs`.
        most: how many there are.
        keys: how many there are; the only one may have all of the slots.
        hint: what a caller who gets none can do instead.
        retry_after: when one may be free.
    """

    def __init__(self, what: str, most: int, *, keys: KeyCount, hint: str, retry_after: timedelta) -> None:
        self._keys = keys
        self._what = what
        self._most = most
        self._hint = hint
        self._retry_after = retry_after
        self._taken: dict[str, int] = defaultdict(int)
        self._all = 0

    @property
    def share(self) -> int:
        """What one key may have."""
        return self._most if self._keys.count <= 1 else max(1, self._most // PARTS)

    def take(self, key: str) -> Callable[[], None]:
        """Take a slot for this key; call what is returned to give it back.

        Raises:
            TooManyRequests: the key has its share, or all slots are taken.

        """
        if self._taken[key] >= self.share:
            raise self._none(f"key {key!r} has {self.share} {self._what}, as many as one key may")
        if self._all >= self._most:
            raise self._none(f"there are {self._most} {self._what}, the most there can be")
        self._taken[key] += 1
        self._all += 1
        is_held = True

        def give_back() -> None:
            nonlocal is_held
            if is_held:
                is_held = False
                self._taken[key] -= 1
                self._all -= 1

        return give_back

    def _none(self, why: str) -> TooManyRequests:
        return TooManyRequests(why, hint=self._hint, retry_after=self._retry_after)


class Turns:
    """So many of each key at once; whoever comes beyond waits for his turn, and takes nothing meanwhile. Belongs to one
    event loop."""

    def __init__(self, of_each: int) -> None:
        self._of_each = of_each
        #: Of each key that has or waits for one: what lets in, and how many these are.
        self._doors: dict[str, tuple[asyncio.Semaphore, int]] = {}

    @asynccontextmanager
    async def of(self, key: str) -> AsyncIterator[None]:
        """Wait for a turn of this key, and have it."""
        door, count = self._doors.get(key) or (asyncio.Semaphore(self._of_each), 0)
        self._doors[key] = door, count + 1
        try:
            async with door:
                yield
        finally:
            door, count = self._doors.pop(key)
            if count > 1:
                self._doors[key] = door, count - 1
