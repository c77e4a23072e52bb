"""When an answer is whole, however it was cut, and what is told of one that is not."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.gateway.protocol.dialects import NDJSON, EventTail, Tokens, error, error_in_stream, error_text, tail_of
from tests.support.dialects import OLLAMA, Dialect, each_dialect
from tests.support.waiting import least, worked


def cut(said: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(said), *(place % len(said) for place in places)})
    return [said[begin:end] for begin, end in itertools.pairwise(edges)]


@each_dialect
@given(places=st.lists(st.integers(0, 10_000)), words=st.integers(0, 300))
def test_an_answer_is_whole_however_it_was_cut(dialect: Dialect, places: list[int], words: int) -> None:
    """The terminator and the tokens are found whatever pieces an answer came in, and however long it was."""
    said = dialect.pieces[0] * (words + 1) + b"".join(dialect.pieces[1:])
    tail = tail_of(dialect.path, dialect.kind.encode())
    for piece in cut(said, places):
        tail.feed(piece)
    assert tail.verdict() == "whole"
    assert tail.tokens() == Tokens(7, 3)
    assert not tail.ends_inside()


@each_dialect
@given(places=st.lists(st.integers(0, 10_000)), short=st.integers(0, 10_000))
def test_what_ends_early_is_never_whole(dialect: Dialect, places: list[int], short: int) -> None:
    """An answer without its terminator is cut, wherever it ends."""
    whole = b"".join(dialect.pieces)
    said = whole[: short % (len(whole) - len(dialect.pieces[-1]) + 1)]
    tail = tail_of(dialect.path, dialect.kind.encode())
    for piece in cut(said, places) if said else []:
        tail.feed(piece)
    assert tail.verdict() == "cut"
    assert tail.ends_inside() == (not said.endswith(b"\n" if dialect is OLLAMA else b"\n\n") and bool(said))


@each_dialect
def test_an_error_inside_is_an_error(dialect: Dialect) -> None:
    """What the gateway itself says inside a stream is read as an error by whoever reads the dialect."""
    tail = tail_of(dialect.path, dialect.kind.encode())
    speech: Any = dialect.name if dialect.name != "responses" else "openai"
    told = error_in_stream(dialect.path, speech, 502, "too tired", "req-1")
    for piece in (dialect.pieces[0], told):
        tail.feed(piece)
    assert tail.verdict() == "error"
    assert dialect.error_in(told) == "too tired"


@given(count=st.integers(0, 1200), places=st.lists(st.integers(0, 10_000)))
def test_an_error_goes_on_counting(count: int, places: list[int]) -> None:
    """The error that ends a stream of counted events has the number after the last one; of none it is the first."""
    tail = tail_of("/v1/responses", b"text/event-stream")
    event = 'event: x\ndata: {"delta":"\\"sequence_number\\":9","sequence_number":%d,"type":"x"}\n\n'
    said = "".join(event % number for number in range(count)).encode()
    for piece in cut(said, places) if said else []:
        tail.feed(piece)
    told = error_in_stream("/v1/responses", "openai", 502, "no", "r", sequence_number=tail.next_sequence_number())
    assert json.loads(told.partition(b"data: ")[2])["sequence_number"] == count


def test_zeros_are_no_count() -> None:
    """A completion that was left early has only said zeros; nothing is counted of it."""
    tail = tail_of("/v1/completions", b"text/event-stream")
    tail.feed(
        b'data: {"choices":[{"text":"a"}],"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}}\n\n'
    )
    assert tail.tokens() == Tokens()


@pytest.mark.parametrize(
    "frame",
    [
        {"message": {"content": '{"done":true}'}, "done": False},
        {"message": {"tool_calls": [{"function": {"name": "f", "arguments": {"done": True}}}]}, "done": False},
        {"response": 'and "done":true', "done": False},
        {"done": "true"},
        ["done", True],
    ],
)
def test_what_a_model_says_ends_nothing(frame: Any) -> None:
    """Nothing that a model can write into its answer is taken for the answer's end."""
    tail = tail_of("/api/chat", NDJSON)
    tail.feed(json.dumps(frame).encode() + b"\n")
    assert tail.verdict() == "cut"


def test_a_last_frame_with_all_its_numbers() -> None:
    """The last frame of /api/generate may hold every token as a number; its end is found all the same."""
    tail = tail_of("/api/generate", NDJSON)
    tail.feed(b'{"response":"x","done":false}\n{"done":true,"context":[')
    for number in range(100_000):
        tail.feed(b"%d," % number)
    tail.feed(b'0],"prompt_eval_count":7,"eval_count":3}\n')
    assert (tail.verdict(), tail.tokens()) == ("whole", Tokens(7, 3))


@pytest.mark.parametrize(
    ("status", "openai", "anthropic"),
    [
        (400, "invalid_request_error", "invalid_request_error"),
        (401, "authentication_error", "authentication_error"),
        (403, "permission_error", "permission_error"),
        (404, "not_found_error", "not_found_error"),
        (413, "invalid_request_error", "request_too_large"),
        (429, "rate_limit_error", "rate_limit_error"),
        (500, "api_error", "api_error"),
        (503, "api_error", "overloaded_error"),
    ],
)
def test_errors_have_the_dialects_words(status: int, openai: str, anthropic: str) -> None:
    """Each status has the type by which clients of OpenAI and Anthropic know it."""
    assert error("ollama", status, "no", "r") == {"error": "no", **({"status": "no"} if status == 401 else {})}
    assert error("openai", status, "no", "r")["error"]["type"] == openai
    assert error("anthropic", status, "no", "r")["error"]["type"] == anthropic


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"error":"no"}', "no"),
        (b'{"error":{"message":"no","type":"x"}}', "no"),
        (b'{"type":"error","error":{"type":"x","message":"no"}}', "no"),
        (b"no\n", "no"),
        (b"", ""),
        (b"\xff", "\ufffd"),
        (b"{}", ""),
    ],
)
def test_errors_are_read_in_any_shape(body: bytes, text: str) -> None:
    """What a server's error says is found whatever its shape."""
    assert error_text(body) == text


@pytest.mark.parametrize(
    ("line", "verdict"),
    [
        (b'{"model":"x","response":"","done":true,"done_reason":"stop","context":[%b1],"eval_count":3}', "whole"),
        (b'{"model":"x","response":"","done":true,"done_reason":"stop","context":[%b1', "cut"),
        (b'{"model":"x","response":"%b \\"done\\":true,\\"done_reason\\":\\"","done":false}', "cut"),
    ],
)
def test_a_last_line_of_megabytes_is_not_built(line: bytes, verdict: str) -> None:
    """The tokens of a long conversation, in the frame that ends it, are passed over; its terminator counts."""
    tail = tail_of("/api/generate", NDJSON)
    tail.feed(b'{"done":false}\n' + line % (b"128001," * 100_000) + b"\n")
    assert tail.verdict() == verdict


def test_an_event_that_is_full_of_events_is_looked_at_once() -> None:
    """What a model says cannot make the end of a stream long to find, whatever it looks like."""
    tail = EventTail()
    tail.feed(b'event: content_block_delta\ndata: {"x":"' + b"data: " * 2_600 + b'"}\n\n')
    tail.feed(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')
    assert least(lambda: worked(tail.verdict), 0.05) < 0.05
    assert tail.verdict() == "whole"
