"""JSON of documents that may be long, made piece by piece.

One call of the standard library's encoder keeps the interpreter until it has ended: for half a megabyte that is several
milliseconds, in which no other thread of the process does anything, whichever thread it is.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

MOST_AT_ONCE = 50
"""Elements of a list or an object deep inside that are encoded by one call."""

DEEP = 2
"""Lists and objects that are less deep inside are always taken apart."""

_encode: Callable[[Any], str] = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def json_bytes(document: Any) -> bytes:
    """The document as JSON: no blanks, in UTF-8.

    Raises:
        ValueError: a number in it is none, or infinite.

    """
    return "".join(_pieces(document, 0)).encode()


def _pieces(value: Any, depth: int) -> Iterator[str]:
    is_apart = depth < DEEP or (isinstance(value, dict | list | tuple) and len(value) > MOST_AT_ONCE)
    if is_apart and isinstance(value, dict) and all(isinstance(key, str) for key in value):
        mark = "{"
        for key, each in value.items():
            yield f"{mark}{_encode(key)}:"
            yield from _pieces(each, depth + 1)
            mark = ","
        yield "}" if value else "{}"
    elif is_apart and isinstance(value, list | tuple):
        mark = "["
        for each in value:
            yield mark
            yield from _pieces(each, depth + 1)
            mark = ","
        yield "]" if value else "[]"
    else:
        yield _encode(value)
