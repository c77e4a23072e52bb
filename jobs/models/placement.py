"""On which GPU a model belongs, by the memory it takes there. Pure: it knows tiers and numbers, no files, no servers.

    memory = weights + layers x heads x lengths x context x parallel x bytes of the cache's kind + what the runner takes

Where a model's header does not tell its layers and heads, a fifth more than its weights stands for all the rest. Of
several GPUs Ollama takes one that the model fits with some air, else all of them, each with a runner's share of its own
(ollama server/sched.go:972-1034).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from jobs.core.units import human_bytes
from jobs.models.gguf import MemoryFacts

HEADROOM = 1.2
"""Weights need about a fifth more than their own size: the context cache and the runner's buffers."""

RUNNER_BYTES = 1_000_000_000
"""The driver's context, the runner's buffers, and some air."""

PROJECTOR_BYTES = 1 << 30
"""What Ollama wants free beside the weights of a model that sees (ollama llm/llama_server.go:670-691)."""

CACHE_BYTES = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}
"""Of one number in the context cache, by its kind: the quantised ones hold a scale for each 32 numbers."""

ONE_AT_A_TIME = ("mllama", "qwen3vl", "qwen35", "qwen3next", "lfm2", "nemotron_h")
"""Architectures, by how they begin, that get one context whatever Ollama is told (ollama server/sched.go:500-510)."""

ROOM_OF_ONE = 0.8
"""Of several GPUs, the share of one that a model may fill for Ollama to load it there alone (server/sched.go:1064)."""

DEFAULT_CONTEXTS = ((47 << 30, 262_144), (23 << 30, 32_768), (0, 4_096))
"""What Ollama takes for a context by the memory it finds, when nobody says (ollama server/routes.go:2048-2058)."""


@dataclass(frozen=True)
class TierCapacity:
    """A kind of server.

    Args:
        name: as in the fleet.
        vram_bytes: the memory of all its GPUs together; None is without a known limit.
        gpu_promised: it must not run on a CPU.
        context: the context length of its server; None is Ollama's own choice.
        parallel: contexts that it keeps for each model.
        cache_type: how the context cache is packed.
        keep_alive: how long its server keeps an idle model, negative for ever; None is Ollama's own choice.
        dollars_per_hour: its price while it is up, where that is known.
        runner_bytes: memory that is taken beside weights and contexts, on each GPU that has part of the model.
        gpus: equal ones, among which a model is spread that is too large for one of them.

    """

    name: str
    vram_bytes: int | None
    gpu_promised: bool
    context: int | None = None
    parallel: int = 1
    cache_type: str = "f16"
    keep_alive: timedelta | None = None
    dollars_per_hour: float | None = None
    runner_bytes: int = field(default=RUNNER_BYTES, repr=False)
    gpus: int = 1


LOCAL = TierCapacity("local", None, gpu_promised=False)
"""One server without a tier's name, for all models."""


@dataclass(frozen=True)
class Weighed:
    """A model on a tier: the memory it takes there, and what of.

    Args:
        tier: which.
        need_bytes: all of it.
        cache_bytes: of that, for contexts; None when it is not known.
        context: tokens of one context.
        parallel: how many contexts.
        words: the same for people.

    """

    tier: TierCapacity
    need_bytes: int
    cache_bytes: int | None
    context: int
    parallel: int
    words: str

    @property
    def fits(self) -> bool:
        return self.tier.vram_bytes is None or self.need_bytes <= self.tier.vram_bytes

    @property
    def fact(self) -> str:
        price = self.tier.dollars_per_hour
        cost = f", at ${price:.2f} an hour" if price is not None else ""
        return f"{self.words}; {self.tier.name} {_offers(self.tier)}{cost if self.fits else ''}"


@dataclass(frozen=True)
class Placement:
    """A tier, and why, in words for people; `warning` when no tier is large enough."""

    tier: TierCapacity
    facts: tuple[str, ...]
    weighed: Weighed
    warning: str | None = None

    @property
    def reason(self) -> str:
        return "; ".join((*self.facts, *([self.warning] if self.warning else [])))


