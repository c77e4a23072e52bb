"""The last weeks by day, for charts: `GET /ops/v1/days`. Requests by ending, cost by tier, and how well each tier was.

All of it comes from what is written down: usage, what containers counted themselves, each tier's history, and what has
left the ledger's dict for the archive. Days are UTC. It asks no server.
"""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from app.accounting.spending import month_dollars, rows_since
from app.fleet.schema import Fleet
from app.gateway.auth.keys import Caller
from app.gateway.event_loop.long_answers import json_response
from app.gateway.ops.post_jobs import MayRead, sees_use
from app.gateway.ops.schemas import Left, Since, since_of
from app.model_server.health import GONE, Turn
from jobs.core.clock import Clock
from jobs.store import keys
from jobs.telemetry.container_time import metered
from jobs.telemetry.cost import cost
from jobs.telemetry.usage import Row

USUAL, MOST = 28, 366
"""Days."""

DAY = timedelta(days=1)

Quality = Literal["well", "degraded", "lost"]
_WORSE: Sequence[Quality] = ("well", "degraded", "lost")


class DayRequests(BaseModel):
    day: date
    ending: str
    count: int
    output_tokens: int


class DayCost(BaseModel):
    day: date
    tier: str
    dollars: float


class DayHealth(BaseModel):
    day: date
    tier: str
    state: Annotated[Quality, Field(description="The worst of that day; asleep is well")]


class DaysResponse(BaseModel):
    """What happened, by day. Costs are estimates; `null` where nothing is priced, as on one machine."""

    since: date
    requests: list[DayRequests]
    cost: list[DayCost] | None
    month_dollars: float | None
    budget_dollars: float | None
    health: list[DayHealth]


@dataclass(frozen=True)
class Days:
    """Sums up requests, cost and health by day, for one caller.

    Args:
        clock: the time.
        fleet: the prices and the budget; None where none are declared.

    """

    clock: Clock
    fleet: Fleet | None = None

    def as_json(self, caller: Caller, since: date | None, entries: Mapping[str, Any]) -> dict[str, Any]:
        """From that day on, or as far back as it goes; a key without the admin scope sees its own requests only."""
        now = self.clock.now().astimezone(UTC)
        first = max(since or now.date() - (USUAL - 1) * DAY, now.date() - (MOST - 1) * DAY)
        days = [first + number * DAY for number in range((now.date() - first).days + 1)]
        fleet = self.fleet
        rows = [
            row for row in rows_since(entries, _midnight(first)) if sees_use(caller, row.about.key, row.about.model)
        ]
        return {
            "since": first.isoformat(),
            "requests": list(requests(rows)),
            "cost": list(costs(entries, fleet, days, now)) if fleet else None,
            "month_dollars": round(month_dollars(entries, fleet, now), 2) if fleet else None,
            "budget_dollars": fleet.alerts.monthly_budget_dollars if fleet else None,
            "health": list(qualities(turns(entries), days, now)),
        }


def requests(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """How many requests ended how, day by day."""
    sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for row in rows:
        of_day = sums[row.about.day, row.about.ending]
        of_day[0] += row.sums.count
        of_day[1] += row.sums.output_tokens
    for (day, ending), (count, tokens) in sorted(sums.items()):
        yield {"day": day, "ending": ending, "count": count, "output_tokens": tokens}


def costs(entries: Mapping[str, Any], fleet: Fleet, days: Sequence[date], now: datetime) -> Iterator[dict[str, Any]]:
    """What each tier cost, day by day; days that cost nothing are left out."""
    containers = metered(entries)
    prices = {tier: fleet.dollars_per_hour(tier) for tier in fleet.tiers}
    for day in days:
        begin = _midnight(day)
        spent = cost(containers, (), prices, since=begin, until=min(begin + DAY, now), as_of="", source="")
        for tier in spent.tiers:
            if tier.dollars > 0:
                yield {"day": day.isoformat(), "tier": tier.tier, "dollars": round(tier.dollars, 4)}


def turns(entries: Mapping[str, Any]) -> Mapping[str, Sequence[Turn]]:
    """The history of each tier, oldest first."""
    histories: dict[str, list[Turn]] = defaultdict(list)
    for key, value in entries.items():
        if key.startswith(keys.HEALTH):
            turn = Turn.from_json(value)
            histories[turn.health.tier].append(turn)
    return {tier: sorted(history, key=lambda turn: (turn.at, turn.n)) for tier, history in sorted(histories.items())}


def qualities(histories: Mapping[str, Sequence[Turn]], days: Sequence[date], now: datetime) -> Iterator[dict[str, Any]]:
    """The worst that each tier was on each day; a day from before its history says nothing."""
    for tier, history in histories.items():
        for day in days:
            begin, end = _midnight(day), min(_midnight(day) + DAY, now)
            before = [turn for turn in history if turn.at <= begin][-1:]
            seen = [*before, *(turn for turn in history if begin < turn.at < end)]
            seen = [turn for turn in seen if turn.health.state != GONE]
            if seen:
                worst = max((_quality(turn) for turn in seen), key=_WORSE.index)
                yield {"day": day.isoformat(), "tier": tier, "state": worst}


def _quality(turn: Turn) -> Quality:
    match turn.health.state:
        case "degraded" | "lost" as bad:
            return bad
        case _:  # waking, ready, or asleep, which is healthy
            return "well"


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def router(days: Days, entries: Callable[[], Awaitable[Mapping[str, Any]]]) -> APIRouter:
    """
    Args:
        days: sums up.
        entries: what the ledger's dict has of usage and tiers, and what has left it, by key.
    """
    api = APIRouter(tags=["state"])

    @api.get("/days", response_model=DaysResponse, operation_id="tell_ops_v1_days_get")
    async def by_day(
        caller: MayRead,
        since: Annotated[
            Since | Left,
            Query(description=f"From this day on, in UTC; {USUAL} days when left out, {MOST} at most: see `since`"),
        ] = None,
    ) -> Response:
        """Sum up requests, cost and health by day. A key without the admin scope sees its own requests."""
        began = since_of(since, days.clock.now())
        return await json_response(days.as_json, caller, began.date() if began else None, await entries())

    return api
