"""What the servers cost, estimated from the seconds that their containers counted themselves. Pure.

What a container did is paid by its tier's price. Of what it spent on serving, lines of batches have what they used of
it; models and keys of people share the rest by the seconds that their requests took. `LEFT_OUT` is what such an
estimate cannot know.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple, Self

from jobs.cli.terminal.table import GiveWay, table
from jobs.core.clock import isoformat, parse_moment
from jobs.core.sanitize import plain
from jobs.core.units import human_span
from jobs.telemetry.cold_starts import ColdStart
from jobs.telemetry.cold_table import TierCold, by_tier
from jobs.telemetry.container_time import SHARES, Metered, TimeShare
from jobs.telemetry.usage import Row

LEFT_OUT = (
    "the time before a container's own code runs and after it was killed",
    "the CPU functions, the gateway among them",
    "storage, image builds, and multipliers for regions",
    "credits, discounts and taxes",
)

NOBODY = ""

OWNED = "this machine is yours"
"""The source of prices where nothing is paid by the second."""


@dataclass(frozen=True)
class TierCost:
    """What the containers of one tier did, and what each part of it cost."""

    tier: str
    containers: int
    dollars_per_hour: float
    seconds: Mapping[TimeShare, float] = field(hash=False)

    @property
    def dollars(self) -> float:
        return self.dollars_of(sum(self.seconds.values()))

    def dollars_of(self, seconds: float) -> float:
        """The price of so much time of a container."""
        return seconds * self.dollars_per_hour / 3600

    def as_json(self) -> dict[str, Any]:
        parts: dict[str, Any] = {
            share: {"seconds": round(self.seconds[share], 1), "dollars": round(self.dollars_of(self.seconds[share]), 4)}
            for share in SHARES
        }
        return {
            "tier": self.tier,
            "containers": self.containers,
            "dollars_per_hour": self.dollars_per_hour,
            "dollars": round(self.dollars, 4),
            **parts,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        seconds: dict[TimeShare, float] = {share: float(document[share]["seconds"]) for share in SHARES}
        return cls(str(document["tier"]), int(document["containers"]), float(document["dollars_per_hour"]), seconds)


@dataclass(frozen=True)
class UseCost:
    """The part of a tier's serving that went to one model, one key, and one batch of that key, or to none.

    Args:
        tier: where.
        model: empty for what no record explains.
        key: whose requests they were.
        requests: how many.
        seconds: that they took, added up.
        dollars: the price of their part.
        batch: whose lines they were; empty for people's.
        gpu_seconds: their part, of the time that containers spent on serving; none where nobody counts it.

    """

    tier: str
    model: str
    key: str
    requests: int
    seconds: float
    dollars: float
    batch: str = NOBODY
    gpu_seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        who = {"model": self.model or None, "key": self.key or None, "batch": self.batch or None}
        rounded = {"seconds": round(self.seconds, 1), "gpu_seconds": round(self.gpu_seconds, 1)}
        return {**asdict(self), **who, **rounded, "dollars": round(self.dollars, 4)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        return cls(
            tier=str(document["tier"]),
            model=str(document["model"] or NOBODY),
            key=str(document["key"] or NOBODY),
            requests=int(document["requests"]),
            seconds=float(document["seconds"]),
            dollars=float(document["dollars"]),
            batch=plain(document.get("batch") or NOBODY),  # a gateway of an older version tells neither
            gpu_seconds=float(document.get("gpu_seconds", 0.0)),
        )


@dataclass(frozen=True)
class Cost:
    """An estimate for a span of time, and what it rests on."""

    since: datetime
    until: datetime
    prices_as_of: str
    prices_source: str
    tiers: tuple[TierCost, ...]
    uses: tuple[UseCost, ...]
    cold: tuple[TierCold, ...] = ()

    @property
    def dollars(self) -> float:
        return sum(tier.dollars for tier in self.tiers)

    def as_json(self) -> dict[str, Any]:
        return {
            "is_estimate": True,
            "since": isoformat(self.since),
            "until": isoformat(self.until),
            "prices": {"as_of": self.prices_as_of, "source": self.prices_source},
            "dollars": round(self.dollars, 4),
            "tiers": [tier.as_json() for tier in self.tiers],
            "uses": [use.as_json() for use in self.uses],
            "cold": [each.as_json() for each in self.cold],
            "left_out": list(LEFT_OUT),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """The estimate as a gateway answers it."""
        return cls(
            since=parse_moment(document["since"]),
            until=parse_moment(document["until"]),
            prices_as_of=plain(document["prices"]["as_of"]),
            prices_source=plain(document["prices"]["source"]),
            tiers=tuple(map(TierCost.from_json, document["tiers"])),
            uses=tuple(map(UseCost.from_json, document["uses"])),
            cold=tuple(map(TierCold.from_json, document.get("cold", ()))),  # a gateway of an older version tells none
        )

    def lines(self, width: int | None = None) -> Iterator[str]:
        """The estimate for people, as columns below one another, of lines that are no wider."""
        if self.prices_source == OWNED:
            yield from self.use_lines(width)
            yield from self.cold_lines()
            yield f"nothing there is paid by the second: {OWNED}"
            return
        yield f"about ${self.dollars:.2f} since {self.since:%Y-%m-%d %H:%M}"
        if self.tiers:
            yield from _columns(
                ("TIER", "STARTS", "UP", *(share.upper() for share in SHARES), "COST"),
                [
                    (
                        tier.tier,
                        tier.containers,
                        _hours(sum(tier.seconds.values())),
                        *(f"${tier.dollars_of(tier.seconds[share]):.2f}" for share in SHARES),
                        f"${tier.dollars:.2f}",
                    )
                    for tier in self.tiers
                ],
                width,
                _TIERS_GIVE_WAY,
            )
        yield from self.use_lines(width)
        yield from self.cold_lines()
        if unpriced := [tier.tier for tier in self.tiers if not tier.dollars_per_hour]:
            yield f"no price is known any more of {', '.join(unpriced)}: what that cost is not in the sum"
        yield f"an estimate, by the containers' own count and the prices of {self.prices_as_of} ({self.prices_source})"
        yield "not in it: " + "; ".join(LEFT_OUT)

    def use_lines(self, width: int | None = None) -> Iterator[str]:
        """Who had what served."""
        if self.uses:
            of_batches = any(use.batch for use in self.uses)
            counted = any(use.gpu_seconds for use in self.uses)
            yield "serving, by model, key and batch:" if of_batches else "serving, by model and key:"
            head = ("TIER", "MODEL", "KEY", *(("BATCH",) if of_batches else ()), "REQUESTS", "TOOK")
            yield from _columns(
                (*head, *(("GPU",) if counted else ()), "COST"),
                [
                    (
                        *(use.tier or "-", use.model or "not recorded", use.key or "-"),
                        *((use.batch or "-",) if of_batches else ()),
                        *(use.requests, human_span(use.seconds)),
                        *((human_span(use.gpu_seconds),) if counted else ()),
                        f"${use.dollars:.2f}",
                    )
                    for use in self.uses
                ],
                width,
                _USES_GIVE_WAY,
            )

    def cold_lines(self) -> Iterator[str]:
        """What was waited for at cold starts."""
        if self.cold:
            yield "cold starts that were waited for, by phase:"
            yield from (f"  {each.line()}" for each in self.cold)


_TIERS_GIVE_WAY = (
    GiveWay("STARTS", "left out"),
    GiveWay("UP", "left out"),
    *(GiveWay(share.upper(), "left out") for share in reversed(SHARES)),
    GiveWay("TIER", 8, "middle"),
)

_USES_GIVE_WAY = (
    GiveWay("MODEL", 28, "middle"),
    GiveWay("TOOK", "left out"),
    GiveWay("BATCH", 16, "middle"),
    GiveWay("KEY", 12, "middle"),
    GiveWay("TIER", 8, "middle"),
    GiveWay("GPU", "left out"),
    GiveWay("MODEL", 16, "middle"),
    GiveWay("REQUESTS", "left out"),
    GiveWay("MODEL", 8, "middle"),
)
"""Who had what, and what it cost, stay."""


def cost(
    containers: Iterable[Metered],
    rows: Iterable[Row],
    prices: Mapping[str, float],
    *,
    since: datetime,
    until: datetime,
    as_of: str,
    source: str,
    cold: Iterable[ColdStart] = (),
) -> Cost:
    """The estimate for what happened between two moments.

    Args:
        containers: what each counted; one that is given twice counts once, by its later count.
        rows: the usage of the days in between.
        prices: dollars per hour by tier; of a tier without a price, as one that is gone, what its containers noted.
        since: what was before is left out; a container that was up then counts for its part.
        until: what comes after likewise.
        as_of: the day of the prices.
        source: where they are from.
        cold: the cold starts in between.

    """
    latest: dict[str, Metered] = {}
    for each in sorted(containers, key=lambda each: each.at):
        latest[each.key] = each
    seconds: dict[str, dict[TimeShare, float]] = defaultdict(lambda: dict.fromkeys(SHARES, 0.0))
    starts: dict[str, int] = defaultdict(int)
    noted: dict[str, float] = defaultdict(float)
    for each in latest.values():
        part = _part(each, since, until)
        if part > 0:
            starts[each.tier] += 1
            for share in SHARES:
                seconds[each.tier][share] += part * each.seconds.get(share, 0.0)
                noted[each.tier] += part * each.seconds.get(share, 0.0) * (each.dollars_per_hour or 0.0)
    tiers = tuple(
        TierCost(tier, starts[tier], prices.get(tier, _per_hour(noted[tier], seconds[tier])), seconds[tier])
        for tier in sorted(seconds)
    )
    first = since.astimezone(UTC).date().isoformat()
    used = [row for row in rows if first <= row.about.day <= until.astimezone(UTC).date().isoformat()]
    waited = by_tier([each for each in cold if since <= each.at <= until])
    return Cost(since, until, as_of, source, tiers, tuple(_uses(tiers, used)), waited)


class PerSecond(NamedTuple):
    """What a second cost on each tier that took any: of a request of people, and of a server's time for lines."""

    of_requests: Mapping[str, float]
    of_lines: Mapping[str, float]


