"""Cold starts as people see them: a row each, with its phases, and what they took in the median. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from jobs.cli.terminal.table import GiveWay, table
from jobs.core.sanitize import plain
from jobs.core.units import human_span
from jobs.telemetry.cold_starts import PHASES, ColdStart, Phase, medians, seconds_as_json, seconds_of

WORDS: Mapping[Phase, str] = {phase: phase.replace("_", " ") for phase in PHASES}

_GIVE_WAY = (
    GiveWay("MODEL", 20, "middle"),
    GiveWay("WHEN", lambda cell: cell[5:]),
    GiveWay("TIER", 8, "middle"),
    GiveWay("GB/S", "left out"),
    GiveWay("MODEL", 10, "middle"),
    GiveWay("KIND", "left out"),
)
"""When, of which model, and how long it took stay."""


@dataclass(frozen=True)
class TierCold:
    """The cold starts of one tier: how many, and how long each phase took in the median of those that had it."""

    tier: str
    starts: int
    loads: int
    seconds: Mapping[Phase, float]

    def as_json(self) -> dict[str, Any]:
        return {
            "tier": self.tier,
            "starts": self.starts,
            "loads": self.loads,
            "median_seconds": seconds_as_json(self.seconds),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        return cls(
            str(document["tier"]),
            int(document["starts"]),
            int(document["loads"]),
            seconds_of(document["median_seconds"]),
        )

    def line(self) -> str:
        phases = ", ".join(f"{WORDS[phase]} {human_span(seconds)}" for phase, seconds in self.seconds.items())
        return f"{self.tier}: {self.starts} cold, {self.loads} of a load alone; in the median {phases}"


def by_tier(starts: Sequence[ColdStart]) -> tuple[TierCold, ...]:
    """Each tier that had one."""
    return tuple(
        TierCold(
            tier,
            starts=sum(each.kind == "start" for each in own),
            loads=sum(each.kind == "load" for each in own),
            seconds=medians([each for each in own if each.kind == "start"] or own),
        )
        for tier in sorted({each.tier for each in starts})
        if (own := [each for each in starts if each.tier == tier])
    )


def lines(starts: Sequence[ColdStart], now: datetime, width: int | None) -> Iterator[str]:
    """A row for each, newest first, on the reader's clock, which has the zone of `now`; then the medians."""
    head = ("WHEN", "TIER", "KIND", "MODEL", "TOOK", "GB/S", "PHASES")
    rows = [
        (
            f"{each.at.astimezone(now.tzinfo):%Y-%m-%d %H:%M}",
            plain(each.tier),
            each.kind,
            plain(each.model).removesuffix(":latest") or "-",
            human_span(each.total),
            f"{each.rate / 1e9:.2f}" if each.rate else "-",
            " ".join(f"{phase}={each.seconds[phase]:.1f}" for phase in PHASES if phase in each.seconds),
        )
        for each in starts
    ]
    if rows:
        yield from table(head, rows, width, _GIVE_WAY, folds=True)
        yield from (each.line() for each in by_tier(starts))
