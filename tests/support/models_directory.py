"""Models small enough to make by the hundred, and a models directory filled with them."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from jobs.core.clock import Clock, SystemClock
from jobs.core.model_name import ModelName
from jobs.testing.models import SimModel
from jobs.weights.directory import ModelsDirectory
from jobs.weights.layout import Layout
from jobs.weights.manifest import Layer, Manifest, ModelDetails
from jobs.weights.staging import Staging
from jobs.weights.survey import SurveyedModel

CONFIG = b'{"model_format":"gguf","model_family":"llama","model_type":"1B","file_type":"Q4_0"}'


def nothing() -> None:
    pass


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@dataclass(frozen=True)
class Sample:
    """A model with its bytes at hand."""

    name: ModelName
    manifest: Manifest
    contents: dict[str, bytes]


def sample(name: str = "tiny", *contents: bytes, config: bytes = CONFIG) -> Sample:
    blobs = contents or (f"weights of {name}".encode() * 100, b"template")

    def entry(media_type: str, content: bytes) -> dict[str, str | int]:
        return {"mediaType": media_type, "digest": digest_of(content), "size": len(content)}

    raw = json.dumps(
        {
            "schemaVersion": 2,
            "config": entry("application/vnd.docker.container.image.v1+json", config),
            "layers": [entry("application/vnd.ollama.image.model", each) for each in blobs],
        }
    ).encode()
    return Sample(ModelName.parse(name), Manifest.parse(raw), {digest_of(each): each for each in (*blobs, config)})


def weights_at(root: Path, *, persist: Callable[[], None] = nothing, clock: Clock | None = None) -> ModelsDirectory:
    return ModelsDirectory(
        root / "models", lock=root / "weights.lock", persist=persist, clock=clock or SystemClock(), disk_counts=False
    )


def put_blob(weights: ModelsDirectory, content: bytes, digest: str | None = None) -> Path:
    path = weights.layout.blob(digest or digest_of(content))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def put_manifest(weights: ModelsDirectory, name: str | ModelName, raw: bytes) -> Path:
    path = weights.layout.manifest(ModelName.parse(name) if isinstance(name, str) else name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)
    return path


def put(weights: ModelsDirectory, model: Sample) -> Path:
    """As if Ollama had pulled it."""
    for content in model.contents.values():
        put_blob(weights, content)
    return put_manifest(weights, model.name, model.manifest.raw)


def fill(staging: Staging, model: Sample, *, but: tuple[str, ...] = ()) -> Staging:
    """Stage and settle what is to be fetched, as a fetch does: never emptying a file, which may be another's by now."""
    for digest, content in model.contents.items():
        if digest not in but:
            with os.fdopen(os.open(staging.path(digest), os.O_WRONLY | os.O_CREAT, 0o644), "wb") as file:
                file.write(content)
            staging.settle(digest)
    return staging


def publish(
    weights: ModelsDirectory, model: Sample, *, holder: str = "a", still_ours: Callable[[], None] = nothing
) -> None:
    staging = fill(weights.stage(str(model.name), holder), model)
    weights.publish(model.name, model.manifest, staging, still_ours=still_ours)


def layer_of(content: bytes, size: int | None = None) -> Layer:
    return Layer("application/vnd.ollama.image.model", digest_of(content), len(content) if size is None else size)


def lay(models: Path, *them: SimModel) -> None:
    """As if they had been pulled, one second apart."""
    layout = Layout(models)
    layout.blobs.mkdir(parents=True, exist_ok=True)
    for index, model in enumerate(them):
        for digest, blob in model.blobs.items():
            layout.blob(digest).write_bytes(blob.read())
        manifest = layout.manifest(model.name)
        manifest.parent.mkdir(parents=True, exist_ok=True)
        manifest.write_bytes(model.manifest)
        moment = 1_790_000_000 + index
        os.utime(manifest, (moment, moment))


def surveyed(name: ModelName, now: datetime) -> SurveyedModel:
    manifest = sample(str(name)).manifest
    return SurveyedModel(name, manifest.digest, manifest.size, now, manifest, ModelDetails())