def per_second(of: Cost) -> PerSecond:
    """By how the serving of each tier was shared."""
    people = _per_second(use for use in of.uses if use.requests and not use.batch)
    return PerSecond(people, _per_second(use for use in of.uses if use.requests and use.batch))


def _per_second(uses: Iterable[UseCost]) -> dict[str, float]:
    took: dict[str, float] = defaultdict(float)
    paid: dict[str, float] = defaultdict(float)
    for use in uses:
        took[use.tier] += use.seconds
        paid[use.tier] += use.dollars
    return {tier: paid[tier] / seconds for tier, seconds in took.items() if tier and seconds and paid[tier]}


def _per_hour(noted: float, seconds: Mapping[TimeShare, float]) -> float:
    """The price of an hour of containers that noted theirs, in the middle of all their seconds."""
    total = sum(seconds.values())
    return round(noted / total, 4) if total else 0.0


def owned(rows: Iterable[Row], since: datetime, until: datetime, cold: Iterable[ColdStart] = ()) -> Cost:
    """Who used what of servers that nobody is paid for."""
    return cost((), rows, {}, since=since, until=until, as_of="today", source=OWNED, cold=cold)


def _part(container: Metered, since: datetime, until: datetime) -> float:
    """The share of a container's time that lies between the two moments."""
    life = (container.at - container.started_at).total_seconds()
    begin, end = max(container.started_at, since), min(container.at, until)
    if life <= 0:
        return float(begin <= end)
    return max(0.0, (end - begin).total_seconds() / life)


