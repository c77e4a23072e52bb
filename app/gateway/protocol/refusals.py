"""What Ollama refuses of a request by its body alone, so that it is refused before a model is loaded for it.

Statuses and texts are Ollama's own (api/types.go, openai/openai.go, anthropic/anthropic.go, their middleware, and
server/routes.go). Nothing is refused that Ollama takes; what stands deeper in a body than its first list is left to it.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from app.gateway.protocol.errors import InvalidOption
from app.gateway.protocol.json_fields import Fields
from jobs.core.errors import BadRequest, Trouble

TEXT, TRUTH, WHOLE, FRACTION, MAP = "string", "bool", "int", "float64", "map[string]interface {}"

_KINDS = {TEXT: "string", TRUTH: "bool", WHOLE: "number", FRACTION: "number", "float32": "number"}
"""What JSON calls that which Go puts into its scalars; all other types here are objects."""

_MOST_SHOWN = 200


@dataclass(frozen=True)
class _GoList:
    """A list, and Go's names for it and for what is in it."""

    name: str
    of: str
    kind: str = "object"


_GENERATING: Mapping[str, str | _GoList] = {
    "stream": TRUTH,
    "options": MAP,
    "truncate": TRUTH,
    "shift": TRUTH,
    "logprobs": TRUTH,
    "top_logprobs": WHOLE,
}
_SAMPLING: Mapping[str, str | _GoList] = {
    "max_tokens": WHOLE,
    "seed": WHOLE,
    "stream": TRUTH,
    "stream_options": "openai.StreamOptions",
}
_MESSAGE_ALIAS = r'struct { Role string "json:\"role\""; Content json.RawMessage "json:\"content\"" }'
_IMAGES = _GoList("[]api.ImageData", "api.ImageData", "string")

_STRUCTS: Mapping[str, tuple[str, Mapping[str, str | _GoList]]] = {
    "/api/generate": (
        "GenerateRequest",
        {
            **_GENERATING,
            **dict.fromkeys(("prompt", "suffix", "system", "template"), TEXT),
            "raw": TRUTH,
            "context": _GoList("[]int", "int", "number"),
            "images": _IMAGES,
        },
    ),
    "/api/chat": (
        "ChatRequest",
        {**_GENERATING, "messages": _GoList("[]api.Message", "api.Alias"), "tools": _GoList("api.Tools", "api.Tool")},
    ),
    "/api/embed": ("EmbedRequest", {"truncate": TRUTH, "dimensions": WHOLE, "options": MAP}),
    "/api/embeddings": ("EmbeddingRequest", {"prompt": TEXT, "options": MAP}),
    "/v1/chat/completions": (
        "ChatCompletionRequest",
        {
            **_SAMPLING,
            **dict.fromkeys(("temperature", "frequency_penalty", "presence_penalty", "top_p"), FRACTION),
            "messages": _GoList("[]openai.Message", "openai.Message"),
            "response_format": "openai.ResponseFormat",
            "tools": _GoList("[]api.Tool", "api.Tool"),
            "reasoning": "openai.Reasoning",
            "reasoning_effort": TEXT,
            "logprobs": TRUTH,
            "top_logprobs": WHOLE,
        },
    ),
    "/v1/completions": (
        "CompletionRequest",
        {
            **_SAMPLING,
            **dict.fromkeys(("temperature", "frequency_penalty", "presence_penalty", "top_p"), "float32"),
            **dict.fromkeys(("prompt", "suffix"), TEXT),
            "logprobs": WHOLE,
        },
    ),
    "/v1/embeddings": ("EmbedRequest", {"dimensions": WHOLE, "encoding_format": TEXT}),
    "/v1/responses": (
        "ResponsesRequest",
        {
            **dict.fromkeys(("instructions", "truncation"), TEXT),
            **dict.fromkeys(("background", "stream"), TRUTH),
            **dict.fromkeys(("temperature", "top_p"), FRACTION),
            "max_output_tokens": WHOLE,
            "reasoning": "openai.ResponsesReasoning",
            "text": "openai.ResponsesText",
            "tools": _GoList("[]openai.ResponsesTool", "openai.ResponsesTool"),
        },
    ),
    "/v1/messages": (
        "MessagesRequest",
        {
            **dict.fromkeys(("max_tokens", "top_k"), WHOLE),
            **dict.fromkeys(("temperature", "top_p"), FRACTION),
            "stream": TRUTH,
            "messages": _GoList("[]anthropic.MessageParam", _MESSAGE_ALIAS),
            "stop_sequences": _GoList("[]string", "string", "string"),
            "tools": _GoList("[]anthropic.Tool", "anthropic.Tool"),
            "tool_choice": "anthropic.ToolChoice",
            "thinking": "anthropic.ThinkingConfig",
            "metadata": "anthropic.Metadata",
            "output_config": "anthropic.OutputConfig",
        },
    ),
}

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
    "/api/generate": frozenset({"format", "think"}),
    "/api/chat": frozenset({"format", "think"}),
    "/api/embed": frozenset({"input"}),
    "/v1/embeddings": frozenset({"input"}),
    "/v1/responses": frozenset({"input"}),
}
"""Beside those of the structs: fields that take values of several types."""

FIELDS: Mapping[str, frozenset[str]] = {
    path: frozenset(fields) | _OWN.get(path, frozenset()) for path, (_, fields) in _STRUCTS.items()
}
"""By path, what has to be looked for in a body to know whether it is refused."""


