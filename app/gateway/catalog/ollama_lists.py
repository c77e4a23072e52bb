"""What the gateway answers by itself, in Ollama's exact shapes: version, lists, what is loaded, what a model is.

Bodies are made from what is in memory; no server is asked, and none wakes. Two things differ from Ollama on
purpose: an empty `/v1/models` has `"data": []` where Ollama says null, on which clients break; and times are in UTC.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from app.engines.ollama import OLLAMA
from app.gateway.catalog.state import KnownState
from app.model_server.report import Loaded, Report
from jobs.core.errors import BadName, NotFound
from jobs.core.model_name import ModelName
from jobs.models import capabilities, gguf
from jobs.models.card import Card, KnownModel, details
from jobs.models.gguf import Elided, GgufHeader
from jobs.models.model_settings import UNSET, ModelSettings
from jobs.weights.manifest import ModelDetails

RUNNING = "Ollama is running"

DEFAULT_TEMPLATE = "{{ .Prompt }}"

MaySee = Callable[[ModelName], bool]

_LARGEST = 1e308
"""What is beyond it Go refuses to read; so is what is no number."""

_NEVER = datetime(1, 1, 1, tzinfo=UTC)


def everything(_: ModelName) -> bool:
    return True


def version(known: KnownState, otherwise: str) -> dict[str, Any]:
    """The version that an Ollama reported last; `otherwise` is what they would run, while none has."""
    reported = (each.version for each in known.reports() if each.version and each.engine == OLLAMA.name)
    return {"version": next(reported, otherwise)}


def tags(known: KnownState, may_see: MaySee = everything) -> dict[str, Any]:
    """Each model, and behind it its other names: the same but for the name, with the model as their parent."""
    seen = (model for model in known.models() if may_see(model.name))
    return {"models": [entry for model in seen for entry in tags_of(model, known)]}


def tags_of(model: KnownModel, known: KnownState) -> list[dict[str, Any]]:
    """A model, and behind it its other names."""
    return [_listed(model), *_renamed(model, known)]


def models(known: KnownState) -> list[dict[str, Any]]:
    """Each model by its own name alone."""
    return [_listed(model) for model in known.models()]


def aliases(known: KnownState, may_see: MaySee = everything) -> list[dict[str, Any]]:
    """All other names of models, patterns and those whose model is not here among them."""
    seen = (alias for alias in known.aliases.all if may_see(alias.target))
    return [
        {
            "alias": each.text,
            "model": str(each.target),
            "by": each.by,
            "is_here": known.find(each.target) is not None,
        }
        for each in seen
    ]


def _renamed(model: KnownModel, known: KnownState) -> Iterator[dict[str, Any]]:
    """A model by its other names."""
    for name in known.aliases_of(model):
        entry = _listed(model)
        parent = {"parent_model": str(model.name)}
        yield {**entry, "name": str(name), "model": str(name), "details": entry["details"] | parent}


def _listed(model: KnownModel) -> dict[str, Any]:
    return {
        "name": str(model.name),
        "model": str(model.name),
        "modified_at": _moment(model.modified_at),
        "size": model.size,
        "digest": model.digest,
        "details": dict(model.details),
        **({"capabilities": list(model.capabilities)} if model.capabilities else {}),
    }


def ps(known: KnownState, reports: Iterable[Report], may_see: MaySee = everything) -> dict[str, Any]:
    """What the servers of these reports have in memory, longest to stay first.

    A model that several have is listed once: as it is where it stays longest.
    """
    by_name: dict[ModelName, tuple[Loaded, ModelName]] = {}
    for loaded in (each for report in reports for each in report.loaded):
        try:
            name = ModelName.parse(loaded.name)
        except BadName:
            continue
        other = by_name.get(name.folded())
        if may_see(name) and (other is None or _expiry(loaded) > _expiry(other[0])):
            by_name[name.folded()] = (loaded, name)
    longest = sorted(by_name.values(), key=lambda entry: _expiry(entry[0]), reverse=True)
    return {"models": [_running(loaded, known.find(name)) for loaded, name in longest]}


def _running(loaded: Loaded, model: KnownModel | None) -> dict[str, Any]:
    details_shown = dict(model.details) if model else ModelDetails().as_json() | {"families": None}
    return {
        "name": loaded.name,
        "model": loaded.name,
        "size": loaded.size,
        "digest": loaded.digest or (model.digest if model else ""),
        "details": {key: value for key, value in details_shown.items() if not key.endswith("_length")},
        "expires_at": _moment(_expiry(loaded)),
        "size_vram": loaded.size_vram,
        "context_length": loaded.context,
    }


def _expiry(loaded: Loaded) -> datetime:
    return loaded.expires_at or _NEVER


def openai_models(known: KnownState, may_see: MaySee = everything) -> dict[str, Any]:
    seen = (model for model in known.models() if may_see(model.name))
    return {"object": "list", "data": [entry for model in seen for entry in openai_models_of(model, known)]}


def openai_models_of(model: KnownModel, known: KnownState) -> list[dict[str, Any]]:
    """A model, and behind it its other names."""
    return [_openai(str(name), model) for name in (model.name, *known.aliases_of(model))]


def openai_model(known: KnownState, id: str, may_see: MaySee = everything) -> dict[str, Any]:
    """One model, under the name that the caller gave it. Names with slashes are found too, which Ollama does not.

    Raises:
        BadName: it is no name.
        NotFound: there is no such model, or not for this caller.

    """
    name = ModelName.parse(id)
    model, _ = known.resolve(name)
    if model is None or not may_see(model.name):
        raise NotFound(f"model {str(name)!r} not found")
    return _openai(id, model)


def _openai(id: str, model: KnownModel) -> dict[str, Any]:
    created = int(model.modified_at.timestamp())
    return {"id": id, "object": "model", "created": created, "owned_by": model.name.namespace}


# -- show --------------------------------------------------------------------------------------------------------------


def cannot_show(model: KnownModel, request: Mapping[str, Any]) -> str:
    """Why a server has to be asked what this model is; empty when `show` can tell."""
    if model.card is None:
        return "its files are not here"
    if request.get("verbose"):
        return "all of its vocabulary is asked for"
    return model.card.missing


def show(model: KnownModel, request: Mapping[str, Any], settings: ModelSettings = UNSET) -> dict[str, Any]:
    """What the model is, as `/api/show` tells it. Only where `cannot_show` has no objection.

    Args:
        model: with its card.
        request: the body; its `system` and `options` count, as they do in Ollama.
        settings: what the operator sets for it, which goes before what its own files say.

    """
    card, traits = model.card, model.card.traits if model.card else None
    assert card is not None
    assert traits is not None
    header = card.header or GgufHeader(3, {}, (), 0)
    system = str(request.get("system") or settings.system or card.system)
    given = request.get("options")
    context = {"num_ctx": settings.context} if settings.context else {}
    usual = {**card.options, **settings.parameters, **context}
    options = {**usual, **(given if isinstance(given, Mapping) else {})}
    shown = {
        "license": "\n".join(card.licenses),
        "modelfile": _modelfile(model, card, system, options),
        "parameters": "\n".join(f"{key:<30} {_go_syntax(value)}" for key, value in _parameters(usual)),
        "template": (card.template or DEFAULT_TEMPLATE) if traits.is_rendered else _chat_template(card),
        "system": system,
        "details": details(card),
        "messages": [_message(each) for each in card.messages],
        "model_info": dict(_model_info(header)),
        "tensors": [
            {"name": each.name, "type": gguf.tensor_kind_name(each.kind), "shape": list(each.shape)}
            for each in header.tensors
        ],
        "capabilities": list(capabilities.shown(traits)),
        "modified_at": _moment(model.modified_at),
        "requires": card.config.get("requires", ""),
    }
    return {key: value for key, value in shown.items() if value not in ("", []) or key == "model_info"}


def _chat_template(card: Card) -> str:
    return card.traits.chat_template or card.template or DEFAULT_TEMPLATE


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    return {"role": str(message.get("role", "")), "content": str(message.get("content", ""))}


def _model_info(header: GgufHeader) -> Iterator[tuple[str, Any]]:
    """Arrays are null, as Ollama shows them to whoever does not ask for all."""
    for key, value in header.values.items():
        if key in ("general.name", "tokenizer.chat_template", "general.parameter_count"):
            continue
        if isinstance(value, Elided | tuple):
            yield key, [] if value == () else None
        elif isinstance(value, float):
            yield key, _as_go_counts(value)
        else:
            yield key, value
    yield "general.parameter_count", header.parameters


def _as_go_counts(number: float) -> float | int | None:
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() and abs(number) < 1e21 else number


def _modelfile(model: KnownModel, card: Card, system: str, options: Mapping[str, Any]) -> str:
    traits = card.traits
    lines = [
        '# Modelfile generated by "ollama show"',
        "# To build a new Modelfile based on this, replace FROM with:",
        f"# FROM {model.name}",
        "",
        f"FROM {card.weights}",
        f"TEMPLATE {_quoted(DEFAULT_TEMPLATE if card.template is None else card.template)}",
        *([f"SYSTEM {_quoted(system)}"] if system else ()),
        *(f"{key} {_quoted(text)}" for key, text in (("RENDERER", traits.renderer), ("PARSER", traits.parser)) if text),
        *(f"PARAMETER {key} {_quoted(_go_plain(value))}" for key, value in _parameters(options)),
        *(f"LICENSE {_quoted(text)}" for text in card.licenses),
        *(f"MESSAGE {each['role']} {_quoted(each['content'])}" for each in map(_message, card.messages)),
    ]
    return "\n".join(lines) + "\n"


def _parameters(options: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in options.items():
        yield from ((key, each) for each in (value if isinstance(value, list) else [value]))


def _quoted(text: str) -> str:
    """As a Modelfile quotes: only what needs it."""
    if "\n" not in text and not text.startswith(" ") and not text.endswith(" "):
        return text
    mark = '"""' if '"' in text else '"'
    return f"{mark}{text}{mark}"


def _go_syntax(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else _go_plain(value)


def _go_plain(value: Any) -> str:
    """A JSON value as Go prints it: every number is a fraction to it."""
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, int | float) or not -_LARGEST < value < _LARGEST:
        return str(value)
    _, digits, exponent = Decimal(repr(float(value))).normalize().as_tuple()
    power = len(digits) + int(exponent) - 1
    if -4 <= power < 6:
        return format(Decimal(repr(float(value))).normalize(), "f")
    sign, shown = "-" if value < 0 else "", "".join(map(str, digits))
    point = f".{shown[1:]}" if len(shown) > 1 else ""
    return f"{sign}{shown[0]}{point}e{'-' if power < 0 else '+'}{abs(power):02d}"


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
