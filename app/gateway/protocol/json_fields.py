"""The fields of a JSON object that decide something, found by one pass over its bytes; of the rest nothing is built.

What Go's decoder takes is taken and what it refuses is refused, but for limits of our own: how deep, how many values.
Where we look, no name may stand twice, in whatever spelling Go takes for the same. A step looks at a bounded number of
bytes, so that a pass in a thread never keeps the event loop from the interpreter for long.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from json.decoder import scanstring  # type: ignore[attr-defined] # typeshed leaves it out
from typing import Any

from pydantic_core import from_json

from jobs.core.errors import BadRequest
from jobs.ollama.go_types import CUT, Number

Body = bytes | bytearray
ValueSpan = tuple[int, int]

MOST_VALUES = 500_000
"""Texts, numbers, lists and objects in a body: a conversation of 400,000 tokens has fewer, and so has a large batch."""

MOST_DEPTH = 200
"""Lists and objects inside each other; schemas of tools have some tens."""

MOST_NAMES = 256
"""In an object that we look into."""

MOST_TEXT = 8 * 1024
"""Bytes of a value that decides something."""

MOST_OUTLINE = 64 * 1024
"""Bytes of a value of which an outline is built; it takes some milliseconds."""

MOST_UNCUT = 1024
"""Bytes of a text that stands in an outline as it is."""

MOST_SEARCHED = 8 * 1024 * 1024
"""Bytes of a value in which long texts are looked for: all of it is gone through once more."""

_BEGINNING = 64
_CUT_TEXT = json.dumps(CUT).encode()[1:]

TOO_LONG: Any = object()
"""In place of an outline that would be too long."""

_STEP = 64 * 1024
"""Bytes that one step through something long looks at."""

_WINDOWS = (16 * 1024, 256 * 1024)
"""Bytes in which the end of a longer text is looked for by the library's own reader, which is four times as fast as a
pattern, and takes and refuses the same; each is tried once."""

MOST_ESCAPES = 2_000
"""Beyond so many in a window that reader is no faster, and keeps the interpreter for too long."""

_CUT_FROM = 4 * 1024
"""Bytes from which a text is cut before it is read."""

_LEFT = "\\n" + "." * MOST_UNCUT
"""In place of what is cut off, so that what is left still counts as long, and no outline of it shows this."""

_MOST_BACKSLASHES = 64
"""Of those before a quote; a text with more is left to the pass over all bytes."""

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

_BACKSLASH = ord("\\")
_COMMA, _QUOTE, _LIST, _OBJECT, _END_OF_LIST, _END_OF_OBJECT = b',"[{]}'
_BLANK = 0x20
"""The last of the bytes that may be a gap."""

_CLOSES = {_LIST: _END_OF_LIST, _OBJECT: _END_OF_OBJECT}


class Fields:
    """Where the values stand that were looked for. The body must not change as long as it is asked."""

    def __init__(
        self,
        body: Body = b"",
        spans: Mapping[str, ValueSpan] | None = None,
        inside: Mapping[str, "Fields"] | None = None,
    ) -> None:
        self._body = body
        self._spans = spans or {}
        self._inside = inside or {}

    def span(self, name: str) -> ValueSpan | None:
        return self._spans.get(name)

    def is_there(self, name: str) -> bool:
        """Whether there is a value, were it null."""
        return name in self._spans

    def has_any(self, names: frozenset[str]) -> bool:
        """Whether there is a value of one of these."""
        return not self._spans.keys().isdisjoint(names)

    def in_order(self) -> Iterable[str]:
        """The names that were found, as their values stand in the body."""
        return self._spans

    def built(self, name: str) -> Any:  # noqa: ARG002 - nothing is built here
        """The value, long texts whole, where it costs nothing; else None."""
        return None

    def inside(self, name: str) -> "Fields":
        """The fields of an object among the values; anything else has none."""
        return self._inside.get(name) or Fields()

    def is_set(self, name: str) -> bool:
        """Whether there is more than nothing of it: null, false, zero and what is empty are nothing."""
        if (span := self._spans.get(name)) is None:
            return False
        start, end = span
        if self._body[start] == _QUOTE:
            return end - start > 2
        if self._body[start] in _CLOSES:
            return _after_gap(self._body, start + 1) < end - 1
        return self.scalar(name) not in (None, False, 0)

    def kind(self, name: str) -> str:
        """What JSON calls the value: object, array, string, number, bool, or null, which also stands for none."""
        return _kind(self._body[span[0]]) if (span := self._spans.get(name)) is not None else "null"

    def is_plain_number(self, name: str) -> bool:
        """Whether the value is a whole number of a few digits."""
        start, end = self._spans.get(name, (0, 0))
        return end - start < _MANY_DIGITS and self._body[start:end].isdigit()

    def kind_of_first(self, name: str) -> str:
        """The same of the first value in a list; empty for anything else and for an empty list."""
        if (span := self._spans.get(name)) is None or self._body[span[0]] != _LIST:
            return ""
        first = self._body[_after_gap(self._body, span[0] + 1)]
        return "" if first == _END_OF_LIST else _kind(first)

    def piece(self, start: int, end: int) -> bytes:
        """What stands there in the body."""
        return bytes(self._body[start:end])

    def text(self, name: str) -> bytes:
        """The value as it stands in the body, its first bytes; empty for none."""
        start, end = self._spans.get(name, (0, 0))
        return bytes(self._body[start : min(end, start + MOST_TEXT)])

    def outline(self, name: str) -> Any:
        """The value, built as Go's decoder has it, its long texts cut off behind their beginning; None if it is not
        there, and `TOO_LONG` where it would be long even so.
        """
        if (span := self._spans.get(name)) is None:
            return None
        start, end = span
        text = bytes(self._body[start:end]) if end - start <= MOST_UNCUT else _outline(self._body, start, end)
        if text is None:
            return TOO_LONG
        return _decoded(text, _exactly)

    def scalar(self, name: str) -> Any:
        """A text, number or truth; None for null and for what is not there, lists and objects included.

        Raises:
            BadRequest: it is longer than anything that means something, or no float holds it.

        """
        if (span := self._spans.get(name)) is None or self._body[span[0]] in _CLOSES:
            return None
        if span[1] - span[0] > MOST_TEXT:
            raise BadRequest(f"{name} has {span[1] - span[0]:,} bytes", hint=f"{MOST_TEXT:,} are the most")
        return _decoded(bytes(self._body[span[0] : span[1]]), _as_go)

    def whole(self, name: str) -> Any:
        """The value, whatever it is, built.

        Raises:
            BadRequest: no float holds a number in it.

        """
        if (span := self._spans.get(name)) is None:
            return None
        return _built(bytes(self._body[span[0] : span[1]]))


class _BuiltFields(Fields):
    """The same of values that are built already. Where they stand is looked for when it is asked."""

    def __init__(
        self,
        values: Mapping[str, Any],
        inner: Mapping[str, Mapping[str, Any]],
        *,
        is_short: bool,
    ) -> None:
        """
        Args:
            values: as the body has them, in its order; numbers are as `Number` has them.
            inner: those of the objects that were looked into, by their names.
            is_short: no text in them has to be cut in an outline.

        """
        self._values = values
        self._inner = inner
        self.locate: Callable[[], Fields] = Fields
        """Finds the same fields in the body."""
        self._is_short = is_short
        self._located: Fields | None = None

    @property
    def _found(self) -> Fields:
        if self._located is None:
            self._located = self.locate()
        return self._located

    def span(self, name: str) -> ValueSpan | None:
        return self._found.span(name) if name in self._values else None

    def is_there(self, name: str) -> bool:
        return name in self._values

    def has_any(self, names: frozenset[str]) -> bool:
        return not self._values.keys().isdisjoint(names)

    def in_order(self) -> Iterable[str]:
        return self._values

    def built(self, name: str) -> Any:
        return self._values.get(name)

    def inside(self, name: str) -> Fields:
        if (values := self._inner.get(name)) is None:
            return _NONE
        inside = _BuiltFields(values, {}, is_short=self._is_short)
        inside.locate = lambda: self._found.inside(name)
        return inside

    def is_set(self, name: str) -> bool:
        return bool(self._values.get(name))

    def kind(self, name: str) -> str:
        return _KIND_OF_TYPE[type(self._values.get(name))]

    def is_plain_number(self, name: str) -> bool:
        value = self._values.get(name)
        return type(value) is int and 0 <= value < _MANY

    def kind_of_first(self, name: str) -> str:
        value = self._values.get(name)
        return _KIND_OF_TYPE[type(value[0])] if isinstance(value, list) and value else ""

    def piece(self, start: int, end: int) -> bytes:
        return self._found.piece(start, end)

    def text(self, name: str) -> bytes:
        return self._found.text(name)

    def outline(self, name: str) -> Any:
        value = self._values.get(name)
        return value if self._is_short else _cut(value)

    def scalar(self, name: str) -> Any:
        value = self._values.get(name)
        if isinstance(value, str):
            return value if len(value) <= MOST_UNCUT else self._found.scalar(name)
        kind = type(value)
        if kind is Number:
            return self._found.scalar(name)
        return None if kind is list or kind is dict else value

    def whole(self, name: str) -> Any:
        return self._found.whole(name)


_NONE = Fields()
_KIND_OF_TYPE: Mapping[type, str] = {
    dict: "object",
    list: "array",
    str: "string",
    bool: "bool",
    type(None): "null",
    **dict.fromkeys((int, Number), "number"),
}


def _cut(value: Any) -> Any:
    """The value with its long texts cut off behind their beginning, which has nothing that would be escaped."""
    match value:
        case str() if len(value) > MOST_UNCUT:
            beginning = value[:_BEGINNING].encode("utf-8", "replace")[: _BEGINNING - 1].decode("utf-8", "ignore")
            return _ESCAPED.split(beginning, 1)[0] + CUT
        case list():
            return [_cut(each) for each in value]
        case dict():
            return {_cut(name): _cut(each) for name, each in value.items()}
        case _:
            return value


def _outline(body: Body, start: int, end: int) -> bytes | None:
    """What stands there, its long texts cut; None where it is long even so."""
    if body[start] == _QUOTE:
        return _shortened(body, start, end)
    if end - start > MOST_SEARCHED:
        return None
    pieces: list[bytes] = []
    size, at = 0, start
    while at < end:
        quote = body.find(b'"', at, min(end, at + MOST_OUTLINE))
        if quote < 0:
            quote = min(end, at + MOST_OUTLINE)
        after = _end_of_read_text(body, quote) if quote < end and body[quote] == _QUOTE else quote
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


BodyEdit = tuple[ValueSpan, bytes]
"""What of a body is replaced, and by what."""


def edit(body: bytearray, edits: Iterable[BodyEdit]) -> None:
    """Make these changes, each where the body had it before all of them. They do not overlap."""
    for (start, end), text in sorted(edits, reverse=True):
        body[start:end] = text


def _kind(first: int) -> str:
    """The kind of a value that begins with this byte."""
    return _KINDS.get(first, "number")


_KINDS = {_OBJECT: "object", _LIST: "array", _QUOTE: "string", **dict.fromkeys(b"tf", "bool"), ord("n"): "null"}


def fields_of(
    body: Body,
    names: frozenset[str],
    inside: Mapping[str, frozenset[str]] | None = None,
    structs: frozenset[str] = frozenset(),
    *,
    marks: int | None = None,
    short: Body | None = None,
) -> Fields:
    """Look for these names in the object that the body is, and in objects that stand there under a name.

    Args:
        body: all of it.
        names: in lower case; Go takes them in any.
        inside: of these names, those of objects to look into, each with the names to look for there, in their own case.
        structs: of those objects, the ones whose names Go takes in any case, too; they are given in lower case.
        marks: its quotes, commas, lists, objects and escapes at most, where they are so few that the library's own
            reader may build all of it.
        short: the same with its long texts cut (`cut`), as that reader gets it.

    Raises:
        BadRequest: it is no JSON object, or says a name twice where we look, or is beyond our limits.

    """
    if marks is not None:
        built = _built_fields(body if short is None else short, names, inside, structs, marks)
        if built is not None:
            built.locate = lambda: fields_of(body, names, inside, structs)
            return built
    at = _after_gap(body, 0)
    if at == len(body):
        raise BadRequest("missing request body")
    if body[at] not in _CLOSES:
        raise _no_object(body, at)
    top = _Level(names)
    inner = _scanned(body, at, top, inside or {}, structs)
    if body[at] == _LIST:
        raise BadRequest("the body is a JSON list, not an object")
    return Fields(body, top.spans, {name: Fields(body, each.spans) for name, each in inner.items()} if inner else None)


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


def _built_fields(
    body: Body,
    names: frozenset[str],
    inside: Mapping[str, frozenset[str]] | None,
    structs: frozenset[str],
    marks: int,
) -> "_BuiltFields | None":
    """The fields of what the library's own reader builds; None where we have to look ourselves."""
    document = _document(body, marks)
    values = None if document is None else _looked_for(document, names)
    if values is None:
        return None
    inner: dict[str, Mapping[str, Any]] = {}
    for name in inside or ():
        if type(said := values.get(name)) is dict:
            found = _looked_for(said, inside[name], is_map=name not in structs)  # type: ignore[index] # it is of these
            if found is None:
                return None
            inner[name] = found
    is_short = len(body) <= MOST_UNCUT or (body.find(b"\\") < 0 and _LONG.search(body) is None)
    return _BuiltFields(values, inner, is_short=is_short)


