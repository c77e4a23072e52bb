"""What goes wrong, as HTTP says it: one table of statuses for all of the gateway. The words are the trouble's own."""

import math
from datetime import timedelta

from app.gateway.auth.line_troubles import LineNotNow, LineRefused, LineSpent
from app.model_server.start_failures import CannotStart
from jobs.access.budgets import BudgetSpent
from jobs.access.keys.key_words import KeyConflict
from jobs.batches.passes import LINE
from jobs.core.errors import (
    BadRequest,
    CutShort,
    Forbidden,
    NetworkTrouble,
    NoRoom,
    NotFound,
    Refused,
    ServerTrouble,
    Stalled,
    StoreFull,
    StoreTrouble,
    TooManyRequests,
    Trouble,
    Unauthorized,
    Unsupported,
)
from jobs.registry.allowlist import Unlisted


class TooLarge(BadRequest):
    """The body is too large."""


class TooSlow(BadRequest):
    """The body does not come."""


class WrongMethod(BadRequest):
    """The path is there, but not for this method."""


class InvalidOption(BadRequest):
    """A value of the request means nothing, which Ollama answers with 500."""


STATUS: dict[type[Trouble], int] = {
    Unauthorized: 401,
    Forbidden: 403,
    NotFound: 404,
    Refused: 400,
    KeyConflict: 409,
    BadRequest: 400,
    Unlisted: 403,
    WrongMethod: 405,
    InvalidOption: 500,
    TooSlow: 408,
    TooLarge: 413,
    Unsupported: 501,
    TooManyRequests: 429,
    CutShort: 502,
    ServerTrouble: 502,
    Stalled: 504,
    NetworkTrouble: 503,
    CannotStart: 503,
    NoRoom: 507,
    StoreFull: 507,
    StoreTrouble: 503,  # ours, whatever it is: nothing was wrong with the request
}
"""A class that is not here has the status of its nearest ancestor here, else 500."""


COME_AGAIN = timedelta(seconds=5)
"""Where nothing else was said. What is away for a moment is asked again before anybody hears of it."""


def status_of(trouble: Trouble) -> int:
    return next((STATUS[each] for each in type(trouble).__mro__ if each in STATUS), 500)


def headers_of(trouble: Trouble) -> dict[str, str]:
    """What a client should know beside the body: how to sign in, when to come again."""
    headers = {}
    if status_of(trouble) == 401:
        headers["www-authenticate"] = 'Bearer realm="ollama-modal"'
    if status_of(trouble) == 408:
        headers["connection"] = "close"  # the rest of it would only be taken for the next request
    if isinstance(trouble, LineNotNow | LineSpent | LineRefused):
        headers[LINE] = trouble.word
    if status_of(trouble) == 501 or isinstance(trouble, BudgetSpent | LineSpent):
        headers["x-should-retry"] = "false"  # else the clients of OpenAI and Anthropic try it three times
    again = trouble.retry_after or (COME_AGAIN if status_of(trouble) == 503 else None)
    if again is not None:
        headers["retry-after"] = str(max(1, math.ceil(again.total_seconds())))
    return headers


def body_of(trouble: Trouble) -> dict[str, str]:
    """Our own shape, for the ops API; the inference routes have the shapes of their dialects."""
    return {"error": str(trouble), **({"hint": trouble.hint} if trouble.hint else {})}
