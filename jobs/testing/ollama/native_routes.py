"""The simulator's own routes, `/api/*`, with the real shapes, statuses and texts, which differ from route to route."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from jobs.core.errors import Corrupt
from jobs.models import gguf
from jobs.testing.ollama.faults import SimError
from jobs.testing.ollama.generation import (
    CHAT,
    GENERATE,
    AnswerShape,
    checked_name,
    embedded,
    load_only,
    merged,
    talk,
    using,
    vector_for,
)
from jobs.testing.ollama.go_formats import rfc3339
from jobs.testing.ollama.requests import Reply, Request, SimulatorAnswer, SimulatorParts, as_json, ndjson, with_error
from jobs.testing.ollama.store import StoredModel, os_text, parsed_name
from jobs.weights.manifest import is_digest

NO_CLOUD = "ollama cloud is disabled: "
DEFAULT_TEMPLATE = "{{ .Prompt }}"


def root(_: SimulatorParts, __: Request) -> SimulatorAnswer:
    return Reply(200, b"Ollama is running", "text/plain; charset=utf-8")


def version(parts: SimulatorParts, _: Request) -> SimulatorAnswer:
    return as_json({"version": parts.settings.version})


def status(_: SimulatorParts, __: Request) -> SimulatorAnswer:
    return as_json({"cloud": {"disabled": True, "source": "env"}})


def listed(parts: SimulatorParts) -> list[dict[str, Any]]:
    return [
        {
            "name": str(model.name),
            "model": str(model.name),
            "modified_at": rfc3339(model.modified_at),
            "size": model.size,
            "digest": model.digest,
            "details": _full_details(model),
            **({"capabilities": list(model.capabilities)} if model.capabilities else {}),
        }
        for model in parts.store.models()
    ]


def tags(parts: SimulatorParts, _: Request) -> SimulatorAnswer:
    return as_json({"models": listed(parts)})


def ps(parts: SimulatorParts, _: Request) -> SimulatorAnswer:
    return as_json({"models": parts.runners.listed()})


def show(parts: SimulatorParts, request: Request) -> SimulatorAnswer:
    return as_json(shown(parts, request.json()))


def shown(parts: SimulatorParts, body: dict[str, Any]) -> dict[str, Any]:
    asked = str(body.get("model") or body.get("name") or "")
    if not asked:
        raise SimError("model is required", 400)
    name = checked_name(asked, empty=SimError("invalid model name", 400), cloud="remote model details are unavailable")
    model = parts.store.get(name)
    weights = model.layer_of("model") if model else None
    if model is None or weights is None or not parts.store.blob(weights["digest"]).exists():
        raise SimError(f"model '{parts.store.layout.stored_spelling(name)}' not found", 404)
    facts = {
        "license": parts.store.text_of(model, "license"),
        "modelfile": _modelfile(parts, model, weights["digest"]),
        "parameters": _parameters(parts.store.text_of(model, "params")),
        "template": parts.store.text_of(model, "template") or DEFAULT_TEMPLATE,
        "system": str(body.get("system") or parts.store.text_of(model, "system")),
        "details": model.details(),
        **_header_of(parts.store.blob(weights["digest"]), model),
        "capabilities": list(model.capabilities),
        "modified_at": rfc3339(model.modified_at),
    }
    return {key: value for key, value in facts.items() if value not in ("", [])}


def delete(parts: SimulatorParts, request: Request) -> SimulatorAnswer:
    body = request.json()
    asked = str(body.get("model") or body.get("name") or "")
    if not asked:
        raise SimError("model is required", 400)
    name = parsed_name(asked.strip())
    if name is None:
        raise SimError(f'name "{asked}" is invalid', 400)
    if parts.store.get(name) is None:
        raise SimError(f"model '{asked}' not found", 404)
    try:
        parts.store.delete(name)
    except OSError as error:
        raise SimError(os_text(error, "remove")) from error
    return Reply(200, b"", "")


def copy(parts: SimulatorParts, request: Request) -> SimulatorAnswer:
    body = request.json()
    names = []
    for end in ("source", "destination"):
        asked = str(body.get(end) or "")
        name = parsed_name(asked)
        if name is None:
            raise SimError(f'{end} "{asked}" is invalid', 400)
        names.append(name)
    source, destination = names
    if parts.store.get(source) is None:
        raise SimError(f'model "{body["source"]}" not found', 404)
    parts.store.copy(source, destination)
    return Reply(200, b"", "")


def pull(parts: SimulatorParts, request: Request) -> SimulatorAnswer:
    body = request.json()
    asked = str(body.get("model") or body.get("name") or "")
    name = checked_name(asked, empty=SimError("invalid model name", 400), cloud=None)
    frames = with_error(
        parts.puller.pull(
            parts.store.layout.stored_spelling(name),
            insecure=bool(body.get("insecure")),
            faults=request.faults,
            gone=lambda: request.gone() or parts.stopping.is_set(),
        ),
        request.faults.get("error"),
    )
    if body.get("stream") is False:
        return as_json(list(frames)[-1], content_type="application/json")
    return ndjson(frames)


def generate(parts: SimulatorParts, request: Request) -> SimulatorAnswer:
    return _talk(parts, request, GENERATE)


def chat(parts: SimulatorParts, request: Request) -> SimulatorAnswer:
    return _talk(parts, request, CHAT)


def _talk(parts: SimulatorParts, request: Request, shape: AnswerShape) -> SimulatorAnswer:
    body = request.json()
    outcome = talk(parts, request, body, shape)
    if isinstance(outcome, dict):
        return as_json(outcome)
    if body.get("stream") is False:
        return as_json(merged(list(outcome), shape))
    return ndjson(outcome)


def embed(parts: SimulatorParts, request: Request) -> SimulatorAnswer:
    return as_json(embedded(parts, request, request.json()))


def embeddings(parts: SimulatorParts, request: Request) -> SimulatorAnswer:
    """The legacy route, and the one that does not fold the case of names."""
    body = request.json()
    asked = str(body.get("model") or "")
    name = checked_name(asked, empty=SimError("model is required", 400))
    model = parts.store.get_exact(name)
    if model is None:
        raise SimError(f'model "{asked}" not found, try pulling it first', 404)
    prompt = str(body.get("prompt") or "")
    if not prompt:
        load_only(parts, request, model, body)
        return as_json({"embedding": []})
    with using(parts, request, model, body):
        return as_json({"embedding": vector_for(model, prompt)})


def head_blob(parts: SimulatorParts, request: Request) -> SimulatorAnswer:
    digest = request.path.rpartition("/")[2]
    if not is_digest(digest):
        return Reply(400, b"")
    return Reply(200, b"", "") if parts.store.blob(digest).exists() else Reply(404, b"")


def create(_: SimulatorParts, request: Request) -> SimulatorAnswer:
    body = request.json()
    if parsed_name(str(body.get("model") or body.get("name") or "")) is None:
        raise SimError("invalid model name", 400)
    if not body.get("from") and not body.get("files"):
        raise SimError("neither 'from' or 'files' was specified", 400)
    raise SimError("the simulator creates no models", 400)


def push(_: SimulatorParts, request: Request) -> SimulatorAnswer:
    body = request.json()
    if not (body.get("model") or body.get("name")):
        raise SimError("model is required", 400)
    raise SimError("the simulator pushes no models")


def account(_: SimulatorParts, __: Request) -> SimulatorAnswer:
    raise SimError("account unavailable", 503)


def signout(_: SimulatorParts, __: Request) -> SimulatorAnswer:
    raise SimError("there was an error signing out")


def web(_: SimulatorParts, request: Request) -> SimulatorAnswer:
    if not request.body.strip():
        raise SimError("missing request body", 400)
    operation = "web search" if request.path.endswith("search") else "web fetch"
    raise SimError(f"{NO_CLOUD}{operation} is unavailable", 403)


def recommendations(_: SimulatorParts, __: Request) -> SimulatorAnswer:
    return as_json({"recommendations": []})


def _full_details(model: StoredModel) -> dict[str, Any]:
    lengths = {key: model.config[key] for key in ("context_length", "embedding_length") if key in model.config}
    return model.details() | lengths


def _header_of(blob: Path, model: StoredModel) -> dict[str, Any]:
    """What the header of the weights says; of weights that have none, which the real one cannot load, the least."""
    try:
        header = gguf.read(blob)
    except Corrupt:
        family = model.config.get("model_family", "")
        info = {"general.architecture": family, "general.parameter_count": 0}
        lengths = {key: model.config.get(key, 2048) for key in ("context_length", "embedding_length")}
        return {"model_info": info | {f"{family}.{key}": length for key, length in lengths.items()}}
    info = {key: None if isinstance(value, tuple | gguf.Elided) else value for key, value in header.values.items()}
    tensors = [
        {"name": each.name, "type": gguf.tensor_kind_name(each.kind), "shape": list(each.shape)}
        for each in header.tensors
    ]
    return {"model_info": info | {"general.parameter_count": header.parameters}, "tensors": tensors}


def _parameters(text: str) -> str:
    return "\n".join(f"{key:<30} {json.dumps(value)}" for key, value in _options(text))


def _options(text: str) -> list[tuple[str, Any]]:
    options: dict[str, Any] = {}
    with suppress(ValueError):
        options = json.loads(text)
    return [(key, each) for key, value in options.items() for each in (value if isinstance(value, list) else [value])]


def _modelfile(parts: SimulatorParts, model: StoredModel, weights: str) -> str:
    """It tells where the blobs lie, as the real one does."""
    texts = {kind: parts.store.text_of(model, kind) for kind in ("template", "system", "license")}
    lines = [
        '# Modelfile generated by "ollama show"',
        "# To build a new Modelfile based on this, replace FROM with:",
        f"# FROM {model.name}\n",
        f"FROM {parts.store.blob(weights)}",
        f"TEMPLATE {_quoted(texts['template'] or DEFAULT_TEMPLATE)}",
        *([f"SYSTEM {_quoted(texts['system'])}"] if texts["system"] else ()),
        *(f"PARAMETER {key} {_quoted(str(value))}" for key, value in _options(parts.store.text_of(model, "params"))),
        *([f"LICENSE {_quoted(texts['license'])}"] if texts["license"] else ()),
    ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    if "\n" in text or text != text.strip(" "):
        return f'"""{text}"""' if '"' in text else f'"{text}"'
    return text