def _document(body: Body, marks: int) -> dict[str, Any] | None:
    """The object that a body is, by the library's own reader, which is many times as fast as we are and takes and
    refuses what we do, but for its own constants and for how deep it goes. None for what it does not take, for what
    may be wrong otherwise, and for halves of surrogate pairs: for these we have words of our own.
    """
    try:
        text = body.decode()
        document, end = _scan(text, 0)
    except (ValueError, StopIteration, RecursionError):
        return None
    is_one = type(document) is dict and (end == len(text) or not text[end:].strip(" \t\n\r"))
    is_deep = marks > MOST_DEPTH and text.count("[") + text.count("{") > MOST_DEPTH
    has_codes = "\\" in text and "\\u" in text
    return document if is_one and not is_deep and not has_codes else None


def _looked_for(document: dict[str, Any], names: frozenset[str], *, is_map: bool = False) -> dict[str, Any] | None:
    """What is looked for of an object; None where a name may stand there twice, or is a long one."""
    if document.keys() <= names:  # as nearly all, spelt as they are looked for
        return document
    if len(document) > MOST_NAMES:
        return None
    found: dict[str, Any] = {}
    folds = set()
    for name, value in document.items():
        if len(name) > _MOST_REMEMBERED:
            return None
        folded = _remembered_folds(name)
        folds.add(folded)
        key = name if is_map else folded
        if key in names:
            found[key] = value
    return found if len(folds) == len(document) else None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object that says nothing twice.

    Raises:
        ValueError: it does.

    """
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError
    return made


class _Level:
    """An object that we look into. The outer one becomes a struct of Go's, which knows no case; others may be maps."""

    def __init__(self, names: frozenset[str], *, is_map: bool = False) -> None:
        self.names = names
        self.is_map = is_map
        self.seen: set[str] = set()
        self.spans: dict[str, ValueSpan] = {}

    def see(self, raw: bytes) -> str:
        """A name that stands here, if it is looked for, else nothing."""
        name, folded = _remembered_names(raw) if len(raw) <= _MOST_REMEMBERED else _names_of(raw)
        if folded in self.seen:
            raise BadRequest(f"the body says {folded[:60]!r} more than once", hint="say it once, in one spelling")
        if len(self.seen) >= MOST_NAMES:
            raise BadRequest(f"the body has more than {MOST_NAMES} fields", hint="leave out what is not needed")
        self.seen.add(folded)
        key = name if self.is_map else folded
        return key if key in self.names else ""


