"""The simulator's models directory, kept and misread as Ollama keeps and misreads it.

Blobs are trusted by existence, manifests are written in place, names are found without regard to case, and what was
once seen without its weights stays "does not support" until the process ends (ollama server/model_inference_cache.go).
"""

import hashlib
import json
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from jobs.core.clock import Clock
from jobs.core.errors import BadName
from jobs.core.model_name import ModelName
from jobs.testing.ollama.faults import SimError
from jobs.weights.layout import Layout

PRUNE_AFTER_SECONDS = 3600.0
IMAGE = "application/vnd.ollama.image."


@dataclass(frozen=True)
class StoredModel:
    """A model whose manifest can be read; its blobs may be missing."""

    name: ModelName
    digest: str
    modified_at: datetime
    layers: tuple[dict[str, Any], ...]
    config_layer: dict[str, Any]
    config: dict[str, Any]
    capabilities: tuple[str, ...]

    @property
    def size(self) -> int:
        return sum(int(layer.get("size", 0)) for layer in (*self.layers, self.config_layer))

    def details(self) -> dict[str, Any]:
        return {
            "parent_model": "",
            "format": self.config.get("model_format", ""),
            "family": self.config.get("model_family", ""),
            "families": self.config.get("model_families"),
            "parameter_size": self.config.get("model_type", ""),
            "quantization_level": self.config.get("file_type", ""),
        }

    def layer_of(self, kind: str) -> dict[str, Any] | None:
        return next((layer for layer in self.layers if layer.get("mediaType") == IMAGE + kind), None)


