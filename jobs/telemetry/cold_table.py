"""Cold starts as people see them: a row each, with its phases, how fast they were, and what they took in the median.

`ollama-modal cold` and `scripts/bench_cold --url` show it. Pure.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any, Self

from jobs.cli.terminal.table import GiveWay, table
from jobs.core.sanitize import plain
from jobs.core.units import counted, human_span
from jobs.telemetry.cold_starts import PHASES, ColdStart, Phase, medians, seconds_as_json, seconds_of

FLOOR_BYTES_PER_SECOND = 2.5e9
"""What the platform says of its volumes at their best."""

OUR_OWN: tuple[Phase, ...] = ("weights", "handover")
"""The phases that have nothing but our own code and what it asks of the platform in them."""

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


@dataclass(frozen=True)
class Speed:
    """How fast cold starts of one kind were, in the median.

    Args:
        name: what they have in common.
        starts: how many they are.
        size: of the model in bytes, where it is known.
        ready: seconds until the server was ready to answer.
        first_token: and until it did.
        rate: bytes per second, where it is known.
        own_share: seconds that went to nothing but our own code and what it asks of the platform.

    """

    name: str
    starts: int
    size: int | None
    ready: float
    first_token: float
    rate: float | None
    own_share: float

    @classmethod
    def of(cls, name: str, starts: Sequence[ColdStart]) -> Self:
        rates = [each.rate for each in starts if each.rate]
        return cls(
            name,
            len(starts),
            next((each.size for each in starts if each.size), None),
            median(each.total - each.seconds.get("first_token", 0.0) for each in starts),
            median(each.total for each in starts),
            median(rates) if rates else None,
            median(sum(each.seconds.get(phase, 0.0) for phase in OUR_OWN) for each in starts),
        )

    @property
    def times_floor(self) -> float | None:
        """What bytes / `FLOOR_BYTES_PER_SECOND` would take, so many times."""
        return self.first_token / (self.size / FLOOR_BYTES_PER_SECOND) if self.size else None

    def as_json(self) -> dict[str, Any]:
        return {
            "starts": self.starts,
            "bytes": self.size,
            "ready": round(self.ready, 3),
            "first_token": round(self.first_token, 3),
            "bytes_per_second": self.rate and round(self.rate),
            "times_floor": self.times_floor and round(self.times_floor, 1),
            "own_share": round(self.own_share, 3),
        }


def speeds(starts: Iterable[ColdStart]) -> list[Speed]:
    """By tier, kind and model, in the order of these names."""
    groups: dict[str, list[ColdStart]] = {}
    for each in starts:
        groups.setdefault(f"{each.tier} {each.kind} {_short(each.model)}", []).append(each)
    return [Speed.of(name, own) for name, own in sorted(groups.items())]


SPEED_HEAD = ("READY", "1ST TOKEN", "GB/S", "X FLOOR")
"""Columns of whatever tells how fast something came into memory; the cells are `speed_cells`."""


def speed_cells(ready: float, first_token: float, rate: float | None, floors: float | None) -> tuple[str, ...]:
    return (
        f"{ready:.2f} s",
        f"{first_token:.2f} s",
        f"{rate / 1e9:.2f}" if rate else "-",
        f"{floors:.1f}" if floors else "-",
    )


def lines(starts: Sequence[ColdStart], now: datetime, width: int | None, older: int = 0) -> Iterator[str]:
    """A row for each, newest first, on the reader's clock; then how fast those of one tier, kind and model were, and
    what each tier took, in the median.

    Args:
        starts: the newest ones.
        now: the time, in the reader's zone.
        width: of a line at the most.
        older: how many more there are, of which nothing is told.

    """
    head = ("WHEN", "TIER", "KIND", "MODEL", "TOOK", "GB/S", "PHASES")
    rows = [
        (
            f"{each.at.astimezone(now.tzinfo):%Y-%m-%d %H:%M}",
            plain(each.tier),
            each.kind,
            _short(plain(each.model)),
            human_span(each.total),
            f"{each.rate / 1e9:.2f}" if each.rate else "-",
            " ".join(f"{phase}={each.seconds[phase]:.1f}" for phase in PHASES if phase in each.seconds),
        )
        for each in starts
    ]
    if not rows:
        return
    yield from table(head, rows, width, _GIVE_WAY, folds=True)
    if older:
        yield f"and {counted(older, 'older one')}: ask for less with --since to see the newest alone"
    yield ""
    yield f"in the median; the floor is bytes / {FLOOR_BYTES_PER_SECOND / 1e9:g} GB/s"
    yield from table(
        ("COLD STARTS OF", "STARTS", *SPEED_HEAD, "OUR SHARE"),
        [
            (
                plain(each.name),
                each.starts,
                *speed_cells(each.ready, each.first_token, each.rate, each.times_floor),
                f"{each.own_share:.2f} s",
            )
            for each in speeds(starts)
        ],
        width,
        (GiveWay("OUR SHARE", "left out"), GiveWay("COLD STARTS OF", 16, "middle"), GiveWay("READY", "left out")),
    )
    yield from (each.line() for each in by_tier(starts))


def _short(model: str) -> str:
    return model.removesuffix(":latest") or "-"
