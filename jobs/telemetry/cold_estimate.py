"""How long a start or a load will take yet, by earlier ones of the same tier. Pure.

Each phase still to come takes what it took in the median of the last `LAST` of the tier that had it; what reads the
model, in proportion to its size. Of the phase that goes on, what has passed is taken off. Bytes of which it is known
how many have come take the rest at the rate at which they come, or came in the median. Without an earlier one there is
no estimate.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from jobs.telemetry.cold_starts import OF_THE_READ, PHASES, ColdStart, Kind, Phase

LAST = 9
"""Enough that one that went badly decides nothing, and few enough that what was changed last week counts."""

_OF_A_LOAD: tuple[Phase, ...] = ("bytes", "memory", "handover", "first_token")


@dataclass(frozen=True)
class Situation:
    """How far it has come.

    Args:
        kind: whether a server has to start.
        phase: that goes on.
        in_phase: seconds that it has lasted.
        size: of the model, where it is known.
        read: of its bytes so many have come, where that is known.
        bytes_per_second: at which they come, where that is known.

    """

    kind: Kind
    phase: Phase
    in_phase: float = 0.0
    size: int | None = None
    read: int | None = None
    bytes_per_second: float | None = None


def seconds_left(history: Sequence[ColdStart], tier: str, now: Situation) -> float | None:
    """Seconds until the first token; None where no earlier one of the tier tells.

    Args:
        history: earlier ones, newest first, of any tier.
        tier: whose.
        now: how far it has come.

    """
    own = [each for each in history if each.tier == tier]
    phases = [phase for phase in PHASES if PHASES.index(phase) >= PHASES.index(now.phase)]
    if now.kind == "load":
        phases = [phase for phase in phases if phase in _OF_A_LOAD]
    known = {phase: usual for phase in phases if (usual := _usual(own, phase, now.size)) is not None}
    if not known:
        return None
    left = 0.0
    for phase, usual in known.items():
        rest = _rest_of_bytes(own, now) if phase == "bytes" else None
        if rest is not None:
            left += rest
        else:
            left += max(0.0, usual - now.in_phase) if phase == now.phase else usual
    return left


def _usual(own: Iterable[ColdStart], phase: Phase, size: int | None) -> float | None:
    """What the phase took in the median; of a model of this size, where that matters and is known."""
    had = [each for each in own if phase in each.seconds]
    if phase in OF_THE_READ and size:
        scaled = [each.seconds[phase] * (size / each.size) for each in had if each.size]
        if scaled:
            return median(scaled[:LAST])
    return median([each.seconds[phase] for each in had[:LAST]]) if had else None


def _rest_of_bytes(own: Iterable[ColdStart], now: Situation) -> float | None:
    """Of a model of which it is known how many bytes have come, how long the rest takes."""
    if not now.size or now.read is None:
        return None
    rate = now.bytes_per_second
    if not rate:
        rates = [rate for each in own if (rate := each.rate) and "bytes" in each.seconds]
        rate = median(rates[:LAST]) if rates else None
    return max(0, now.size - now.read) / rate if rate else None
