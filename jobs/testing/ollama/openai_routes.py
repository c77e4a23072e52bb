"""The simulator's OpenAI routes: the native answer underneath, re-shaped, its mid-stream errors swallowed.

When generation fails after the first frame, the real server parses the error line as an empty chunk and ends the
stream cleanly, without `finish_reason` and without `[DONE]`; so does this one.
"""

import base64
import struct
from collections.abc import Iterator
from datetime import datetime
from itertools import chain
from typing import Any
from urllib.parse import unquote

from jobs.ollama.request_content import check_chat_completion, check_stop
from jobs.ollama.request_types import think_of_effort
from jobs.testing.ollama.faults import SimError, at_the_door
from jobs.testing.ollama.generation import CHAT, GENERATE, AnswerShape, Frame, all_frames, embedded, merged
from jobs.testing.ollama.go_formats import short_id, unix
from jobs.testing.ollama.model_output import Piece
from jobs.testing.ollama.native_routes import listed, shown
from jobs.testing.ollama.requests import (
    SSE,
    Reply,
    Request,
    SimulatorAnswer,
    SimulatorParts,
    Stream,
    as_json,
    as_line,
    dumps,
)


def error_reply(error: SimError) -> Reply:
    """Every status in OpenAI's shape; only 400 and 404 have types of their own."""
    kind = {400: "invalid_request_error", 404: "not_found_error"}.get(error.status, "api_error")
    document = {"error": {"message": error.text, "type": kind, "param": None, "code": None}}
    return as_json(document, error.status) if error.at_the_door else as_line(document, error.status)


def chat_completions(parts: SimulatorParts, request: Request) -> SimulatorAnswer:
    body = request.json()
    with at_the_door():
        if not body.get("messages"):
            raise SimError("[] is too short - 'messages'", 400)
        check_chat_completion(body["messages"])
        native = {
            **_native(body, [each for each in _listed(body.get("stop")) if isinstance(each, str)]),
            "messages": [_message(each) for each in body["messages"]],
            "tools": body.get("tools"),
            "format": _format(body.get("response_format") or {}),
            "think": think_of_effort(_effort(body)),
            "logprobs": body.get("logprobs"),
            "top_logprobs": body.get("top_logprobs"),
        }
    return _completion(parts, request, body, native, CHAT)


def completions(parts: SimulatorParts, request: Request) -> SimulatorAnswer:
    body = request.json()
    with at_the_door():
        check_stop(body.get("stop"))
    native = {**_native(body, _listed(body.get("stop"))), "prompt": body.get("prompt"), "suffix": body.get("suffix")}
    return _completion(parts, request, body, native, GENERATE)


def _completion(
    parts: SimulatorParts, request: Request, body: dict[str, Any], native: dict[str, Any], shape: AnswerShape
) -> SimulatorAnswer:
    frames = all_frames(parts, request, native, shape)
    head = _Head(parts, str(body.get("model") or ""), shape)
    if not body.get("stream"):
        return as_line(head.whole(merged(list(frames), shape)))
    usage = bool((body.get("stream_options") or {}).get("include_usage"))
    first = next(frames)
    chunks = (
        _chat_chunks(head, first, frames, usage=usage)
        if shape.is_chat
        else _text_chunks(head, first, frames, usage=usage)
    )
    return Stream((b"data: " + chunk + b"\n\n" for chunk in chunks), SSE)


def _native(body: dict[str, Any], stops: list[Any]) -> dict[str, Any]:
    """The native request that the middleware makes of it; `keep_alive` cannot be carried."""
    names = {"max_tokens": "num_predict", "seed": "seed", "temperature": "temperature", "top_p": "top_p"}
    options = {ours: body[theirs] for theirs, ours in names.items() if body.get(theirs) is not None}
    return {"model": body.get("model"), "options": options | ({"stop": stops} if stops else {})}


def _listed(stop: Any) -> list[Any]:
    return stop if isinstance(stop, list) else [stop] if isinstance(stop, str) else []


def _effort(body: dict[str, Any]) -> str:
    reasoning = body.get("reasoning")
    return str((reasoning.get("effort") if reasoning is not None else body.get("reasoning_effort")) or "")


def _format(response_format: dict[str, Any]) -> Any:
    kind = str(response_format.get("type") or "").strip().lower()
    if kind == "json_object":
        return "json"
    return (response_format.get("json_schema") or {}).get("schema") if kind == "json_schema" else None


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """A message as the native route takes it; the texts of its parts stand together."""
    content = message.get("content")
    if isinstance(content, list):
        content = " ".join(str(part["text"]) for part in content if part["type"] == "text")
    return {"role": str(message.get("role") or "").lower(), "content": content or ""}


def openai_tool_calls(piece: Piece) -> list[dict[str, Any]]:
    """Arguments are a text here."""
    return [
        {
            "id": call["id"],
            "index": call["function"]["index"],
            "type": "function",
            "function": {"name": call["function"]["name"], "arguments": dumps(call["function"]["arguments"]).decode()},
        }
        for call in piece.tool_calls
    ]


