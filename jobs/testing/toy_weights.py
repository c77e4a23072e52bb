"""Weights of some tens of kilobytes that llama.cpp runs, the same each time: one model says a fixed text, one embeds,
one ranks.

They are no language models. What each does is arranged by hand, so that a test knows every token, and the demonstration
needs no download: the engine that runs them is the real one.
"""

import math
import random
import struct
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import accumulate
from typing import Any, NamedTuple

from jobs.models.gguf import Tensor
from jobs.testing import gguf

PHRASE = "The GPU sleeps while the ledger does not."
"""What the speaker says, whatever it is asked."""

CONTEXT = 2048

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:\n{% endif %}"
)
"""Ends with a letter that no piece of a phrase is, so the phrase begins at its beginning."""

TOOLS_TEMPLATE = (
    "{% if tools %}{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
    'For each call write <tool_call>{"name": ..., "arguments": ...}</tool_call>\n{% endif %}'
    "{% for message in messages %}{{ message.role }}: {{ message.content }}"
    "{% for call in message.tool_calls or [] %}<tool_call>"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}</tool_call>{% endfor %}'
    "\n{% endfor %}{% if add_generation_prompt %}assistant:\n{% endif %}"
)

WORDS = (
    "gpu", "ledger", "sleep", "sleeps", "job", "jobs", "queue", "model", "models", "weights", "pull", "server",
    "memory", "token", "tokens", "key", "gateway", "machine", "cat", "cats", "dog", "dogs", "house", "garden",
    "river", "mountain", "sun", "moon", "rain", "snow", "tea", "coffee", "bread", "apple", "music", "paris",
    "london", "capital", "city", "france", "england", "berlin", "germany", "red", "green", "blue", "fast", "slow",
    "cold", "warm", "night", "day", "panda", "bear", "bamboo",
)  # fmt: skip
"""What the two that read know a word for: any other they spell, and think nothing of."""

_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6
"""llama.cpp's numbers for kinds of tokens."""

_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_LETTERS = [*map(chr, range(33, 127)), "▁"]
_F32 = 0


@cache
def speaker(phrase: str = PHRASE, *, template: str = CHAT_TEMPLATE, endless: bool = False, inner: int = 32) -> bytes:
    """A model that says `phrase`, a word at a time, and ends; or begins again, `endless`.

    With a larger `inner` it has more weights that do nothing, 384 bytes for each, and takes longer for each word.

    Each word of it has a direction of its own, and leads to the next; everything else has one in common, which leads to
    the first. Attention and what follows it add nothing.
    """
    pieces = ["▁" + word if at or endless else word for at, word in enumerate(phrase.split(" "))]
    tokens = ["<unk>", "<s>", "</s>", *_BYTES, *_LETTERS, *pieces]
    # A word that comes twice, or that a prompt may hold, is a token of its own all the same: nobody looks it up.
    kinds = [_UNKNOWN, _CONTROL, _CONTROL, *[_BYTE] * 256, *[_NORMAL] * (len(_LETTERS) + len(pieces))]
    first, end = len(tokens) - len(pieces), 2
    width = _whole(len(pieces) + 1, 32)
    embedding = [_axis(0 if token < first else token - first + 1, width) for token in range(len(tokens))]
    output = [[0.0] * width for _ in tokens]
    for at, following in enumerate([*range(first, len(tokens)), first if endless else end]):
        output[following][at] = 8.0
    header = {
        **_llama(width, inner),
        **_tokenizer("llama", tokens, kinds),
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.chat_template": template,
    }
    return _file(header, {"token_embd.weight": embedding, "output.weight": output, **_still_layer(width, inner)})


@cache
def embedder() -> bytes:
    """A model that embeds: the mean of the directions of a text's words, so that texts of the same words are alike."""
    tokens, kinds = _bert_tokens()
    dice = random.Random(7)
    embedding = [[dice.gauss(0, 1) for _ in range(_WIDTH)] for _ in tokens]
    header = {**_bert(pooling=1), **_bert_tokenizer(tokens, kinds)}
    return _file(header, {"token_embd.weight": embedding, **_bert_layer()})


@cache
def reranker() -> bytes:
    """A model that ranks: the more words a document shares with the query, the higher.

    Each word has a direction of its own. The first token looks at all others, and most at itself, so that what it gets
    from them is nearly their sum, and longer where two words are one. The norm after it shrinks what it had before
    accordingly, and that is read.
    """
    tokens, kinds = _bert_tokens()
    words = [token.removeprefix("▁") for token in tokens]
    embedding = [_axis(WORDS.index(word) + 1, _WIDTH) if word in WORDS else [0.0] * _WIDTH for word in words]
    embedding[_CLS] = _axis(0, _WIDTH)
    of_first = [_axis(0, _WIDTH), *[[0.0] * _WIDTH] * (_WIDTH - 1)]
    # What the norm leaves of the first token in all directions is taken out again; the others keep theirs.
    but_first = [[0.0] * _WIDTH, *([1 / (_WIDTH - 1), *_axis(at, _WIDTH)[1:]] for at in range(1, _WIDTH))]
    layer = _bert_layer() | {
        "blk.0.attn_q.bias": _axis(0, _WIDTH, math.log(_ITSELF)),
        "blk.0.attn_k.weight": of_first,
        "blk.0.attn_v.weight": but_first,
        "blk.0.attn_output.weight": [_axis(at, _WIDTH, _ITSELF) for at in range(_WIDTH)],
        "cls.output.weight": [_axis(0, _WIDTH, -1.0)],
        "cls.output.bias": [6.0],
    }
    header = {**_bert(pooling=4), **_bert_tokenizer(tokens, kinds), "bert.classifier.output_labels": ["relevance"]}
    return _file(header, {"token_embd.weight": embedding, **layer})


