"""One pass over the bytes of a body: where its values end and begin, and where those stand that are looked for.

What Go's decoder takes is taken and what it refuses is refused, but for limits of our own: how deep, how many values.
Where we look, no name may stand twice, in whatever spelling Go takes for the same. A step looks at a bounded number of
bytes, so that a pass in a thread never keeps the event loop from the interpreter for long.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from json.decoder import scanstring  # type: ignore[attr-defined] # typeshed leaves it out

from app.gateway.protocol.json_body.edits import Body, ValueSpan
from app.gateway.protocol.json_body.go_values import MOST_REMEMBERED, names_of, remembered_names
from jobs.core.errors import BadRequest

MOST_VALUES = 500_000
"""Texts, numbers, lists and objects in a body: a conversation of 400,000 tokens has fewer, and so has a large batch."""

MOST_DEPTH = 200
"""Lists and objects inside each other; schemas of tools have some tens."""

MOST_NAMES = 256
"""In an object that we look into."""

_STEP = 64 * 1024
"""Bytes that one step through something long looks at."""

_WINDOWS = (16 * 1024, 256 * 1024)
"""Bytes in which the end of a longer text is looked for by the library's own reader, which is four times as fast as a
pattern, and takes and refuses the same; each is tried once."""

MOST_ESCAPES = 2_000
"""Beyond so many in a window that reader is no faster, and keeps the interpreter for too long."""

_CONTROLS = bytes(range(0x20))
"""What no text may hold as it is."""

_SHORT = 256
"""Values and names with their gaps are first taken for as short as this. The end of what is longer is looked for: a
pattern takes ten times as long for each byte."""

_GAP = rb"[ \t\n\r]*"
# Unrolled, and each part takes what it takes for good: a text has one way to match, and nothing is gone back over where
# its end is missing.
_INSIDE = rb'[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+'
_SCALAR = rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null"
_EMPTY = rb"\[" + _GAP + rb"\]|\{" + _GAP + rb"\}"

_gap = re.compile(_GAP)
_inside = re.compile(_INSIDE)
_short_text = re.compile(_INSIDE + rb'"')
_scalar = re.compile(_SCALAR)
_simple = re.compile(_GAP + rb'("' + _INSIDE + rb'"|' + _SCALAR + rb"|" + _EMPTY + rb")" + _GAP + rb"([,\]}])")
"""A whole value and what stands behind it: nearly all values are such."""
_name = re.compile(_GAP + rb'"(' + _INSIDE + rb')"' + _GAP + rb":")

_pair = re.compile(_name.pattern + rb"(?:" + _simple.pattern + rb"|" + _GAP + rb'(?=["\[{]))')
"""Both at once, with the comma or the end behind them; else the name alone, up to a value that is long or no scalar."""
_WHOLE_PAIR = 3
"""The last of its groups, where it has found both."""

_COMMA, QUOTE, LIST, OBJECT, END_OF_LIST, _END_OF_OBJECT = b',"[{]}'
_BLANK = 0x20
"""The last of the bytes that may be a gap."""

CLOSES = {LIST: END_OF_LIST, OBJECT: _END_OF_OBJECT}


class Level:
    """An object that we look into. The outer one becomes a struct of Go's, which knows no case; others may be maps."""

    def __init__(self, names: frozenset[str], *, is_map: bool = False) -> None:
        self.names = names
        self.is_map = is_map
        self.seen: set[str] = set()
        self.spans: dict[str, ValueSpan] = {}

    def see(self, raw: bytes) -> str:
        """A name that stands here, if it is looked for, else nothing."""
        name, folded = remembered_names(raw) if len(raw) <= MOST_REMEMBERED else names_of(raw)
        if folded in self.seen:
            raise BadRequest(f"the body says {folded[:60]!r} more than once", hint="say it once, in one spelling")
        if len(self.seen) >= MOST_NAMES:
            raise BadRequest(f"the body has more than {MOST_NAMES} fields", hint="leave out what is not needed")
        self.seen.add(folded)
        key = name if self.is_map else folded
        return key if key in self.names else ""


