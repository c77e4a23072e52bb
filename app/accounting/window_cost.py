"""What the declared windows cost, and from how many cold starts on they pay. Pure.

A window costs every second for which it keeps its tier awake. Without it, each caller who comes to a sleeping tier
costs a cold start and the idle tail after it, and waits. The break-even is where both cost the same.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import takewhile
from typing import Any

from app.accounting.window_suggestions import USUAL
from app.fleet.schedule import due
from app.fleet.schema import Fleet, WindowConfig
from jobs.core.clock import isoformat
from jobs.core.units import counted
from jobs.telemetry.cold_starts import start_seconds

MONTH = timedelta(days=30)


@dataclass(frozen=True)
class Offer:
    """One window, priced.

    Args:
        window: as declared.
        hours: that it is open in a month.
        openings: in a month.
        dollars_per_hour: what it keeps awake.
        cold_seconds: how long a start took, in the middle of those recorded; None when none is.
        tail_seconds: how long a container stays idle before it ends.
        next_opening: when it opens next.
        zone: in which people read times.

    """

    window: WindowConfig
    hours: float
    openings: int
    dollars_per_hour: float
    cold_seconds: float | None
    tail_seconds: float
    next_opening: datetime | None
    zone: tzinfo = UTC

    @property
    def dollars(self) -> float:
        return self.hours * self.dollars_per_hour

    @property
    def cold_start_dollars(self) -> float:
        """What a caller's wake-up costs without the window: its start, as far as it is known, and its tail."""
        return ((self.cold_seconds or 0.0) + self.tail_seconds) * self.dollars_per_hour / 3600

    @property
    def break_even(self) -> int:
        """From so many cold starts per opening on, the window is cheaper."""
        awake = self.hours / self.openings * 3600 if self.openings else 0.0
        return math.ceil(awake / ((self.cold_seconds or 0.0) + self.tail_seconds))

    def as_json(self) -> dict[str, Any]:
        return {
            "tier": self.window.tier,
            "start": self.window.start,
            "hours": self.window.hours,
            "models": list(self.window.models),
            "next_opening": isoformat(self.next_opening) if self.next_opening else None,
            "openings_per_month": self.openings,
            "hours_per_month": round(self.hours, 2),
            "dollars_per_month": round(self.dollars, 2),
            "cold_start_seconds": self.cold_seconds,
            "cold_start_dollars": round(self.cold_start_dollars, 4),
            "break_even_cold_starts": self.break_even,
        }

    def lines(self) -> Iterator[str]:
        window = self.window
        yield f"{window.tier}  {window.start!r} for {window.hours} h, with {', '.join(window.models)}"
        yield (
            f"  ${self.dollars:,.2f} a month: {counted(self.openings, 'opening')}, {self.hours:,.0f} h at"
            f" ${self.dollars_per_hour:.2f}"
        )
        start = (
            "a start of unknown length (none is recorded yet, it counts as nothing)"
            if self.cold_seconds is None
            else f"a start of {self.cold_seconds:.0f} s"
        )
        yield (
            f"  it pays from {counted(self.break_even, 'cold start')} per opening on: each is {start} and"
            f" {self.tail_seconds:.0f} s of idle tail, ${self.cold_start_dollars:.2f}"
        )
        if self.next_opening:
            yield f"  opens next on {self.next_opening.astimezone(self.zone):%a %Y-%m-%d at %H:%M}"


def offers(fleet: Fleet, entries: Mapping[str, Any], now: datetime) -> list[Offer]:
    """The declared windows, priced by the fleet's prices and by the starts recorded in the last weeks, as suggestions
    are."""
    colds = start_seconds(entries, now - USUAL)
    return [_offer(fleet, window, colds, now) for window in fleet.windows]


def _offer(fleet: Fleet, window: WindowConfig, colds: Mapping[str, float], now: datetime) -> Offer:
    length = timedelta(hours=window.hours)
    starts = list(_starts(fleet, window, now - length, now + MONTH))
    coming = [start for start in starts if start > now]
    tier = fleet.tier(window.tier)
    return Offer(
        window=window,
        hours=_open_hours(starts, length, now, now + MONTH),
        openings=len(coming),
        dollars_per_hour=fleet.dollars_per_hour(window.tier) * max(1, tier.min_containers),
        cold_seconds=colds.get(window.tier),
        tail_seconds=tier.scaledown_window_seconds,
        next_opening=coming[0] if coming else None,
        zone=fleet.schedule.zone,
    )


def _starts(fleet: Fleet, window: WindowConfig, since: datetime, until: datetime) -> Iterator[datetime]:
    return takewhile(lambda start: start <= until, due(window.start, fleet.schedule.zone, since))


def _open_hours(starts: list[datetime], length: timedelta, since: datetime, until: datetime) -> float:
    """The hours between two moments in which it is open; what overlaps counts once."""
    total, end = timedelta(0), since
    for start in starts:
        begin, end = max(start, end), max(end, min(start + length, until))
        total += max(timedelta(0), end - begin)
    return total.total_seconds() / 3600