class _Head:
    """What all chunks of one answer share."""

    def __init__(self, parts: SimulatorParts, model: str, shape: AnswerShape) -> None:
        prefix, self._object = ("chatcmpl", "chat.completion") if shape.is_chat else ("cmpl", "text_completion")
        self._shape = shape
        self._id = short_id(prefix, 999)
        self._created = unix(parts.clock.now())
        self._model = model

    def document(self, kind: str, choices: list[dict[str, Any]], model: str | None = None) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._model if model is None else model,
            "system_fingerprint": "fp_ollama",
            "choices": choices,
        }

    def chunk(
        self, delta: dict[str, Any], reason: str | None = None, model: str | None = None, likely: Any = None
    ) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": reason} | _logprobs(likely)
        return self.document("chat.completion.chunk", [choice], model)

    def text_chunk(self, text: str, reason: str | None = None, model: str | None = None) -> dict[str, Any]:
        return self.document("text_completion", [{"text": text, "index": 0, "finish_reason": reason}], model)

    def whole(self, frame: Frame) -> dict[str, Any]:
        piece = self._shape.piece_of(frame)
        reason = frame.get("done_reason", "stop")
        if not self._shape.is_chat:
            choice: dict[str, Any] = {"text": piece.text, "index": 0, "finish_reason": reason}
        else:
            reason = "tool_calls" if piece.tool_calls and reason == "stop" else reason
            message = {"role": "assistant", "content": piece.text, **_beside_the_text(piece)}
            choice = {"index": 0, "message": message, "finish_reason": reason} | _logprobs(frame.get("logprobs"))
        return self.document(self._object, [choice]) | {"usage": usage_of(frame)}


def _beside_the_text(piece: Piece) -> dict[str, Any]:
    thoughts = {"reasoning": piece.thinking} if piece.thinking else {}
    return thoughts | ({"tool_calls": openai_tool_calls(piece)} if piece.tool_calls else {})


def _logprobs(likely: Any) -> dict[str, Any]:
    return {"logprobs": {"content": likely}} if likely else {}


def usage_of(frame: Frame) -> dict[str, int]:
    prompt, completion = int(frame.get("prompt_eval_count", 0)), int(frame.get("eval_count", 0))
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _chat_chunks(head: _Head, first: Frame, rest: Iterator[Frame], *, usage: bool) -> Iterator[bytes]:
    role: dict[str, Any] = {"role": "assistant"}
    has_called = False
    try:
        for frame in chain([first], rest):
            piece = CHAT.piece_of(frame)
            if not frame["done"] or role:
                delta = role | {"content": piece.text} | _beside_the_text(piece)
                yield dumps(head.chunk(delta, likely=frame.get("logprobs")))
                role = {}
            has_called = has_called or bool(piece.tool_calls)
            if frame["done"]:
                reason = frame.get("done_reason", "stop")
                yield dumps(head.chunk({}, "tool_calls" if has_called and reason == "stop" else reason))
                if usage:
                    yield dumps(head.document("chat.completion.chunk", []) | {"usage": usage_of(frame)})
                yield b"[DONE]"
    except SimError:
        yield dumps(head.chunk({"content": ""}, model=""))


def _text_chunks(head: _Head, first: Frame, rest: Iterator[Frame], *, usage: bool) -> Iterator[bytes]:
    zero = {"usage": usage_of({})} if usage else {}
    try:
        for frame in chain([first], rest):
            reason = frame.get("done_reason", "stop") if frame["done"] else None
            yield dumps(head.text_chunk(GENERATE.piece_of(frame).text, reason) | zero)
            if frame["done"]:
                if usage:
                    yield dumps(head.document("text_completion", []) | {"usage": usage_of(frame)})
                yield b"[DONE]"
    except SimError:
        yield dumps(head.text_chunk("", model="") | zero)


def embeddings(parts: SimulatorParts, request: Request) -> SimulatorAnswer:
    body = request.json()
    encoding = str(body.get("encoding_format") or "")
    if encoding.lower() not in {"", "float", "base64"}:
        told = f"Invalid value for 'encoding_format' = {encoding}. Supported values: ['float', 'base64']."
        raise SimError(told, 400, at_the_door=True)
    given = body.get("input")
    if given is None or given == []:
        raise SimError("invalid input", 400, at_the_door=True)
    native = {"model": body.get("model"), "dimensions": body.get("dimensions"), "input": [""] if given == "" else given}
    answer = embedded(parts, request, native)
    encode = _base64 if encoding.lower() == "base64" else list
    data = [
        {"object": "embedding", "embedding": encode(each), "index": index}
        for index, each in enumerate(answer["embeddings"])
    ]
    count = answer.get("prompt_eval_count", 0)
    document = {
        "object": "list",
        "data": data,
        "model": body.get("model", ""),
        "usage": {"prompt_tokens": count, "total_tokens": count},
    }
    return as_line(document)


def _base64(numbers: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def models(parts: SimulatorParts, _: Request) -> SimulatorAnswer:
    """An empty list is null, as Go writes it."""
    data = [
        {
            "id": each["name"],
            "object": "model",
            "created": unix(datetime.fromisoformat(each["modified_at"])),
            "owned_by": _owner(each["name"]),
        }
        for each in listed(parts)
    ]
    return as_line({"object": "list", "data": data or None})


def model(parts: SimulatorParts, request: Request) -> SimulatorAnswer:
    name = unquote(request.path.removeprefix("/v1/models/"))
    details = shown(parts, {"model": name})
    created = unix(datetime.fromisoformat(details["modified_at"]))
    document = {"id": name, "object": "model", "created": created, "owned_by": _owner(name)}
    return as_line(document)


def _owner(name: str) -> str:
    """The namespace."""
    before = name.rpartition("/")[0]
    return before.rpartition("/")[2] or "library"
