"""The dialects that clients speak: how each asks, and the pieces of an answer to it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.support.scripted_server import Connection, HeardRequest


@dataclass(frozen=True)
class Dialect:
    """How one kind of client asks for a stream, and the pieces of an answer to it."""

    name: str
    path: str
    body: Mapping[str, Any]
    kind: str
    pieces: tuple[bytes, ...]
    output_tokens: int | None

    def play(self, line: Connection) -> None:
        """The whole answer."""
        line.begin(self.kind)
        for piece in self.pieces:
            line.chunk(piece)
        line.end()

    def error_in(self, said: bytes) -> str:
        """The text of the error event that ends what a client was sent; empty without one."""
        if self.name == "ollama":
            last = said.rstrip(b"\n").rpartition(b"\n")[2]
            return str(json.loads(last).get("error", ""))
        last = said.rstrip(b"\n").rpartition(b"\n\n")[2]
        event, _, data = last.rpartition(b"data: ")
        if self.name == "anthropic":
            assert event == b"event: error\n"
        if self.name == "responses":
            assert event == b"event: error\n"
            return str(json.loads(data)["message"])
        return str(json.loads(data).get("error", {}).get("message", ""))


def _event(name: str, **more: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **more})}\n\n".encode()


def _data(document: Any) -> bytes:
    return f"data: {json.dumps(document)}\n\n".encode()


def _line(**frame: Any) -> bytes:
    return json.dumps(frame).encode() + b"\n"


TALK = [{"role": "user", "content": "hello"}]
OLLAMA = Dialect(
    "ollama",
    "/api/chat",
    {"model": "llama3.2", "messages": TALK},
    "application/x-ndjson",
    (
        _line(model="llama3.2", message={"role": "assistant", "content": "Hel"}, done=False),
        _line(model="llama3.2", message={"role": "assistant", "content": "lo"}, done=False),
        _line(model="llama3.2", done=True, done_reason="stop", prompt_eval_count=7, eval_count=3),
    ),
    3,
)
OPENAI = Dialect(
    "openai",
    "/v1/chat/completions",
    {"model": "llama3.2", "messages": TALK, "stream": True},
    "text/event-stream",
    (
        _data({"choices": [{"delta": {"role": "assistant", "content": "Hel"}}]}),
        _data({"choices": [{"delta": {}, "finish_reason": "stop"}]}),
        _data({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}),
        b"data: [DONE]\n\n",
    ),
    3,
)
ANTHROPIC = Dialect(
    "anthropic",
    "/v1/messages",
    {"model": "llama3.2", "messages": TALK, "stream": True, "max_tokens": 9},
    "text/event-stream",
    (
        _event("message_start", message={"usage": {"input_tokens": 5, "output_tokens": 0}}),
        _event("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hel"}),
        _event("message_delta", delta={}, usage={"input_tokens": 7, "output_tokens": 3}),
        _event("message_stop"),
    ),
    3,
)
RESPONSES = Dialect(
    "responses",
    "/v1/responses",
    {"model": "llama3.2", "input": "hello", "stream": True},
    "text/event-stream",
    (
        _event("response.created", response={}),
        _event("response.output_text.delta", delta="Hel"),
        _event("response.completed", response={"usage": {"input_tokens": 7, "output_tokens": 3}}),
    ),
    3,
)
DIALECTS = (OLLAMA, OPENAI, ANTHROPIC, RESPONSES)
each_dialect = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)


def whole_answer(heard: HeardRequest, line: Connection) -> None:
    """The whole answer of the dialect that was asked in."""
    next(dialect for dialect in DIALECTS if dialect.path == heard.path).play(line)


def error_of(dialect: Dialect, response: httpx.Response) -> str:
    """The text of an answer that is an error, after its shape was checked."""
    told = response.json()
    match dialect.name:
        case "ollama":
            assert set(told) == {"error"}
            return str(told["error"])
        case "anthropic":
            assert (told["type"], set(told["error"])) == ("error", {"type", "message"})
            assert told["request_id"] == response.headers["x-request-id"]
        case _:
            assert set(told["error"]) == {"message", "type", "param", "code"}
    return str(told["error"]["message"])
