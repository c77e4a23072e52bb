"""The bodies that Ollama decodes, as Go types: what each field may hold, and Go's own words for what it refuses.

They follow ollama api/types.go, openai/openai.go, openai/responses.go and anthropic/anthropic.go. A null is no value,
whatever the field; fields that are not listed are not looked at.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jobs.testing.ollama.faults import SimError
from jobs.testing.ollama.go_formats import keep_alive

_LITERALS = {"n": "null", "t": "true", "f": "false"}
_KINDS = {list: "array", str: "string", int: "number", float: "number", bool: "bool", dict: "object"}
_EFFORTS = ("minimal", "low", "medium", "high", "xhigh", "ultra", "max", "none")


@dataclass(frozen=True)
class GoStruct:
    """A struct, and the types of its fields."""

    name: str
    fields: Mapping[str, "GoType"]
    alias: str = ""
    """Its decoder is its own: this is the type that it decodes first, and errors inside name the struct around it."""


@dataclass(frozen=True)
class GoList:
    of: "GoType"
    name: str = ""
    """Where the list type has one of its own."""


GoType = str | GoStruct | GoList | Callable[[Any], object]
"""A scalar by its name in Go; a struct; a list; or what decodes the value itself and raises a `SimError`."""

TEXT, TRUTH, WHOLE, FRACTION, MAP = "string", "bool", "int", "float64", "map[string]interface {}"


def think(value: Any) -> bool | str | None:
    """A JSON `think`: a truth or one of four words."""
    if value is None or isinstance(value, bool):
        return value
    words = ("high", "medium", "low", "max")
    quoted = ", ".join(f'"{word}"' for word in words)
    if not isinstance(value, str):
        raise SimError(f"think must be a boolean or string ({quoted}, true, or false)", 400)
    if value not in words:
        raise SimError(f'invalid think value: "{value}" (must be {quoted}, true, or false)', 400)
    return value


def think_of_effort(effort: str) -> bool | str | None:
    """What OpenAI's scale of efforts means here."""
    if effort and effort not in _EFFORTS:
        quoted = ", ".join(f'"{word}"' for word in _EFFORTS[:-1])
        raise SimError(f'invalid reasoning value: "{effort}" (must be {quoted}, or "none")', 400)
    return {"": None, "none": False, "minimal": "low", "xhigh": "max", "ultra": "max"}.get(effort, effort)


def check(value: Any, go_type: GoType, struct: str = "", path: str = "") -> None:
    """Refuse what Go's decoder would not put there.

    Raises:
        SimError: with the decoder's own text.

    """
    if value is None:
        return
    if isinstance(go_type, GoStruct):
        _check_struct(value, go_type, struct, path)
    elif isinstance(go_type, GoList):
        if not isinstance(value, list):
            raise _mismatch(value, go_type.name or f"[]{_name(go_type.of)}", struct, path)
        for each in value:
            check(each, go_type.of, struct, path)
    elif not isinstance(go_type, str):
        go_type(value)
    elif not _holds(value, go_type):
        raise _mismatch(value, go_type, struct, path)


def _check_struct(value: Any, go_type: GoStruct, struct: str, path: str) -> None:
    if not isinstance(value, dict):
        raise _mismatch(value, go_type.alias or go_type.name, struct, path)
    inside = struct if go_type.alias else go_type.name.rpartition(".")[2]
    for key, each in value.items():
        if key.lower() in go_type.fields:
            check(each, go_type.fields[key.lower()], inside, f"{path}.{key.lower()}".lstrip("."))


def _holds(value: Any, scalar: str) -> bool:
    if scalar in (TEXT, "api.ImageData"):
        return isinstance(value, str)
    if scalar == MAP:
        return isinstance(value, dict)
    if isinstance(value, bool) or scalar == TRUTH:
        return isinstance(value, bool) and scalar == TRUTH
    return isinstance(value, int) or (isinstance(value, float) and scalar != WHOLE)


def _name(go_type: GoType) -> str:
    return go_type if isinstance(go_type, str) else getattr(go_type, "name", "")


def kind_of(value: Any) -> str:
    """What JSON calls it."""
    return _KINDS[type(value)]


def _mismatch(value: Any, wanted: str, struct: str, path: str) -> SimError:
    told = kind_of(value)
    if wanted == WHOLE and isinstance(value, float):
        told = f"number {value}"
    place = f"Go struct field {struct}.{path}" if path else "Go value"
    return SimError(f"json: cannot unmarshal {told} into {place} of type {wanted}", 400)


