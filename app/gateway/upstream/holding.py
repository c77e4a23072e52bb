"""How callers are held while a tier wakes or a model loads: for how long, how many, and what ends it."""

from dataclasses import dataclass, field
from datetime import timedelta

from app.gateway.upstream.loads import LoadLimits
from jobs.core.errors import NetworkTrouble, ServerTrouble

RETRY_AFTER = timedelta(seconds=10)
"""For those who are told to come again: a cold start takes some of these."""


@dataclass(frozen=True)
class HoldTiming:
    """The times and numbers of waiting."""

    first_poll_seconds: float = 0.5
    longest_poll_seconds: float = 2.0
    """Between two questions whether a tier is awake; at zero containers each is answered 503 at once."""
    trust_seconds: float = 60.0
    """So long a model that answered is taken to be loaded; below Ollama's five minutes of keeping one alive."""
    real_load_seconds: float = 0.5
    """A load that took less was none: the model was in memory."""
    unseen_seconds: float = 600.0
    """So long a server may say that it does not know a model which is here, when nobody can tell which weights it has.
    One that is never left alone takes two minutes to ask for a pause, and may need some pauses."""
    sure_seconds: float = 5.0
    """So long one that has the newest weights may: what it reports, and what is here, are not read at one moment."""
    most_held: int = 512
    """Callers that may wait for one tier; each key its share of them."""
    limits: LoadLimits = field(default_factory=LoadLimits)
    """How much may be loaded for those who wait."""


class HeldCaller(NetworkTrouble):
    """It is not ready yet."""


class Expired(HeldCaller):
    """It was not ready in time."""


class LoadFailed(ServerTrouble):
    """The server said why it cannot load a model."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
