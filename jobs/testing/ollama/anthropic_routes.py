"""The simulator's Anthropic route, `/v1/messages`. Failures inside a stream just end it."""

import secrets
from collections.abc import Iterator
from typing import Any

from jobs.ollama.request_content import check_messages, check_tools
from jobs.testing.ollama.faults import SimError, at_the_door
from jobs.testing.ollama.generation import CHAT, Frame, all_frames, merged, until_failure
from jobs.testing.ollama.go_formats import tokens
from jobs.testing.ollama.model_output import Piece
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
    event,
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
    with at_the_door():
        if not body.get("model"):
            raise SimError("model is required", 400)
        if (body.get("max_tokens") or 0) <= 0:
            raise SimError("max_tokens is required and must be positive", 400)
        if not body.get("messages"):
            raise SimError("messages is required", 400)
        check_messages(body["messages"])
        native = _native(body)
        check_tools(body.get("tools") or ())
    frames = all_frames(parts, request, native, CHAT)
    if not body.get("stream"):
        whole = merged(list(frames), CHAT)
        piece = CHAT.piece_of(whole)
        usage = {"input_tokens": whole.get("prompt_eval_count", 0), "output_tokens": whole.get("eval_count", 0)}
        reason = _stop_reason(str(whole["done_reason"]), has_called=bool(piece.tool_calls))
        return as_line(_message(body["model"], _content(piece), reason, usage))
    estimate = sum(len(tokens(each["content"])) for each in native["messages"])
    events = _message_events(str(body["model"]), estimate, next(frames), frames)
    return Stream((event(each) for each in events), SSE)


def _native(body: dict[str, Any]) -> dict[str, Any]:
    """The native request that the middleware makes of it. Thoughts that a model does not have are no error here."""
    options = {
        ours: body[theirs]
        for theirs, ours in (
            ("max_tokens", "num_predict"),
            ("temperature", "temperature"),
            ("top_p", "top_p"),
            ("top_k", "top_k"),
            ("stop_sequences", "stop"),
        )
        if body.get(theirs)
    }
    tools = [
        {"type": "function", "function": {"name": tool.get("name"), "parameters": tool.get("input_schema")}}
        for tool in body.get("tools") or ()
    ]
    return {
        "model": body["model"],
        "messages": [said for each in body["messages"] for said in _messages(each)],
        "options": options,
        "tools": tools,
        "think": _think(body),
        "relaxes_thinking": True,
    }


def _think(body: dict[str, Any]) -> bool | str | None:
    kind = (body.get("thinking") or {}).get("type")
    if kind in ("enabled", "disabled"):
        return bool(kind == "enabled")
    effort = str((body.get("output_config") or {}).get("effort") or "").strip().lower()
    effort = "high" if effort == "xhigh" else effort
    return effort if effort in ("high", "medium", "low", "max") else None


def _messages(message: dict[str, Any]) -> list[dict[str, Any]]:
    """One message is several: each result of a tool, and the texts of its blocks as one."""
    content, role = message.get("content"), str(message.get("role") or "").lower()
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    blocks = [each for each in blocks if each is not None]
    text = "".join(str(block.get("text") or "") for block in blocks if block.get("type") == "text")
    results = [
        {"role": "tool", "content": _text(block.get("content"))}
        for block in blocks
        if block.get("type") in ("tool_result", "web_search_tool_result")
    ]
    kinds = {block.get("type") for block in blocks}
    own = [{"role": role, "content": text}] if text or kinds & {"image", "tool_use", "thinking"} else []
    return [*results, *own] if role == "user" else [*own, *results]


def _text(content: Any) -> str:
    """What a tool told: a text, or blocks of which some hold text."""
    if isinstance(content, str):
        return content
    return " ".join(
        str(block.get("text", ""))
        for block in (content if isinstance(content, list) else ())
        if isinstance(block, dict)
    )


def _stop_reason(reason: str, *, has_called: bool) -> str:
    return "tool_use" if has_called else _STOPS.get(reason, "stop_sequence")


def _content(piece: Piece) -> list[dict[str, Any]]:
    thoughts = [{"type": "thinking", "thinking": piece.thinking}] if piece.thinking else []
    text = [{"type": "text", "text": piece.text}] if piece.text else []
    return [*thoughts, *text, *(_tool_use(call, call["function"]["arguments"]) for call in piece.tool_calls)]


def _tool_use(call: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    return {"type": "tool_use", "id": call["id"], "name": call["function"]["name"], "input": arguments}


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
    blocks = _Blocks()
    for frame in until_failure(first, rest):
        yield from blocks.events(CHAT.piece_of(frame))
        if frame["done"]:
            yield from blocks.closed()
            usage = {"input_tokens": frame.get("prompt_eval_count", 0), "output_tokens": frame.get("eval_count", 0)}
            reason = _stop_reason(str(frame["done_reason"]), has_called=blocks.has_called)
            yield {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage}
            yield {"type": "message_stop"}


class _Blocks:
    """The blocks of a streamed message: one is open at a time, and is closed when another kind of content comes."""

    def __init__(self) -> None:
        self._index = 0
        self._open = ""
        self.has_called = False

    def events(self, piece: Piece) -> Iterator[dict[str, Any]]:
        for kind, text in (("thinking", piece.thinking), ("text", piece.text)):
            if text:
                if self._open != kind:
                    yield from self.closed()
                    yield self._start({"type": kind, kind: ""})
                    self._open = kind
                yield self._delta({"type": f"{kind}_delta", kind: text})
        for call in piece.tool_calls:
            yield from self.closed()
            yield self._start(_tool_use(call, {}))
            arguments = dumps(call["function"]["arguments"]).decode()
            yield self._delta({"type": "input_json_delta", "partial_json": arguments})
            self._open = "tool_use"
            self.has_called = True
            yield from self.closed()

    def closed(self) -> Iterator[dict[str, Any]]:
        if self._open:
            yield {"type": "content_block_stop", "index": self._index}
            self._index += 1
            self._open = ""

    def _start(self, block: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_start", "index": self._index, "content_block": block}

    def _delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}
