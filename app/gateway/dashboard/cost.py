"""What was spent, about, and on what: `GET /ops/v1/cost`. The same estimate as `modal run -m app.jobs::cost` prints.

It comes from what containers counted themselves and from recorded usage, in the ledger's dict and its archive. It asks
no server. Where nothing is rented, as on one machine, there are uses and no dollars.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import AwareDatetime, BaseModel, Field

from app.accounting.spending import estimate, rows_since
from app.fleet.schema import Fleet
from app.gateway.auth.keys import Caller
from app.gateway.dashboard.cold import TierColdEntry
from app.gateway.dashboard.overview import PricesEntry
from app.gateway.event_loop.long_answers import json_response
from app.gateway.ops.post_jobs import MayRead, sees_use
from app.gateway.ops.schemas import Left, Since, since_of
from jobs.core.clock import Clock
from jobs.telemetry.cold_starts import cold_starts
from jobs.telemetry.cost import Cost, owned

USUAL, MOST = timedelta(days=7), timedelta(days=366)


class CostPart(BaseModel):
    seconds: float
    dollars: float


class TierCostEntry(BaseModel):
    """What the containers of a tier did, and what each part of it cost."""

    tier: str
    containers: int
    dollars_per_hour: float
    dollars: float
    cold: CostPart
    warming: CostPart
    serving: CostPart
    idle: CostPart


class UseCostEntry(BaseModel):
    """The part of a tier's serving that went to a model, a key and a batch; no model is what no record explains."""

    tier: str
    model: str | None
    key: str | None
    batch: Annotated[str | None, Field(description="Whose lines they were; null for requests of people")] = None
    requests: int
    seconds: Annotated[float, Field(description="That requests took, added up")]
    gpu_seconds: Annotated[float, Field(description="Their part of the time that containers spent on serving")] = 0.0
    dollars: float


class CostResponse(BaseModel):
    is_estimate: bool
    since: AwareDatetime
    until: AwareDatetime
    prices: PricesEntry
    dollars: float
    tiers: list[TierCostEntry]
    uses: list[UseCostEntry]
    cold: Annotated[list[TierColdEntry], Field(description="What was waited for at cold starts, by phase")]
    left_out: Annotated[list[str], Field(description="What such an estimate cannot know")]


@dataclass(frozen=True)
class Costs:
    """Estimates what the servers cost, for one caller.

    Args:
        clock: the time.
        fleet: the prices; None where nothing is rented.

    """

    clock: Clock
    fleet: Fleet | None = None

    def as_json(self, caller: Caller, since: datetime | None, entries: Mapping[str, Any]) -> dict[str, Any]:
        """From that moment on, or as far back as it goes; a key without the admin scope sees its own uses only."""
        now = self.clock.now()
        began = min(max(since or now - USUAL, now - MOST), now)
        estimated = self._estimate(entries, began.astimezone(UTC), now)
        uses = (use for use in estimated.uses if sees_use(caller, use.key, use.model))
        return replace(estimated, uses=tuple(uses)).as_json()

    def _estimate(self, entries: Mapping[str, Any], since: datetime, until: datetime) -> Cost:
        if self.fleet is None:
            return owned(rows_since(entries, since), since, until, cold_starts(entries, since))
        return estimate(entries, self.fleet, since, until)


def router(costs: Costs, entries: Callable[[], Awaitable[Mapping[str, Any]]]) -> APIRouter:
    """
    Args:
        costs: estimates.
        entries: what the ledger's dict has of usage and containers, and what has left it, by key.
    """
    api = APIRouter(tags=["state"])

    @api.get("/cost", response_model=CostResponse, operation_id="tell_ops_v1_cost_get")
    async def cost(
        caller: MayRead,
        since: Annotated[
            Since | Left,
            Query(
                description=f"From this moment on; {USUAL.days} days when left out, {MOST.days} at most: see `since`"
            ),
        ] = None,
    ) -> Response:
        """Estimate what the servers cost, and what for. A key without the admin scope sees its own uses."""
        began = since_of(since, costs.clock.now())
        return await json_response(costs.as_json, caller, began, await entries())

    return api