def weigh(
    size_bytes: int, tier: TierCapacity, *, facts: MemoryFacts | None = None, context: int | None = None
) -> Weighed:
    """The memory that a model takes on a tier.

    Args:
        size_bytes: of its weights.
        tier: where.
        facts: from its header, if that could be read.
        context: tokens that a request asks for, in place of the tier's own.

    """
    known = facts or MemoryFacts()
    length = context or tier.context or _default_context(tier)
    length = min(length, known.context) if known.context else length
    parallel = 1 if known.pools or known.architecture.startswith(ONE_AT_A_TIME) else tier.parallel
    weights = f"{human_bytes(size_bytes)} of weights"
    if not known.kept_per_token and not known.pools:
        need = round(size_bytes * HEADROOM)
        need += (_spread(tier, need) - 1) * tier.runner_bytes
        return Weighed(tier, need, None, length, parallel, f"{weights} need about {human_bytes(need)} of memory")
    cache = 0 if known.pools else round(known.kept_per_token * length * parallel * CACHE_BYTES[tier.cache_type])
    seeing = PROJECTOR_BYTES if known.has_vision else 0
    spread = _spread(tier, size_bytes + cache + seeing + tier.runner_bytes)
    runners = tier.runner_bytes * spread
    need = size_bytes + cache + seeing + runners
    each = f"{parallel} contexts" if parallel > 1 else "a context"
    parts = [weights]
    parts += [f"{human_bytes(cache)} for {each} of {length:,} tokens at {tier.cache_type}"] if cache else []
    parts += [f"{human_bytes(seeing)} to see with"] if seeing else []
    parts += [f"{human_bytes(runners)} for the runner{f' on {spread} GPUs' if spread > 1 else ''}"]
    return Weighed(tier, need, cache, length, parallel, f"{' + '.join(parts)} need {human_bytes(need)} of memory")


def _spread(tier: TierCapacity, need_bytes: int) -> int:
    """How many of a tier's GPUs get part of a model that needs so much."""
    if tier.vram_bytes is None or tier.gpus == 1:
        return 1
    return 1 if need_bytes <= ROOM_OF_ONE * tier.vram_bytes / tier.gpus else tier.gpus


def tuned(tier: TierCapacity, environ: Mapping[str, str]) -> TierCapacity:
    """The tier as the environment tunes an Ollama server; what is no number there, Ollama passes over as well."""
    numbers = {key: environ.get(key, "").strip() for key in ("OLLAMA_CONTEXT_LENGTH", "OLLAMA_NUM_PARALLEL")}
    context, parallel = (int(text) if text.isdecimal() else 0 for text in numbers.values())
    cache = environ.get("OLLAMA_KV_CACHE_TYPE", "")
    return replace(
        tier,
        context=context or tier.context,
        parallel=parallel or tier.parallel,
        cache_type=cache if cache in CACHE_BYTES else tier.cache_type,
        keep_alive=None if environ.get("OLLAMA_KEEP_ALIVE", "").strip() else tier.keep_alive,
    )


def place_model(
    size_bytes: int, tiers: Sequence[TierCapacity], *, facts: MemoryFacts | None = None, context: int | None = None
) -> Placement:
    """The cheapest tier whose memory holds the model; the largest, with a warning, when none does.

    Where not every tier has a price, the smaller one counts as the cheaper.
    """
    if not tiers:
        raise ValueError("there is no tier to place a model on")
    priced = all(tier.dollars_per_hour is not None for tier in tiers)
    ordered = sorted(
        tiers, key=lambda tier: (tier.dollars_per_hour or 0.0 if priced else 0.0, _memory(tier), tier.name)
    )
    tried: list[str] = []
    for tier in ordered:
        weighed = weigh(size_bytes, tier, facts=facts, context=context)
        if weighed.fits:
            return Placement(tier, (*tried, weighed.fact), weighed)
        tried.append(weighed.fact)
    largest = max(ordered, key=_memory)
    weighed = weigh(size_bytes, largest, facts=facts, context=context)
    return Placement(largest, tuple(tried), weighed, too_large(weighed))


def too_large(weighed: Weighed) -> str:
    """What is to be expected where a model does not fit."""
    return (
        f"{weighed.tier.name} {_offers(weighed.tier)} and {human_bytes(weighed.need_bytes)} are needed:"
        " part of it runs on the CPU, slowly"
    )


def _default_context(tier: TierCapacity) -> int:
    memory = tier.vram_bytes or 0
    return next(length for least, length in DEFAULT_CONTEXTS if memory >= least)


def _memory(tier: TierCapacity) -> float:
    return float("inf") if tier.vram_bytes is None else tier.vram_bytes


def _offers(tier: TierCapacity) -> str:
    if tier.vram_bytes is None:
        return "has no known limit"
    return f"has {human_bytes(tier.vram_bytes)}{f' on {tier.gpus} GPUs' if tier.gpus > 1 else ''}"
