"""Writes a GGUF of about the size asked for that llama.cpp runs: random weights, as many layers as it takes.

Runs in the rig's own environment:  python make_model.py FILE BYTES
"""

import sys
from pathlib import Path

import gguf
import numpy as np

WIDTH, INNER, HEADS, CONTEXT = 1024, 4096, 16, 512
LETTERS = [*map(chr, range(97, 123)), "▁"]
TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *LETTERS]
KINDS = [2, 3, 3, *[6] * 256, *[1] * len(LETTERS)]
"""llama.cpp's numbers for unknown, control, byte and normal tokens."""

LAYER = {
    "attn_q": (WIDTH, WIDTH),
    "attn_k": (WIDTH, WIDTH),
    "attn_v": (WIDTH, WIDTH),
    "attn_output": (WIDTH, WIDTH),
    "ffn_gate": (INNER, WIDTH),
    "ffn_up": (INNER, WIDTH),
    "ffn_down": (WIDTH, INNER),
}


def write(path: Path, size: int) -> None:
    """Write it; its size is that of the next whole layer."""
    layer_bytes = sum(2 * rows * columns for rows, columns in LAYER.values())
    layers = max(1, round(size / layer_bytes))
    dice = np.random.default_rng(7)
    noise = dice.normal(0, 0.02, INNER * WIDTH).astype(np.float16)  # the same for each layer: bytes are bytes

    def weights(rows: int, columns: int) -> "np.ndarray":
        return noise[: rows * columns].reshape(rows, columns)

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(TOKENS)
    writer.add_token_scores([0.0] * len(TOKENS))
    writer.add_token_types(KINDS)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    ones = np.ones(WIDTH, np.float32)
    writer.add_tensor("token_embd.weight", weights(len(TOKENS), WIDTH))
    for number in range(layers):
        writer.add_tensor(f"blk.{number}.attn_norm.weight", ones)
        for name, shape in LAYER.items():
            writer.add_tensor(f"blk.{number}.{name}.weight", weights(*shape))
        writer.add_tensor(f"blk.{number}.ffn_norm.weight", ones)
    writer.add_tensor("output_norm.weight", ones)
    writer.add_tensor("output.weight", weights(len(TOKENS), WIDTH))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]))
