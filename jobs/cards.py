"""What is known of a model without any server: its name, its size, and what its own files say of it.

A card is read from the small blobs and the header of the weights, once for each manifest. What cannot be read is left
out, and the card says why it cannot stand for what a server would show.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from jobs import capabilities, gguf, survey
from jobs.capabilities import Traits
from jobs.errors import Trouble
from jobs.gguf import Facts, Header
from jobs.layout import Layout
from jobs.manifests import Layer, Manifest
from jobs.names import ModelName

MAX_BLOB_BYTES = 4 << 20
"""Of a license, a template, a prompt: what is larger is no such thing."""

IMAGE = "application/vnd.ollama.image."

_NO_HEADER = Header(3, {}, (), 0)


@dataclass(frozen=True)
class Card:
    """What a model's files say.

    Args:
        config: the config blob.
        header: of the weights; None when it cannot be read.
        weights: where the weights lie.
        licenses: their texts.
        template: in Go's language; None when the model has none.
        system: the prompt that goes before all others.
        options: what requests that say nothing get.
        messages: with which each conversation begins.
        parent: the model that it was made from, where it says so.
        has_projector: it sees by a file of its own.
        missing: why this card cannot stand for what a server would show; empty when it can.

    """

    config: Mapping[str, Any]
    header: Header | None
    weights: str
    licenses: tuple[str, ...] = ()
    template: str | None = None
    system: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[Mapping[str, Any], ...] = ()
    parent: str = ""
    has_projector: bool = False
    missing: str = ""

    @property
    def traits(self) -> Traits:
        return Traits(
            declared=tuple(str(each) for each in _list(self.config.get("capabilities"))),
            family=_text(self.config.get("model_family")),
            parser=_text(self.config.get("parser")),
            renderer=_text(self.config.get("renderer")),
            template=self.template,
            header=self.header or _NO_HEADER,
            has_projector=self.has_projector,
        )

    @property
    def facts(self) -> Facts | None:
        return Facts.of(self.header) if self.header else None


@dataclass(frozen=True)
class Model:
    """A whole model, as lists and routes need it.

    `digest` is hex without a prefix, `details` are as lists show them. Where only a server can read the model's files,
    `card` is None, and `blobs`, the sizes by digest, are empty.
    """

    name: ModelName
    digest: str
    size: int
    modified_at: datetime
    details: Mapping[str, Any]
    capabilities: tuple[str, ...] = ()
    card: Card | None = None
    blobs: Mapping[str, int] = field(default_factory=dict)

    @property
    def facts(self) -> Facts | None:
        return self.card.facts if self.card else None


def bytes_of(models: Iterable[Model]) -> int:
    """What they take together: a blob that several of them share lies there once."""
    found: dict[str, int] = {}
    for model in models:
        found |= model.blobs or {model.digest: model.size}
    return sum(found.values())


def read(layout: Layout, known: Iterable[Model] = ()) -> list[Model]:
    """The whole models of a directory. Files of a manifest that is among the known ones are not read again."""
    cards = {model.digest: model.card for model in known if model.card and not model.card.missing}
    whole = (each for each in survey.loaded(layout) if isinstance(each, survey.Model))
    return [_model(each, cards.get(each.digest) or card_of(layout, each)) for each in whole]


def _model(found: survey.Model, card: Card) -> Model:
    return Model(
        name=found.name,
        digest=found.digest,
        size=found.size,
        modified_at=found.modified_at,
        details=details(card) | _lengths(card),
        capabilities=capabilities.listed(card.traits) if card.header else card.traits.declared,
        card=card,
        blobs={blob.digest: blob.size for blob in found.manifest.blobs},
    )


def card_of(layout: Layout, model: survey.Model) -> Card:
    """What the files of a whole model say."""
    return _Reader(layout, model).card()


def facts_of(layout: Layout, manifest: Manifest) -> Facts | None:
    """What decides how much memory the model takes, from the header of its weights; None when that cannot be read."""
    weights = [layer for layer in manifest.layers if layer.media_type == f"{IMAGE}model"]
    if len(weights) != 1:
        return None
    try:
        return Facts.of(gguf.read(layout.blob(weights[0].digest)))
    except (Trouble, FileNotFoundError):
        return None


class _Reader:
    """Reads one model's files; notes what it cannot read."""

    def __init__(self, layout: Layout, model: survey.Model) -> None:
        self._layout = layout
        self._model = model
        self._wrong: list[str] = []

    def card(self) -> Card:
        config = self._json(self._model.manifest.config, dict)
        header = self._header(config)
        templates = [*self._layers("prompt"), *self._layers("template")]
        params = [self._json(layer, dict) for layer in self._layers("params")]
        self._refuse_strangers(config)
        return Card(
            config=config,
            header=header,
            weights="".join(str(self._layout.blob(layer.digest)) for layer in self._layers("model")[:1]),
            licenses=tuple(self._text(layer) for layer in self._layers("license")),
            template=self._text(templates[-1]) if templates else None,
            system="".join(self._text(layer) for layer in self._layers("system")[-1:]),
            options={key: value for each in params for key, value in each.items()},
            messages=tuple(
                each for layer in self._layers("messages") for each in self._json(layer, list) if isinstance(each, dict)
            ),
            parent=self._parent(),
            has_projector=bool(self._layers("projector")),
            missing="; ".join(self._wrong),
        )

    def _layers(self, kind: str) -> list[Layer]:
        return [layer for layer in self._model.manifest.layers if layer.media_type == IMAGE + kind]

    def _header(self, config: Mapping[str, Any]) -> Header | None:
        weights = self._layers("model")
        if len(weights) != 1 or config.get("model_format", "gguf") not in ("gguf", ""):
            self._wrong.append("its weights are not one GGUF file")
            return None
        try:
            return gguf.read(self._layout.blob(weights[0].digest))
        except (Trouble, FileNotFoundError) as error:
            self._wrong.append(f"the header of its weights cannot be read: {error}")
            return None

    def _refuse_strangers(self, config: Mapping[str, Any]) -> None:
        """What a server shows of these models, we do not know how to tell."""
        if config.get("remote_host") or config.get("remote_model"):
            self._wrong.append("it runs elsewhere")
        if (parser := _text(config.get("parser"))) and parser not in capabilities.PARSERS:
            self._wrong.append(f"nobody here knows its parser {parser!r}")
        kinds = ("adapter", "projector", "draft")
        self._wrong += [f"it has a layer of kind {kind!r}" for kind in kinds if self._layers(kind)]

    def _parent(self) -> str:
        listed = json.loads(self._model.manifest.raw).get("layers") or []
        named = (layer.get("from") for layer in listed if layer.get("mediaType") == f"{IMAGE}model")
        return next((each for each in named if isinstance(each, str)), "")

    def _text(self, layer: Layer) -> str:
        return self._bytes(layer).decode(errors="replace")

    def _json(self, layer: Layer, kind: type) -> Any:
        try:
            document = json.loads(self._bytes(layer))
        except (ValueError, RecursionError):
            document = None
        if isinstance(document, kind):
            return document
        self._wrong.append(f"blob {layer.digest} makes no sense")
        return kind()

    def _bytes(self, layer: Layer) -> bytes:
        if layer.size > MAX_BLOB_BYTES:
            self._wrong.append(f"blob {layer.digest} is larger than such a thing can be")
            return b""
        try:
            return self._layout.blob(layer.digest).read_bytes()
        except OSError as error:
            self._wrong.append(f"blob {layer.digest} cannot be read: {error.strerror}")
            return b""


# -- in Ollama's words -------------------------------------------------------------------------------------------------


def details(card: Card) -> dict[str, Any]:
    """`details`, as `/api/show` tells them; lists add two lengths."""
    config, families = card.config, card.config.get("model_families")
    quantization = _text(config.get("file_type"))
    if quantization in ("", "unknown"):
        quantization = gguf.file_type_name(card.facts.file_type if card.facts else None) or quantization
    return {
        "parent_model": card.parent,
        "format": _text(config.get("model_format")),
        "family": _text(config.get("model_family")),
        "families": families if isinstance(families, list) else None,
        "parameter_size": _text(config.get("model_type")),
        "quantization_level": quantization,
    }


def _lengths(card: Card) -> dict[str, int]:
    """The two lengths that lists show and nothing else does, as far as they are known."""
    facts = card.facts or Facts()
    told = {
        "context_length": card.config.get("context_length") or facts.context,
        "embedding_length": card.config.get("embedding_length") or facts.embedding,
    }
    return {key: value for key, value in told.items() if type(value) is int and value}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
