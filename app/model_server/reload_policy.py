"""When a server may take in new weights: the pure part. It asks nobody.

The volume in a container stays as it was until it is reloaded, and a reload needs every file in it closed. So it waits
until no request is in flight; a model in memory must have been left alone since the last check, and is unloaded for it.

A server that is never left alone asks for a pause once the weights have waited for long: the gateway then holds new
requests back, those in flight end, and nobody sees an error. A pause that was too short for them is followed by a
longer one.
"""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any

MISSES_ALLOWED = 4
"""So many probes in a row may go unanswered: a load that reads slow storage keeps Ollama silent for minutes."""

OVERDUE = timedelta(minutes=2)
"""So long new weights wait for a server to be left alone; longer, and whoever asks for what is new waits in vain."""

FIRST_PAUSE = timedelta(minutes=1)
"""Until all gateways have seen that it is asked for, and the answers in flight have ended: most take seconds."""

LONGEST_PAUSE = timedelta(minutes=15)
"""Longer than nearly every answer; the callers who wait meanwhile have patience for about as long."""


class ReloadStep(StrEnum):
    NOTHING = "nothing has changed"
    LATER = "something is in use"
    PAUSE = "something is in use, and has been for too long"
    REFRESH = "nothing is in use"


@dataclass(frozen=True)
class ServerView:
    """A server at one moment.

    Args:
        loaded: the models in memory, each with when it expires: that moves with every request that ends.
        served: how many requests have ended so far.
        in_flight: how many connections others hold to it; None when that cannot be known.

    """

    loaded: tuple[tuple[str, str], ...]
    served: int
    in_flight: int | None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.loaded)


def next_step(
    wanted: Any, current: Any, view: ServerView, last_view: ServerView | None, waited: timedelta = timedelta(0)
) -> ReloadStep:
    """What to do about a generation that is wanted, when another one has been served for so long."""
    if wanted == current:
        return ReloadStep.NOTHING
    left_alone = not view.loaded or view == last_view
    if view.in_flight == 0 and left_alone:
        return ReloadStep.REFRESH
    return ReloadStep.PAUSE if waited >= OVERDUE else ReloadStep.LATER


def pause(tried: int) -> timedelta:
    """How long the next pause may be, after so many that were too short."""
    doublings: int = 2 ** min(tried, 10)
    return min(FIRST_PAUSE * doublings, LONGEST_PAUSE)
