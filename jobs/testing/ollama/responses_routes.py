"""The simulator's route for OpenAI's responses, `/v1/responses`: stateless, and never incomplete.

Keys stand in alphabetical order on the wire of a stream, and failures inside it just end it.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from jobs.ollama.request_content import check_response_items, check_response_tools
from jobs.ollama.request_types import item_kind, think_of_effort
from jobs.testing.ollama.faults import at_the_door
from jobs.testing.ollama.generation import CHAT, Frame, all_frames, merged, until_failure
from jobs.testing.ollama.go_formats import short_id, unix
from jobs.testing.ollama.model_output import Piece
from jobs.testing.ollama.openai_routes import openai_tool_calls
from jobs.testing.ollama.requests import SSE, Request, SimulatorAnswer, SimulatorParts, Stream, as_line, event


def responses(parts: SimulatorParts, request: Request) -> SimulatorAnswer:
    body = request.json()
    with at_the_door():
        check_response_items(body.get("input"))
        native = _native(body)
        check_response_tools(body.get("tools") or ())
    frames = all_frames(parts, request, native, CHAT)
    answer = _Response(parts, body)
    if not body.get("stream"):
        return as_line(answer.whole(merged(list(frames), CHAT)))
    return Stream((event(each, sort_keys=True) for each in answer.events(next(frames), frames)), SSE)


# -- the request -------------------------------------------------------------------------------------------------------


def _native(body: dict[str, Any]) -> dict[str, Any]:
    """The native request that the middleware makes of it."""
    names = {"max_output_tokens": "num_predict", "temperature": "temperature", "top_p": "top_p"}
    first = [{"role": "system", "content": body["instructions"]}] if body.get("instructions") else []
    form = (body.get("text") or {}).get("format") or {}
    return {
        "model": body.get("model"),
        "messages": first + _messages(body.get("input")),
        "options": {ours: body[theirs] for theirs, ours in names.items() if body.get(theirs) is not None},
        "tools": [{"type": "function", "function": tool} for tool in _tools(body.get("tools") or ())],
        "format": form.get("schema") if form.get("type") == "json_schema" else None,
        "think": think_of_effort(str((body.get("reasoning") or {}).get("effort") or "")),
    }


def _tools(tools: Iterable[Any]) -> list[Any]:
    """Those of a namespace stand among the others."""
    return [
        each
        for tool in tools
        for each in (_tools(tool.get("tools") or ()) if tool.get("type") == "namespace" else [tool])
    ]


def _messages(given: Any) -> list[dict[str, Any]]:
    if isinstance(given, str):
        return [{"role": "user", "content": given}] if given else []
    return [message for item in given or () if (message := _message(item)) is not None]


def _message(item: Any) -> dict[str, Any] | None:
    """One item of the conversation; None for one that says nothing to a model."""
    match item_kind(item):
        case "message":
            return {"role": str(item.get("role") or "").lower(), "content": _text(item.get("content"))}
        case "function_call_output":
            return {"role": "tool", "content": _text(item.get("output"))}
        case "function_call":
            return {"role": "assistant", "content": ""}
        case _:
            return None


def _text(content: Any) -> str:
    """A text, or parts of which some hold text."""
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text") or "") for part in content or ())


# -- the answer --------------------------------------------------------------------------------------------------------


class _Response:
    """One answer: what was asked is repeated in it. Items of its output come one after the other."""

    def __init__(self, parts: SimulatorParts, body: dict[str, Any]) -> None:
        self._body = body
        self._clock = parts.clock
        self._id = short_id("resp", 999_999).replace("-", "_")
        self._number = 0
        self._items: list[dict[str, Any]] = []
        self._open: dict[str, Any] | None = None
        self._said = ""

    def whole(self, frame: Frame) -> dict[str, Any]:
        piece = CHAT.piece_of(frame)
        output = [_reasoning(f"rs_{self._id}", piece.thinking)] if piece.thinking else []
        if piece.tool_calls:
            output += [_call(f"fc_{self._id}_{at}", call) for at, call in enumerate(openai_tool_calls(piece))]
        else:
            output.append(_text_item(short_id("msg", 999_999).replace("-", "_"), "completed", piece.text))
        return self._document("completed", output, frame)

    def events(self, first: Frame, rest: Iterator[Frame]) -> Iterator[dict[str, Any]]:
        """The stream's events, numbered."""
        return (each | {"sequence_number": at} for at, each in enumerate(self._events(first, rest)))

    def _events(self, first: Frame, rest: Iterator[Frame]) -> Iterator[dict[str, Any]]:
        yield {"type": "response.created", "response": self._document("in_progress", [])}
        yield {"type": "response.in_progress", "response": self._document("in_progress", [])}
        for frame in until_failure(first, rest):
            piece = CHAT.piece_of(frame)
            if piece.thinking:
                yield from self._grown("reasoning", piece.thinking)
            if piece.text:
                yield from self._grown("message", piece.text)
            yield from self._called(piece)
            if frame["done"]:
                yield from self._closed()
                yield {"type": "response.completed", "response": self._document("completed", self._items, frame)}

    def _grown(self, kind: str, text: str) -> Iterator[dict[str, Any]]:
        """More of a text or a thought, in the item that is open or in a new one."""
        if self._open is None or self._open["type"] != kind:
            yield from self._closed()
            self._open = _begun(kind)
            yield {"type": "response.output_item.added", "output_index": len(self._items), "item": self._open}
            if kind == "message":
                yield {"type": "response.content_part.added", **self._place(), "part": _part("")}
        self._said += text
        yield {"type": f"response.{_TEXTS[kind]}.delta", **self._place(), "delta": text}

    def _closed(self) -> Iterator[dict[str, Any]]:
        if self._open is None:
            return
        kind, item_id, place = self._open["type"], self._open["id"], self._place()
        item = _reasoning(item_id, self._said) if kind == "reasoning" else _text_item(item_id, "completed", self._said)
        yield {"type": f"response.{_TEXTS[kind]}.done", **place, "text": self._said}
        if kind == "message":
            yield {"type": "response.content_part.done", **place, "part": _part(self._said)}
        yield {"type": "response.output_item.done", "output_index": len(self._items), "item": item}
        self._items.append(item)
        self._open, self._said = None, ""

    def _called(self, piece: Piece) -> Iterator[dict[str, Any]]:
        for call in openai_tool_calls(piece):
            yield from self._closed()
            at = len(self._items)
            item = _call(f"{short_id('fc', 999_999).replace('-', '_')}_{at}", call)
            place = {"item_id": item["id"], "output_index": at}
            begun = item | {"status": "in_progress", "arguments": ""}
            yield {"type": "response.output_item.added", "output_index": at, "item": begun}
            yield {"type": "response.function_call_arguments.delta", **place, "delta": item["arguments"]}
            yield {"type": "response.function_call_arguments.done", **place, "arguments": item["arguments"]}
            yield {"type": "response.output_item.done", "output_index": at, "item": item}
            self._items.append(item)

    def _place(self) -> dict[str, Any]:
        opened = self._open or {}
        place = {"item_id": opened.get("id"), "output_index": len(self._items)}
        if opened.get("type") == "reasoning":
            return place | {"summary_index": 0}
        return place | {"content_index": 0, "logprobs": []}

    def _document(self, status: str, output: list[dict[str, Any]], frame: Frame | None = None) -> dict[str, Any]:
        body, now = self._body, unix(self._clock.now())
        reasoning = {
            key: body["reasoning"][key] for key in ("effort", "summary") if (body.get("reasoning") or {}).get(key)
        }
        return {
            "id": self._id,
            "object": "response",
            "created_at": now,
            "completed_at": now if frame else None,
            "status": status,
            "incomplete_details": None,
            "model": body.get("model") or "",
            "previous_response_id": None,
            "instructions": body.get("instructions") or None,
            "output": list(output),
            "error": None,
            "tools": [
                {key: tool.get(key) for key in ("type", "name", "description", "strict", "parameters")}
                for tool in body.get("tools") or ()
            ],
            "tool_choice": "auto",
            "truncation": body.get("truncation") or "disabled",
            "parallel_tool_calls": True,
            "text": {"format": (body.get("text") or {}).get("format") or {"type": "text"}},
            "top_p": 1 if body.get("top_p") is None else body["top_p"],
            "presence_penalty": 0,
            "frequency_penalty": 0,
            "top_logprobs": 0,
            "temperature": 1 if body.get("temperature") is None else body["temperature"],
            "reasoning": reasoning or None,
            "usage": _usage(frame) if frame else None,
            "max_output_tokens": body.get("max_output_tokens"),
            "max_tool_calls": None,
            "store": False,
            "background": bool(body.get("background")),
            "service_tier": "default",
            "metadata": {},
            "safety_identifier": None,
            "prompt_cache_key": None,
        }


