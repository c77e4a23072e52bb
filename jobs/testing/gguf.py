"""Writes the headers of GGUF files, for the doubles' models and for tests."""

import struct
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from jobs.models.gguf import ARRAY, MAGIC, NUMBERS, TEXT, Tensor

ALIGNMENT = 32

U32, F32, BOOL, I32 = 4, 6, 7, 5


def encoded(
    values: Mapping[str, Any], tensors: Sequence[Tensor] = (), *, version: int = 3, offsets: Sequence[int] = ()
) -> bytes:
    """A header, padded to where the tensors' data begins. Every tensor is said to begin there, or at its offset.

    A value is a text, a truth, a whole number (32 bits), a fraction, or a list of these; a pair `(kind, value)` tells
    its kind, also in a list.
    """
    parts = [MAGIC, struct.pack("<IQQ", version, len(tensors), len(values))]
    for key, value in values.items():
        kind, plain = value if isinstance(value, tuple) else (_kind(value), value)
        parts += [_text(key), struct.pack("<I", kind), _value(kind, plain)]
    for tensor, offset in zip_longest(tensors, offsets, fillvalue=0):
        assert isinstance(tensor, Tensor)
        parts += [
            _text(tensor.name),
            struct.pack(f"<I{len(tensor.shape)}QIQ", len(tensor.shape), *tensor.shape, tensor.kind, offset),
        ]
    header = b"".join(parts)
    return header + bytes(-len(header) % ALIGNMENT)


def _kind(value: Any) -> int:
    return {str: TEXT, bool: BOOL, int: U32, float: F32, list: ARRAY}[type(value)]


def _value(kind: int, value: Any) -> bytes:
    if kind == TEXT:
        return _text(value)
    if kind == ARRAY:
        pairs = [each if isinstance(each, tuple) else (_kind(each), each) for each in value]
        inner = pairs[0][0] if pairs else U32
        return struct.pack("<IQ", inner, len(value)) + b"".join(_value(*pair) for pair in pairs)
    return NUMBERS[kind].pack(value)


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw
