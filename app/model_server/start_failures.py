"""Which starts of a tier were refused, one after another, and when the next one may be tried. Pure.

A server that cannot start says why in its report, and each try is a GPU that is paid. So whoever wakes a tier (a
gateway, a warm-up, a window) reads the reports first, and all come to the same answer without talking to one another:

    refused refused                   tried again at once: one container may have had bad luck
    refused refused refused           nobody tries for a minute; then one start, and a pause twice as long
    … refused served                  a start that succeeded ends all of it
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.model_server.report import Report
from jobs.core.clock import isoformat
from jobs.core.errors import Trouble

ALLOWED = 3
"""So many starts in a row may be refused before the next one has to wait: one bad host, and then another, happen."""

FIRST_PAUSE = timedelta(minutes=1)
LONGEST_PAUSE = timedelta(minutes=30)
"""A tier that stays broken costs two starts an hour then, and what is mended is found out within the half hour."""

UNHEARD_AFTER = timedelta(hours=1)
"""No start is allowed to take so long; one that was not heard of since was killed while it started."""


class CannotStart(Trouble):
    """The servers of a tier refuse to start, and the next start has to wait."""

    failure_class = "network"
    tries = None


@dataclass(frozen=True)
class RefusedStarts:
    """The starts of a tier that were refused since the last one that was not.

    Args:
        count: how many.
        last_at: when the last one was.
        why: what that server said.
        is_trying: another one has begun since and is under way.

    """

    count: int = 0
    last_at: datetime | None = None
    why: str = ""
    is_trying: bool = False

    @property
    def is_broken(self) -> bool:
        """Whether it is more than bad luck."""
        return self.count >= ALLOWED

    @property
    def next_at(self) -> datetime | None:
        """Before this nobody starts another one; None when nothing speaks against it."""
        if self.last_at is None or not self.is_broken:
            return None
        # The power is bounded before it is taken: what was refused for days would have no place in a timedelta.
        doublings: int = 2 ** min(self.count - ALLOWED, 10)
        return self.last_at + min(FIRST_PAUSE * doublings, LONGEST_PAUSE)

    def must_wait(self, now: datetime) -> bool:
        """Whether whoever wants to wake the tier now has to leave it alone. A start under way may be waited for."""
        return not self.is_trying and self.next_at is not None and now < self.next_at

    def trouble(self, tier: str, now: datetime) -> CannotStart:
        """What whoever wanted to wake it is told."""
        wait = max(timedelta(seconds=1), (self.next_at or now) - now)
        return CannotStart(
            f"tier {tier!r} cannot start: {self.count} starts in a row were refused: {self.why}",
            hint=f"the next start may be tried at {isoformat(now + wait)}",
            retry_after=wait,
        )


def refused_starts(
    reports: Iterable[Report], now: datetime, *, unheard_after: timedelta = UNHEARD_AFTER
) -> RefusedStarts:
    """What the reports of one tier tell of its starts.

    Args:
        reports: of the tier's containers, each with its last word.
        now: the time.
        unheard_after: a start that took longer, and of which nothing else was heard, counts as refused.

    """
    refused: list[tuple[Report, str]] = []
    is_trying = False
    for report in sorted(reports, key=lambda report: report.at, reverse=True):
        match report.state:
            case "refused":
                refused.append((report, report.why or "it did not say why"))
            case "waking" if now - report.at > unheard_after:
                refused.append((report, f"it was not heard of since it began to start at {isoformat(report.at)}"))
            case "waking":  # one that others were refused after is slow or gone, and holds nobody back
                is_trying = is_trying or not refused
            case _:
                break
    if not refused:
        return RefusedStarts(is_trying=is_trying)
    (last, why), *_ = refused
    return RefusedStarts(len(refused), last.at, why, is_trying)