def _scanned(  # noqa: C901, PLR0912, PLR0915 - one loop over millions of tokens: a call for each would double its time
    body: Body,
    at: int,
    top: _Level,
    inside: Mapping[str, frozenset[str]],
    structs: frozenset[str],
) -> dict[str, _Level]:
    """Note where the values stand, and return the levels below the top by their names."""
    size = len(body)
    inner: dict[str, _Level] = {}
    around: list[tuple[int, _Level | None, str, int]] = []
    """Of each open list or object: what ends it, its level, its name there, and where it began."""
    level: _Level | None = None
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
            at = _after_gap(body, at)
            first = body[at] if at < size else 0
            closer = _CLOSES.get(first)
            if closer is not None:
                if len(around) >= MOST_DEPTH:
                    raise BadRequest(
                        "the body is nested too deeply", hint=f"{MOST_DEPTH} lists and objects are the most"
                    )
                around.append((closer, level, name, at))
                level = None
                if first == _OBJECT:
                    if len(around) == 1:
                        level = top
                    elif len(around) == 2 and name in inside:
                        level = inner[name] = _Level(inside[name], is_map=name not in structs)
                name = ""
                at = _after_gap(body, at + 1)
                if at == size or body[at] != closer:
                    wants_name = first == _OBJECT
                    continue
                mark, at = closer, at + 1
            else:
                end = _end_of_text(body, at) if first == _QUOTE else _end_of_scalar(body, at)
                if name and level is not None:
                    level.spans[name] = at, end
                mark, at = _marked(body, end)
        while mark != _COMMA:
            closer, level, name, start = around.pop()
            if mark != closer:
                raise _no_json(body, at - 1)
            if name and level is not None:
                level.spans[name] = start, at
            if not around:
                if (at := _after_gap(body, at)) < size:
                    raise _no_json(body, at, "something comes after its end")
                return inner
            mark, at = _marked(body, at)
        wants_name = around[-1][0] == _END_OF_OBJECT


