"""The bodies that Ollama decodes, as Go types.

They follow ollama api/types.go, openai/openai.go, openai/responses.go and anthropic/anthropic.go. Not here: what
decodes `keep_alive`, which is a duration.
"""

import json
from collections.abc import Mapping
from typing import Any

from jobs.core.errors import BadRequest
from jobs.ollama.go_types import (
    FRACTION,
    IMAGE,
    MAP,
    TEXT,
    TRUTH,
    WHOLE,
    GoList,
    GoStruct,
    GoType,
    OrderedMap,
    TextOr,
    check,
    field,
    kind_of,
)

_EFFORTS = ("minimal", "low", "medium", "high", "xhigh", "ultra", "max", "none")


def think(value: Any) -> bool | str | None:
    """A JSON `think`: a truth or one of four words.

    Raises:
        BadRequest: in Ollama's words.

    """
    if value is None or isinstance(value, bool):
        return value
    words = ("high", "medium", "low", "max")
    quoted = ", ".join(f'"{word}"' for word in words)
    if not isinstance(value, str):
        raise BadRequest(f"think must be a boolean or string ({quoted}, true, or false)")
    if value not in words:
        raise BadRequest(f"invalid think value: {go_quoted(value[:_MOST_SHOWN])} (must be {quoted}, true, or false)")
    return value


def think_of_effort(effort: str) -> bool | str | None:
    """What OpenAI's scale of efforts means here.

    Raises:
        BadRequest: in Ollama's words.

    """
    if effort and effort not in _EFFORTS:
        quoted = ", ".join(f'"{word}"' for word in _EFFORTS[:-1])
        raise BadRequest(f'invalid reasoning value: {go_quoted(effort[:_MOST_SHOWN])} (must be {quoted}, or "none")')
    return _THINKS.get(effort, effort)


_THINKS: Mapping[str, bool | str | None] = {
    "": None, "none": False, "minimal": "low", "xhigh": "max", "ultra": "max",
}  # fmt: skip


def go_quoted(text: str) -> str:
    """As Go's %q, but for letters that cannot be printed."""
    return json.dumps(text, ensure_ascii=False)


_MOST_SHOWN = 200

# -- tools and messages ------------------------------------------------------------------------------------------------

_PROPERTY_FIELDS: dict[str, GoType] = {
    "type": TextOr(GoList(TEXT)),
    "description": TEXT,
    "enum": GoList("interface {}", "[]interface {}"),
    "required": GoList(TEXT),
}
_PROPERTY = GoStruct("api.ToolProperty", _PROPERTY_FIELDS)
_PROPERTY_FIELDS |= {"anyOf": GoList(_PROPERTY), "properties": OrderedMap(_PROPERTY)}

PARAMETERS = GoStruct(
    "api.ToolFunctionParameters", {"type": TEXT, "required": GoList(TEXT), "properties": OrderedMap(_PROPERTY)}
)
_TOOL = GoStruct(
    "api.Tool",
    {
        "type": TEXT,
        "function": GoStruct("api.ToolFunction", {"name": TEXT, "description": TEXT, "parameters": PARAMETERS}),
    },
)
_TOOL_CALL = GoStruct(
    "api.ToolCall",
    {
        "id": TEXT,
        "function": GoStruct("api.ToolCallFunction", {"name": TEXT, "index": WHOLE, "arguments": OrderedMap()}),
    },
)
_MESSAGE = GoStruct(
    "api.Message",
    {
        "role": TEXT,
        "content": TEXT,
        "thinking": TEXT,
        "images": GoList(IMAGE),
        "tool_calls": GoList(_TOOL_CALL),
        "tool_name": TEXT,
        "tool_call_id": TEXT,
    },
    alias="api.Alias",
)
_GENERATING: dict[str, GoType] = {
    "model": TEXT,
    "stream": TRUTH,
    "options": MAP,
    "think": think,
    "truncate": TRUTH,
    "shift": TRUTH,
    "logprobs": TRUTH,
    "top_logprobs": WHOLE,
}
_NAMED: dict[str, GoType] = {"model": TEXT, "name": TEXT}

