"""A model of a hundred kilobytes that llama.cpp runs: one layer of noise, and a token for each letter."""

import hashlib
import json
import random
import struct
from itertools import accumulate
from pathlib import Path

from jobs.models.gguf import Tensor
from jobs.testing import gguf

WIDTH, INNER = 32, 64
TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *map(chr, range(97, 123)), "▁"]
KINDS = [2, 3, 3, *[6] * 256, *[1] * 27]
"""llama.cpp's numbers for unknown, control, byte and normal tokens."""

TEMPLATE = b"{{ range .Messages }}{{ .Role }}:{{ .Content }}\n{{ end }}"


def weights() -> bytes:
    """The whole file, the same each time."""
    shapes = {
        "token_embd.weight": (WIDTH, len(TOKENS)),
        "output_norm.weight": (WIDTH,),
        "output.weight": (WIDTH, len(TOKENS)),
        "blk.0.attn_norm.weight": (WIDTH,),
        "blk.0.ffn_norm.weight": (WIDTH,),
        **{f"blk.0.attn_{part}.weight": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")},
        "blk.0.ffn_gate.weight": (WIDTH, INNER),
        "blk.0.ffn_up.weight": (WIDTH, INNER),
        "blk.0.ffn_down.weight": (INNER, WIDTH),
    }
    tensors = [Tensor(name, 0, shape) for name, shape in shapes.items()]
    dice = random.Random(7)
    data = [_noise(dice, shape) for shape in shapes.values()]
    offsets = [0, *accumulate(len(each) for each in data)][:-1]
    header = {
        "general.architecture": "llama",
        "llama.context_length": 2048,
        "llama.embedding_length": WIDTH,
        "llama.block_count": 1,
        "llama.feed_forward_length": INNER,
        "llama.attention.head_count": 2,
        "llama.attention.head_count_kv": 2,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": WIDTH // 2,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.scores": [0.0] * len(TOKENS),
        "tokenizer.ggml.token_type": [(gguf.I32, kind) for kind in KINDS],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    return gguf.encoded(header, tensors, offsets=offsets) + b"".join(data)


def _noise(dice: random.Random, shape: tuple[int, ...]) -> bytes:
    """Norms are ones; all sizes are whole multiples of what GGUF aligns to."""
    count = shape[0] * (shape[1] if len(shape) > 1 else 1)
    values = [dice.gauss(0, 0.02) if len(shape) > 1 else 1.0 for _ in range(count)]
    return struct.pack(f"<{count}f", *values)


def put(models: Path, name: str) -> None:
    """Place it in a models directory as a pull would have."""
    config = {"model_format": "gguf", "model_family": "llama", "model_type": "1K", "file_type": "F32"}
    kind = "application/vnd.ollama.image."

    def layer(media_type: str, content: bytes) -> dict[str, str | int]:
        digest = hashlib.sha256(content).hexdigest()
        (models / "blobs").mkdir(parents=True, exist_ok=True)
        (models / "blobs" / f"sha256-{digest}").write_bytes(content)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": layer("application/vnd.docker.container.image.v1+json", json.dumps(config).encode()),
        "layers": [layer(f"{kind}model", weights()), layer(f"{kind}template", TEMPLATE)],
    }
    folder = models / "manifests" / "registry.ollama.ai" / "library" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "latest").write_text(json.dumps(manifest))