def _named(body: Body, at: int, level: _Level | None) -> tuple[str, int]:
    """The name before the next value, if it is looked for, and where that value begins."""
    if (match := _name.match(body, at, at + _SHORT)) is not None:
        return level.see(match[1]) if level is not None else "", match.end()
    at = _after_gap(body, at)
    if at == len(body) or body[at] != _QUOTE:
        raise _no_json(body, at, "a name is expected")
    end = _end_of_text(body, at)
    name = level.see(bytes(body[at + 1 : end - 1])) if level is not None else ""
    at = _after_gap(body, end)
    if body[at : at + 1] != b":":
        raise _no_json(body, at)
    return name, at + 1


def _marked(body: Body, at: int) -> tuple[int, int]:
    """What stands behind a value, and what is behind that."""
    at = _after_gap(body, at)
    if at == len(body) or body[at] not in b",]}":
        raise _no_json(body, at)
    return body[at], at + 1


def _after_gap(body: Body, at: int) -> int:
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
    if at >= len(body) or body[at] != _QUOTE:
        raise _no_json(body, at)
    return at + 1


def _end_of_read_text(body: Body, at: int) -> int:
    """The same of a text that was gone through before: where it escapes nothing its quote is the end."""
    end = body.find(b'"', at + 1, at + _WINDOWS[-1])
    return end + 1 if end >= 0 and body.find(b"\\", at + 1, end) < 0 else _end_of_text(body, at)


