"""What was found of a JSON object: its fields, of which nothing is built before it is asked for, or built already."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from app.gateway.protocol.json_body.cut_texts import MOST_UNCUT, cut_value, outline_of
from app.gateway.protocol.json_body.edits import Body, ValueSpan
from app.gateway.protocol.json_body.go_values import AS_GO, EXACTLY, MANY, MANY_DIGITS, built_value, decoded
from app.gateway.protocol.json_body.scan import CLOSES, END_OF_LIST, LIST, OBJECT, QUOTE, after_gap
from jobs.core.errors import BadRequest
from jobs.ollama.go_types import Number

MOST_TEXT = 8 * 1024
"""Bytes of a value that decides something."""

TOO_LONG: Any = object()
"""In place of an outline that would be too long."""


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
        if self._body[start] == QUOTE:
            return end - start > 2
        if self._body[start] in CLOSES:
            return after_gap(self._body, start + 1) < end - 1
        return self.scalar(name) not in (None, False, 0)

    def kind(self, name: str) -> str:
        """What JSON calls the value: object, array, string, number, bool, or null, which also stands for none."""
        return _kind(self._body[span[0]]) if (span := self._spans.get(name)) is not None else "null"

    def is_plain_number(self, name: str) -> bool:
        """Whether the value is a whole number of a few digits."""
        start, end = self._spans.get(name, (0, 0))
        return end - start < MANY_DIGITS and self._body[start:end].isdigit()

    def kind_of_first(self, name: str) -> str:
        """The same of the first value in a list; empty for anything else and for an empty list."""
        if (span := self._spans.get(name)) is None or self._body[span[0]] != LIST:
            return ""
        first = self._body[after_gap(self._body, span[0] + 1)]
        return "" if first == END_OF_LIST else _kind(first)

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
        text = bytes(self._body[start:end]) if end - start <= MOST_UNCUT else outline_of(self._body, start, end)
        if text is None:
            return TOO_LONG
        return decoded(text, EXACTLY)

    def scalar(self, name: str) -> Any:
        """A text, number or truth; None for null and for what is not there, lists and objects included.

        Raises:
            BadRequest: it is longer than anything that means something, or no float holds it.

        """
        if (span := self._spans.get(name)) is None or self._body[span[0]] in CLOSES:
            return None
        if span[1] - span[0] > MOST_TEXT:
            raise BadRequest(f"{name} has {span[1] - span[0]:,} bytes", hint=f"{MOST_TEXT:,} are the most")
        return decoded(bytes(self._body[span[0] : span[1]]), AS_GO)

    def whole(self, name: str) -> Any:
        """The value, whatever it is, built.

        Raises:
            BadRequest: no float holds a number in it.

        """
        if (span := self._spans.get(name)) is None:
            return None
        return built_value(bytes(self._body[span[0] : span[1]]))


class BuiltFields(Fields):
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
        inside = BuiltFields(values, {}, is_short=self._is_short)
        inside.locate = lambda: self._found.inside(name)
        return inside

    def is_set(self, name: str) -> bool:
        return bool(self._values.get(name))

    def kind(self, name: str) -> str:
        return _KIND_OF_TYPE[type(self._values.get(name))]

    def is_plain_number(self, name: str) -> bool:
        value = self._values.get(name)
        return type(value) is int and 0 <= value < MANY

    def kind_of_first(self, name: str) -> str:
        value = self._values.get(name)
        return _KIND_OF_TYPE[type(value[0])] if isinstance(value, list) and value else ""

    def piece(self, start: int, end: int) -> bytes:
        return self._found.piece(start, end)

    def text(self, name: str) -> bytes:
        return self._found.text(name)

    def outline(self, name: str) -> Any:
        value = self._values.get(name)
        return value if self._is_short else cut_value(value)

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


def _kind(first: int) -> str:
    """The kind of a value that begins with this byte."""
    return _KINDS.get(first, "number")


_KINDS = {OBJECT: "object", LIST: "array", QUOTE: "string", **dict.fromkeys(b"tf", "bool"), ord("n"): "null"}
