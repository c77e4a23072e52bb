"""The cold starts of servers and the loads of models, by their phases: `GET /ops/v1/cold`.

They come from the ledger and its archive. No server is asked.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from pydantic import AwareDatetime, BaseModel, Field

from app.gateway.auth.keys import Caller
from app.gateway.event_loop.long_answers import json_response
from app.gateway.ops.post_jobs import MayRead
from app.gateway.ops.schemas import Left, Since, since_of
from jobs.core.clock import Clock, isoformat
from jobs.telemetry.cold_starts import Phase, cold_starts
from jobs.telemetry.cold_table import by_tier

USUAL = timedelta(days=7)
MOST = 1000
"""The newest ones of an answer; the medians are of all."""


class ColdEntry(BaseModel):
    """The start of a server, or a load in one that ran. Its seconds add up to what was waited."""

    tier: str
    container: Annotated[str, Field(description="The server; the gateway, where that told nothing of itself")]
    n: int
    kind: Annotated[Literal["start", "load"], Field(description="Whether a server had to start")]
    at: Annotated[AwareDatetime, Field(description="When it was asked for")]
    model: str
    size: int | None
    seconds: Annotated[dict[Phase, float], Field(description="By phase; what cannot be known is absent")]
    total_seconds: float
    bytes_per_second: int | None


class TierColdEntry(BaseModel):
    tier: str
    starts: int
    loads: int
    median_seconds: dict[Phase, float]


class ColdResponse(BaseModel):
    since: AwareDatetime
    until: AwareDatetime
    starts: Annotated[list[ColdEntry], Field(description=f"The newest first, {MOST} at most")]
    older: Annotated[int, Field(description="How many more there are")]
    tiers: list[TierColdEntry]


@dataclass(frozen=True)
class Cold:
    """Tells one caller of cold starts."""

    clock: Clock

    def as_json(self, caller: Caller, since: datetime | None, entries: Mapping[str, Any]) -> dict[str, Any]:
        """Of the models that the key is for, by entries of the ledger's dict, and those that have left it."""
        now = self.clock.now()
        began = since or now - USUAL
        starts = [each for each in cold_starts(entries, began) if caller.may_name(each.model)]
        return {
            "since": isoformat(began),
            "until": isoformat(now),
            "starts": [each.as_json() for each in starts[:MOST]],
            "older": len(starts[MOST:]),
            "tiers": [each.as_json() for each in by_tier(starts)],
        }


def router(cold: Cold, entries: Callable[[], Awaitable[Mapping[str, Any]]]) -> APIRouter:
    api = APIRouter(tags=["state"])

    @api.get("/cold", response_model=ColdResponse)
    async def cold_starts_by_phase(
        caller: MayRead,
        since: Annotated[
            Since | Left,
            Query(description=f"From this moment on; {USUAL.days} days when left out: see `since`"),
        ] = None,
    ) -> Response:
        """List cold starts and loads by their phases. A key for some models sees those of these."""
        began = since_of(since, cold.clock.now())
        return await json_response(cold.as_json, caller, began, await entries())

    return api
