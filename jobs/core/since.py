"""Since when: one reading of it for the command line and for the API."""

import re
from datetime import UTC, datetime

from jobs.core.errors import BadRequest
from jobs.core.units import parse_span

EXAMPLES = "a span before now like 7d, 24h or 30m; a day in UTC like 2026-09-15; a moment like 2026-09-15T08:00:00Z"

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_MINUTES = re.compile(r"(\d) ?m$", re.ASCII)


def parse_since(text: str, what: str, now: datetime) -> datetime:
    """The moment, in UTC, that `7d`, `24h`, `30m`, `2026-09-15` or `2026-09-15T08:00:00+02:00` mean.

    Args:
        text: a span before now; a day, which begins at midnight UTC wherever it is read; or a moment with its zone.
        what: names the option, or the parameter, in the message.
        now: what a span is counted from.

    Raises:
        BadRequest: it is none of them.

    """
    said = text.strip()
    try:
        moment = _moment(said) if _DAY.match(said) else now - parse_span(_MINUTES.sub(r"\1min", said.lower()), what)
        return moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:  # no such day; or the second at either end of time, in another zone
        raise BadRequest(f"{what} {text[:64]!r} is no time", hint=EXAMPLES) from error


def _moment(said: str) -> datetime:
    moment = datetime.fromisoformat(said)
    if _DAY.fullmatch(said):
        return moment.replace(tzinfo=UTC)
    if moment.tzinfo is None:
        raise ValueError("it names no time zone")
    return moment
