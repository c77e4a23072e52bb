"""A body in bytes, a place in it, and how what stands in such places is replaced."""

from collections.abc import Iterable

Body = bytes | bytearray
ValueSpan = tuple[int, int]

BodyEdit = tuple[ValueSpan, bytes]
"""What of a body is replaced, and by what."""


def edit(body: bytearray, edits: Iterable[BodyEdit]) -> None:
    """Make these changes, each where the body had it before all of them. They do not overlap."""
    for (start, end), text in sorted(edits, reverse=True):
        body[start:end] = text
