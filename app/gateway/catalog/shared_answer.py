"""What many ask, asked once for all of them, and not again for a few seconds. Failures are shared as answers are."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from datetime import timedelta
from typing import Generic, TypeVar

T = TypeVar("T")

SHARED_FOR = timedelta(seconds=2)
"""So long one answer serves whoever asks, as pages do every two to five seconds."""


class SharedAnswer(Generic[T]):
    """Belongs to one event loop. At any moment one question is under way at most, however slow the answer and however
    many wait for it; who leaves does not end it for the others.

    Args:
        ask: asks.
        serves: how long the answer serves from when it came.

    """

    def __init__(self, ask: Callable[[], Awaitable[T]], serves: timedelta = SHARED_FOR) -> None:
        self._ask = ask
        self._serves = serves.total_seconds()
        #: The last question, for as long as its answer serves; of which version; and when it was answered.
        self._answer: asyncio.Future[T] | None = None
        self._version: object = None
        self._answered_at: float | None = None

    async def __call__(self, version: object = None) -> T:
        """The answer, or what became of it. One to a question that was begun for another version is none.

        Raises:
            Exception: what asking raised, for whoever asks until it is asked again.

        """
        while (answer := self._answer) is not None and not answer.done() and self._version != version:
            await asyncio.wait({answer})
        if answer is None or not self._is_good(answer, version):
            answer = self._answer = asyncio.ensure_future(self._ask())
            self._version, self._answered_at = version, None
            answer.add_done_callback(self._keep)
        return await asyncio.shield(answer)

    def _is_good(self, answer: "asyncio.Future[T]", version: object) -> bool:
        if not answer.done():
            return True
        if answer.cancelled() or self._version != version:
            return False
        if self._answered_at is None:  # it has come in this very turn of the loop
            return True
        return asyncio.get_running_loop().time() - self._answered_at < self._serves

    def _keep(self, answer: "asyncio.Future[T]") -> None:
        """It is let go when it serves no longer: between two who look it costs no memory."""
        if self._answer is answer:
            loop = asyncio.get_running_loop()
            self._answered_at = loop.time()
            loop.call_later(self._serves, self._let_go, answer)
        _retrieve(answer)

    def _let_go(self, answer: "asyncio.Future[T]") -> None:
        if self._answer is answer:
            self._answer = None


class MadeOnce(Generic[T]):
    """Answers that are made from one value, each once for all who ask the same of it, until there is another value.

    Belongs to one event loop.
    """

    def __init__(self, most: int = 64) -> None:
        self._most = most
        self._value: object = None
        self._made: dict[Hashable, asyncio.Future[T]] = {}

    async def of(self, value: object, question: Hashable, make: Callable[[], Awaitable[T]]) -> T:
        """What was made of this very value to this question, or what becomes of making it."""
        if self._value is not value:
            self._value, self._made = value, {}
        answer = self._made.get(question)
        if answer is None or answer.cancelled():
            while len(self._made) >= self._most:
                self._made.pop(next(iter(self._made)))
            answer = self._made[question] = asyncio.ensure_future(make())
            answer.add_done_callback(_retrieve)
        return await asyncio.shield(answer)


def _retrieve(answer: "asyncio.Future[T]") -> None:
    """Those who wait are told of a failure; asyncio complains of one that nobody took."""
    if not answer.cancelled():
        answer.exception()
