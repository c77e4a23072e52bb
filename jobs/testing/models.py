"""Small deterministic models for the doubles: the registry's stock and what the Ollama simulator knows.

Weights are a pure function of a seed and an offset, so a model of any size costs no memory and any range of it can be
made on the spot. Sizes are those of the real models divided by `SCALE`; nothing here can be used for inference.
"""

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import Any

from jobs.names import ModelName

SCALE = 100
"""A byte here stands for a hundred real ones: routing by size can be tried without the disk space."""

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
LAYER_TYPE = "application/vnd.ollama.image."

_BLOCK = 1 << 20
_STRIDE = 65_537


@lru_cache(maxsize=64)
def _noise(seed: str) -> bytes:
    """Two copies of one random block, so that every rotation of it is one slice."""
    return random.Random(seed).randbytes(_BLOCK) * 2


def _block(seed: str, index: int) -> bytes:
    """The block rotated by its index and ending with it: no two blocks of a blob are equal."""
    turn = index * _STRIDE % _BLOCK
    return _noise(seed)[turn : turn + _BLOCK - 8] + index.to_bytes(8, "little")


@dataclass(frozen=True)
class SimLayer:
    """One blob of a model: literal text, or `size` bytes of noise grown from `seed`."""

    media_type: str
    size: int
    seed: str = ""
    text: bytes | None = None

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` up to `stop`, at most a MiB at a time."""
        end = self.size if stop is None else min(stop, self.size)
        if self.text is not None:
            yield self.text[start:end]
            return
        while start < end:
            index, inside = divmod(start, _BLOCK)
            upto = min(_BLOCK, inside + end - start)
            block = _block(self.seed, index)
            yield block if upto - inside == _BLOCK else block[inside:upto]
            start += upto - inside

    def read(self, start: int = 0, stop: int | None = None) -> bytes:
        return b"".join(self.chunks(start, stop))

    @cached_property
    def digest(self) -> str:
        """`sha256:<hex>`, worked out at the first question and then remembered for the process."""
        if self.text is not None:
            return f"sha256:{hashlib.sha256(self.text).hexdigest()}"
        return _noise_digest(self.seed, self.size)

    def as_json(self) -> dict[str, Any]:
        """The layer as a manifest lists it."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


@cache
def _noise_digest(seed: str, size: int) -> str:
    sha = hashlib.sha256()
    for chunk in SimLayer("", size, seed).chunks():
        sha.update(chunk)
    return f"sha256:{sha.hexdigest()}"


def weights(seed: str, size: int, kind: str = "model") -> SimLayer:
    return SimLayer(LAYER_TYPE + kind, size, seed=seed)


def text(kind: str, content: str) -> SimLayer:
    body = content.encode()
    return SimLayer(LAYER_TYPE + kind, len(body), text=body)


@dataclass(frozen=True)
class SimModel:
    """A model as a registry holds it. The config blob repeats what the fields say, as the real one does."""

    name: ModelName
    family: str
    parameter_size: str
    quantization: str
    layers: tuple[SimLayer, ...]
    capabilities: tuple[str, ...] = ("completion",)
    context_length: int = 131_072
    embedding_length: int = 2048

    @cached_property
    def config(self) -> SimLayer:
        body = json.dumps(
            {
                "model_format": "gguf",
                "model_family": self.family,
                "model_families": [self.family],
                "model_type": self.parameter_size,
                "file_type": self.quantization,
                "capabilities": list(self.capabilities),
                "context_length": self.context_length,
                "embedding_length": self.embedding_length,
                "base_name": self.name.model,
                "architecture": "amd64",
                "os": "linux",
                "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in self.layers]},
            },
            separators=(",", ":"),
        ).encode()
        return SimLayer(CONFIG_TYPE, len(body), text=body)

    @cached_property
    def manifest(self) -> bytes:
        """The raw bytes a registry answers with."""
        return json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "config": self.config.as_json(),
                "layers": [layer.as_json() for layer in self.layers],
            },
            separators=(",", ":"),
        ).encode()

    @cached_property
    def digest(self) -> str:
        """Hex sha256 of the manifest, without prefix, as Ollama's API shows it."""
        return hashlib.sha256(self.manifest).hexdigest()

    @property
    def size(self) -> int:
        """What Ollama lists as the model's size: layers and config."""
        return self.config.size + sum(layer.size for layer in self.layers)

    @cached_property
    def blobs(self) -> dict[str, SimLayer]:
        """Every blob by digest, layers first, config last."""
        return {blob.digest: blob for blob in (*self.layers, self.config)}


LICENSE = text("license", "Simulated weights for tests and demonstrations; they answer nothing.\n" * 20)
_TEMPLATE = text("template", "{{ if .System }}{{ .System }}\n{{ end }}{{ .Prompt }}\n{{ .Response }}")
_PARAMS = text("params", json.dumps({"stop": ["<|eot_id|>"]}))


def _chat(name: str, family: str, parameters: str, real_bytes: int, context: int = 131_072) -> SimModel:
    parsed = ModelName.parse(name)
    seed = f"{parsed.model} {parameters}"  # two tags of one size are one blob, as in the real library
    layers = (weights(seed, real_bytes // SCALE), _TEMPLATE, LICENSE, _PARAMS)
    return SimModel(parsed, family, parameters, "Q4_K_M", layers, context_length=context)


def _tiny(tag: str, system: str) -> SimModel:
    layers = (weights(f"tiny:{tag}", 6_000), text("system", system), _TEMPLATE, LICENSE)
    return SimModel(ModelName.parse(f"tiny:{tag}"), "llama", "6K", "F16", layers, context_length=2048)


LIBRARY: tuple[SimModel, ...] = (
    _chat("llama3.2:latest", "llama", "3.2B", 2_019_377_376),
    _chat("llama3.2:3b", "llama", "3.2B", 2_019_377_376),
    _chat("llama3.2:1b", "llama", "1.2B", 1_321_082_688),
    _chat("deepseek-r1:32b", "qwen2", "32.8B", 19_851_335_840),
    _chat("qwen2.5:0.5b", "qwen2", "494.03M", 397_807_936, context=32_768),
    SimModel(
        ModelName.parse("nomic-embed-text"),
        "nomic-bert",
        "137M",
        "F16",
        (weights("nomic-embed-text", 274_290_656 // SCALE), LICENSE, text("params", '{"num_ctx":8192}')),
        capabilities=("embedding",),
        context_length=2048,
        embedding_length=768,
    ),
    _tiny("latest", "You are a double."),
    _tiny("v2", "You are another double."),
    _chat("hf.co/acme/demo:Q4_K_M", "llama", "1.1B", 668_788_096, context=2048),
)


def find(name: ModelName) -> SimModel | None:
    """The library's model of that name, without regard to case."""
    wanted = name.folded()
    return next((model for model in LIBRARY if model.name.folded() == wanted), None)


def arbitrary(name: str, size: int, *, layers: int = 1) -> SimModel:
    """A model of `layers` blobs that hold `size` bytes of weights in all, for benchmarks and odd sizes."""
    each, rest = divmod(size, layers)
    blobs = tuple(weights(f"{name}#{index}", each + (rest if index == 0 else 0)) for index in range(layers))
    return SimModel(ModelName.parse(name), "llama", f"{size}", "F16", blobs)