def refuse(found: Fields, path: str) -> Trouble | None:
    """Refuse what Ollama refuses before it looks for the model.

    Returns:
        What it refuses once it has found the model, and before or after it has loaded it; None if nothing.

    Raises:
        BadRequest: with Ollama's own words.

    """
    if path not in _STRUCTS:
        return None
    struct, fields = _STRUCTS[path]
    present = [(span, name) for name in fields if (span := found.span(name)) is not None]
    for _, name in sorted(present):  # Go tells the first
        _expect(found, name, fields[name], struct)
    check = _CHECKS.get(path)
    return check(found) if check is not None else None


def _expect(found: Fields, name: str, wanted: str | _GoList, struct: str) -> None:
    kind = found.kind(name)
    if kind == "null":
        return
    if isinstance(wanted, _GoList):
        if kind != "array":
            raise _mismatch(kind, struct, name, wanted.name)
        first = found.kind_of_first(name)
        if first not in {"", "null", wanted.kind}:
            raise _mismatch(first, struct, name, wanted.of)
        return
    if kind != _KINDS.get(wanted, "object"):
        raise _mismatch(kind, struct, name, wanted)
    if wanted == WHOLE and not re.fullmatch(rb"-?[0-9]{1,18}", text := found.text(name)):
        raise _mismatch(f"number {text[:_MOST_SHOWN].decode()}", struct, name, wanted)


def _mismatch(kind: str, struct: str, name: str, wanted: str) -> BadRequest:
    return BadRequest(f"json: cannot unmarshal {kind} into Go struct field {struct}.{name} of type {wanted}")


# -- what each route wants beside the types ----------------------------------------------------------------------------


def _generate(found: Fields) -> Trouble | None:
    late = _generating(found)
    if not found.is_set("prompt"):
        return late
    if found.is_set("raw") and any(found.is_set(name) for name in ("template", "system", "context")):
        return BadRequest("raw mode does not support template, system, or context")
    return late or _bad_format(found)


def _chat(found: Fields) -> Trouble | None:
    return _generating(found) or (_bad_format(found) if found.is_set("messages") else None)


def _generating(found: Fields) -> Trouble | None:
    _expect_think(found)
    _expect_logprobs(found, "top_logprobs")
    return _bad_option(found)


def _expect_think(found: Fields) -> None:
    words = '"high", "medium", "low", "max"'
    if found.kind("think") == "string":
        if (said := found.scalar("think")) not in {"high", "medium", "low", "max"}:
            raise BadRequest(f"invalid think value: {_quoted(said[:_MOST_SHOWN])} (must be {words}, true, or false)")
    elif found.kind("think") not in {"null", "bool"}:
        raise BadRequest(f"think must be a boolean or string ({words}, true, or false)")


def _expect_logprobs(found: Fields, name: str) -> None:
    if not 0 <= (found.scalar(name) or 0) <= 20:
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
    kind = found.kind("format")
    text = found.text("format")[:_MOST_SHOWN]
    if kind in {"null", "object"} or text in {b'""', b'"json"'}:
        return None
    shown = _quoted(text.decode("utf-8", "replace"))
    return InvalidOption(f'invalid format: {shown}; expected "json" or a valid JSON Schema object')


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _embed(found: Fields) -> Trouble | None:
    _expect_input(found)
    return _bad_option(found)


def _expect_input(found: Fields) -> None:
    if found.kind("input") not in {"null", "string", "array"} or found.kind_of_first("input") not in {"", "string"}:
        raise BadRequest("invalid input type")


def _openai_embeddings(found: Fields) -> None:
    coded = found.scalar("encoding_format") or "float"
    if coded.lower() not in {"float", "base64"}:
        raise BadRequest(
            f"Invalid value for 'encoding_format' = {coded[:_MOST_SHOWN]}. Supported values: ['float', 'base64']."
        )
    if found.kind("input") == "null" or (found.kind("input") == "array" and not found.is_set("input")):
        raise BadRequest("invalid input")
    _expect_input(found)


def _openai_chat(found: Fields) -> None:
    if not found.is_set("messages"):
        raise BadRequest("[] is too short - 'messages'")
    effort = found.scalar("reasoning_effort") or ""
    if found.kind("reasoning") == "null" and effort and effort not in _EFFORTS:
        words = ", ".join(_quoted(each) for each in _EFFORTS[:-1])
        raise BadRequest(f'invalid reasoning value: {_quoted(effort[:_MOST_SHOWN])} (must be {words}, or "none")')
    _expect_logprobs(found, "top_logprobs")


_EFFORTS = ("minimal", "low", "medium", "high", "xhigh", "ultra", "max", "none")


def _openai_completions(found: Fields) -> None:
    if (found.scalar("logprobs") or 0) > 20:
        raise BadRequest("top_logprobs must be between 0 and 20")


def _responses(found: Fields) -> None:
    kind = found.kind("input")
    if kind not in {"null", "string", "array"}:
        raise BadRequest(
            f"input must be a string or array: json: cannot unmarshal {kind} into Go value of type []json.RawMessage"
        )


def _messages(found: Fields) -> None:
    if (found.scalar("max_tokens") or 0) <= 0:
        raise BadRequest("max_tokens is required and must be positive")
    if not found.is_set("messages"):
        raise BadRequest("messages is required")


_CHECKS: Mapping[str, Callable[[Fields], Trouble | None]] = {
    "/api/generate": _generate,
    "/api/chat": _chat,
    "/api/embed": _embed,
    "/api/embeddings": _bad_option,
    "/v1/chat/completions": _openai_chat,
    "/v1/completions": _openai_completions,
    "/v1/embeddings": _openai_embeddings,
    "/v1/responses": _responses,
    "/v1/messages": _messages,
}
