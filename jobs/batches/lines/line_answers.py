"""What becomes of a line, by how it was answered: a result, another try, its return, or the end of its batch. Pure.

2xx                                   a result
x-batch-line: not-now                 it goes back, and no try is counted: nothing is wrong with it
429                                   the same: a limit of the minute
x-batch-line: spent                   the batch ends: a budget of its key, or the fleet's
x-batch-line: refused                 the pass is not good
408, 5xx, cut, too late, no JSON      tried again, `tries` in all, then an error
404 of a model that is gone           the batch ends
others                                an error
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from jobs.batches.passes import LINE, NOT_NOW, REFUSED, ROOM, SPENT, WAITED
from jobs.batches.records import BatchDialect

_FAR = timedelta(hours=1)
"""Nobody is told to come again later than this."""


@dataclass(frozen=True)
class Answer:
    """What the gateway said of a line.

    Args:
        status: its.
        headers: by their names in small letters.
        body: whole.

    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def word(self) -> str:
        """Why the line was not answered; empty where it was."""
        return self.headers.get(LINE, "")

    @property
    def room(self) -> int | None:
        """How many lines of the batch the tier takes at once now, where it is told."""
        told = self.headers.get(ROOM, "")
        return int(told) if told.isascii() and told.isdecimal() and len(told) < 9 else None

    @property
    def waited(self) -> float:
        """For how many seconds it waited at the gateway for its turn, as far as it is told."""
        try:
            seconds = float(self.headers.get(WAITED, "0"))
        except ValueError:
            return 0.0
        return seconds if 0 <= seconds < float("inf") else 0.0

    @property
    def again_after(self) -> timedelta | None:
        """When to come again, where it is told in seconds."""
        told = self.headers.get("retry-after", "").strip()
        try:
            seconds = float(told)
        except ValueError:
            return None
        return min(_FAR, timedelta(seconds=seconds)) if 0 <= seconds < float("inf") else None


@dataclass(frozen=True)
class Used:
    """The tokens that an answer tells of."""

    prompt_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True)
class Answered:
    """It has its result: among the outputs, or among the errors."""

    is_good: bool
    used: Used = Used()


@dataclass(frozen=True)
class GivenBack:
    """Nothing is wrong with it: it is sent again after a while, and no try is counted.

    Args:
        after: so long.
        why: in words.
        for_all: the same would be said of all others.

    """

    after: timedelta
    why: str
    for_all: bool


@dataclass(frozen=True)
class TryAgain:
    """It may go better another time."""

    why: str
    after: timedelta | None = None


@dataclass(frozen=True)
class PassRefused:
    """The pass is not good."""

    why: str


@dataclass(frozen=True)
class BudgetIsSpent:
    """A budget that holds for its lines is spent."""

    why: str


@dataclass(frozen=True)
class ModelUnknown:
    """The gateway has no such model, which was there when the file was read through."""

    why: str


Outcome = Answered | GivenBack | TryAgain | PassRefused | BudgetIsSpent | ModelUnknown

SOON = timedelta(seconds=1)
A_WHILE = timedelta(seconds=5)
"""From so long a wait on, what one line is told counts for the others of its tier."""


def outcome_of(answer: Answer) -> Outcome:
    """What becomes of a line that was answered so."""
    by_word = _BY_WORD.get(answer.word)
    if by_word is not None:
        return by_word(answer)
    by_status = _BY_STATUS.get(answer.status)
    if by_status is not None:
        return by_status(answer)
    if answer.status >= 500:
        return _failed(answer)
    return _result(answer) if answer.status < 300 else Answered(is_good=False)


def _not_now(answer: Answer) -> Outcome:
    wait = answer.again_after or SOON
    return GivenBack(wait, message_of(answer.body), for_all=wait >= A_WHILE)


def _minute_is_over(answer: Answer) -> Outcome:
    return GivenBack(answer.again_after or A_WHILE, message_of(answer.body), for_all=True)


def _failed(answer: Answer) -> Outcome:
    return TryAgain(f"{answer.status}: {message_of(answer.body)}", answer.again_after)


def _result(answer: Answer) -> Outcome:
    document = _document(answer.body)
    if not isinstance(document, dict):
        return TryAgain(f"the answer is no JSON object, but {answer.body[:80]!r}")
    return Answered(is_good=True, used=used_of(document))


_BY_WORD: Mapping[str, Callable[[Answer], Outcome]] = {
    NOT_NOW: _not_now,
    SPENT: lambda answer: BudgetIsSpent(message_of(answer.body)),
    REFUSED: lambda answer: PassRefused(message_of(answer.body)),
}
_BY_STATUS: Mapping[int, Callable[[Answer], Outcome]] = {
    404: lambda answer: ModelUnknown(message_of(answer.body)),
    408: _failed,
    429: _minute_is_over,
}


def used_of(document: Mapping[str, Any]) -> Used:
    """The tokens that an answer of any of the endpoints tells of."""
    usage = document.get("usage")
    if not isinstance(usage, dict):
        return Used()
    read = _count(usage, "prompt_tokens", "input_tokens")
    for name in ("cache_read_input_tokens", "cache_creation_input_tokens"):
        read += _count(usage, name)
    return Used(read, _count(usage, "completion_tokens", "output_tokens"))


def _count(usage: Mapping[str, Any], *names: str) -> int:
    for name in names:
        value = usage.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return min(value, 1 << 40)
    return 0


def message_of(body: bytes) -> str:
    """What an error's body says, in whatever dialect."""
    document = _document(body)
    error = document.get("error") if isinstance(document, dict) else None
    said = error.get("message") if isinstance(error, dict) else error
    return str(said)[:1000] if said else body[:200].decode("utf-8", "replace").strip() or "nothing was said"


def _document(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def headers_of(dialect: BatchDialect, shown_pass: str) -> dict[str, str]:
    """What each line of a batch is sent with, beside its own id."""
    headers = {"authorization": f"Bearer {shown_pass}", "content-type": "application/json"}
    return {**headers, "anthropic-version": "2023-06-01"} if dialect == "anthropic" else headers
