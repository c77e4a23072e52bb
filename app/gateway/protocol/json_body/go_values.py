"""Values and names of JSON as Go's decoder has them, which is not in all as Python's has them."""

import json
import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from jobs.core.errors import BadRequest
from jobs.ollama.go_types import Number


def names_of(raw: bytes) -> tuple[str, str]:
    """The name that stands between these quotes, and the same in the spelling of none."""
    if len(raw) > 1024:
        raise BadRequest(f"a field of the body has a name of {len(raw):,} bytes", hint="leave it out")
    name = built_value(b'"%b"' % raw) if b"\\" in raw else raw.decode("utf-8", "replace")
    return name, _folded(name)


MOST_REMEMBERED = 64
remembered_names = lru_cache(1024)(names_of)
"""Of short names; clients use the same few again and again."""


def _folded(name: str) -> str:
    """A name in the spelling of none. Go folds each letter by itself: U+017F is an s as well, and U+212A a k."""
    return name.lower().replace("\u017f", "s")


remembered_folds = lru_cache(1024)(_folded)


def built_value(text: bytes) -> Any:
    """The value of a piece of JSON, as Go has it: no half of a surrogate pair, and no number without end."""
    return decoded(text, AS_GO)


def decoded(text: bytes, decoder: json.JSONDecoder) -> Any:
    """A value. Most are a word or a text without escapes, which need no decoder."""
    if text in _WORDS:
        return _WORDS[text]
    if text.isdigit() and len(text) < MANY_DIGITS:
        return int(text)
    if _PLAIN.fullmatch(text):
        return text[1:-1].decode("utf-8", "replace")
    value = decoder.decode(text.decode("utf-8", "replace"))
    return _encodable(value) if b"\\u" in text else value


_WORDS: Mapping[bytes, bool | None] = {b"true": True, b"false": False, b"null": None}
MANY_DIGITS = 16
MANY = 10 ** (MANY_DIGITS - 1)
_PLAIN = re.compile(rb'"[^"\\\x00-\x1f]*"')


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


def refused(constant: str) -> Any:
    """What the library takes for a number and no other reader does."""
    raise ValueError(constant)


# Made once: to make one takes longer than to decode what is short.
AS_GO = json.JSONDecoder(parse_float=_number, parse_int=_number)
EXACTLY = json.JSONDecoder(parse_float=Number.of, parse_int=Number.of, parse_constant=refused)
