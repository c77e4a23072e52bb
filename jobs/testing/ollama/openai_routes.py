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

from jobs.testing.ollama.faults import SimError
from jobs.testing.ollama.generation import CHAT, GENERATE, AnswerShape, Frame, all_frames, embedded, merged
from jobs.testing.ollama.go_formats import short_id, unix
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
    if not body.get("messages"):
        raise SimError("[] is too short - 'messages'", 400, at_the_door=True)
    return _completion(parts, request, body, CHAT)


def completions(parts: SimulatorParts, request: Request) -> SimulatorAnswer:
    return _completion(parts, request, request.json(), GENERATE)


def _completion(parts: SimulatorParts, request: Request, body: dict[str, Any], shape: AnswerShape) -> SimulatorAnswer:
    native = _native(body)
    frames = all_frames(parts, request, native, shape)
    head = _Head(parts, str(body.get("model", "")), shape)
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


def _native(body: dict[str, Any]) -> dict[str, Any]:
    """The native request that the middleware makes of it; `keep_alive` cannot be carried."""
    names = {
        "max_tokens": "num_predict",
        "seed": "seed",
        "temperature": "temperature",
        "top_p": "top_p",
        "stop": "stop",
    }
    options = {ours: body[theirs] for theirs, ours in names.items() if body.get(theirs) is not None}
    kept = {key: body[key] for key in ("model", "messages", "prompt", "tools") if key in body}
    return kept | {"options": options}


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

    def chunk(self, delta: dict[str, Any], reason: str | None = None, model: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return self.document("chat.completion.chunk", [choice], model)

    def text_chunk(self, text: str, reason: str | None = None, model: str | None = None) -> dict[str, Any]:
        return self.document("text_completion", [{"text": text, "index": 0, "finish_reason": reason}], model)

    def whole(self, frame: Frame) -> dict[str, Any]:
        text, thoughts = self._shape.text_of(frame)
        reason = frame.get("done_reason", "stop")
        if not self._shape.is_chat:
            choice: dict[str, Any] = {"text": text, "index": 0, "finish_reason": reason}
        else:
            message = {"role": "assistant", "content": text, **({"reasoning": thoughts} if thoughts else {})}
            choice = {"index": 0, "message": message, "finish_reason": reason}
        return self.document(self._object, [choice]) | {"usage": usage_of(frame)}


def usage_of(frame: Frame) -> dict[str, int]:
    prompt, completion = int(frame.get("prompt_eval_count", 0)), int(frame.get("eval_count", 0))
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _chat_chunks(head: _Head, first: Frame, rest: Iterator[Frame], *, usage: bool) -> Iterator[bytes]:
    role: dict[str, Any] = {"role": "assistant"}
    try:
        for frame in chain([first], rest):
            text, thoughts = CHAT.text_of(frame)
            if not frame["done"] or role:
                yield dumps(head.chunk(role | {"content": text} | ({"reasoning": thoughts} if thoughts else {})))
                role = {}
            if frame["done"]:
                yield dumps(head.chunk({}, frame.get("done_reason", "stop")))
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
            yield dumps(head.text_chunk(GENERATE.text_of(frame)[0], reason) | zero)
            if frame["done"]:
                if usage:
                    yield dumps(head.document("text_completion", []) | {"usage": usage_of(frame)})
                yield b"[DONE]"
    except SimError:
        yield dumps(head.text_chunk("", model="") | zero)


def embeddings(parts: SimulatorParts, request: Request) -> SimulatorAnswer:
    body = request.json()
    if not body.get("input"):
        raise SimError("invalid input", 400, at_the_door=True)
    answer = embedded(parts, request, body)
    encode = _base64 if body.get("encoding_format") == "base64" else list
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
