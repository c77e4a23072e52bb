"""What all direct answers share: what they are made from, and the turn of the event loop at whose end they are.

What comes in one turn of the event loop is gone through together at its end, step by step: to come back to the same
code for each of them, from the kernel each time, costs half as much again.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from app.gateway.auth.live_keys import LiveKeys
from app.gateway.inference.proxy import Proxy
from app.gateway.protocol.body import Budget
from app.gateway.protocol.exchange import ChunkCaller

if TYPE_CHECKING:
    from app.gateway.direct.ways import Way

_AT_ONCE = 10
"""Requests, and answers, that are gone through before others get their turn: they take less than a millisecond."""


class CallerCycle(ChunkCaller, Protocol):
    """One request whose body has come and its answer, as the gateway's server hands it to what answers it directly."""

    body: bytearray
    head_start: Any
    """What was done for it before its task."""
    direct: Any
    """What answers it while it has no task."""

    def start_task(self) -> None:
        """Have a task answer it."""

    def answer(self, status: int, lines: bytes, body: bytes, /) -> None:
        """All of an answer at once; `lines` are its head's, as they are written, without those about the rest."""

    def begin_stream(self, lines: bytes, piece: bytes, /) -> None:
        """The head of an answer in chunks, with its first piece; `lines` as `answer` has them."""

    def write(self, piece: bytes, /, *, is_last: bool = False) -> None:
        """A piece of the body of an answer that has begun."""

    def chunks_to(self) -> ChunkCaller | None:
        """What takes chunks that are pieces of this answer; None where it takes none."""


Begin = Callable[[CallerCycle], object]
"""Answers a request, whose body has come, or has a task answer it."""


class Shared:
    """Belongs to one event loop.

    Args:
        proxy: what other requests to models are answered by.
        keys: who may ask.
        budget: what all bodies may take.

    """

    def __init__(self, proxy: Proxy, keys: LiveKeys, budget: Budget) -> None:
        self.proxy = proxy
        self.clock = proxy.clock
        self.keys = keys
        self.admission = proxy.admission
        self.budget = budget
        #: What has come in this turn of the loop: what servers answered, and what callers ask.
        self._answered: deque[Callable[[], object]] = deque()
        self._asked: deque[tuple[Callable[[CallerCycle], bool], CallerCycle]] = deque()
        #: Whether the loop will go through them.
        self._goes_on = False
        #: The models that servers answered with in this turn.
        self.used: dict[Way, None] = {}

    def ask(self, is_begun: Callable[[CallerCycle], bool], cycle: CallerCycle) -> None:
        """Begin with it at the end of this turn; where it is not begun then, a task answers it."""
        self._asked.append((is_begun, cycle))
        if not self._goes_on:
            self._soon()

    def answer(self, answer: Callable[[], object]) -> None:
        """Have a caller answered at the end of this turn."""
        self._answered.append(answer)
        if not self._goes_on:
            self._soon()

    def _soon(self) -> None:
        self._goes_on = True
        asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        """Go on with what has come; for no longer than a callback may take, and then once more."""
        answered, asked = self._answered, self._asked
        try:
            for _ in range(min(len(answered), _AT_ONCE)):  # before the others, who then find their connections
                answered.popleft()()
            used, self.used = self.used, {}
            for way in used:
                way.note_use()
            for _ in range(min(len(asked), _AT_ONCE)):
                is_begun, cycle = asked.popleft()
                if not is_begun(cycle):
                    cycle.start_task()
        finally:  # whatever befell one of them, the others have their turn
            self._goes_on = False
            if answered or asked:
                self._soon()
