"""Text and JSON from outside, made fit to be kept, sent on and shown: encodable, finite, shallow, and not too much.

What registries, servers and models say passes here before anything else reads it. A text may hold half of a surrogate
pair, which no answer can carry; a number may be none; a document may be nested or littered beyond all measure.

A field may also be of another type than it should be: `text`, `count`, `items` and their like read it as empty then.
"""

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NoReturn

from jobs.core.errors import Corrupt

MOST_PIECES = 250_000
"""Values of one document, counted by its brackets and commas: each takes some 100 bytes of memory, whatever its own
size. A manifest of 20,000 layers has 120,000."""

MOST_DEEP = 32
"""Brackets in brackets. What is deeper could not be written again from everywhere."""

_HALVES = re.compile("[\ud800-\udfff]")

_MAY_HAVE_HALVES = (b"\\ud", b"\\uD", b"\xed", b"\0")
"""Without any of these a document has no half of a pair: neither escaped, nor as bytes, nor in another encoding."""


def encodable(text: str) -> str:
    """The text, with a replacement character where half a character stood, as Go reads it."""
    return text if text.isascii() else _HALVES.sub("\ufffd", text)


def document(raw: bytes, what: str, *, most_pieces: int = MOST_PIECES, is_strict: bool = False) -> Any:
    """The value of a JSON document, every text of it encodable and every number finite.

    Args:
        raw: the document.
        what: its name for messages, as in "the manifest".
        most_pieces: how many values it may have.
        is_strict: NaN and what is beyond the largest number are no JSON, as they are to Go, and not null.

    Raises:
        Corrupt: it is torn, no JSON, too deep, or has too many values; the message says which.

    """
    brackets = raw.count(b"[") + raw.count(b"{")
    if brackets + raw.count(b",") > most_pieces:
        raise Corrupt(f"{what} has more than {most_pieces:,} values")
    try:
        found = json.loads(
            raw,
            parse_constant=_refused if is_strict else _nothing,
            parse_float=_finite if not is_strict else _need_finite,
        )
    except RecursionError as error:
        raise Corrupt(f"{what} is torn or no JSON: it is nested too deep") from error
    except ValueError as error:  # not UTF-8, not JSON, a number of thousands of digits
        raise Corrupt(f"{what} is torn or no JSON: {error}") from error
    if brackets <= MOST_DEEP and not any(mark in raw for mark in _MAY_HAVE_HALVES):
        return found  # as nearly all that is small
    return _sound(found, what)


def fields(value: Any) -> Mapping[str, Any]:
    """The object that stands here; whatever else came in its place has no fields."""
    return value if isinstance(value, dict) else {}


def items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def texts(value: Any) -> tuple[str, ...]:
    return tuple(each for each in items(value) if isinstance(each, str))


def count(value: Any) -> int:
    """A whole number as Go has it; whatever else came in its place is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63 else 0


def moment(value: Any) -> datetime | None:
    """The moment that a text names, in UTC where it names no zone. Of Go's nanoseconds the microseconds stay."""
    try:
        found = datetime.fromisoformat(text(value))
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def _nothing(_: str) -> None:
    return None


def _refused(text: str) -> NoReturn:
    raise ValueError(f"{text[:20]} is no number")


def _need_finite(text: str) -> float:
    number = _finite(text)
    return _refused(text) if number is None else number


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _sound(found: Any, what: str) -> Any:
    """The document, level by level and without recursion, with each text mended in its place."""
    root = [found]
    level: list[Any] = [root]
    for _ in range(MOST_DEEP + 1):
        below: list[Any] = []
        for holder in level:
            if isinstance(holder, dict):
                _mend_keys(holder)
            for key, value in list(holder.items() if isinstance(holder, dict) else enumerate(holder)):
                if isinstance(value, str):
                    holder[key] = encodable(value)
                elif isinstance(value, dict | list):
                    below.append(value)
        if not below:
            return root[0]
        level = below
    raise Corrupt(f"{what} is nested too deep: more than {MOST_DEEP} brackets in brackets")


def _mend_keys(holder: dict[str, Any]) -> None:
    for key in [key for key in holder if encodable(key) != key]:
        holder[encodable(key)] = holder.pop(key)
