"""What Ollama refuses of a request by its body alone, so that it is refused before a model is loaded for it.

Statuses and texts are Ollama's own (`jobs.ollama`, and server/routes.go). Nothing is refused that Ollama takes. Of long
texts the beginning is looked at, and a list or object that is long without them, by its kind alone: the rest is left to
the server.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from app.gateway.protocol.errors import InvalidOption
from app.gateway.protocol.json_body.fields import TOO_LONG, Fields
from jobs.core.errors import BadRequest, Trouble
from jobs.ollama import request_content as content
from jobs.ollama.go_types import FRACTION, TEXT, TRUTH, WHOLE, check, field
from jobs.ollama.request_types import BODIES, think_of_effort

_MOST_SHOWN = 200

OPTIONS: Mapping[str, str] = {
    **dict.fromkeys(
        (
            *("num_keep", "seed", "num_predict", "top_k", "repeat_last_n", "num_ctx", "num_batch", "num_gpu"),
            *("main_gpu", "num_thread", "draft_num_predict"),
        ),
        "integer",
    ),
    **dict.fromkeys(
        ("top_p", "min_p", "typical_p", "temperature", "repeat_penalty", "presence_penalty", "frequency_penalty"),
        "float32",
    ),
    "use_mmap": "boolean",
    "stop": "array",
}
"""The options that Ollama knows, and its words for their types; it takes fractions for whole numbers."""

_OPTION_KINDS = {"integer": "number", "float32": "number", "boolean": "bool", "array": "array"}

_OWN: Mapping[str, frozenset[str]] = {
    "/api/generate": frozenset({"format"}),
    "/api/chat": frozenset({"format"}),
    "/api/embed": frozenset({"input"}),
    "/v1/embeddings": frozenset({"input"}),
    "/v1/completions": frozenset({"stop"}),
}
"""Beside those of the types: fields that take anything, of which Ollama refuses some later."""

_PATHS = frozenset(
    {
        *("/api/generate", "/api/chat", "/api/embed", "/api/embeddings", "/v1/chat/completions", "/v1/completions"),
        *("/v1/embeddings", "/v1/responses", "/v1/messages"),
    }
)

FIELDS: Mapping[str, frozenset[str]] = {
    path: (frozenset(BODIES[path].in_any_case) | _OWN.get(path, frozenset())) - {"model"} for path in _PATHS
}
"""By path, what has to be looked for in a body to know whether it is refused."""


_TYPED: Mapping[str, Mapping[str, tuple[Any, str, str]]] = {
    path: {
        name: (go_type, struct.name.rpartition(".")[2], tag)
        for name, (tag, go_type) in struct.in_any_case.items()
        if name in FIELDS[path]
    }
    for path, struct in ((path, BODIES[path]) for path in _PATHS)
}
"""By path and field, its type, and the struct and name that Go tells it by."""


@dataclass(frozen=True)
class Wants:
    """What a model has to be able to do for a request.

    Args:
        verb: to chat or to generate; empty where any model will do.
        thinks: it is asked to think, and nothing else will do.
        tools: it is offered some.
        inserts: it is asked for what stands before a suffix.

    """

    verb: str = ""
    thinks: bool = False
    tools: bool = False
    inserts: bool = False


NOTHING = Wants()


@dataclass(slots=True)
class Verdict:
    """What is said of a body that is not refused outright. Nobody changes one.

    Args:
        refusal: what Ollama refuses once it has found the model, and before or after it has loaded it.
        wants: what the model has to be able to do.

    """

    refusal: Trouble | None = None
    wants: Wants = NOTHING


_PLAIN_CHAT = Verdict(None, Wants("chat"))
"""Of a chat in texts that says nothing special."""

_SPECIAL: Mapping[str, frozenset[str]] = {
    "/v1/chat/completions": frozenset({"reasoning", "reasoning_effort", "top_logprobs", "tools"}),
    "/api/chat": frozenset({"options", "format", "think", "top_logprobs", "tools"}),
}
"""By path of chats, the fields that more has to be known of than that their types are right."""


def judge(found: Fields, path: str) -> Verdict:
    """Refuse what Ollama refuses before it looks for the model.

    Raises:
        BadRequest: with Ollama's own words.

    """
    if path not in _PATHS:
        return Verdict()
    body = _Body(found)
    typed = _TYPED[path]
    for name in found.in_order():  # Go tells the first
        if (known := typed.get(name)) is not None:
            if name == "messages" and body.is_plain_talk:  # as nearly all
                continue
            kind = found.kind(name)
            if _SCALARS.get(kind) is known[0]:  # as nearly all
                continue
            if kind == "number" and (known[0] is FRACTION or (known[0] is WHOLE and found.is_plain_number(name))):
                continue
            value = body.value(name)
            check(_OF_KIND[kind] if value is TOO_LONG else value, *known)
    if body.is_plain_talk and (special := _SPECIAL.get(path)) is not None and not found.has_any(special):
        return _PLAIN_CHAT
    checks = _CHECKS.get(path)
    refusal = checks(body) if checks is not None else None
    return Verdict(refusal, _WANTS[path](body) if path in _WANTS else NOTHING)


_SCALARS: Mapping[str, str] = {"string": TEXT, "bool": TRUTH}
"""By kind, the type that takes all of it."""

_OF_KIND: Mapping[str, Any] = {"array": [], "object": {}, "string": "", "number": 0, "bool": False, "null": None}


class _Body:
    """The values of a body, each built once and as far as it is short."""

    def __init__(self, found: Fields) -> None:
        self.found = found
        self.is_plain_talk = content.is_plain_talk(found.built("messages"))
        """Its messages are texts and nothing else."""
        self._values: dict[str, Any] = {}

    def value(self, name: str) -> Any:
        if name not in self._values:
            self._values[name] = self.found.outline(name)
        return self._values[name]

    def items(self, name: str) -> list[Any]:
        """Those of a list; none of anything else, and of one that is too long."""
        value = self.value(name)
        return value if isinstance(value, list) else []


# -- what each route wants beside the types ----------------------------------------------------------------------------


def _generate(body: _Body) -> Trouble | None:
    found = body.found
    late = _generating(found)
    if not found.is_set("prompt"):
        return late
    if found.is_set("raw") and any(found.is_set(name) for name in ("template", "system", "context")):
        return BadRequest("raw mode does not support template, system, or context")
    return late or _bad_format(found)


def _chat(body: _Body) -> Trouble | None:
    found = body.found
    return _generating(found) or (_bad_format(found) if found.is_set("messages") else None)


def _generating(found: Fields) -> Trouble | None:
    _expect_logprobs(found)
    return _bad_option(found)


def _expect_logprobs(found: Fields) -> None:
    if found.is_there("top_logprobs") and not 0 <= (found.scalar("top_logprobs") or 0) <= 20:
        raise BadRequest("top_logprobs must be between 0 and 20")


def _bad_option(found: Fields) -> Trouble | None:
    options = found.inside("options")
    for name, wanted in OPTIONS.items():
        kind = options.kind(name)
        if kind not in {"null", _OPTION_KINDS[wanted]}:
            return InvalidOption(f'option "{name}" must be of type {wanted}')
        if kind == "array" and options.kind_of_first(name) not in {"", "string"}:
            return InvalidOption(f'option "{name}" must be of an array of strings')
    return None


def _bad_format(found: Fields) -> Trouble | None:
    if found.kind("format") in {"null", "object"}:
        return None
    text = found.text("format")[:_MOST_SHOWN]
    if text in {b'""', b'"json"'}:
        return None
    shown = _quoted(text.decode("utf-8", "replace"))
    return InvalidOption(f'invalid format: {shown}; expected "json" or a valid JSON Schema object')


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _embed(body: _Body) -> Trouble | None:
    _expect_input(body.found)
    return _bad_option(body.found)


def _expect_input(found: Fields) -> None:
    if found.kind("input") not in {"null", "string", "array"} or found.kind_of_first("input") not in {"", "string"}:
        raise BadRequest("invalid input type")


def _openai_embeddings(body: _Body) -> None:
    found = body.found
    coded = found.scalar("encoding_format") or "float"
    if coded.lower() not in {"float", "base64"}:
        raise BadRequest(
            f"Invalid value for 'encoding_format' = {coded[:_MOST_SHOWN]}. Supported values: ['float', 'base64']."
        )
    if found.kind("input") == "null" or (found.kind("input") == "array" and not found.is_set("input")):
        raise BadRequest("invalid input")
    _expect_input(found)


def _openai_chat(body: _Body) -> None:
    if not body.found.is_set("messages"):
        raise BadRequest("[] is too short - 'messages'")
    if not body.is_plain_talk:
        content.check_chat_completion(body.items("messages"))
    if effort := _effort(body):
        think_of_effort(effort)
    _expect_logprobs(body.found)


def _effort(body: _Body) -> str:
    if not body.found.is_there("reasoning") and not body.found.is_there("reasoning_effort"):  # as nearly always
        return ""
    reasoning = body.value("reasoning")
    return str((body.value("reasoning_effort") if reasoning is None else field(reasoning, "effort")) or "")


def _openai_completions(body: _Body) -> None:
    content.check_stop(body.value("stop"))
    if (body.found.scalar("logprobs") or 0) > 20:
        raise BadRequest("top_logprobs must be between 0 and 20")


def _responses(body: _Body) -> None:
    content.check_response_items(body.value("input"))
    think_of_effort(str(field(body.value("reasoning"), "effort") or ""))
    content.check_response_tools(body.items("tools"))


def _messages(body: _Body) -> None:
    if (body.found.scalar("max_tokens") or 0) <= 0:
        raise BadRequest("max_tokens is required and must be positive")
    if not body.found.is_set("messages"):
        raise BadRequest("messages is required")
    if not body.is_plain_talk:
        content.check_messages(body.items("messages"))
    content.check_tools(body.items("tools"))


_CHECKS: Mapping[str, Callable[[_Body], Trouble | None]] = {
    "/api/generate": _generate,
    "/api/chat": _chat,
    "/api/embed": _embed,
    "/api/embeddings": lambda body: _bad_option(body.found),
    "/v1/chat/completions": _openai_chat,
    "/v1/completions": _openai_completions,
    "/v1/embeddings": _openai_embeddings,
    "/v1/responses": _responses,
    "/v1/messages": _messages,
}


# -- what each route wants of a model ----------------------------------------------------------------------------------


def _to_think(effort: str) -> bool:
    return bool(effort and think_of_effort(effort))


_CHATS = {
    (thinks, tools): Wants("chat", thinks=thinks, tools=tools) for thinks in (False, True) for tools in (False, True)
}
_GENERATES = {
    (thinks, inserts): Wants("generate", thinks=thinks, inserts=inserts)
    for thinks in (False, True)
    for inserts in (False, True)
}


_WANTS: Mapping[str, Callable[[_Body], Wants]] = {
    "/api/generate": lambda body: _GENERATES[body.found.is_set("think"), body.found.is_set("suffix")],
    "/api/chat": lambda body: _CHATS[body.found.is_set("think"), body.found.is_set("tools")],
    "/v1/completions": lambda body: _GENERATES[False, body.found.is_set("suffix")],
    "/v1/chat/completions": lambda body: _CHATS[_to_think(_effort(body)), body.found.is_set("tools")],
    "/v1/responses": lambda body: _CHATS[
        _to_think(str(field(body.value("reasoning"), "effort") or "")), content.response_tools(body.items("tools")) > 0
    ],
    # Of a model that does not think, Ollama lets it pass here.
    "/v1/messages": lambda body: _CHATS[False, body.found.is_set("tools")],
}