def _uses(tiers: Iterable[TierCost], rows: Sequence[Row]) -> Iterator[UseCost]:
    """The serving of each tier, shared among who had any; the dearest first.

    Of lines of batches it is known what they used, which is theirs. People share the rest by how long their requests
    took. Where all of them together took longer than the servers served, all of it is shared in proportion.
    """
    priced = {tier.tier: tier for tier in tiers}
    serving = {tier.tier: tier.seconds["serving"] for tier in tiers if tier.seconds["serving"]}
    grouped: dict[tuple[str, str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        grouped[row.about.tier, row.about.model, row.about.key, row.about.batch].append(row)
    took = {use: sum(row.sums.seconds for row in group) for use, group in grouped.items()}
    of_people: dict[str, float] = defaultdict(float)
    of_lines: dict[str, float] = defaultdict(float)
    for (tier, _, _, batch), seconds in took.items():
        (of_lines if batch else of_people)[tier] += seconds
    pools = {tier: _pools(serving.get(tier, 0.0), of_people[tier], of_lines[tier]) for tier in {*of_people, *of_lines}}
    found = []
    for (tier, model, key, batch), group in grouped.items():
        seconds, count = took[tier, model, key, batch], sum(row.sums.count for row in group)
        total = (of_lines if batch else of_people)[tier]
        part = pools[tier][1 if batch else 0] * (seconds / total) if total else 0.0
        dollars = priced[tier].dollars_of(part) if part else 0.0
        found.append(UseCost(tier, model, key, count, seconds, dollars, batch, part))
    known: dict[str, float] = defaultdict(float)
    for use in found:
        known[use.tier] += use.gpu_seconds
    for tier, seconds in serving.items():
        if (rest := seconds - known[tier]) > seconds * _NOTHING:
            found.append(UseCost(tier, NOBODY, NOBODY, 0, rest, priced[tier].dollars_of(rest), gpu_seconds=rest))
    return iter(sorted(found, key=lambda use: (-use.dollars, -use.seconds, use.tier, use.model, use.key, use.batch)))


_NOTHING = 1e-9
"""What remains of sums of fractions."""


def _pools(serving: float, people: float, lines: float) -> tuple[float, float]:
    """Of the seconds that servers served, those of people's requests, and those of lines."""
    of_lines = lines if serving >= people + lines else serving * (lines / (people + lines))
    return serving - of_lines if people else 0.0, of_lines


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h"


def _columns(
    head: Sequence[str], rows: Sequence[Sequence[object]], width: int | None, steps: Sequence[GiveWay]
) -> Iterator[str]:
    yield from ("  " + line for line in table(head, rows, width and width - 2, steps))