def go_json(raw: bytes, struct: GoStruct) -> dict[str, Any]:
    """The object in `raw`; null is an empty one.

    Raises:
        SimError: with the decoder's own text.

    """
    text = raw.decode(errors="replace").lstrip()
    try:
        document, _ = json.JSONDecoder().raw_decode(text)
    except ValueError as error:
        raise SimError(_syntax(text)) from error
    check(document, struct)
    return document or {}


def _syntax(text: str) -> str:
    literal = _LITERALS.get(text[:1])
    if not text:
        return "EOF"
    if literal is None:
        return "unexpected EOF" if text[0] in '{["' else f"invalid character '{text[0]}' looking for beginning of value"
    for at, expected in enumerate(literal):
        if at >= len(text):
            return "unexpected EOF"
        if text[at] != expected:
            return f"invalid character '{text[at]}' in literal {literal} (expecting '{expected}')"
    return "unexpected EOF"


# -- the types ---------------------------------------------------------------------------------------------------------

_NO_PROPERTIES = "Value looks like object, but can't find closing '}' symbol"


def _arguments(value: Any) -> None:
    """Arguments and properties keep their order, by a decoder that has odd words for what is no object."""
    if not isinstance(value, dict):
        raise SimError(_NO_PROPERTIES, 400)


_PARAMETERS = GoStruct("api.ToolFunctionParameters", {"type": TEXT, "required": GoList(TEXT), "properties": _arguments})
TOOL = GoStruct(
    "api.Tool",
    {"type": TEXT, "function": GoStruct("api.ToolFunction", {"name": TEXT, "description": TEXT,
                                                             "parameters": _PARAMETERS})},
)  # fmt: skip
_TOOL_CALL = GoStruct(
    "api.ToolCall",
    {"id": TEXT, "function": GoStruct("api.ToolCallFunction", {"name": TEXT, "index": WHOLE, "arguments": _arguments})},
)
_MESSAGE = GoStruct(
    "api.Message",
    {
        "role": TEXT,
        "content": TEXT,
        "thinking": TEXT,
        "images": GoList("api.ImageData"),
        "tool_calls": GoList(_TOOL_CALL),
        "tool_name": TEXT,
        "tool_call_id": TEXT,
    },
    alias="api.Alias",
)
_GENERATING: dict[str, GoType] = {
    "model": TEXT,
    "stream": TRUTH,
    "keep_alive": keep_alive,
    "options": MAP,
    "think": think,
    "truncate": TRUTH,
    "shift": TRUTH,
    "logprobs": TRUTH,
    "top_logprobs": WHOLE,
}
_NAMED: dict[str, GoType] = {"model": TEXT, "name": TEXT}

_OPENAI_MESSAGE = GoStruct(
    "openai.Message",
    {
        "role": TEXT,
        "reasoning": TEXT,
        "name": TEXT,
        "tool_call_id": TEXT,
        "tool_calls": GoList(
            GoStruct(
                "openai.ToolCall",
                {
                    "id": TEXT,
                    "index": WHOLE,
                    "type": TEXT,
                    "function": GoStruct(".", {"name": TEXT, "arguments": TEXT}),
                },
            )
        ),
    },
)
_STREAM_OPTIONS = GoStruct("openai.StreamOptions", {"include_usage": TRUTH})
_OPENAI_SAMPLING: dict[str, GoType] = {
    "model": TEXT,
    "max_tokens": WHOLE,
    "seed": WHOLE,
    "stream": TRUTH,
    "stream_options": _STREAM_OPTIONS,
}
_RESPONSES_TOOL = GoStruct(
    "openai.ResponsesTool", {"type": TEXT, "name": TEXT, "description": TEXT, "strict": TRUTH, "parameters": MAP}
)


def _blocks(value: Any) -> None:
    """What stands in one of Anthropic's messages: a text, or blocks."""
    if not isinstance(value, str):
        check(value, GoList(GoStruct("anthropic.ContentBlock", {"input": _arguments})), "MessagesRequest", "messages")


_MESSAGE_PARAM = GoStruct(
    "anthropic.MessageParam",
    {"role": TEXT, "content": _blocks},
    alias=r'struct { Role string "json:\"role\""; Content json.RawMessage "json:\"content\"" }',
)