_TEXTS = {"reasoning": "reasoning_summary_text", "message": "output_text"}


def _begun(kind: str) -> dict[str, Any]:
    if kind == "reasoning":
        return {"id": short_id("rs", 999_999).replace("-", "_"), "type": "reasoning", "summary": []}
    return _text_item(short_id("msg", 999_999).replace("-", "_"), "in_progress", None)


def _text_item(item_id: str, status: str, text: str | None) -> dict[str, Any]:
    content = [] if text is None else [_part(text)]
    return {"id": item_id, "type": "message", "status": status, "role": "assistant", "content": content}


def _reasoning(item_id: str, thoughts: str) -> dict[str, Any]:
    summary = [{"type": "summary_text", "text": thoughts}]
    return {"id": item_id, "type": "reasoning", "summary": summary, "encrypted_content": thoughts}


def _call(item_id: str, call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {
        "id": item_id,
        "type": "function_call",
        "status": "completed",
        "call_id": call["id"],
        "name": function["name"],
        "arguments": function["arguments"],
    }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(frame: Frame) -> dict[str, Any]:
    prompt, said = frame.get("prompt_eval_count", 0), frame.get("eval_count", 0)
    return {
        "input_tokens": prompt,
        "output_tokens": said,
        "total_tokens": prompt + said,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
