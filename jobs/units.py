"""Numbers as people read and write them: decimal bytes, as Ollama shows them. The one place that words a size."""

import re

from jobs.errors import BadRequest

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
