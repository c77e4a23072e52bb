"""Long texts cut off behind their beginning: in a body before it is read, and in the outline of a value."""

import json
import re
from typing import Any

from pydantic_core import from_json

from app.gateway.protocol.json_body.edits import Body
from app.gateway.protocol.json_body.scan import MOST_ESCAPES, QUOTE, end_of_read_text
from jobs.ollama.go_types import CUT

MOST_OUTLINE = 64 * 1024
"""Bytes of a value of which an outline is built; it takes some milliseconds."""

MOST_UNCUT = 1024
"""Bytes of a text that stands in an outline as it is, as it is written: with its quotes and what it escapes."""

MOST_SEARCHED = 8 * 1024 * 1024
"""Bytes of a value in which long texts are looked for: all of it is gone through once more."""

_BEGINNING = 64
_CUT_TEXT = json.dumps(CUT).encode()[1:]

_CUT_FROM = 4 * 1024
"""Bytes from which a text is cut before it is read."""

_LEFT = "\\n" + "." * MOST_UNCUT
"""In place of what is cut off, so that what is left still counts as long, and no outline of it shows this."""

_MOST_BACKSLASHES = 64
"""Of those before a quote; a text with more is left to the pass over all bytes."""

_BACKSLASH = ord("\\")
LONG_TEXT = re.compile(rb'"[^"]{%d}' % (MOST_UNCUT - 1))
_ESCAPES = b'"\\\b\f\n\r\t'
"""Each is written as two bytes; of others that may be escaped no value is built."""
_ESCAPED = re.compile(r'["\\\x00-\x1f]')


def cut(body: Body, most: int) -> Body | None:
    """The body with its long texts cut off behind their beginning, so that it costs little to read: it holds the same
    as the body does, but for these. None where it has more than `most` quotes and escaped ones, or where something may
    be wrong with it.

    That the texts are what they have to be is found out by pydantic's reader, which takes a sixth of the time that the
    one of the standard library does, and refuses what it does; but it has no word for names that stand twice.
    """
    if len(body) < _CUT_FROM:
        return body
    pieces: list[Body] = []
    kept = quotes = 0
    start = body.find(b'"')
    while start >= 0:
        end = body.find(b'"', start + 1)
        while end > 0 and body[end - 1] == _BACKSLASH and (escaped := _is_escaped(body, start + 1, end)) is not False:
            quotes += 1
            if escaped is None or quotes > most:
                return None
            end = body.find(b'"', end + 1)
        quotes += 2
        if end < 0 or quotes > most:
            return None
        if end - start > _CUT_FROM:
            pieces += [body[kept : start + 1], _beginning(body, start + 1)]
            kept = end
        start = body.find(b'"', end + 1)
    if not pieces:
        return body
    if body.find(b"\\") >= 0 and body.count(b"\\") > MOST_ESCAPES:
        return None
    return b"".join([*pieces, body[kept:]])


def is_json(body: Body) -> bool:
    """Whether a body of few values is JSON, as Go has it, but for what it says twice."""
    try:
        from_json(body, allow_inf_nan=False)
    except ValueError:
        return False
    return True


def _is_escaped(body: Body, start: int, at: int) -> bool | None:
    """Whether what stands there in a text is escaped; None where that takes long to find out."""
    before = body[max(start, at - _MOST_BACKSLASHES) : at]
    count = len(before) - len(before.rstrip(b"\\"))
    return None if count == _MOST_BACKSLASHES else count % 2 == 1


def _beginning(body: Body, start: int) -> bytes:
    """What a long text is cut to: a beginning that escapes nothing, and what makes it long."""
    beginning = bytes(body[start : start + _BEGINNING]).partition(b"\\")[0]
    return (beginning.decode("utf-8", "ignore") + _LEFT).encode()


def cut_value(value: Any) -> Any:
    """The value with its long texts cut off behind their beginning, which has nothing that would be escaped."""
    match value:
        case str() if _is_long(value):
            beginning = value[:_BEGINNING].encode("utf-8", "replace")[: _BEGINNING - 1].decode("utf-8", "ignore")
            return _ESCAPED.split(beginning, 1)[0] + CUT
        case list():
            return [cut_value(each) for each in value]
        case dict():
            return {cut_value(name): cut_value(each) for name, each in value.items()}
        case _:
            return value


def _is_long(text: str) -> bool:
    """Whether as much stands in the body as is cut."""
    if 4 * len(text) < MOST_UNCUT - 1:  # as nearly all
        return False
    if len(text) > MOST_UNCUT:
        return True
    raw = text.encode("utf-8", "replace")
    return len(raw) + sum(map(raw.count, _ESCAPES)) > MOST_UNCUT - 2


def outline_of(body: Body, start: int, end: int) -> bytes | None:
    """What stands there, its long texts cut; None where it is long even so."""
    if body[start] == QUOTE:
        return _shortened(body, start, end)
    if end - start > MOST_SEARCHED:
        return None
    pieces: list[bytes] = []
    size, at = 0, start
    while at < end:
        quote = body.find(b'"', at, min(end, at + MOST_OUTLINE))
        if quote < 0:
            quote = min(end, at + MOST_OUTLINE)
        after = end_of_read_text(body, quote) if quote < end and body[quote] == QUOTE else quote
        pieces += [bytes(body[at:quote]), _shortened(body, quote, after)]
        size += len(pieces[-1]) + len(pieces[-2])
        if size > MOST_OUTLINE:
            return None
        at = after
    return b"".join(pieces)


def _shortened(body: Body, start: int, end: int) -> bytes:
    """A text, quotes included; of a long one the beginning, of which nothing is half."""
    if end - start <= MOST_UNCUT:
        return bytes(body[start:end])
    beginning = bytes(body[start : start + _BEGINNING]).partition(b"\\")[0]
    return beginning.decode("utf-8", "ignore").encode() + _CUT_TEXT
