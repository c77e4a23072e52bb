"""What a model is made of: its manifest, read strictly, and the few facts its config blob tells.

A manifest is kept as the registry's raw bytes, because its sha256 is the model's digest. Parsing takes nothing on
trust: a digest that passes here is safe as a file name, and sizes can be summed. It reads no files, asks no network.
"""

import hashlib
import re
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from jobs.core import foreign
from jobs.core.errors import Corrupt

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"

IMAGE = "application/vnd.ollama.image."
"""How the kinds of Ollama's own layers begin."""

MAX_MANIFEST_BYTES = 8 * 1024 * 1024
"""Far above any real one: a thousand tensor layers take some 200 kB."""

MAX_LAYERS = 20_000

MAX_MEDIA_TYPE = 255
"""Characters, as RFC 6838 has it."""

MAX_WORD = 256
"""Characters of what a config says in a word: a family, a size. Each stands in every list of models."""

MAX_WORDS = 64

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Layer:
    """One blob of a model: `digest` is `sha256:<hex>`."""

    media_type: str
    digest: str
    size: int

    @property
    def hex(self) -> str:
        return self.digest.removeprefix("sha256:")

    @property
    def filename(self) -> str:
        """The blob's name on disk, with a dash where the digest has a colon."""
        return f"sha256-{self.hex}"


@dataclass(frozen=True)
class Manifest:
    """A whole, well-formed manifest. `raw` is exactly what the registry sent and what stands on disk."""

    raw: bytes
    config: Layer
    layers: tuple[Layer, ...]

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Read a manifest.

        Raises:
            Corrupt: torn, empty or not a manifest; the message names the cause.

        """
        if len(raw) > MAX_MANIFEST_BYTES:
            raise Corrupt(f"the manifest has {len(raw)} bytes; {MAX_MANIFEST_BYTES} is the most that makes sense")
        if not raw.strip(b"\0 \t\r\n"):
            raise Corrupt("the manifest is empty" if not raw else "the manifest holds nothing but blanks")
        document = _object(raw, "the manifest")
        if document.get("schemaVersion") != 2 or isinstance(document.get("schemaVersion"), bool):
            raise Corrupt(f"the manifest has schemaVersion {_short(document.get('schemaVersion'))}, not 2")
        listed = document.get("layers")
        if listed is None:  # how Go writes an empty list
            listed = []
        if not isinstance(listed, list):
            raise Corrupt(f"the manifest's layers are {_short(listed)}, not a list")
        if len(listed) > MAX_LAYERS:
            raise Corrupt(f"the manifest lists {len(listed)} layers; {MAX_LAYERS} is the most that makes sense")
        config = _layer(document.get("config"), "config")
        layers = tuple(_layer(each, f"layers[{index}]") for index, each in enumerate(listed))
        _one_size_each((*layers, config))
        if (size := sum(layer.size for layer in layers) + config.size) >= 2**63:
            raise Corrupt(f"the manifest's layers have {size:,} bytes together, more than can be counted")
        return cls(raw, config, layers)

    @cached_property
    def digest(self) -> str:
        """Hex sha256 of the raw bytes, without a prefix, as Ollama's API shows it."""
        return hashlib.sha256(self.raw).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of all layers and the config, counted as Ollama counts them."""
        return sum(layer.size for layer in self.layers) + self.config.size

    @cached_property
    def blobs(self) -> tuple[Layer, ...]:
        """Layers, then config, each digest once: the order to fetch in."""
        return tuple({layer.digest: layer for layer in (*self.layers, self.config)}.values())


@dataclass(frozen=True)
class ModelDetails:
    """What a model's config blob says about it; a field it does not say is empty."""

    format: str = ""
    family: str = ""
    families: tuple[str, ...] = ()
    parameter_size: str = ""
    quantization_level: str = ""

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Read a config blob.

        Raises:
            Corrupt: not a JSON object.

        """
        document = _object(raw, "the model's config")
        return cls(
            format=word(document.get("model_format")) or "",
            family=word(document.get("model_family")) or "",
            families=words(document.get("model_families")) or (),
            parameter_size=word(document.get("model_type")) or "",
            quantization_level=word(document.get("file_type")) or "",
        )

    def as_json(self) -> dict[str, Any]:
        """As `details` in Ollama's own answers."""
        return {
            "parent_model": "",
            "format": self.format,
            "family": self.family,
            "families": list(self.families),
            "parameter_size": self.parameter_size,
            "quantization_level": self.quantization_level,
        }


def is_digest(text: str) -> bool:
    """Whether this is `sha256:` and 64 lower-case hex digits, and so safe in a path."""
    return _DIGEST.fullmatch(text) is not None


def word(value: Any) -> str | None:
    """What a config says in a word; None when it is no text, or one that cannot be a word."""
    return value if isinstance(value, str) and len(value) <= MAX_WORD else None


def words(value: Any) -> tuple[str, ...] | None:
    """The same for a list of them."""
    if not isinstance(value, list) or len(value) > MAX_WORDS or any(word(each) is None for each in value):
        return None
    return tuple(value)


def _object(raw: bytes, what: str) -> dict[str, Any]:
    document = foreign.document(raw, what)
    if not isinstance(document, dict):
        raise Corrupt(f"{what} is {_short(document)}, not a JSON object")
    return document


def _layer(entry: Any, where: str) -> Layer:
    if not isinstance(entry, dict):
        raise Corrupt(f"the manifest's {where} is {_short(entry)}, not an object")
    media_type, digest, size = entry.get("mediaType"), entry.get("digest"), entry.get("size")
    if not isinstance(media_type, str) or len(media_type) > MAX_MEDIA_TYPE:
        raise Corrupt(f"the manifest's {where} has mediaType {_short(media_type)}, not a short text")
    if not isinstance(digest, str) or not is_digest(digest):
        raise Corrupt(f"the manifest's {where} has digest {_short(digest)}, not sha256: and 64 hex digits")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 2**63:
        raise Corrupt(f"the manifest's {where} has size {_short(size)}, not a number of bytes")
    return Layer(sys.intern(media_type), digest, size)


def _one_size_each(layers: tuple[Layer, ...]) -> None:
    sizes: dict[str, int] = {}
    for layer in layers:
        known = sizes.setdefault(layer.digest, layer.size)
        if known != layer.size:
            raise Corrupt(f"the manifest gives {layer.digest} two sizes, {known} and {layer.size}")


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}…"
