"""All manifests of a models directory in one file, so that whoever copies them need not walk the directory.

Whoever publishes writes it, with the generation that readers are told of afterwards. It is a copy and never the truth:
one that is absent, damaged or of another generation is passed over, and the directory is walked instead. It says which
models were whole when it was written, and nothing is moved or deleted on its word.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from jobs.core import foreign
from jobs.core.errors import BadName, Corrupt
from jobs.core.model_name import ModelName
from jobs.store.files import flush_folder
from jobs.weights.layout import Layout
from jobs.weights.manifest import Manifest
from jobs.weights.survey import Broken, SurveyedModel

MOST_BYTES = 64 * 1024 * 1024
"""What would be larger is not written: a manifest takes a kilobyte, a thousand layers some 200."""


@dataclass(frozen=True)
class Index:
    """The manifests of the models that were whole, and the names of the others."""

    whole: Mapping[ModelName, Manifest] = field(default_factory=dict)
    broken: frozenset[ModelName] = frozenset()

    @classmethod
    def of(cls, known: Iterable[SurveyedModel | Broken]) -> Self:
        models = {each.name: each for each in known}
        whole = {name: each.manifest for name, each in models.items() if isinstance(each, SurveyedModel)}
        return cls(whole, frozenset(models.keys() - whole.keys()))


def write(layout: Layout, index: Index, generation: str) -> None:
    """Write the file in place of the one before, in one step; where it would be too large there is none afterwards."""
    document = {
        "v": 1,
        "generation": generation,
        "whole": [_entry(str(name), manifest) for name, manifest in sorted(index.whole.items())],
        "broken": sorted(str(name) for name in index.broken),
    }
    content = json.dumps(document).encode()
    if len(content) > MOST_BYTES:
        layout.index.unlink(missing_ok=True)
        return
    draft = layout.index.with_name(f"{layout.index.name}.draft")
    with draft.open("wb") as written:
        written.write(content)
        written.flush()
        os.fsync(written.fileno())
    draft.replace(layout.index)
    flush_folder(layout.root)


def read(layout: Layout, generation: object) -> Index | None:
    """The index of this generation; None when there is none, or one that cannot be trusted."""
    try:
        with layout.index.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
        found = foreign.document(raw, "the index", most_pieces=MOST_BYTES) if len(raw) <= MOST_BYTES else None
    except (OSError, Corrupt):
        return None
    document = foreign.fields(found)
    if document.get("v") != 1 or generation is None or document.get("generation") != generation:
        return None
    try:
        whole = dict(_model(each) for each in document["whole"])
        return Index(whole, frozenset(ModelName.parse(each) for each in document["broken"]))
    except (BadName, Corrupt, LookupError, TypeError, ValueError, AttributeError):
        return None


def _entry(name: str, manifest: Manifest) -> list[str]:
    return [name, _checksum(name, manifest.raw), manifest.raw.decode("latin-1")]  # which holds any bytes


def _model(entry: Any) -> tuple[ModelName, Manifest]:
    name, checksum, text = entry
    raw = text.encode("latin-1")
    if _checksum(name, raw) != checksum:
        raise Corrupt(f"what the index says of {name!r} is damaged")
    return ModelName.parse(name), Manifest.parse(raw)


def _checksum(name: str, raw: bytes) -> str:
    return hashlib.sha256(f"{name}\n".encode() + raw).hexdigest()