_STRUCTS = (
    GoStruct(
        "api.GenerateRequest",
        {
            **_GENERATING,
            "prompt": TEXT,
            "suffix": TEXT,
            "system": TEXT,
            "template": TEXT,
            "raw": TRUTH,
            "context": GoList(WHOLE),
            "images": GoList("api.ImageData"),
        },
    ),
    GoStruct(
        "api.ChatRequest",
        {**_GENERATING, "messages": GoList(_MESSAGE, "[]api.Message"), "tools": GoList(TOOL, "api.Tools")},
    ),
    GoStruct("api.PullRequest", {**_NAMED, "stream": TRUTH, "insecure": TRUTH, "username": TEXT, "password": TEXT}),
    GoStruct("api.ShowRequest", {**_NAMED, "verbose": TRUTH, "system": TEXT, "template": TEXT, "options": MAP}),
    GoStruct("api.DeleteRequest", _NAMED),
    GoStruct("api.CopyRequest", {"source": TEXT, "destination": TEXT}),
    GoStruct(
        "api.EmbedRequest",
        {"model": TEXT, "keep_alive": keep_alive, "truncate": TRUTH, "dimensions": WHOLE, "options": MAP},
    ),
    GoStruct("api.EmbeddingRequest", {"model": TEXT, "prompt": TEXT, "keep_alive": keep_alive, "options": MAP}),
    GoStruct(
        "openai.ChatCompletionRequest",
        {
            **_OPENAI_SAMPLING,
            "messages": GoList(_OPENAI_MESSAGE),
            "temperature": FRACTION,
            "frequency_penalty": FRACTION,
            "presence_penalty": FRACTION,
            "top_p": FRACTION,
            "response_format": GoStruct(
                "openai.ResponseFormat", {"type": TEXT, "json_schema": GoStruct("openai.JsonSchema", {})}
            ),
            "tools": GoList(TOOL),
            "reasoning": GoStruct("openai.Reasoning", {"effort": TEXT}),
            "reasoning_effort": TEXT,
            "logprobs": TRUTH,
            "top_logprobs": WHOLE,
        },
    ),
    GoStruct(
        "openai.CompletionRequest",
        {
            **_OPENAI_SAMPLING,
            "prompt": TEXT,
            "suffix": TEXT,
            "logprobs": WHOLE,
            **dict.fromkeys(("temperature", "top_p", "frequency_penalty", "presence_penalty"), "float32"),
        },
    ),
    GoStruct("openai.EmbedRequest", {"model": TEXT, "dimensions": WHOLE, "encoding_format": TEXT}),
    GoStruct(
        "openai.ResponsesRequest",
        {
            "model": TEXT,
            "background": TRUTH,
            "include": GoList(TEXT),
            "instructions": TEXT,
            "max_output_tokens": WHOLE,
            "reasoning": GoStruct("openai.ResponsesReasoning", {"effort": TEXT, "summary": TEXT}),
            "temperature": FRACTION,
            "top_p": FRACTION,
            "text": GoStruct(
                "openai.ResponsesText",
                {"format": GoStruct("openai.ResponsesTextFormat", {"type": TEXT, "name": TEXT, "strict": TRUTH})},
            ),
            "truncation": TEXT,
            "tools": GoList(_RESPONSES_TOOL),
            "stream": TRUTH,
        },
    ),
    GoStruct(
        "anthropic.MessagesRequest",
        {
            "model": TEXT,
            "max_tokens": WHOLE,
            "messages": GoList(_MESSAGE_PARAM),
            "stream": TRUTH,
            "temperature": FRACTION,
            "top_p": FRACTION,
            "top_k": WHOLE,
            "stop_sequences": GoList(TEXT),
            "tools": GoList(GoStruct("anthropic.Tool", {"type": TEXT, "name": TEXT, "description": TEXT})),
            "tool_choice": GoStruct("anthropic.ToolChoice", {"type": TEXT, "name": TEXT}),
            "thinking": GoStruct("anthropic.ThinkingConfig", {"type": TEXT, "budget_tokens": WHOLE}),
            "metadata": GoStruct("anthropic.Metadata", {"user_id": TEXT}),
            "output_config": GoStruct("anthropic.OutputConfig", {"effort": TEXT}),
        },
    ),
)
STRUCTS: dict[str, GoStruct] = {struct.name: struct for struct in _STRUCTS}