_CALLED = r'struct { Name string "json:\"name\""; Arguments string "json:\"arguments\"" }'
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
                    "function": GoStruct(_CALLED, {"name": TEXT, "arguments": TEXT}),
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
_RESPONSES_TOOL_FIELDS: dict[str, GoType] = {
    "type": TEXT,
    "name": TEXT,
    "description": TEXT,
    "strict": TRUTH,
    "parameters": MAP,
}
_RESPONSES_TOOL = GoStruct("openai.ResponsesTool", _RESPONSES_TOOL_FIELDS)
_RESPONSES_TOOL_FIELDS["tools"] = GoList(_RESPONSES_TOOL)

_TYPE = GoStruct(r'struct { Type string "json:\"type\"" }', {"type": TEXT})
_TYPE_AND_ROLE = GoStruct(
    r'struct { Type string "json:\"type\""; Role string "json:\"role\"" }', {"type": TEXT, "role": TEXT}
)
_PARTS = {
    "input_text": GoStruct("openai.ResponsesTextContent", {"text": TEXT}),
    "output_text": GoStruct("openai.ResponsesOutputTextContent", {"text": TEXT}),
    "input_image": GoStruct("openai.ResponsesImageContent", dict.fromkeys(("detail", "file_id", "image_url"), TEXT)),
    "input_file": GoStruct(
        "openai.ResponsesFileContent", dict.fromkeys(("file_data", "file_id", "file_url", "filename"), TEXT)
    ),
}
_SUMMARY = GoStruct("openai.ResponsesReasoningSummary", {"type": TEXT, "text": TEXT})
_ITEMS = {
    "function_call": GoStruct(
        "openai.ResponsesFunctionCall", dict.fromkeys(("id", "call_id", "name", "arguments"), TEXT)
    ),
    "function_call_output": GoStruct("struct {", {"call_id": TEXT}),
    "reasoning": GoStruct(
        "openai.ResponsesReasoningInput", {"id": TEXT, "summary": GoList(_SUMMARY), "encrypted_content": TEXT}
    ),
    "web_search_call": GoStruct(
        "openai.ResponsesWebSearchCall",
        {"id": TEXT, "status": TEXT, "action": GoStruct("openai.ResponsesWebSearchAction", {})},
    ),
}
_WITH_PARTS = {"message": "content", "function_call_output": "output"}


def responses_input(value: Any) -> None:
    """What may stand in `input`: a text, or items of several kinds.

    Raises:
        BadRequest: in Ollama's words.

    """
    for at, item in enumerate(_texts_or_list(value, "input")):
        try:
            _check_item(item)
        except BadRequest as error:
            raise BadRequest(f"input[{at}]: {error}") from error


def item_kind(item: Any) -> str:
    """The kind of an item of `input`: one with a role and no kind is a message."""
    kind, role = field(item, "type"), field(item, "role")
    return str(kind or ("message" if role else ""))


def _check_item(item: Any) -> None:
    check(item, _TYPE_AND_ROLE)
    kind = item_kind(item)
    if kind not in {*_ITEMS, "message"}:
        told = f"unknown input item type: {go_quoted(kind[:_MOST_SHOWN])}" if kind else ""
        raise BadRequest(told or "input item missing required 'type' field")
    if kind in _ITEMS:
        check(item, _ITEMS[kind])
    if (name := _WITH_PARTS.get(kind)) is not None:
        for at, part in enumerate(_texts_or_list(field(item, name), name)):
            try:
                _check_part(part)
            except BadRequest as error:
                raise BadRequest(f"{name}[{at}]: {error}") from error


def _check_part(part: Any) -> None:
    check(part, _TYPE)
    kind = str(field(part, "type") or "")
    if kind not in _PARTS:
        raise BadRequest(f"unknown content type: {kind[:_MOST_SHOWN]}")
    check(part, _PARTS[kind])


def _texts_or_list(value: Any, name: str) -> list[Any]:
    """The items of a list; none of a text."""
    if value is None or isinstance(value, str):
        return []
    if not isinstance(value, list):
        told = f"json: cannot unmarshal {kind_of(value)} into Go value of type []json.RawMessage"
        raise BadRequest(f"{name} must be a string or array: {told}")
    return value


