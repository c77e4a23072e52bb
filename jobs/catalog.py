"""On which GPU a model belongs, by its size. Pure: it knows tiers and numbers, no files and no servers."""

from collections.abc import Sequence
from dataclasses import dataclass

from jobs.units import human_bytes

HEADROOM = 1.2
"""Weights need about a fifth more than their own size: the context cache and the runner's buffers."""


@dataclass(frozen=True)
class Tier:
    """A kind of server. Without `vram_bytes` it has no known limit; without `gpu_promised` it may run on a CPU."""

    name: str
    vram_bytes: int | None
    gpu_promised: bool


A10G = Tier("a10g", 24_000_000_000, gpu_promised=True)
H100 = Tier("h100", 80_000_000_000, gpu_promised=True)
LOCAL = Tier("local", None, gpu_promised=False)

KNOWN_TIERS = {tier.name: tier for tier in (A10G, H100, LOCAL)}


@dataclass(frozen=True)
class Placement:
    """A tier, and why, in words for people."""

    tier: Tier
    reason: str


def place(size_bytes: int, tiers: Sequence[Tier], *, context: int | None = None) -> Placement:  # noqa: ARG001 - XX
    """The smallest tier whose memory holds the weights and a fifth more; the largest when none does."""
    if not tiers:
        raise ValueError("there is no tier to place a model on")
    wanted = size_bytes * HEADROOM
    needs = f"{human_bytes(size_bytes)} of weights need about {human_bytes(wanted)} of memory"
    by_size = sorted(tiers, key=_memory)
    for tier in by_size:
        if wanted <= _memory(tier):
            return Placement(tier, f"{needs}; {tier.name} {_offers(tier)}")
    largest = by_size[-1]
    return Placement(
        largest, f"{needs}; no tier has that much, and {largest.name} {_offers(largest)}: part of it runs on the CPU"
    )


def _memory(tier: Tier) -> float:
    return float("inf") if tier.vram_bytes is None else tier.vram_bytes


def _offers(tier: Tier) -> str:
    return "has no known limit" if tier.vram_bytes is None else f"has {human_bytes(tier.vram_bytes)}"