def _end_of_scalar(body: Body, at: int) -> int:
    if (match := _scalar.match(body, at, at + _STEP)) is None:
        raise _no_json(body, at)
    return match.end()


def _no_json(body: Body, at: int, why: str = "") -> BadRequest:
    if not why:
        why = f"{bytes(body[at : at + 1])!r} is not expected" if at < len(body) else "it ends too early"
    return BadRequest(f"the body is no JSON: {why}, at byte {at:,}")


def _no_object(body: Body, at: int) -> BadRequest:
    """What is wrong with a body that is a text, a number, or nothing that we know."""
    try:
        kind = type(_built(bytes(body[at : at + MOST_TEXT]))).__name__
    except ValueError:
        return _no_json(body, at)
    return BadRequest(f"the body is a JSON {kind}, not an object")


def _names_of(raw: bytes) -> tuple[str, str]:
    """The name that stands between these quotes, and the same in the spelling of none."""
    if len(raw) > 1024:
        raise BadRequest(f"a field of the body has a name of {len(raw):,} bytes", hint="leave it out")
    name = _built(b'"%b"' % raw) if b"\\" in raw else raw.decode("utf-8", "replace")
    return name, _folded(name)


_MOST_REMEMBERED = 64
_remembered_names = lru_cache(1024)(_names_of)
"""Of short names; clients use the same few again and again."""