_SOURCE = GoStruct("anthropic.ImageSource", dict.fromkeys(("type", "media_type", "data", "url"), TEXT))
_CITATION = GoStruct(
    "anthropic.Citation", dict.fromkeys(("type", "url", "title", "encrypted_index", "cited_text"), TEXT)
)
_BLOCK = GoStruct(
    "anthropic.ContentBlock",
    {
        **dict.fromkeys(("type", "text", "id", "name", "tool_use_id", "thinking", "signature"), TEXT),
        "citations": GoList(_CITATION),
        "source": _SOURCE,
        "input": OrderedMap(),
        "is_error": TRUTH,
    },
)
_MESSAGE_PARAM = GoStruct(
    "anthropic.MessageParam",
    {"role": TEXT, "content": TextOr(GoList(_BLOCK), is_raw=True)},
    alias=r'struct { Role string "json:\"role\""; Content json.RawMessage "json:\"content\"" }',
    needs="content",
)

BODIES: Mapping[str, GoStruct] = {
    "/api/generate": GoStruct(
        "api.GenerateRequest",
        {
            **_GENERATING,
            "prompt": TEXT,
            "suffix": TEXT,
            "system": TEXT,
            "template": TEXT,
            "raw": TRUTH,
            "context": GoList(WHOLE),
            "images": GoList(IMAGE),
        },
    ),
    "/api/chat": GoStruct(
        "api.ChatRequest",
        {**_GENERATING, "messages": GoList(_MESSAGE, "[]api.Message"), "tools": GoList(_TOOL, "api.Tools")},
    ),
    "/api/pull": GoStruct(
        "api.PullRequest", {**_NAMED, "stream": TRUTH, "insecure": TRUTH, "username": TEXT, "password": TEXT}
    ),
    "/api/show": GoStruct(
        "api.ShowRequest", {**_NAMED, "verbose": TRUTH, "system": TEXT, "template": TEXT, "options": MAP}
    ),
    "/api/delete": GoStruct("api.DeleteRequest", _NAMED),
    "/api/copy": GoStruct("api.CopyRequest", {"source": TEXT, "destination": TEXT}),
    "/api/embed": GoStruct(
        "api.EmbedRequest",
        {"model": TEXT, "truncate": TRUTH, "dimensions": WHOLE, "options": MAP},
    ),
    "/api/embeddings": GoStruct("api.EmbeddingRequest", {"model": TEXT, "prompt": TEXT, "options": MAP}),
    "/v1/chat/completions": GoStruct(
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
            "tools": GoList(_TOOL),
            "reasoning": GoStruct("openai.Reasoning", {"effort": TEXT}),
            "reasoning_effort": TEXT,
            "logprobs": TRUTH,
            "top_logprobs": WHOLE,
        },
    ),
    "/v1/completions": GoStruct(
        "openai.CompletionRequest",
        {
            **_OPENAI_SAMPLING,
            "prompt": TEXT,
            "suffix": TEXT,
            "logprobs": WHOLE,
            **dict.fromkeys(("temperature", "top_p", "frequency_penalty", "presence_penalty"), "float32"),
        },
    ),
    "/v1/embeddings": GoStruct("openai.EmbedRequest", {"model": TEXT, "dimensions": WHOLE, "encoding_format": TEXT}),
    "/v1/responses": GoStruct(
        "openai.ResponsesRequest",
        {
            "model": TEXT,
            "background": TRUTH,
            "include": GoList(TEXT),
            "input": responses_input,
            "instructions": TEXT,
            "max_output_tokens": WHOLE,
            "reasoning": GoStruct(
                "openai.ResponsesReasoning", {"effort": TEXT, "generate_summary": TEXT, "summary": TEXT}
            ),
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
    "/v1/messages": GoStruct(
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
            "tools": GoList(
                GoStruct("anthropic.Tool", {"type": TEXT, "name": TEXT, "description": TEXT, "max_uses": WHOLE})
            ),
            "tool_choice": GoStruct(
                "anthropic.ToolChoice", {"type": TEXT, "name": TEXT, "disable_parallel_tool_use": TRUTH}
            ),
            "thinking": GoStruct("anthropic.ThinkingConfig", {"type": TEXT, "budget_tokens": WHOLE}),
            "metadata": GoStruct("anthropic.Metadata", {"user_id": TEXT}),
            "output_config": GoStruct("anthropic.OutputConfig", {"effort": TEXT}),
        },
    ),
}
"""By path."""