_ITSELF = 2000.0
"""Times as much as at any other token, the first one looks at itself."""

_WIDTH = 64
_BERT_CONTEXT = 512
_PAD, _UNK, _CLS, _SEP = range(4)


def _bert_tokens() -> tuple[list[str], list[int]]:
    letters = [chr(code) for code in range(33, 127)]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"▁{each}" for each in (*letters, *WORDS))]
    return tokens, [_CONTROL, _UNKNOWN, _CONTROL, _CONTROL, *[_NORMAL] * (len(tokens) - 4)]


def _bert_tokenizer(tokens: Sequence[str], kinds: Sequence[int]) -> dict[str, Any]:
    return {
        **_tokenizer("bert", tokens, kinds),
        "tokenizer.ggml.token_type_count": 1,
        "tokenizer.ggml.bos_token_id": _CLS,
        "tokenizer.ggml.eos_token_id": _SEP,
        "tokenizer.ggml.unknown_token_id": _UNK,
        "tokenizer.ggml.seperator_token_id": _SEP,  # as llama.cpp spells it
        "tokenizer.ggml.padding_token_id": _PAD,
        "tokenizer.ggml.cls_token_id": _CLS,
    }


def _bert(pooling: int) -> dict[str, Any]:
    return {
        "general.architecture": "bert",
        "general.name": "toy",
        "general.file_type": _F32,
        "bert.context_length": _BERT_CONTEXT,
        "bert.embedding_length": _WIDTH,
        "bert.block_count": 1,
        "bert.feed_forward_length": 32,
        "bert.attention.head_count": 1,
        "bert.attention.layer_norm_epsilon": 1e-5,
        "bert.attention.causal": False,
        "bert.pooling_type": pooling,
    }


def _bert_layer() -> dict[str, Sequence[Any]]:
    """A layer that adds nothing to what comes in."""
    nothing, zeros, ones = [[0.0] * _WIDTH for _ in range(_WIDTH)], [0.0] * _WIDTH, [1.0] * _WIDTH
    return {
        "token_types.weight": [zeros],
        "position_embd.weight": [zeros] * _BERT_CONTEXT,
        **{f"{norm}.weight": ones for norm in _NORMS},
        **{f"{norm}.bias": zeros for norm in _NORMS},
        **{f"blk.0.attn_{part}.weight": nothing for part in ("q", "k", "v", "output")},
        **{f"blk.0.attn_{part}.bias": zeros for part in ("q", "k", "v", "output")},
        "blk.0.ffn_up.weight": [zeros] * 32,
        "blk.0.ffn_up.bias": [0.0] * 32,
        "blk.0.ffn_down.weight": [[0.0] * 32] * _WIDTH,
        "blk.0.ffn_down.bias": zeros,
    }


_NORMS = ("token_embd_norm", "blk.0.attn_output_norm", "blk.0.layer_output_norm")


def _whole(count: int, of: int) -> int:
    return -(-count // of) * of


def _axis(at: int, width: int, size: float = 1.0) -> list[float]:
    return [size if each == at else 0.0 for each in range(width)]


def _llama(width: int, inner: int) -> dict[str, Any]:
    return {
        "general.architecture": "llama",
        "general.name": "toy",
        "general.file_type": _F32,
        "llama.context_length": CONTEXT,
        "llama.embedding_length": width,
        "llama.block_count": 1,
        "llama.feed_forward_length": inner,
        "llama.attention.head_count": 1,
        "llama.attention.head_count_kv": 1,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": width,
    }


def _tokenizer(model: str, tokens: Sequence[str], kinds: Sequence[int]) -> dict[str, Any]:
    return {
        "tokenizer.ggml.model": model,
        "tokenizer.ggml.tokens": list(tokens),
        "tokenizer.ggml.scores": [0.0] * len(tokens),
        "tokenizer.ggml.token_type": [(gguf.I32, kind) for kind in kinds],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


class _Nothing(NamedTuple):
    """A matrix of zeros."""

    rows: int
    columns: int


def _still_layer(width: int, inner: int) -> dict[str, Sequence[Any]]:
    """A layer that adds nothing to what comes in."""
    return {
        "output_norm.weight": [1.0] * width,
        "blk.0.attn_norm.weight": [1.0] * width,
        **{f"blk.0.attn_{part}.weight": _Nothing(width, width) for part in ("q", "k", "v", "output")},
        "blk.0.ffn_norm.weight": [1.0] * width,
        "blk.0.ffn_gate.weight": _Nothing(inner, width),
        "blk.0.ffn_up.weight": _Nothing(inner, width),
        "blk.0.ffn_down.weight": _Nothing(width, inner),
    }


def _file(header: Mapping[str, Any], tensors: Mapping[str, Sequence[Any]]) -> bytes:
    """The whole file. A tensor is a list of numbers, or of rows of them."""
    data, shapes = [], []
    for name, rows in tensors.items():
        shape: tuple[int, ...]
        if isinstance(rows, _Nothing):
            shape, raw = (rows.columns, rows.rows), bytes(4 * rows.rows * rows.columns)
        else:
            flat = [number for row in rows for number in row] if isinstance(rows[0], list) else rows
            shape = (len(rows[0]), len(rows)) if isinstance(rows[0], list) else (len(rows),)
            raw = struct.pack(f"<{len(flat)}f", *flat)
        data.append(raw + bytes(-len(raw) % gguf.ALIGNMENT))
        shapes.append(Tensor(name, _F32, shape))
    offsets = [0, *accumulate(map(len, data))][:-1]
    return gguf.encoded(header, shapes, offsets=offsets) + b"".join(data)
