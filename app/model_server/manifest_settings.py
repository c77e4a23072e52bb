"""What the fleet sets for a model, as layers of its manifest: so that it counts for every request, in every dialect.

Ollama's OpenAI and Anthropic routes have no field for a context length and for most options; a manifest has one for
each (server/images.go, GetModel). Only the server's own copy of a manifest gets them, and only small files are made.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jobs.core.errors import Corrupt
from jobs.models.model_settings import ModelSettings
from jobs.weights.manifest import IMAGE, Layer, Manifest

PARAMS = f"{IMAGE}params"
SYSTEM = f"{IMAGE}system"

MOST_PARAMS = 1024 * 1024
"""Bytes of a layer of parameters that is read."""


@dataclass(frozen=True)
class ServedManifest:
    """A manifest as the server sees it, and the blobs that are not the volume's, by their file names."""

    raw: bytes
    own_blobs: Mapping[str, bytes]


def with_settings(manifest: Manifest, settings: ModelSettings, read: Callable[[Layer], bytes]) -> ServedManifest:
    """The manifest with what is set for its model, in place of what its own layers say of the same.

    Args:
        manifest: as it was published.
        settings: what is set.
        read: the content of one of its blobs.

    Raises:
        Corrupt: its own parameters cannot be read.

    """
    contents: dict[str, bytes] = {}
    parameters = {**settings.parameters, **({"num_ctx": settings.context} if settings.context else {})}
    if parameters:
        contents[PARAMS] = _written({**_own_parameters(manifest, read), **parameters})
    if settings.system:
        contents[SYSTEM] = settings.system.encode()
    if not contents:
        return ServedManifest(manifest.raw, {})
    document = json.loads(manifest.raw)
    kept = [layer for layer in document["layers"] or [] if layer.get("mediaType") not in contents]
    document["layers"] = [*kept, *(_layer(media_type, content) for media_type, content in contents.items())]
    own_blobs = {f"sha256-{hashlib.sha256(content).hexdigest()}": content for content in contents.values()}
    return ServedManifest(json.dumps(document).encode(), own_blobs)


def _layer(media_type: str, content: bytes) -> dict[str, Any]:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return {"mediaType": media_type, "digest": digest, "size": len(content)}


def _written(parameters: dict[str, Any]) -> bytes:
    try:
        return json.dumps(parameters, allow_nan=False).encode()
    except ValueError as error:
        raise Corrupt("its parameters hold a number that is none") from error


def _own_parameters(manifest: Manifest, read: Callable[[Layer], bytes]) -> dict[str, Any]:
    """What the model's own layers say; Ollama takes the last one."""
    layers = [layer for layer in manifest.layers if layer.media_type == PARAMS]
    if not layers:
        return {}
    if layers[-1].size > MOST_PARAMS:
        raise Corrupt(f"its parameters have {layers[-1].size:,} bytes")
    try:
        found = json.loads(read(layers[-1]))
    except (OSError, ValueError, RecursionError) as error:
        raise Corrupt(f"its parameters cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise Corrupt("its parameters are no JSON object")
    return found
