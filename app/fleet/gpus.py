"""What Modal rents to a tier: which GPUs, the memory of each, how many of them a container may have.

The facts are Modal's list of September 2026 (modal.com/docs/guide/gpu), the memory is that of the hardware. A GPU that
is not here is no mistake by itself: one that Modal has added since works once the fleet file says its memory and price.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

MOST_GPUS = 8
"""In one container."""

FORM = re.compile(r"[A-Z0-9][A-Z0-9-]{0,30}[+!]?")


@dataclass(frozen=True)
class GpuKind:
    """One kind of GPU.

    Args:
        memory_gb: that each is sure to have: Modal may give more than was asked for, at the same price.
        most: of them in a container.
        priced_as: under which of these names its price may stand, beside its own.

    """

    memory_gb: int
    most: int = MOST_GPUS
    priced_as: tuple[str, ...] = ()


KINDS: Mapping[str, GpuKind] = {
    "T4": GpuKind(16),
    "L4": GpuKind(24),
    "A10": GpuKind(24, 4, ("A10G",)),
    "A10G": GpuKind(24, 4, ("A10",)),  # an older name of the A10
    "L40S": GpuKind(48),
    "A100": GpuKind(40, priced_as=("A100-40GB",)),  # or 80 GB, for the same price
    "A100-40GB": GpuKind(40, priced_as=("A100",)),
    "A100-80GB": GpuKind(80),
    "RTX-PRO-6000": GpuKind(96),
    "H100": GpuKind(80),  # or an H200, for the same price
    "H100!": GpuKind(80, priced_as=("H100",)),  # and nothing better
    "H200": GpuKind(141),
    "B200": GpuKind(180),
    "B200+": GpuKind(180, priced_as=("B200",)),  # or a B300, for the same price
    "B300": GpuKind(288),
}


@dataclass(frozen=True)
class GpuChoice:
    """What a container may have: so many GPUs of a kind, as in `H100:2`."""

    kind: str
    count: int = 1

    @property
    def memory_gb(self) -> int | None:
        """Of all of them together; None for a kind that is not known here."""
        known = KINDS.get(self.kind)
        return None if known is None else known.memory_gb * self.count

    @property
    def price_names(self) -> tuple[str, ...]:
        """Under which names the price of one may stand, its own first."""
        known = KINDS.get(self.kind)
        return (self.kind, *(known.priced_as if known else ()))


def parsed(text: str) -> GpuChoice:
    """What a text like `H100:2` asks for; Modal reads it in capital letters.

    Raises:
        ValueError: it asks for none, with the reason.

    """
    name, colon, count = text.partition(":")
    kind = name.upper()
    if not FORM.fullmatch(kind):
        raise ValueError(f"names no GPU; one of {', '.join(KINDS)}, perhaps with a count as in H100:2")
    most = KINDS[kind].most if kind in KINDS else MOST_GPUS
    if colon and not (count.isascii() and count.isdecimal() and 1 <= int(count[:4]) <= most):
        raise ValueError(f"a count is from 1 to {most}, as in H100:2")
    return GpuChoice(kind, int(count) if colon else 1)


def named_like(tier: str) -> GpuChoice | None:
    """The GPUs that a tier is named after, as `l40s`, `a100-80gb`, `h100-2`; None where it is named otherwise."""
    kind, _, count = tier.upper().rpartition("-")
    if tier.upper() in KINDS:
        return GpuChoice(tier.upper())
    if kind in KINDS and count.isdecimal() and 1 <= int(count) <= KINDS[kind].most:
        return GpuChoice(kind, int(count))
    return None


def least(choices: Iterable[GpuChoice]) -> GpuChoice:
    """Of several that a container may come with, the one with the least memory; of equals, that of most GPUs, since no
    model lies whole in one of them. Those of unknown memory come last."""
    return min(choices, key=lambda choice: (choice.memory_gb is None, choice.memory_gb or 0, -choice.count))
