"""How callers are held while a tier wakes or a model loads: for how long, how many, and what ends it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from app.gateway.catalog.server_reports import ServerReports
from app.gateway.upstream.cold_records import ColdRecords
from app.gateway.upstream.loads import LoadLimits
from jobs.core.clock import Clock
from jobs.core.errors import NetworkTrouble, ServerTrouble

RETRY_AFTER = timedelta(seconds=10)
"""For those who are told to come again: a cold start takes some of these."""


@dataclass(frozen=True)
class HoldTiming:
    """The times and numbers of waiting."""

    poke_seconds: float = 0.25
    """Between two questions whether a tier is awake; at zero containers each is answered 503 at once."""
    near_poke_seconds: float = 0.02
    """And once a server has said that it starts, for `near_seconds`: half of it is what a start takes longer by our
    asking. Modal lets a workspace have 200 requests a second, so tiers that wake at once share the questions."""
    near_seconds: float = 20.0
    """A start that takes longer has bytes to read, beside which a quarter of a second is little."""
    first_poll_seconds: float = 0.5
    longest_poll_seconds: float = 2.0
    """Between two tries to have a model loaded by a server that does not know it yet."""
    trust_seconds: float = 60.0
    """So long a model that answered is taken to be loaded; below Ollama's five minutes of keeping one alive."""
    real_load_seconds: float = 0.5
    """A load that took less was none: the model was in memory."""
    unseen_seconds: float = 600.0
    """So long a server may say that it does not know a model which is here, when it is not known which weights it has.
    One that is never left alone takes two minutes to ask for a pause, and may need some pauses."""
    sure_seconds: float = 5.0
    """So long one that has the newest weights may: what it reports, and what is here, are not read at one moment."""
    most_held: int = 512
    """Callers that may wait for one tier; each key its share of them."""
    limits: LoadLimits = field(default_factory=LoadLimits)
    """How much may be loaded for those who wait."""

    def until_next_poke(self, near: int) -> float:
        """Seconds until a tier is asked again, where so many are near, this one among them; 0 where it is not."""
        return min(near * self.near_poke_seconds or self.poke_seconds, self.poke_seconds)


def noted_nowhere(_tier: str, _model: str, _settings: Mapping[str, Any]) -> None:
    """For cold starts of which nobody wants to know what they loaded."""


@dataclass(frozen=True)
class HoldContext:
    """What the cold starts of all tiers share.

    Args:
        servers: what the servers reported of themselves.
        clock: for the times that are shown.
        woke: called at each wake with the tier and the cause.
        loaded: called with the tier, a model and the options of its load, when a server has it in memory.
        cold: has cold starts written down; None where nobody wants to know.
        refresh: has the reports read anew, unless that was done just now.
        timing: times and numbers.

    """

    servers: ServerReports
    clock: Clock
    woke: Callable[[str, str], object]
    refresh: Callable[[], Awaitable[bool]]
    timing: HoldTiming
    loaded: Callable[[str, str, Mapping[str, Any]], object] = noted_nowhere
    cold: ColdRecords | None = None
    near: set[str] = field(default_factory=set)
    """The tiers of which a server is about to be there. The event loop's own."""


class NotReadyYet(NetworkTrouble):
    """The tier or the model is not ready yet; the caller may wait."""


class Expired(NotReadyYet):
    """It was not ready in time."""


class LoadFailed(ServerTrouble):
    """The server said why it cannot load a model."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
