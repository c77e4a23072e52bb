"""What is known of a model without any server: its name, its size, and what its own files say of it.

A card is read from the small blobs and the header of the weights, once for each manifest. What cannot be read is left
out, and the card says why it cannot stand for what a server would show. Whatever a model's files hold, it has a card:
no model keeps the others from being listed, or itself from being deleted.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import Any

from loguru import logger

from jobs.core.errors import Trouble
from jobs.core.model_name import ModelName
from jobs.models import capabilities, card_files, gguf
from jobs.models.capabilities import Traits
from jobs.models.card_files import CardFiles, FilesSeen
from jobs.models.gguf import GgufHeader, MemoryFacts
from jobs.models.index import Index
from jobs.weights import survey
from jobs.weights.layout import Layout, ManifestFile, entries
from jobs.weights.manifest import IMAGE, Manifest

_NO_HEADER = GgufHeader(3, {}, (), 0)


@dataclass(frozen=True)
class Card:
    """What a model's files say.

    Args:
        config: what counts of the config blob; see `card_files`.
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
        wrong: of that, what is wrong with the model's files, for people.
        seen: the files that it was read from; empty where it is to be read again.

    """

    config: Mapping[str, Any]
    header: GgufHeader | None
    weights: str
    licenses: tuple[str, ...] = ()
    template: str | None = None
    system: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[Mapping[str, Any], ...] = ()
    parent: str = ""
    has_projector: bool = False
    missing: str = ""
    wrong: str = ""
    seen: FilesSeen = ()

    @cached_property
    def traits(self) -> Traits:
        return Traits(
            declared=tuple(self.config.get("capabilities", ())),
            family=self.config.get("model_family", ""),
            parser=self.config.get("parser", ""),
            renderer=self.config.get("renderer", ""),
            template=self.template,
            header=self.header or _NO_HEADER,
            has_projector=self.has_projector,
        )

    @cached_property
    def abilities(self) -> frozenset[str] | None:
        """What a server will find that the model can do; None where its files do not tell."""
        return None if self.missing or self.header is None else frozenset(capabilities.shown(self.traits))

    @cached_property
    def facts(self) -> MemoryFacts | None:
        return MemoryFacts.of(self.header) if self.header else None


@dataclass(frozen=True)
class KnownModel:
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
    def facts(self) -> MemoryFacts | None:
        return self.card.facts if self.card else None


def bytes_of(models: Iterable[KnownModel]) -> int:
    """What they take together: a blob that several of them share lies there once."""
    sizes: dict[str, int] = {}
    for model in models:
        sizes |= model.blobs or {model.digest: model.size}
    return sum(sizes.values())


def read(layout: Layout, known: Iterable[KnownModel] = ()) -> list[KnownModel]:
    """The whole models of a directory. Files of a manifest that is among the known ones are not read again."""
    cards = {model.digest: model.card for model in known if model.card}
    whole = (each for each in survey.read_models(layout) if isinstance(each, survey.SurveyedModel))
    return [_model(each, _card(layout, each, cards.get(each.digest))) for each in whole]


def read_told(layout: Layout, told: Index, known: Iterable[KnownModel] = ()) -> list[KnownModel]:
    """The same, where the index tells which manifests there are and what they say.

    Files are asked for of a model that is new, or whose files made no sense, and not of any other: for all of those
    there is one listing, of the blobs, and who lacks one there is looked at itself.
    """
    before = {model.name: model for model in known}
    here = {entry.name for entry in entries(layout.blobs)}
    found = []
    for name, manifest in told.whole.items():
        one = before.get(name)
        is_whole = all(layer.filename in here for layer in manifest.blobs)
        if one is not None and one.digest == manifest.digest and is_whole and one.card and not one.card.wrong:
            found.append(one)
            continue
        model = survey.read_model(layout, ManifestFile(name, layout.manifest(name)))
        if isinstance(model, survey.SurveyedModel):
            is_same = one is not None and one.digest == model.digest
            found.append(_model(model, _card(layout, model, one.card if one and is_same else None)))
    return found


def _card(layout: Layout, model: survey.SurveyedModel, known: Card | None) -> Card:
    """The known one while it holds; what is wrong with a new one is told once, in the log."""
    if known and (not known.missing or (known.seen and known.seen == card_files.seen_again(layout, known.seen))):
        return known
    card = card_of(layout, model)
    if card.wrong and (known is None or known.wrong != card.wrong):
        logger.warning("{} is listed with what can be known of it: {}", model.name, card.wrong)
    return card


def _model(model: survey.SurveyedModel, card: Card) -> KnownModel:
    try:
        shown_details, abilities = details(card) | _lengths(card), _abilities(card)
        json.dumps([shown_details, abilities], allow_nan=False).encode()  # they go into every list of models
        _ = card.abilities, card.facts  # made here, so that no request has to at its first look
    except Exception as error:  # noqa: BLE001 - as below
        card = _bare(error)
        shown_details, abilities = details(card), ()
    return KnownModel(
        name=model.name,
        digest=model.digest,
        size=model.size,
        modified_at=model.modified_at,
        details=shown_details,
        capabilities=abilities,
        card=card,
        blobs={blob.digest: blob.size for blob in model.manifest.blobs},
    )


def _abilities(card: Card) -> tuple[str, ...]:
    return capabilities.listed(card.traits) if card.header else card.traits.declared


def card_of(layout: Layout, model: survey.SurveyedModel) -> Card:
    """What the files of a whole model say."""
    try:
        return _read(CardFiles(layout, model.manifest))
    except Exception as error:  # noqa: BLE001 - nothing that stands in a model's files may harm what stands beside it
        return _bare(error)


def _bare(error: Exception) -> Card:
    """A card of nothing but the reason."""
    why = f"its files cannot be made sense of: {type(error).__name__}: {str(error)[:200]}"
    return Card({}, None, "", missing=why, wrong=why)


def facts_of(layout: Layout, manifest: Manifest) -> MemoryFacts | None:
    """What decides how much memory the model takes, from the header of its weights; None when that cannot be read."""
    weights = [layer for layer in manifest.layers if layer.media_type == f"{IMAGE}model"]
    if len(weights) != 1:
        return None
    try:
        return MemoryFacts.of(gguf.read(layout.blob(weights[0].digest)))
    except (Trouble, FileNotFoundError):
        return None


def _read(files: CardFiles) -> Card:
    config = files.config()
    header = files.header(files.layers("model")[0]) if _is_one_gguf(files, config) else None
    templates = [*files.layers("prompt"), *files.layers("template")]
    card = Card(
        config=config,
        header=header,
        weights="".join(str(files.path(layer)) for layer in files.layers("model")[:1]),
        template=files.text(templates[-1]) if templates else None,
        system="".join(files.text(layer) for layer in files.layers("system")[-1:]),
        options=files.options(),
        messages=files.messages(),
        licenses=tuple(files.texts(files.layers("license"))),
        parent=files.parent(),
        has_projector=bool(files.layers("projector")),
    )
    wrong = "; ".join(files.wrong)  # all that was found out while the others were read
    missing = "; ".join([*files.wrong, *_strange(files, config)])
    return replace(card, wrong=wrong, missing=missing, seen=files.seen())


def _is_one_gguf(files: CardFiles, config: Mapping[str, Any]) -> bool:
    return len(files.layers("model")) == 1 and config.get("model_format", "gguf") in ("gguf", "")


def _strange(files: CardFiles, config: Mapping[str, Any]) -> list[str]:
    """What a server shows of these models, we do not know how to tell."""
    reasons = [] if _is_one_gguf(files, config) else ["its weights are not one GGUF file"]
    if config.get("remote_host") or config.get("remote_model"):
        reasons.append("it runs elsewhere")
    if (parser := config.get("parser")) and parser not in capabilities.PARSERS:
        reasons.append(f"nobody here knows its parser {parser!r}")
    kinds = ("adapter", "projector", "draft")
    return reasons + [f"it has a layer of kind {kind!r}" for kind in kinds if files.layers(kind)]


# -- in Ollama's words -------------------------------------------------------------------------------------------------


def details(card: Card) -> dict[str, Any]:
    """`details`, as `/api/show` tells them; lists add two lengths."""
    config, families = card.config, card.config.get("model_families")
    quantization = config.get("file_type", "")
    if quantization in ("", "unknown"):
        quantization = gguf.file_type_name(card.facts.file_type if card.facts else None) or quantization
    return {
        "parent_model": card.parent,
        "format": config.get("model_format", ""),
        "family": config.get("model_family", ""),
        "families": None if families is None else list(families),
        "parameter_size": config.get("model_type", ""),
        "quantization_level": quantization,
    }


def _lengths(card: Card) -> dict[str, int]:
    """The two lengths that lists show and nothing else does, as far as they are known."""
    facts = card.facts or MemoryFacts()
    lengths = {
        "context_length": card.config.get("context_length") or facts.context,
        "embedding_length": card.config.get("embedding_length") or facts.embedding,
    }
    return {key: value for key, value in lengths.items() if value}
