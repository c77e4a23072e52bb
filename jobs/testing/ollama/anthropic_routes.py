"""The simulator's Anthropic route `/v1/messages` and OpenAI's `/v1/responses`. Failures inside a stream just end it."""

import secrets
from collections.abc import Iterator
from typing import Any

from jobs.testing.ollama.faults import SimError
from jobs.testing.ollama.generation import CHAT, Frame, all_frames, merged
from jobs.testing.ollama.go_formats import short_id, tokens, unix
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

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}
_STOPS = {"stop": "end_turn", "length": "max_tokens"}


def anthropic_error(error: SimError) -> Reply:
    document = {
        "type": "error",
        "error": {"type": _TYPES.get(error.status, "api_error"), "message": error.text},
        "request_id": f"req_{secrets.token_hex(12)}",
    }
    return as_json(document, error.status) if error.at_the_door else as_line(document, error.status)


def messages(parts: SimulatorParts, request: Request) -> SimulatorAnswer:
    body = request.json()
    if not body.get("model"):
        raise SimError("model is required", 400, at_the_door=True)
    if not isinstance(body.get("max_tokens"), int) or body["max_tokens"] <= 0:
        raise SimError("max_tokens is required and must be positive", 400, at_the_door=True)
    if not body.get("messages"):
        raise SimError("messages is required", 400, at_the_door=True)
    native = {
        "model": body["model"],
        "messages": [{"role": each.get("role"), "content": _text(each.get("content"))} for each in body["messages"]],
        "options": {"num_predict": body["max_tokens"]},
    }
    frames = all_frames(parts, request, native, CHAT)
    if not body.get("stream"):
        whole = merged(list(frames), CHAT)
        usage = {"input_tokens": whole["prompt_eval_count"], "output_tokens": whole["eval_count"]}
        content = [{"type": "text", "text": CHAT.text_of(whole)[0]}]
        return as_line(_message(body["model"], content, _STOPS.get(whole["done_reason"]), usage))
    estimate = sum(len(tokens(each["content"])) for each in native["messages"])
    events = _message_events(str(body["model"]), estimate, next(frames), frames)
    return Stream((_event(each) for each in events), SSE)


def _message(model: str, content: list[Any], reason: str | None, usage: dict[str, int]) -> dict[str, Any]:
    return {
        "id": f"msg_{secrets.token_hex(12)}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        **({"stop_reason": reason} if reason else {}),
        "usage": usage,
    }


def _message_events(model: str, estimate: int, first: Frame, rest: Iterator[Frame]) -> Iterator[dict[str, Any]]:
    start = _message(model, [], None, {"input_tokens": estimate, "output_tokens": 0})
    yield {"type": "message_start", "message": start}
    yield {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    for frame in _until_failure(first, rest):
        text = CHAT.text_of(frame)[0]
        if text:
            yield {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
        if frame["done"]:
            usage = {"input_tokens": frame["prompt_eval_count"], "output_tokens": frame["eval_count"]}
            yield {"type": "content_block_stop", "index": 0}
            yield {
                "type": "message_delta",
                "delta": {"stop_reason": _STOPS.get(frame["done_reason"], "end_turn")},
                "usage": usage,
            }
            yield {"type": "message_stop"}


def responses(parts: SimulatorParts, request: Request) -> SimulatorAnswer:
    body = request.json()
    given = body.get("input") or ""
    turns = [{"role": "user", "content": given}] if isinstance(given, str) else given
    native = {
        "model": body.get("model", ""),
        "messages": [{"role": each.get("role", "user"), "content": _text(each.get("content"))} for each in turns],
        "options": {"num_predict": body["max_output_tokens"]} if body.get("max_output_tokens") else {},
    }
    frames = all_frames(parts, request, native, CHAT)
    answer = _Response(parts, str(body.get("model", "")))
    if not body.get("stream"):
        whole = merged(list(frames), CHAT)
        document = answer.document("completed", CHAT.text_of(whole)[0], whole)
        return as_line(document)
    events = _numbered(answer.events(next(frames), frames))
    return Stream((_event(each, sort_keys=True) for each in events), SSE)


class _Response:
    """One answer of `/v1/responses`: never incomplete, stateless, its keys in alphabetical order on the wire."""

    def __init__(self, parts: SimulatorParts, model: str) -> None:
        self._id = short_id("resp", 999_999).replace("-", "_")
        self._item = short_id("msg", 999_999).replace("-", "_")
        self._created = unix(parts.clock.now())
        self._model = model

    def document(self, status: str, text: str | None, frame: Frame | None = None) -> dict[str, Any]:
        usage = None
        if frame:
            prompt, said = frame["prompt_eval_count"], frame["eval_count"]
            usage = {"input_tokens": prompt, "output_tokens": said, "total_tokens": prompt + said}
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "model": self._model,
            "status": status,
            "output": [] if text is None else [self._message("completed", text)],
            "usage": usage,
            "store": False,
        }

    def _message(self, status: str, text: str | None) -> dict[str, Any]:
        content = [] if text is None else [_part(text)]
        return {"id": self._item, "type": "message", "role": "assistant", "status": status, "content": content}

    def events(self, first: Frame, rest: Iterator[Frame]) -> Iterator[dict[str, Any]]:
        at = {"item_id": self._item, "output_index": 0, "content_index": 0}
        yield {"type": "response.created", "response": self.document("in_progress", None)}
        yield {"type": "response.in_progress", "response": self.document("in_progress", None)}
        added = self._message("in_progress", None)
        yield {"type": "response.output_item.added", "output_index": 0, "item": added}
        yield {"type": "response.content_part.added", **at, "part": _part("")}
        said = ""
        for frame in _until_failure(first, rest):
            text = CHAT.text_of(frame)[0]
            said += text
            if text:
                yield {"type": "response.output_text.delta", **at, "delta": text}
            if frame["done"]:
                yield {"type": "response.output_text.done", **at, "text": said}
                yield {"type": "response.content_part.done", **at, "part": _part(said)}
                item = self._message("completed", said)
                yield {"type": "response.output_item.done", "output_index": 0, "item": item}
                yield {"type": "response.completed", "response": self.document("completed", said, frame)}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _until_failure(first: Frame, rest: Iterator[Frame]) -> Iterator[Frame]:
    """An error inside the stream is swallowed: the frames just end."""
    yield first
    try:
        yield from rest
    except SimError:
        return


def _numbered(events: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    return (each | {"sequence_number": number} for number, each in enumerate(events))


def _event(event: dict[str, Any], *, sort_keys: bool = False) -> bytes:
    return f"event: {event['type']}\ndata: ".encode() + dumps(event, sort_keys=sort_keys) + b"\n\n"


def _text(content: Any) -> str:
    """Content is a text, or blocks of which some hold text."""
    if isinstance(content, str):
        return content
    return " ".join(str(block.get("text", "")) for block in content or [] if isinstance(block, dict))