def _folded(name: str) -> str:
    """A name in the spelling of none. Go folds each letter by itself: U+017F is an s as well, and U+212A a k."""
    return name.lower().replace("\u017f", "s")


_remembered_folds = lru_cache(1024)(_folded)


def _built(text: bytes) -> Any:
    """The value of a piece of JSON, as Go has it: no half of a surrogate pair, and no number without end."""
    return _decoded(text, _as_go)


def _decoded(text: bytes, decoder: json.JSONDecoder) -> Any:
    """A value. Most are a word or a text without escapes, which need no decoder."""
    if text in _WORDS:
        return _WORDS[text]
    if text.isdigit() and len(text) < _MANY_DIGITS:
        return int(text)
    if _PLAIN.fullmatch(text):
        return text[1:-1].decode("utf-8", "replace")
    value = decoder.decode(text.decode("utf-8", "replace"))
    return _encodable(value) if b"\\u" in text else value


_WORDS: Mapping[bytes, bool | None] = {b"true": True, b"false": False, b"null": None}
_MANY_DIGITS = 16
_MANY = 10 ** (_MANY_DIGITS - 1)
_PLAIN = re.compile(rb'"[^"\\\x00-\x1f]*"')
_LONG = re.compile(rb'"[^"]{%d}' % MOST_UNCUT)
_ESCAPED = re.compile(r'["\\\x00-\x1f]')


def _encodable(value: Any) -> Any:
    match value:
        case str():
            return re.sub("[\ud800-\udfff]", "\ufffd", value)
        case list():
            return [_encodable(each) for each in value]
        case dict():
            return {_encodable(key): _encodable(each) for key, each in value.items()}
        case _:
            return value


def _number(text: str) -> int | float:
    """Whole numbers that a float holds are whole, however they are written; Go has no larger ones than a float's."""
    value = float(text)
    if math.isinf(value):
        raise BadRequest(f"the number {text[:20]}… is too large for any use")
    exact = int(text) if len(text) < 20 and text.lstrip("-").isdigit() else None
    return exact if exact is not None else int(value) if value.is_integer() and abs(value) < 2**63 else value


def _refused(constant: str) -> Any:
    """What the library takes for a number and no other reader does."""
    raise ValueError(constant)


# Made once: to make one takes longer than to decode what is short.
_as_go = json.JSONDecoder(parse_float=_number, parse_int=_number)
_exactly = json.JSONDecoder(parse_float=Number.of, parse_int=Number.of, parse_constant=_refused)
_scan: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder(  # type: ignore[attr-defined] # typeshed leaves it out
    object_pairs_hook=_object, parse_float=Number.of, parse_int=Number.of, parse_constant=_refused
).scan_once
