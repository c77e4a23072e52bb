"""What `windows --suggest` says: for each tier the windows that would have paid, with what they cost and save. Pure.

It proposes; whoever runs the service decides, and writes them into the fleet file.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Any, Self

from app.accounting.window_proposals import LEAST_DAYS, Asked, Outcome, Proposal, Span, Tier, outcome, propose
from app.fleet.schedule import due
from app.fleet.schema import Fleet
from jobs.core.units import counted
from jobs.telemetry.cold_starts import start_seconds
from jobs.telemetry.usage import asked

MONTH = timedelta(days=30)
USUAL = timedelta(weeks=8)
"""How far back is looked, unless somebody says otherwise."""

WORTH = timedelta(hours=1)
"""So long a GPU may be awake for a cold start that nobody meets, unless somebody says otherwise."""


@dataclass(frozen=True)
class Suggestion:
    """Of one tier.

    Args:
        tier: its name.
        days: that were looked at.
        dollars_per_hour: while it is awake.
        without: what callers would have met without any window.
        declared: with those of the fleet file.
        proposed: with those that are proposed.
        windows: these.

    """

    tier: str
    days: float
    dollars_per_hour: float
    without: Outcome
    declared: Outcome
    proposed: Outcome
    windows: Sequence[Proposal]

    @property
    def _months(self) -> float:
        return self.days / MONTH.days

    def dollars(self, outcome: Outcome) -> float:
        """In a month."""
        return outcome.seconds / 3600 * self.dollars_per_hour / self._months if self._months else 0.0

    @property
    def break_even(self) -> float | None:
        """Dollars that an avoided cold start takes: who would pay more for it should declare the windows."""
        avoided = self.without.cold_starts - self.proposed.cold_starts
        extra = self.proposed.seconds - self.without.seconds
        return extra / 3600 * self.dollars_per_hour / avoided if avoided else None

    def as_json(self) -> dict[str, Any]:
        return {
            "tier": self.tier,
            "days": round(self.days, 6),
            "dollars_per_hour": self.dollars_per_hour,
            "without": _outcome_json(self.without),
            "declared": _outcome_json(self.declared),
            "proposed": _outcome_json(self.proposed),
            "windows": [
                {
                    "start": each.start,
                    "hours": each.hours,
                    "models": list(each.models),
                    "avoided": each.avoided,
                    "extra_seconds": round(each.extra_seconds),
                }
                for each in self.windows
            ],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        outcomes = {
            name: Outcome(int(document[name]["cold_starts"]), float(document[name]["seconds"]))
            for name in ("without", "declared", "proposed")
        }
        windows = [
            Proposal(
                str(each["start"]),
                int(each["hours"]),
                tuple(map(str, each["models"])),
                int(each["avoided"]),
                float(each["extra_seconds"]),
            )
            for each in document["windows"]
        ]
        return cls(
            tier=str(document["tier"]),
            days=float(document["days"]),
            dollars_per_hour=float(document["dollars_per_hour"]),
            windows=windows,
            **outcomes,
        )

    def lines(self) -> Iterator[str]:
        """What is told of it, and what may be written into the fleet file."""
        if self.days < LEAST_DAYS:
            yield f"{self.tier}: {self.days:.0f} days are recorded; habits show after {LEAST_DAYS}"
            return
        if not self.windows:
            yield f"{self.tier}: no window pays: {self._told(self.without)} in {self.days:.0f} days without one"
            return
        yield f"{self.tier}: in {self.days:.0f} days {self._told(self.without)} without windows,"
        if self.declared != self.without:
            yield f"  {self._told(self.declared)} with those that are declared,"
        yield f"  {self._told(self.proposed)} with these:"
        for each in self.windows:
            models = ", ".join(f'"{name}"' for name in each.models)
            yield ""
            yield "[[windows]]"
            yield f'tier = "{self.tier}"'
            yield f'start = "{each.start}"'
            yield f"hours = {each.hours}"
            yield f"models = [{models}]"
        if self.break_even is not None:
            yield ""
            yield f"they pay if a cold start that nobody meets is worth ${max(0.0, self.break_even):.2f} or more"

    def _told(self, outcome: Outcome) -> str:
        return f"{counted(outcome.cold_starts, 'cold start')} at ${self.dollars(outcome):,.2f} a month"


@dataclass(frozen=True)
class Recorded:
    """What suggestions are made from.

    Args:
        asked: when callers asked, tier by tier.
        starts: seconds that a start of each tier takes, where one is recorded.
        span: what is looked at; of a tier only from its first caller on.

    """

    asked: Mapping[str, Asked]
    starts: Mapping[str, float]
    span: Span

    @classmethod
    def of(cls, entries: Mapping[str, Any], since: datetime, now: datetime) -> Self:
        """From entries of the ledger and its archive."""
        return cls(asked(entries), start_seconds(entries, since), (since, now))


def suggestions(fleet: Fleet, recorded: Recorded, worth: timedelta) -> list[Suggestion]:
    """For each tier that callers asked.

    Args:
        fleet: declares tiers, prices and windows.
        recorded: when callers asked, and how long starts took.
        worth: how long a GPU may be awake for a cold start that nobody meets.

    """
    found = ((name, _since(recorded.asked.get(name, {}), recorded.span[0])) for name in fleet.tiers)
    return [_suggestion(fleet, name, times, recorded, worth) for name, times in found if times]


def _since(asked: Asked, since: datetime) -> Asked:
    return {at: models for at, models in asked.items() if at >= since}


def _suggestion(fleet: Fleet, name: str, asked: Asked, recorded: Recorded, worth: timedelta) -> Suggestion:
    config = fleet.tier(name)
    tier = Tier(
        tail=timedelta(seconds=config.scaledown_window_seconds),
        cold=timedelta(seconds=recorded.starts.get(name, 0.0)),
        dollars_per_hour=fleet.dollars_per_hour(name),
        most_models=config.ollama.max_loaded_models,
        most_openings=config.own_wakes_per_day,
    )
    known = (max(recorded.span[0], min(asked)), recorded.span[1])
    proposals = propose(asked, tier, fleet.schedule.zone, known, worth)
    declared = [(window.start, window.hours) for window in fleet.windows if window.tier == name]
    proposed = [(each.start, each.hours) for each in proposals]
    return Suggestion(
        tier=name,
        days=(known[1] - known[0]) / timedelta(days=1),
        dollars_per_hour=tier.dollars_per_hour,
        without=outcome(asked, tier, (), known),
        declared=outcome(asked, tier, _spans(fleet, declared, known), known),
        proposed=outcome(asked, tier, _spans(fleet, proposed, known), known),
        windows=proposals,
    )


def _spans(fleet: Fleet, windows: Iterable[tuple[str, int]], known: Span) -> Iterator[Span]:
    """When these windows would have been open."""
    for line, hours in windows:
        length = timedelta(hours=hours)
        for start in takewhile(lambda start: start < known[1], due(line, fleet.schedule.zone, known[0] - length)):
            yield max(start, known[0]), min(start + length, known[1])


def _outcome_json(outcome: Outcome) -> dict[str, Any]:
    return {"cold_starts": outcome.cold_starts, "seconds": round(outcome.seconds)}
