"""When a server may take in new weights: the pure part. It looks at nothing by itself.

The volume in a container stays as it was until it is reloaded, and a reload needs every file in it closed. So it waits
until no request is in flight; a model in memory must have been left alone since the last look, and is unloaded for it.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

GENERATION = "weights/generation"
"""The fact that whoever changes the weights overwrites after the commit; any value that differs from the last."""

KNOWN = "weights/models"
"""The fact that tells size and header of each whole model, by folded name, to whoever has no volume to look at."""

ROOM = "weights/room"
"""The fact that tells how many bytes the weights take."""

MISSES_ALLOWED = 4
"""So many probes in a row may go unanswered: a load that reads slow storage keeps Ollama silent for minutes."""


class Step(StrEnum):
    NOTHING = "nothing has changed"
    LATER = "something is in use"
    REFRESH = "nothing is in use"


@dataclass(frozen=True)
class Look:
    """What was to be seen of a server at one moment.

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


def next_step(wanted: Any, known: Any, look: Look, before: Look | None) -> Step:
    """What to do about a generation that is wanted, when another one is known."""
    if wanted == known:
        return Step.NOTHING
    left_alone = not look.loaded or look == before
    return Step.REFRESH if look.in_flight == 0 and left_alone else Step.LATER
