"""Small deterministic models for the doubles: the registry's stock and what the Ollama simulator knows.

Weights are a pure function of a seed and an offset, so a model of any size costs no memory and any range of it can be
made on the spot. Those of the library begin with a GGUF header that is true of them. Sizes are those of the real models
divided by `SCALE`; nothing here can be used for inference.
"""

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import Any

from jobs.core.model_name import ModelName
from jobs.models.gguf import Tensor
from jobs.testing.gguf import encoded

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
    """One blob of a model: literal text, or `size` bytes: the `head`, and noise grown from `seed` after it."""

    media_type: str
    size: int
    seed: str = ""
    text: bytes | None = None
    head: bytes = b""

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` up to `stop`, at most a MiB at a time."""
        end = self.size if stop is None else min(stop, self.size)
        if self.text is not None:
            yield self.text[start:end]
            return
        if start < min(end, len(self.head)):
            yield self.head[start:end]
            start = len(self.head)
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
        return _noise_digest(self.seed, self.size, self.head)

    def as_json(self) -> dict[str, Any]:
        """The layer as a manifest lists it."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


@cache
def _noise_digest(seed: str, size: int, head: bytes) -> str:
    sha = hashlib.sha256()
    for chunk in SimLayer("", size, seed, head=head).chunks():
        sha.update(chunk)
    return f"sha256:{sha.hexdigest()}"


def weights(seed: str, size: int, kind: str = "model", head: bytes = b"") -> SimLayer:
    return SimLayer(LAYER_TYPE + kind, size, seed=seed, head=head)


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


@dataclass(frozen=True)
class ModelShape:
    """What a header tells of a model. Heads are one number long, so that contexts are scaled down like weights."""

    family: str
    layers: int
    embedding: int
    heads: int
    kv_heads: int
    context: int
    file_type: int
    pools: bool = False

    def header(self, size: int) -> bytes:
        """The header of a file of `size` bytes, all that follows being one tensor of single bytes."""
        family = self.family
        values = {
            "general.architecture": family,
            "general.file_type": self.file_type,
            f"{family}.block_count": self.layers,
            f"{family}.context_length": self.context,
            f"{family}.embedding_length": self.embedding,
            f"{family}.attention.head_count": self.heads,
            f"{family}.attention.head_count_kv": self.kv_heads,
            f"{family}.attention.key_length": 1,
            f"{family}.attention.value_length": 1,
            **({f"{family}.pooling_type": 1} if self.pools else {}),
            "tokenizer.ggml.model": "none",
            "tokenizer.ggml.tokens": ["a", "double", "knows", "no", "words"],
        }
        length = len(encoded(values, [Tensor("noise", _BYTES, (0,))]))
        return encoded(values, [Tensor("noise", _BYTES, (size - length,))])


_BYTES = 24  # ggml's kind of tensor whose elements are single bytes
_F16, _Q4_K_M = 1, 15  # llama.cpp's numbers for how most tensors are packed

LICENSE = text("license", "Simulated weights for tests and demonstrations; they answer nothing.\n" * 20)
_TEMPLATE = text("template", "{{ if .System }}{{ .System }}\n{{ end }}{{ .Prompt }}\n{{ .Response }}")
_TOOLS_TEMPLATE = text(
    "template",
    "{{ if .System }}{{ .System }}\n{{ end }}{{ range .Tools }}{{ . }}\n{{ end }}{{ range .Messages }}"
    '{{ if eq .Role "tool" }}{{ .Content }}{{ else }}{{ .Content }}{{ range .ToolCalls }}{{ .Function.Name }}'
    "{{ end }}{{ end }}\n{{ end }}",
)
_THINKING_TEMPLATE = text(
    "template",
    "{{ if .System }}{{ .System }}\n{{ end }}{{ range .Tools }}{{ . }}\n{{ end }}{{ range .Messages }}"
    '{{ if eq .Role "tool" }}{{ .Content }}{{ else }}{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}'
    "{{ .Content }}{{ range .ToolCalls }}{{ .Function.Name }}{{ end }}{{ end }}\n{{ end }}",
)
_CAN = {
    _TEMPLATE: ("completion",),
    _TOOLS_TEMPLATE: ("completion", "tools"),
    _THINKING_TEMPLATE: ("completion", "tools", "thinking"),
}
"""What Ollama reads off each template."""
_PARAMS = text("params", json.dumps({"stop": ["<|eot_id|>"]}))


def _chat(name: str, parameters: str, real_bytes: int, shape: ModelShape, template: SimLayer = _TEMPLATE) -> SimModel:
    parsed = ModelName.parse(name)
    seed = f"{parsed.model} {parameters}"  # two tags of one size are one blob, as in the real library
    size = real_bytes // SCALE
    layers = (weights(seed, size, head=shape.header(size)), template, LICENSE, _PARAMS)
    return SimModel(
        parsed,
        shape.family,
        parameters,
        "Q4_K_M",
        layers,
        _CAN[template],
        context_length=shape.context,
        embedding_length=shape.embedding,
    )


def _tiny(tag: str, system: str) -> SimModel:
    head = ModelShape("llama", 2, 64, 4, 2, 2048, _F16).header(6_000)
    layers = (weights(f"tiny:{tag}", 6_000, head=head), text("system", system), _TEMPLATE, LICENSE)
    name = ModelName.parse(f"tiny:{tag}")
    return SimModel(name, "llama", "6K", "F16", layers, context_length=2048, embedding_length=64)


_LLAMA_3B = ModelShape("llama", 28, 3_072, 24, 8, 131_072, _Q4_K_M)
_LLAMA_1B = ModelShape("llama", 16, 2_048, 32, 8, 131_072, _Q4_K_M)
_QWEN_32B = ModelShape("qwen2", 64, 5_120, 40, 8, 131_072, _Q4_K_M)
_QWEN_500M = ModelShape("qwen2", 24, 896, 14, 2, 32_768, _Q4_K_M)
_QWEN3_600M = ModelShape("qwen3", 28, 1_024, 16, 8, 40_960, _Q4_K_M)
_TINY_LLAMA = ModelShape("llama", 22, 2_048, 32, 4, 2_048, _Q4_K_M)
_NOMIC = ModelShape("nomic-bert", 12, 768, 12, 12, 2_048, _F16, pools=True)


LIBRARY: tuple[SimModel, ...] = (
    _chat("llama3.2:latest", "3.2B", 2_019_377_376, _LLAMA_3B, _TOOLS_TEMPLATE),
    _chat("llama3.2:3b", "3.2B", 2_019_377_376, _LLAMA_3B, _TOOLS_TEMPLATE),
    _chat("llama3.2:1b", "1.2B", 1_321_082_688, _LLAMA_1B, _TOOLS_TEMPLATE),
    _chat("deepseek-r1:32b", "32.8B", 19_851_335_840, _QWEN_32B),
    _chat("qwen2.5:0.5b", "494.03M", 397_807_936, _QWEN_500M, _TOOLS_TEMPLATE),
    _chat("qwen3:0.6b", "751.63M", 522_653_526, _QWEN3_600M, _THINKING_TEMPLATE),
    SimModel(
        ModelName.parse("nomic-embed-text"),
        "nomic-bert",
        "137M",
        "F16",
        (
            weights("nomic-embed-text", 274_290_656 // SCALE, head=_NOMIC.header(274_290_656 // SCALE)),
            LICENSE,
            text("params", '{"num_ctx":8192}'),
        ),
        capabilities=("embedding",),
        context_length=2048,
        embedding_length=768,
    ),
    _tiny("latest", "You are a double."),
    _tiny("v2", "You are another double."),
    _chat("hf.co/acme/demo:Q4_K_M", "1.1B", 668_788_096, _TINY_LLAMA),
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
