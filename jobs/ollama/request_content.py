"""What Ollama refuses as it makes its own request of one in OpenAI's or Anthropic's words, the types being right.

Follows ollama openai/openai.go, openai/responses.go and anthropic/anthropic.go. Each raises `BadRequest` in Ollama's
words, for the first that is wrong. A text of which only the beginning is here is taken for right.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from jobs.core.errors import BadRequest
from jobs.ollama.go_types import CUT, OrderedMap, base64_fault, check, field, go_json, go_type_of
from jobs.ollama.request_types import PARAMETERS, go_quoted, item_kind

_PICTURES = ("data:;base64,", *(f"data:image/{kind};base64," for kind in ("jpeg", "jpg", "png", "webp")))
_MOST_SHOWN = 200


def is_plain_talk(messages: Any) -> bool:
    """Whether these are messages, and each of them a role and a text and nothing else: then all is right with them."""
    if type(messages) is not list or not messages:
        return False
    for message in messages:
        if type(message) is not dict or len(message) != 2:
            return False
        if type(message.get("role")) is not str or type(message.get("content")) is not str:
            return False
    return True


def check_chat_completion(messages: Iterable[Any]) -> None:
    """The messages of `/v1/chat/completions`."""
    count = 0
    for message in messages:
        content, calls = field(message, "content"), field(message, "tool_calls")
        if isinstance(content, list):
            for part in content:
                _check_part(part)
            count += len(content)
            _check_calls(calls if count else None)  # without a message there is none that they could belong to
            continue
        if not isinstance(content, str) and calls is None:
            raise BadRequest(f"invalid message content type: {go_type_of(content)}")
        _check_calls(calls)
        count += 1


def _check_part(part: Any) -> None:
    """Parts are bags to Ollama: their names have one case."""
    if not isinstance(part, dict):
        raise BadRequest("invalid message format")
    match part.get("type"):
        case "text" if isinstance(part.get("text"), str):
            return
        case "image_url":
            image = part.get("image_url")
            url = image.get("url") if isinstance(image, dict) else image
            if not isinstance(url, str):
                raise BadRequest("invalid message format")
            check_image(url)
        case "input_audio":
            _check_audio(part.get("input_audio"))
        case _:
            raise BadRequest("invalid message format")


def _check_audio(audio: Any) -> None:
    if not isinstance(audio, dict):
        raise BadRequest("invalid input_audio format")
    if not isinstance(data := audio.get("data"), str):
        raise BadRequest("invalid input_audio format: missing data")
    if fault := base64_fault(data):
        raise BadRequest(f"invalid input_audio base64 data: {fault}")


def check_image(url: str) -> None:
    """Pictures come with the request; none is fetched."""
    if url.startswith(("http://", "https://")):
        raise BadRequest("image URLs are not currently supported, please use base64 encoded data instead")
    prefix = next((each for each in _PICTURES if url.startswith(each)), None)
    if prefix is None or base64_fault(url.removeprefix(prefix)):
        raise BadRequest("invalid image input")


def _check_calls(calls: Any) -> None:
    """Arguments are a text that holds an object, or null."""
    for call in calls or ():
        text = str(field(field(call, "function"), "arguments") or "")
        if CUT in text:
            continue
        try:
            fits = isinstance(json.loads(text), dict | None)
        except RecursionError:
            continue
        except ValueError:
            fits = False
        if not fits:
            raise BadRequest("invalid tool call arguments")


def check_stop(stop: Any) -> None:
    """`stop` of `/v1/completions`; that of a chat may hold anything."""
    for each in stop if isinstance(stop, list) else ():
        if not isinstance(each, str):
            raise BadRequest(f"invalid type for 'stop' field: {go_type_of(each)}")


# -- responses ---------------------------------------------------------------------------------------------------------


def check_response_items(items: Any) -> None:
    """The items of `input`, whose types are right."""
    for item in items if isinstance(items, list) else ():
        match item_kind(item):
            case "message":
                _check_parts(field(item, "content"))
            case "function_call_output":
                _check_parts(field(item, "output"))
            case "function_call":
                _check_arguments(str(field(item, "arguments") or ""))


def _check_parts(parts: Any) -> None:
    for part in parts if isinstance(parts, list) else ():
        kind, url = field(part, "type"), field(part, "image_url")
        if kind == "input_file":
            raise BadRequest("file inputs are not currently supported")
        if kind == "input_image" and url:
            check_image(url)


def _check_arguments(text: str) -> None:
    if not text or CUT in text:
        return
    try:
        go_json(text.encode(), _ARGUMENTS)
    except RecursionError:
        return
    except BadRequest as error:
        raise BadRequest(f"failed to parse function call arguments: {error}") from error


_ARGUMENTS = OrderedMap()


def check_response_tools(tools: Iterable[Any]) -> None:
    """The schemas of tools, those inside of namespaces too."""
    for tool in tools:
        if field(tool, "type") == "namespace":
            check_response_tools(field(tool, "tools") or ())
        elif field(tool, "type") != "web_search":
            try:
                check(field(tool, "parameters"), PARAMETERS)
            except BadRequest as error:
                raise BadRequest(f"failed to unmarshal tool parameters: {error}") from error


def response_tools(tools: Iterable[Any]) -> int:
    """How many tools a model is offered for these: a namespace is as many as stand in it."""
    return sum(
        response_tools(field(tool, "tools") or ()) if field(tool, "type") == "namespace" else 1 for tool in tools
    )


# -- Anthropic's messages ----------------------------------------------------------------------------------------------


def check_messages(messages: Iterable[Any]) -> None:
    """The blocks of each message."""
    for message in messages:
        content = field(message, "content")
        for block in content if isinstance(content, list) else ():
            _check_block(block)


def _check_block(block: Any) -> None:
    match field(block, "type"):
        case "image":
            if (source := field(block, "source")) is None:
                raise BadRequest("invalid image source")
            _check_source(field(source, "type"), field(source, "data"))
        case "tool_use":
            for name in ("id", "name"):
                if not field(block, name):
                    raise BadRequest(f"tool_use block missing required '{name}' field")
        case "tool_result":
            content = field(block, "content")
            for each in content if isinstance(content, list) else ():
                if isinstance(each, dict) and each.get("type") == "image":
                    _check_result_image(each.get("source"))


def _check_result_image(source: Any) -> None:
    if not isinstance(source, dict):
        raise BadRequest("invalid tool_result image source")
    kind, data = source.get("type"), source.get("data")
    _check_source(kind if isinstance(kind, str) else "", data if isinstance(data, str) else "")


def _check_source(kind: Any, data: Any) -> None:
    if kind != "base64":
        told = f"invalid image source type: {str(kind or '')[:_MOST_SHOWN]}. Only base64 images are supported."
        raise BadRequest(told)
    if fault := base64_fault(str(data or "")):
        raise BadRequest(f"invalid base64 image data: {fault}")


def check_tools(tools: Iterable[Mapping[str, Any]]) -> None:
    """The schemas of Anthropic's tools."""
    for tool in tools:
        name, kind = str(field(tool, "name") or ""), str(field(tool, "type") or "")
        if not kind.startswith("web_search"):
            try:
                check(field(tool, "input_schema"), PARAMETERS)
            except BadRequest as error:
                raise BadRequest(f"invalid input_schema for tool {go_quoted(name)}: {error}") from error
