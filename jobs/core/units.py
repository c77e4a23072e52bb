"""Numbers as people read and write them: decimal bytes, as Ollama shows them, spans of time, and moments.

The one place that words them, or reads them.
"""

import re
from datetime import datetime, timedelta

from jobs.core.errors import BadRequest

_STEPS = ("kB", "MB", "GB", "TB", "PB")


def human_bytes(count: float) -> str:
    """`2.0 GB`, `815 MB`, `12 B`: three figures at most, in steps of a thousand."""
    if abs(count) < 999.5:
        return f"{count:.0f} B"
    amount = float(count)
    unit = "B"
    for unit in _STEPS:  # noqa: B007 - the last one reached names the amount
        amount /= 1000
        if abs(amount) < 999.5:
            break
    return f"{amount:.1f} {unit}" if abs(amount) < 9.95 else f"{amount:.0f} {unit}"


def part_of_bytes(part: int | None, whole: int) -> str:
    """`1.1 of 2.0 GB`, in the unit of the whole; that alone, where no part is known."""
    text = human_bytes(whole)
    if part is None:
        return text
    amount, unit = text.split(" ")
    scaled = min(part, whole) / 1000 ** (("B", *_STEPS).index(unit))
    return f"{scaled:.1f} of {text}" if "." in amount else f"{scaled:.0f} of {text}"


_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,6})?) ?([kmgtp]?)(i?)b?(?:/s)?", re.IGNORECASE | re.ASCII)


def parse_bytes(text: str, what: str) -> int:
    """The bytes that `20MB`, `1.5 GiB`, `500k` or `1000` mean; `what` names the option in the message.

    Raises:
        BadRequest: it is no size, or not even one byte.

    """
    found = _SIZE.fullmatch(text.strip())
    base = 1024 if found and found[3] else 1000
    count = round(float(found[1]) * base ** " kmgtp".index(found[2].lower() or " ")) if found else 0
    if count < 1 or (found and found[3] and not found[2]):
        raise BadRequest(f"{what} {text!r} is no size", hint="a size looks like 500kB, 20MB or 1.5GiB")
    return count


def counted(number: int, one: str, many: str | None = None) -> str:
    """`1 job`, `2 jobs`, `1,204 jobs`; `many` where an s does not make it so."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def human_span(span: timedelta | float) -> str:
    """`0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`. Of seconds there may be more than a `timedelta` holds."""
    seconds = max(0.0, span.total_seconds() if isinstance(span, timedelta) else span)
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    days, hours_left = divmod(hours, 24)
    if days:
        return f"{days} d {hours_left} h"
    return f"{hours} h {minutes_left} min" if hours else f"{minutes} min {rest} s"


def local_time(at: datetime, now: datetime) -> str:
    """The moment on the reader's clock, whose zone is that of `now`."""
    return at.astimezone(now.tzinfo).strftime("%Y-%m-%d %H:%M:%S")


_SPAN = re.compile(r"(\d{1,6}(?:\.\d{1,3})?) ?(s|min|h|d|w)", re.ASCII)
_SPANS = {"s": "seconds", "min": "minutes", "h": "hours", "d": "days", "w": "weeks"}

LONGEST_SPAN = timedelta(days=36_500)
"""Whoever adds it to the present, or takes it away, is still within the calendar."""


def parse_span(text: str, what: str) -> timedelta:
    """The time that `90d`, `12h`, `30min` or `2w` mean; `what` names the option in the message.

    Raises:
        BadRequest: it is no span of time, or longer than a hundred years.

    """
    found = _SPAN.fullmatch(text.strip().lower())
    if found is None:
        raise BadRequest(f"{what} {text!r} is no span of time", hint="a span looks like 90d, 12h, 30min or 2w")
    span = timedelta(**{_SPANS[found[2]]: float(found[1])})
    if span > LONGEST_SPAN:
        raise BadRequest(f"{what} {text!r} is too long", hint=f"{LONGEST_SPAN.days} days are the most")
    return span
