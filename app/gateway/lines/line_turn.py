"""One line of a batch on its way through the gateway: its turn, what it counts for, and what its batch is told."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from app.gateway.auth.keys import BatchLine
from app.gateway.auth.line_troubles import LineCut, LineNotNow, LineRefused, LineSpent, not_now
from app.gateway.auth.rate_limits import RateLimits
from app.gateway.lines.line_gate import LineGate, LineOutcome, Turn, cut_for_a_person
from app.gateway.protocol.exchange import Exchange
from app.model_server.start_failures import CannotStart
from jobs.access.budgets import BudgetSpent
from jobs.core.clock import Clock
from jobs.core.errors import (
    BadRequest,
    CutShort,
    NetworkTrouble,
    ServerTrouble,
    Stalled,
    StoreTrouble,
    TooManyRequests,
    Trouble,
)
from jobs.models.placement import Weighed


class LineTurn:
    """Belongs to the task that answers the line.

    Args:
        exchange: its request.
        line: what its pass said.
        clock: the time.

    """

    def __init__(self, exchange: Exchange, line: BatchLine, clock: Clock) -> None:
        self._exchange = exchange
        self._line = line
        self._clock = clock
        self._gate: LineGate | None = None
        self._turn: Turn | None = None
        self._leave_key: Callable[[], None] = _nothing
        self._trouble: Trouble | None = None

    async def begin(
        self, gate: LineGate, rates: RateLimits, model: str, weighed: Weighed, *, is_streamed: bool
    ) -> None:
        """Wait until it may go to its tier.

        Args:
            gate: of the tier.
            rates: what counts by the minute, in which it counts from now on.
            model: as the server is asked for it.
            weighed: what a server has for it.
            is_streamed: the line wants its answer as a stream.

        Raises:
            BadRequest: it does.
            LineNotNow: it may not go there now.
            TooManyRequests: its key has used up its minute.

        """
        task, exchange = asyncio.current_task(), self._exchange
        assert task is not None

        def cut() -> None:
            exchange.ended_for = cut_for_a_person(weighed.tier.name)
            task.cancel()

        self._gate = gate
        self._turn = Turn(
            batch=self._line.batch,
            model=model,
            parallel=weighed.parallel,
            of_server=weighed.tier.parallel,
            may_wake=self._line.may_wake,
            cut=cut,
            is_answered=lambda: exchange.status != 0,
        )
        exchange.told = gate.told(self._turn, exchange.told)
        if is_streamed:
            raise BadRequest("a line of a batch is answered whole", hint="leave `stream` out of its body")
        await gate.take_turn(self._turn)
        rates.enter_line(exchange.caller)
        self._leave_key = partial(rates.leave_line, exchange.caller)
        exchange.began = self._clock.monotonic()  # the wait was for others

    def insist_on_waking(self) -> None:
        """Send it back where it would wake its tier and may not.

        Raises:
            LineNotNow: it would.

        """
        if self._gate is not None and self._turn is not None:
            self._gate.insist_on_waking(self._turn)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Meanwhile it waits for a start or a load, as people do who are in its way."""
        assert self._turn is not None
        assert self._gate is not None
        self._gate.hold(self._turn, is_held=True)
        try:
            yield
        finally:
            self._gate.hold(self._turn, is_held=False)

    @property
    def shared_seconds(self) -> float:
        """Its part of the time of the tier's servers."""
        if self._gate is None or self._turn is None:
            return 0.0
        self._gate.share()
        return self._turn.shared_seconds

    def told(self, trouble: Trouble, *, is_asked: bool) -> Trouble:
        """What its batch is told went wrong: whether with the line itself, or with nothing that it could help."""
        self._trouble = _for_a_batch(trouble, is_asked=is_asked)
        return self._trouble

    def ended(self, ending: str) -> bool:
        """It is over: others may begin. False where nothing was asked for it, so that there is nothing to record."""
        trouble = self._exchange.ended_for or self._trouble
        has_begun = self._turn is not None and self._turn.began.is_set()
        self._leave_key()
        if self._gate is not None and self._turn is not None:
            self._gate.leave(self._turn)
            self._gate.outcomes[_outcome(trouble, ending)] += 1
        return has_begun or not isinstance(trouble, LineNotNow)


def _for_a_batch(trouble: Trouble, *, is_asked: bool) -> Trouble:
    match trouble:
        case LineNotNow() | LineRefused():
            return trouble
        case BudgetSpent():
            return LineSpent(str(trouble), hint=trouble.hint, retry_after=trouble.retry_after)
        case StoreTrouble() | CannotStart():
            return not_now(trouble)
        case TooManyRequests() | ServerTrouble() | CutShort() | Stalled():
            return trouble  # a limit of the minute; and what the line itself may have caused, as a load that fails
        case NetworkTrouble() if not is_asked:
            return not_now(trouble)
        case _:
            return trouble


def _outcome(trouble: Trouble | None, ending: str) -> LineOutcome:
    match trouble:
        case LineCut():
            return "cut"
        case LineNotNow():
            return "not_now"
        case LineSpent():
            return "spent"
        case LineRefused():
            return "refused"
        case _ if ending == "success":
            return "answered"
        case _:
            return "client_gone" if ending == "client_gone" else "failed"


def _nothing() -> None:
    """In place of what gives back what was not taken."""
