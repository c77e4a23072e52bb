"""With which arguments the engine is started for a model: llama-server's own, from the model's layers. Pure.

    weights, projector, adapters   --model, --mmproj, --lora
    parameters                     defaults of each request that says nothing: --temp, --reverse-prompt, ...
    num_ctx, else the tier's       --ctx-size, for each of the requests at once
    what the weights are           --embedding, --reranking, or neither

What llama-server cannot be told by an argument, the system prompt and first messages, is put before each conversation.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from app.llama_host.chat_templates import for_weights
from app.llama_host.settings import HostSettings
from jobs.models.card import Card
from jobs.models.gguf import GgufHeader, MemoryFacts

Kind = Literal["generate", "embed", "rank"]

_RANKS = 4
"""llama.cpp's number for weights whose pooling is a verdict (llama_pooling_type)."""

_NUMBERS = {
    "temperature": "--temp",
    "top_p": "--top-p",
    "min_p": "--min-p",
    "typical_p": "--typical",
    "repeat_penalty": "--repeat-penalty",
    "presence_penalty": "--presence-penalty",
    "frequency_penalty": "--frequency-penalty",
}
_WHOLE = {
    "top_k": "--top-k",
    "repeat_last_n": "--repeat-last-n",
    "seed": "--seed",
    "num_predict": "--predict",
    "num_keep": "--keep",
}
"""Ollama's options by their names, as llama-server's arguments: what a request that says nothing gets."""

_LOADING = {"num_gpu": "--gpu-layers", "num_thread": "--threads", "num_batch": "--batch-size"}
"""Those that a model is loaded with."""

MOST_STOPS = 64
"""Of the texts that end an answer; the largest models of the library have some ten."""


@dataclass(frozen=True)
class Launch:
    """How the engine is started for a model.

    Args:
        kind: what it does.
        arguments: llama-server's, but for its address.
        context: tokens of one context.
        parallel: contexts.
        note: what people should know of it; empty where there is nothing.

    """

    kind: Kind
    arguments: tuple[str, ...]
    context: int
    parallel: int
    note: str = ""


def kind_of(header: GgufHeader | None) -> Kind:
    """What weights do: rank where they end in a verdict, embed where they pool, else generate."""
    if header is None:
        return "generate"
    if header.get("pooling_type") == _RANKS or any(each.name.startswith("cls.") for each in header.tensors):
        return "rank"
    return "embed" if MemoryFacts.of(header).pools else "generate"


def launch_of(
    card: Card,
    settings: HostSettings,
    *,
    alias: str,
    projectors: Sequence[str] = (),
    adapters: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> Launch:
    """How the engine is started for a model.

    Args:
        card: what the model's files say.
        settings: of the host.
        alias: as which its answers name it.
        projectors: files that it sees with.
        adapters: files that are laid over its weights.
        options: what a request asks to have it loaded with, in place of the model's own.

    """
    kind = kind_of(card.header)
    said = {**card.options, **(options or {})}
    trained = card.facts.context if card.facts else 0
    context = _whole(said.get("num_ctx")) or settings.context
    context = min(context, trained) if trained else context
    parallel = settings.parallel if kind == "generate" else 1
    template, note = for_weights(_own_template(card.header), card.template) if kind == "generate" else (None, None)
    parts = [
        *("--model", card.weights, "--alias", alias),
        *(word for path in projectors[:1] for word in ("--mmproj", path)),
        *(word for path in adapters for word in ("--lora", path)),
        *("--ctx-size", str(context * parallel), "--parallel", str(parallel)),
        *("--offline", "--no-webui", "--no-escape"),
        *_of_kind(kind, context),
        *(("--chat-template", template) if template else ()),
        *_cache(settings),
        *_numbers(said),
        *_stops(said.get("stop")),
        *(("--load-mode", "none") if said.get("use_mmap") is False else ()),
    ]
    return Launch(kind, tuple(parts), context, parallel, note or "")


def _of_kind(kind: Kind, context: int) -> Iterator[str]:
    match kind:
        case "generate":
            yield from ("--context-shift",)  # as Ollama: an answer goes on when the context is full
        case "embed":
            yield from ("--embedding", "--batch-size", str(context), "--ubatch-size", str(context))
        case "rank":
            yield from ("--reranking", "--batch-size", str(context), "--ubatch-size", str(context))


def _own_template(header: GgufHeader | None) -> str:
    found = header.values.get("tokenizer.chat_template") if header else None
    return found if isinstance(found, str) else "too long to be kept" if found is not None else ""


def _cache(settings: HostSettings) -> Iterator[str]:
    if settings.flash_attention is not None:
        yield from ("--flash-attn", "on" if settings.flash_attention else "auto")
    if settings.cache_type != "f16":
        yield from ("--cache-type-k", settings.cache_type, "--cache-type-v", settings.cache_type)


def _numbers(said: Mapping[str, Any]) -> Iterator[str]:
    for name, flag in _NUMBERS.items():
        value = said.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield from (flag, repr(value))
    for name, flag in (_WHOLE | _LOADING).items():
        value = said.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            yield from (flag, str(value))


def _stops(value: Any) -> Iterator[str]:
    texts = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    for text in texts[:MOST_STOPS]:
        if isinstance(text, str) and text and "\0" not in text:
            yield from ("--reverse-prompt", text)


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