def scanned(  # noqa: C901, PLR0912, PLR0915 - one loop over millions of tokens: a call for each would double its time
    body: Body,
    at: int,
    top: Level,
    inside: Mapping[str, frozenset[str]],
    structs: frozenset[str],
) -> dict[str, Level]:
    """Note where the values stand, and return the levels below the top by their names."""
    size = len(body)
    inner: dict[str, Level] = {}
    around: list[tuple[int, Level | None, str, int]] = []
    """Of each open list or object: what ends it, its level, its name there, and where it began."""
    level: Level | None = None
    name = ""
    """Of the value that comes, if it is looked for; then `level` is where."""
    values = 0
    wants_name = False
    while True:
        values += 1
        if values > MOST_VALUES:
            raise BadRequest(
                f"the body has more than {MOST_VALUES:,} values: nothing may be so long beside its texts",
                hint="send it in several requests",
            )
        pair = None
        if wants_name:
            wants_name = False
            if (pair := _pair.match(body, at, at + _SHORT)) is None:
                name, at = _named(body, at, level)
            else:
                name, at = level.see(pair[1]) if level is not None else "", pair.end()
        if pair is not None and pair.lastindex == _WHOLE_PAIR:
            if name and level is not None:
                level.spans[name] = pair.span(2)
            mark = body[at - 1]
        elif pair is None and around and (match := _simple.match(body, at, at + _SHORT)) is not None:
            if name and level is not None:
                level.spans[name] = match.span(1)
            at = match.end()
            mark = body[at - 1]
        else:
            at = after_gap(body, at)
            first = body[at] if at < size else 0
            closer = CLOSES.get(first)
            if closer is not None:
                if len(around) >= MOST_DEPTH:
                    raise BadRequest(
                        "the body is nested too deeply", hint=f"{MOST_DEPTH} lists and objects are the most"
                    )
                around.append((closer, level, name, at))
                level = None
                if first == OBJECT:
                    if len(around) == 1:
                        level = top
                    elif len(around) == 2 and name in inside:
                        level = inner[name] = Level(inside[name], is_map=name not in structs)
                name = ""
                at = after_gap(body, at + 1)
                if at == size or body[at] != closer:
                    wants_name = first == OBJECT
                    continue
                mark, at = closer, at + 1
            else:
                end = _end_of_text(body, at) if first == QUOTE else _end_of_scalar(body, at)
                if name and level is not None:
                    level.spans[name] = at, end
                mark, at = _marked(body, end)
        while mark != _COMMA:
            closer, level, name, start = around.pop()
            if mark != closer:
                raise no_json(body, at - 1)
            if name and level is not None:
                level.spans[name] = start, at
            if not around:
                if (at := after_gap(body, at)) < size:
                    raise no_json(body, at, "something comes after its end")
                return inner
            mark, at = _marked(body, at)
        wants_name = around[-1][0] == _END_OF_OBJECT


def _named(body: Body, at: int, level: Level | None) -> tuple[str, int]:
    """The name before the next value, if it is looked for, and where that value begins."""
    if (match := _name.match(body, at, at + _SHORT)) is not None:
        return level.see(match[1]) if level is not None else "", match.end()
    at = after_gap(body, at)
    if at == len(body) or body[at] != QUOTE:
        raise no_json(body, at, "a name is expected")
    end = _end_of_text(body, at)
    name = level.see(bytes(body[at + 1 : end - 1])) if level is not None else ""
    at = after_gap(body, end)
    if body[at : at + 1] != b":":
        raise no_json(body, at)
    return name, at + 1


def _marked(body: Body, at: int) -> tuple[int, int]:
    """What stands behind a value, and what is behind that."""
    at = after_gap(body, at)
    if at == len(body) or body[at] not in b",]}":
        raise no_json(body, at)
    return body[at], at + 1


def after_gap(body: Body, at: int) -> int:
    if at < len(body) and body[at] > _BLANK:  # as nearly always
        return at
    while (match := _gap.match(body, at, at + _STEP)) is not None and match.end() - at == _STEP:
        at += _STEP
    return match.end() if match is not None else at


def _end_of_text(body: Body, at: int) -> int:
    at += 1
    if (match := _short_text.match(body, at, at + _SHORT)) is not None:
        return match.end()
    end: int = body.find(b'"', at, at + _WINDOWS[-1])
    # Nearly always the end: what escapes nothing needs only to be free of control characters.
    if end >= 0 and body.find(b"\\", at, end) < 0 and len(body[at:end].translate(None, _CONTROLS)) == end - at:
        return end + 1
    for window in _WINDOWS:  # each byte a character, so that places are the same
        if body.count(b"\\", at, at + window) > MOST_ESCAPES:
            break
        with suppress(ValueError):  # its end is further on, or there is something wrong with it, which is told below
            end = scanstring(bytes(body[at : at + window]).decode("latin-1"), 0, True)[1]
            return at + end
    while (match := _inside.match(body, at, at + _STEP)) is not None and match.end() > at:
        at = match.end()
    if at >= len(body) or body[at] != QUOTE:
        raise no_json(body, at)
    return at + 1


def end_of_read_text(body: Body, at: int) -> int:
    """The same of a text that was gone through before: where it escapes nothing its quote is the end."""
    end = body.find(b'"', at + 1, at + _WINDOWS[-1])
    return end + 1 if end >= 0 and body.find(b"\\", at + 1, end) < 0 else _end_of_text(body, at)


def _end_of_scalar(body: Body, at: int) -> int:
    if (match := _scalar.match(body, at, at + _STEP)) is None:
        raise no_json(body, at)
    return match.end()


def no_json(body: Body, at: int, why: str = "") -> BadRequest:
    if not why:
        why = f"{bytes(body[at : at + 1])!r} is not expected" if at < len(body) else "it ends too early"
    return BadRequest(f"the body is no JSON: {why}, at byte {at:,}")