class Store:
    def __init__(self, root: Path, *, no_prune: bool, clock: Clock) -> None:
        self.layout = Layout(root)
        self.no_prune = no_prune
        self._clock = clock
        #: Capabilities by name and manifest digest; any request's thread adds, none removes, and two that add the same
        #: at once may differ by what was on disk then: so does the real one.
        self._seen: dict[tuple[ModelName, str], tuple[str, ...]] = {}

    def start(self) -> None:
        """What `ollama serve` does to the directory before it answers."""
        self.layout.blobs.mkdir(parents=True, exist_ok=True)
        if not self.no_prune:
            self._prune()

    # Reading

    def models(self) -> list[StoredModel]:
        """Those with a manifest that parses, newest first."""
        models = []
        for file in self.layout.manifest_files():
            with suppress(SimError, FileNotFoundError):
                models.append(self._read(file.name))
        return sorted(models, key=lambda model: model.modified_at, reverse=True)

    def get(self, name: ModelName) -> StoredModel | None:
        """The model under this name in any spelling; a torn manifest is an error."""
        with suppress(FileNotFoundError):
            return self._read(self.layout.stored_spelling(name))
        return None

    def get_exact(self, name: ModelName) -> StoredModel | None:
        """Without folding case, as `/api/embeddings` alone looks it up."""
        with suppress(FileNotFoundError):
            return self._read(name)
        return None

    def those_here(self) -> str:
        """What a program may ask for instead, behind the real one's words."""
        names = ", ".join(str(model.name) for model in self.models())
        return f" (SIMULATED: {f'here are {names}' if names else 'no model is here; pull one'})"

    def blob(self, digest: str) -> Path:
        return self.layout.blobs / digest.replace(":", "-")

    def text_of(self, model: StoredModel, kind: str) -> str:
        layer = model.layer_of(kind)
        if layer is None:
            return ""
        with suppress(FileNotFoundError):
            return self.blob(layer["digest"]).read_text(errors="replace")
        return ""

    def _read(self, name: ModelName) -> StoredModel:
        path = self.layout.manifest(name)
        raw = path.read_bytes()
        document = _decode(raw)
        config_layer = document.get("config") or {}
        layers = tuple(document.get("layers") or ())
        config: dict[str, Any] = {}
        with suppress(FileNotFoundError, ValueError):
            config = json.loads(self.blob(config_layer.get("digest", "")).read_bytes())
        digest = hashlib.sha256(raw).hexdigest()
        modified = datetime.fromtimestamp(path.stat().st_mtime).astimezone()
        capabilities = self._capabilities(name, digest, layers, config)
        return StoredModel(name, digest, modified, layers, config_layer, config, capabilities)

    def _capabilities(
        self, name: ModelName, digest: str, layers: tuple[dict[str, Any], ...], config: dict[str, Any]
    ) -> tuple[str, ...]:
        """What it can do, remembered by manifest digest: the weights' absence is remembered as well."""
        key = (name, digest)
        if key not in self._seen:
            weights = [layer["digest"] for layer in layers if layer.get("mediaType") == f"{IMAGE}model"]
            there = bool(weights) and all(self.blob(each).exists() for each in weights)
            capabilities = tuple(config.get("capabilities") or ("completion",))
            self._seen[key] = capabilities if there else ()
        return self._seen[key]

    # Writing

    def write_manifest(self, name: ModelName, raw: bytes) -> None:
        """In place, without a temporary file, as Ollama does."""
        path = self.layout.manifest(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)

    def delete(self, name: ModelName) -> None:
        model = self._read(self.layout.stored_spelling(name))
        self.layout.manifest(model.name).unlink()
        self._drop_empty_folders()
        self.delete_unreferenced([layer["digest"] for layer in (*model.layers, model.config_layer) if layer])

    def copy(self, source: ModelName, target: ModelName) -> None:
        path = self.layout.manifest(self.layout.stored_spelling(source))
        raw = path.read_bytes()
        self.write_manifest(self.layout.stored_spelling(target), raw)

    def delete_unreferenced(self, digests: list[str]) -> None:
        used = self._referenced()
        for digest in digests:
            if digest not in used:
                self.blob(digest).unlink(missing_ok=True)

    def digests_of(self, name: ModelName) -> set[str]:
        """What the manifest that is there now lists; a torn one lists nothing."""
        with suppress(SimError, FileNotFoundError):
            model = self._read(name)
            return {layer["digest"] for layer in (*model.layers, model.config_layer) if layer}
        return set()

    def _referenced(self) -> set[str]:
        return {layer.get("digest", "") for model in self.models() for layer in (*model.layers, model.config_layer)}

    def _prune(self) -> None:
        """At start-up: unreferenced blobs and leftovers older than an hour go, unless any manifest is torn."""
        files = self.layout.manifest_files()
        if len(self.models()) < len(files):
            return
        used = {digest.replace(":", "-") for digest in self._referenced()}
        before = self._clock.now().timestamp() - PRUNE_AFTER_SECONDS
        for path in self.layout.blobs.iterdir():
            if path.name not in used and path.stat().st_mtime < before:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self._drop_empty_folders()

    def _drop_empty_folders(self) -> None:
        for folder, _, _ in os.walk(self.layout.manifests, topdown=False):
            if folder != str(self.layout.manifests):
                with suppress(OSError):
                    Path(folder).rmdir()


def parsed_name(text: str) -> ModelName | None:
    try:
        return ModelName.parse(text)
    except BadName:
        return None


def os_text(error: OSError, operation: str) -> str:
    """As Go words it: `open /models/blobs/x: read-only file system`."""
    return f"{operation} {error.filename}: {os.strerror(error.errno or 0).lower()}"


def _decode(raw: bytes) -> dict[str, Any]:
    """The first JSON value, as Go's decoder takes it; what it says about a torn one is what users see."""
    try:
        text = raw.decode(errors="replace").lstrip()
        if not text:
            raise SimError("EOF")
        document, _ = json.JSONDecoder().raw_decode(text)
    except ValueError as error:
        first = raw.lstrip()[:1]
        if first != b"{":
            shown = repr(first.decode("latin-1"))
            raise SimError(f"invalid character {shown} looking for beginning of value") from error
        raise SimError("unexpected EOF") from error
    return document if isinstance(document, dict) else {}
