"""What a batch is told of a line that was not answered: whether with the line itself something is wrong."""

from datetime import timedelta
from typing import Any

import pytest

from app.gateway.auth.keys import BatchLine
from app.gateway.auth.line_troubles import LineCut, LineNotNow, LineRefused, LineSpent
from app.gateway.lines.line_turn import LineTurn
from app.gateway.protocol.errors import headers_of, status_of
from app.gateway.upstream.holding import Expired, LoadFailed
from app.gateway.upstream.loads import TooManyLoads
from app.model_server.start_failures import CannotStart
from jobs.access.budgets import BudgetSpent
from jobs.batches.passes import LINE
from jobs.core.errors import (
    CutShort,
    Forbidden,
    NotFound,
    ServerTrouble,
    Stalled,
    StoreUnavailable,
    TooManyRequests,
    Trouble,
    Unreachable,
)
from jobs.testing.clock import HandClock

AFTER = timedelta(seconds=7)

TOLD: list[tuple[Trouble, bool, int, str | None]] = [
    # what went wrong, whether a server was asked, the status and the word that its batch reads
    (LineNotNow("no room"), False, 503, "not-now"),
    (LineCut("a person came"), True, 503, "not-now"),
    (LineRefused("no pass"), False, 401, "refused"),
    (BudgetSpent("spent", retry_after=AFTER), False, 429, "spent"),
    (TooManyRequests("a limit of the minute", retry_after=AFTER), False, 429, None),
    (StoreUnavailable("the ledger is away"), False, 503, "not-now"),
    (CannotStart("starts are refused", retry_after=AFTER), False, 503, "not-now"),
    (Expired("it did not wake", retry_after=AFTER), False, 503, "not-now"),
    (TooManyLoads("too many loads"), False, 503, "not-now"),
    (Unreachable("nobody there"), False, 503, "not-now"),
    (Unreachable("it went away"), True, 503, None),
    (LoadFailed(500, "unable to load"), False, 502, None),
    (ServerTrouble("nonsense"), True, 502, None),
    (CutShort("it hung up"), True, 502, None),
    (Stalled("it was silent"), True, 504, None),
    (NotFound("no such model"), False, 404, None),
    (Forbidden("not this model"), False, 403, None),
]


@pytest.mark.parametrize(("trouble", "is_asked", "status", "word"), TOLD, ids=lambda each: type(each).__name__)
def test_what_a_batch_is_told(trouble: Trouble, is_asked: bool, status: int, word: str | None) -> None:
    """A line with which nothing is wrong is sent back without a try; what it may have caused itself is told as to
    anybody; the words, and when to come again, stay."""
    exchange: Any = None  # nothing is asked of it
    line = LineTurn(exchange, BatchLine("batch_1", "ann", may_wake=False), HandClock())
    told = line.told(trouble, is_asked=is_asked)
    assert (status_of(told), headers_of(told).get(LINE)) == (status, word)
    assert str(told) == str(trouble)
    assert told.retry_after == trouble.retry_after
    assert isinstance(told, LineSpent) == isinstance(trouble, BudgetSpent)
