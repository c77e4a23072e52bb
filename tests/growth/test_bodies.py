"""A body of a request is gone through in steps that grow with its length, and no faster."""

import sys
from contextlib import suppress
from datetime import UTC, datetime
from itertools import takewhile
from types import FrameType
from typing import Any, cast

import pytest

from app.gateway.auth.keys import Caller
from app.gateway.protocol.exchange import Exchange
from app.gateway.protocol.json_body.search import fields_of
from app.gateway.protocol.request import is_quick, read_request
from app.gateway.protocol.routes import find
from jobs.core.errors import BadRequest
from tests.support.call_counts import uncollected

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


#: By what it is made of: the route, what comes before the pieces, a piece, and what comes behind them.
SHAPES = {
    "messages": ("/v1/chat/completions", '{"model":"m","messages":[', '{"role":"user","content":"x"}', "]}"),
    "long texts": ("/api/chat", '{"model":"m","messages":[', f'{{"role":"user","content":"{"x" * 1400}"}}', "]}"),
    "parts": (
        "/v1/messages", '{"model":"m","max_tokens":5,"messages":[', '{"content":[{"type":"text","text":"x"}]}', "]}",
    ),
    "calls": (
        "/v1/chat/completions", '{"model":"m","messages":[', '{"tool_calls":[{"function":{"arguments":"{}"}}]}', "]}",
    ),
    "tools": (
        "/api/chat", '{"model":"m","messages":[],"tools":[',
        '{"type":"function","function":{"name":"f","parameters":{"properties":{"a":{"type":"string"}}}}}', "]}",
    ),
    "items": ("/v1/responses", '{"model":"m","input":[', '{"role":"user","content":"x"}', "]}"),
    "pictures": ("/api/chat", '{"model":"m","messages":[{"images":[', f'"{"A" * 1000}"', "]}]}"),
    "numbers": ("/api/embed", '{"model":"m","input":[', "1.5e3", "]}"),
    "nothing": ("/api/chat", '{"model":"m","messages":[', "{}", "]}"),
    "depth": ("/api/chat", '{"model":"m","messages":[', f"{'[' * 100}{']' * 100}", "]}"),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_what_the_loop_reads_is_little_work(shape: str) -> None:
    """The largest body of each shape that no thread reads takes some thousand calls: a millisecond at most."""
    path, start, piece, end = SHAPES[shape]
    bodies = (bytearray(f"{start}{','.join([piece] * count)}{end}".encode()) for count in range(1, 2_000))
    *_, body = takewhile(is_quick, bodies)
    found = find(path)
    assert found is not None
    exchange = Exchange(
        "1",
        found[0],
        "",
        "POST",
        [],
        body,
        Caller("ann", frozenset()),
        datetime.now(UTC),
        0.0,
        nobody,
        cast("Any", None),
    )

    def read() -> None:
        with suppress(StopIteration, BadRequest):
            read_request(exchange).send(None)

    read()
    count = 0

    def note(_: FrameType, event: str, __: Any) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    with uncollected():
        sys.setprofile(note)
        read()
        sys.setprofile(None)
    assert 50 < count < 5_000


async def nobody(_: Any) -> None:
    """Takes what is sent to nobody."""
