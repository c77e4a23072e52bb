"""Until when a batch has to be done, as people say it: within `24h`, or by `07:00`. Pure."""

import re
from datetime import UTC, datetime, timedelta, tzinfo

from jobs.core.errors import BadRequest
from jobs.core.units import human_span, parse_span

SHORTEST = timedelta(minutes=1)
LONGEST = timedelta(days=30)
"""As long as files are kept."""

WINDOWS = "a span from 1min to 30d, like 24h, 1h or 7d"
TIMES = "a time of day like 07:00, or a moment like 2026-09-15T07:00 or 2026-09-15T07:00:00Z"

_MINUTES = re.compile(r"(\d) ?m$", re.ASCII)
_TIME_OF_DAY = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)", re.ASCII)


def deadline_within(window: str, now: datetime, *, what: str = "completion_window") -> datetime:
    """The deadline of what has to be done within `24h`, `1h`, `7d` or `30m`.

    Raises:
        BadRequest: it is no span, or not one that a batch may take.

    """
    try:
        span = parse_span(_MINUTES.sub(r"\1min", window.strip().lower()), what)
    except BadRequest as error:
        raise BadRequest(f"{what} {window[:64]!r} is no span of time", hint=f"say {WINDOWS}") from error
    if not SHORTEST <= span <= LONGEST:
        raise BadRequest(f"{what} {window[:64]!r} is {human_span(span)}", hint=f"say {WINDOWS}")
    return now + span


def deadline_by(text: str, now: datetime, zone: tzinfo | None, *, what: str = "by") -> datetime:
    """The deadline of what has to be done by `07:00`, which is the next time that a clock of `zone` shows it, or by a
    moment, which is of that zone where it names none. None is the zone of this machine.

    Raises:
        BadRequest: it is no time, or one at which no batch could be done, or too far away.

    """
    try:
        moment = _moment(text.strip(), now, zone)
    except (ValueError, OverflowError) as error:
        raise BadRequest(f"{what} {text[:64]!r} is no time", hint=f"say {TIMES}") from error
    if moment <= now:
        raise BadRequest(f"{what} {text[:64]!r} has passed", hint=f"say {TIMES}")
    if moment - now > LONGEST:
        raise BadRequest(f"{what} {text[:64]!r} is too far away", hint=f"{LONGEST.days} days are the most")
    return moment


def _moment(said: str, now: datetime, zone: tzinfo | None) -> datetime:
    """The moment in UTC."""
    if (found := _TIME_OF_DAY.fullmatch(said)) is not None:
        shown = now.astimezone(zone).replace(tzinfo=None)
        today = shown.replace(hour=int(found[1]), minute=int(found[2]), second=0, microsecond=0)
        moment = today if today > shown else today + timedelta(days=1)
    else:
        moment = datetime.fromisoformat(said)
        if len(said) <= len("2026-09-15"):
            raise ValueError("it names no time of the day")
    if moment.tzinfo is None and zone is not None:
        moment = moment.replace(tzinfo=zone)
    return moment.astimezone(UTC)  # which takes what has no zone for one of this machine
