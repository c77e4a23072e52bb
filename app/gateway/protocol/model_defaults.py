"""What an operator sets for a model, put into requests that leave it open; what a caller says stays as it is.

Of the dialects each has fields for some of Ollama's options alone. Those that a route has no field for cannot be asked
of Ollama there (openai/openai.go, openai/responses.go, anthropic/anthropic.go): `no_effect` tells which.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from app.gateway.protocol.json_body.edits import Body, BodyEdit
from app.gateway.protocol.json_body.fields import Fields
from jobs.core.model_name import ModelName
from jobs.models.model_settings import ModelSettings

_OPENAI = {
    **{name: name for name in ("temperature", "top_p", "seed", "stop", "frequency_penalty", "presence_penalty")},
    "num_predict": "max_tokens",
}
_FIELDS: Mapping[str, Mapping[str, str]] = {
    "/v1/chat/completions": _OPENAI,
    "/v1/completions": _OPENAI,
    "/v1/responses": {"temperature": "temperature", "top_p": "top_p", "num_predict": "max_output_tokens"},
    "/v1/messages": {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "stop": "stop_sequences"},
}
"""By path, the field of each option. `/v1/messages` has one more, `max_tokens`, which every caller has to say."""

_SAME = {"max_tokens": "max_completion_tokens"}
"""Fields that mean another one to whoever sends them; Ollama passes over them."""

_NATIVE = ("/api/generate", "/api/chat")
_EMBEDDING = ("/api/embed", "/api/embeddings")
"""Of the options only the context means something there."""

_SYSTEM = {"/api/generate": "system", "/v1/messages": "system", "/v1/responses": "instructions"}
_CONVERSATION = {"/api/chat": "messages", "/v1/chat/completions": "messages", "/v1/responses": "input"}
"""Where a system prompt is, or may be, one of the messages."""

LOOKED_AT: Mapping[str, frozenset[str]] = {
    path: frozenset(
        (
            *_FIELDS.get(path, {}).values(),
            *(_SAME[name] for name in _FIELDS.get(path, {}).values() if name in _SAME),
            *(table[path] for table in (_SYSTEM, _CONVERSATION) if path in table),
        )
    )
    for path in (*_NATIVE, *_EMBEDDING, *_FIELDS)
}
"""By path, what has to be looked for in a body to know what it leaves open."""

_SYSTEM_ROLE = re.compile(rb'"[Rr]ole"[ \t\n\r]*:[ \t\n\r]*"(?:system|developer)"')
_STEP = 64 * 1024
_OVERLAP = 128


def takes_options(path: str) -> bool:
    """Whether requests there can say `num_ctx`."""
    return path in _NATIVE or path in _EMBEDDING


def edits(path: str, body: Body, fields: Fields, settings: ModelSettings, context: int | None) -> Iterator[BodyEdit]:
    """What is to be put into a body. It looks through all messages where a system prompt is set.

    Args:
        path: of the route.
        body: as it came.
        fields: of it, `LOOKED_AT` among them.
        settings: what is set for the model.
        context: what the request gets for its `num_ctx`, where that is set.

    """
    new = dict(_system(path, fields, settings.system))
    if takes_options(path):
        parameters = settings.parameters if path in _NATIVE else {}
        yield from _options(fields, parameters, context, new)
    for option, name in _FIELDS.get(path, {}).items():
        is_said = _is_said(fields, name) or (name in _SAME and _is_said(fields, _SAME[name]))
        if option in settings.parameters and not is_said:
            new[name] = settings.parameters[option]
    yield from _put(body.index(b"{"), fields, new)
    if path in _CONVERSATION and path not in _SYSTEM and settings.system:
        yield from _first_message(fields, _CONVERSATION[path], settings.system)


def no_effect(settings: ModelSettings) -> dict[str, list[str]]:
    """By what is set, the routes on which callers do not get it, because these have no field for it."""
    found: dict[str, list[str]] = {}
    for option in settings.parameters:
        found[option] = [path for path, fields in _FIELDS.items() if option not in fields]
    if settings.parameters.get("num_predict") is not None:
        found["num_predict"].remove("/v1/messages")  # each caller says it there
    if settings.context:
        found["context"] = [*_FIELDS, "/v1/embeddings"]
    if settings.system:
        found["system"] = ["/v1/completions"]
    return {name: paths for name, paths in found.items() if paths}


def notes(settings: Mapping[ModelName, ModelSettings]) -> tuple[str, ...]:
    """What of it has no effect where servers know nothing of it but what requests say, in a line for each model."""
    lines = []
    for name, each in settings.items():
        by_paths: dict[tuple[str, ...], list[str]] = {}
        for what, paths in no_effect(each).items():
            by_paths.setdefault(tuple(paths), []).append(what)
        parts = [f"{', '.join(what)} on {', '.join(paths)}" for paths, what in by_paths.items()]
        if parts:
            lines.append(
                f"of what the fleet sets for {name} this has no effect here: {'; '.join(parts)}. Ollama has no field"
                " for it there, so callers get what its server was started with"
                f"{', and have the model loaded anew for it' if each.context else ''}"
            )
    return tuple(lines)


def _options(
    fields: Fields, parameters: Mapping[str, Any], context: int | None, new: dict[str, Any]
) -> Iterator[BodyEdit]:
    """What goes into the options; all of them are new, where a request brings none."""
    inside = fields.inside("options")
    wanted = {name: value for name, value in parameters.items() if not _is_said(inside, name)}
    if context is not None:
        wanted["num_ctx"] = context
    if not wanted:
        return
    if (span := fields.span("options")) is None or fields.kind("options") != "object":
        new["options"] = wanted
    elif fields.is_set("options"):
        yield from _put(span[0], inside, wanted)
    else:
        yield span, _json(wanted)


def _put(brace: int, fields: Fields, values: Mapping[str, Any]) -> Iterator[BodyEdit]:
    """Put values into an object that has others: where null, or what is to be replaced, stands, or at its beginning."""
    added = {name: value for name, value in values.items() if fields.span(name) is None}
    for name, value in values.items():
        if (span := fields.span(name)) is not None:
            yield span, _json(value)
    if added:
        yield (brace + 1, brace + 1), _json(added)[1:-1] + b","


def _system(path: str, fields: Fields, prompt: str) -> Iterator[tuple[str, str]]:
    """The field of the system prompt, where there is one and it is open."""
    name = _SYSTEM.get(path)
    if not prompt or name is None or fields.is_set(name):
        return
    if path == "/api/generate" and (fields.is_set("raw") or not fields.is_set("prompt")):
        return  # Ollama refuses one beside `raw`; and without a prompt the model is only loaded
    if path in _CONVERSATION and has_system_role(fields, _CONVERSATION[path]):
        return
    yield name, prompt


def _first_message(fields: Fields, name: str, prompt: str) -> Iterator[BodyEdit]:
    """A message before all others, unless one of them is of the system. Without any, the model is only loaded."""
    span = fields.span(name)
    if span is None or not fields.is_set(name) or has_system_role(fields, name):
        return
    yield (span[0] + 1, span[0] + 1), _json({"role": "system", "content": prompt}) + b","


def has_system_role(fields: Fields, name: str) -> bool:
    """Whether one of these messages is of the system or of a developer. Inside a text the quotes would be escaped."""
    start, end = fields.span(name) or (0, 0)
    return any(
        _SYSTEM_ROLE.search(fields.piece(at, min(at + _STEP + _OVERLAP, end))) for at in range(start, end, _STEP)
    )


def _is_said(fields: Fields, name: str) -> bool:
    return fields.kind(name) != "null"


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
