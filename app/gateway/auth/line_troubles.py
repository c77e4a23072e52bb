"""Why a line of a batch was not answered, in the words that its batch reads (`jobs.batches.passes`)."""

from typing import ClassVar

from jobs.batches.passes import NOT_NOW, REFUSED, SPENT
from jobs.core.errors import NetworkTrouble, TooManyRequests, Trouble, Unauthorized


class LineNotNow(NetworkTrouble):
    """There is no room for this line now; nothing is wrong with it."""

    word: ClassVar[str] = NOT_NOW


class LineCut(LineNotNow):
    """It was cut, because a person came."""


class LineSpent(TooManyRequests):
    """A budget that holds for it is spent."""

    word: ClassVar[str] = SPENT


class LineRefused(Unauthorized):
    """Its pass is not good."""

    word: ClassVar[str] = REFUSED


def not_now(trouble: Trouble) -> LineNotNow:
    """The same, of a line with which nothing is wrong."""
    return LineNotNow(str(trouble), hint=trouble.hint, retry_after=trouble.retry_after)
