"""How long each call to Modal may take, and how often it is tried. Plain values."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta

from jobs.core.retry import Policy

VARIABLE = "OLLAMA_MODAL_PLATFORM_SECONDS"


@dataclass(frozen=True)
class CallLimits:
    """How long the platform may take over one call, and how often it is asked."""

    entry: timedelta = timedelta(seconds=10)
    """For one entry of the store, which takes milliseconds: a beat is three of them, and a lease is a minute."""
    listing: timedelta = timedelta(seconds=30)
    """Between two entries of all of them."""
    request: timedelta = timedelta(seconds=30)
    """To look up a Function or a server, to call it, to ask whether it has answered."""
    commit: timedelta = timedelta(minutes=10)
    """A hundred gigabytes at half the pace that the platform speaks of; the client itself tries for 90 s of it."""
    reload: timedelta = timedelta(minutes=2)
    transfer: timedelta = timedelta(hours=1)
    """For files that are put on a volume, a gigabyte of them over a line that is not fast."""
    answer: timedelta = timedelta(minutes=20)
    """For the whole answer of a Function: its own limit, and a container that has to start."""
    retry: Policy = field(
        default_factory=lambda: Policy(attempts=5, within=timedelta(seconds=15), longest=timedelta(seconds=2))
    )
    """For what may be asked twice. The client gives up after 0.7 s, and at once where entries come as a stream."""
    commit_retry: Policy = field(
        default_factory=lambda: Policy(attempts=6, within=timedelta(minutes=2), longest=timedelta(seconds=15))
    )
    """For a commit, behind which lies a whole pull; one that meets another one is refused for now."""

    def shortened(self, seconds: float) -> "CallLimits":
        """No wait is longer than this."""
        most = timedelta(seconds=seconds)
        waits = ("entry", "listing", "request", "commit", "reload")
        return replace(self, **{name: min(getattr(self, name), most) for name in waits})


LIMITS = CallLimits()


def limits_of(environ: Mapping[str, str]) -> CallLimits:
    """The limits, or shorter ones where a trial run says so."""
    seconds = environ.get(VARIABLE)
    return LIMITS.shortened(float(seconds)) if seconds else LIMITS
