"""A body of a request is gone through in steps that grow with its length, and no faster."""

from typing import Any

import pytest

from app.gateway.protocol.json_fields import fields_of

NAMES = frozenset({"model", "options", "prompt", "x"})


class Counted(bytearray):
    """Bytes that count how often one of them is looked at."""

    looks = 0

    def __getitem__(self, index: Any) -> Any:
        type(self).looks += 1
        return super().__getitem__(index)


@pytest.mark.parametrize(
    ("piece", "end"),
    [
        (b'"",', b'""]}'),
        (b"[],", b"0]}"),
        (b"[0],", b"0]}"),
        (b'{"a":0},', b"0]}"),
        (b'"\\n",', b"0]}"),
        (b"1.5e3,", b"0]}"),
    ],
)
def test_twice_as_much_takes_twice_as_many_steps(piece: bytes, end: bytes) -> None:
    """The steps through a body grow with its length, and no faster."""

    def looks(count: int) -> int:
        Counted.looks = 0
        fields_of(Counted(b'{"y":[' + piece * count + end), NAMES)
        return Counted.looks

    assert looks(20_000) <= 2 * looks(10_000) + 10


@pytest.mark.parametrize("body", [b"a" * 3_000_000, b"\\n" * 1_500_000, b"\\\\" * 1_500_000])
def test_a_text_is_gone_through_in_few_steps(body: bytes) -> None:
    """A step covers many bytes of a text, however it is written; half a pair of surrogates is what Go makes of it."""
    Counted.looks = 0
    fields_of(Counted(b'{"y":"' + body + b'"}'), NAMES)
    assert Counted.looks < 100
    assert fields_of(b'{"x":["\\ud800","\\ud83d\\ude00"]}', NAMES).whole("x") == ["\ufffd", "😀"]
