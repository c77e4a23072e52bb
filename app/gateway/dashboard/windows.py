"""The windows that would have paid, from when callers asked: `GET /ops/v1/windows`.

It comes from the ledger and its archive. Nothing is declared by it.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import AwareDatetime, BaseModel, Field

from app.accounting.window_suggestions import USUAL, WORTH, Recorded, suggestions
from app.fleet.schema import Fleet
from app.gateway.event_loop.long_answers import json_response
from app.gateway.ops.post_jobs import MayRead
from app.gateway.ops.schemas import Left, Since, since_of
from jobs.core.clock import Clock, isoformat

_MINUTES = int(WORTH.total_seconds() // 60)


class OutcomeEntry(BaseModel):
    cold_starts: Annotated[int, Field(description="That callers would have met")]
    seconds: Annotated[int, Field(description="For which the tier would have been awake")]


class WindowEntry(BaseModel):
    start: Annotated[str, Field(description="A cron line in the fleet's timezone")]
    hours: int
    models: list[str]
    avoided: Annotated[int, Field(description="Cold starts that callers would not have met by it")]
    extra_seconds: Annotated[int, Field(description="For which it alone would have kept the tier awake")]


class SuggestionEntry(BaseModel):
    tier: str
    days: Annotated[float, Field(description="That were looked at")]
    dollars_per_hour: float
    without: OutcomeEntry
    declared: OutcomeEntry
    proposed: OutcomeEntry
    windows: list[WindowEntry]


class WindowsResponse(BaseModel):
    since: AwareDatetime
    until: AwareDatetime
    suggestions: list[SuggestionEntry]


@dataclass(frozen=True)
class Windows:
    """Suggests windows for a fleet."""

    clock: Clock
    fleet: Fleet

    def as_json(self, since: datetime | None, worth: timedelta, entries: Mapping[str, Any]) -> dict[str, Any]:
        """By entries of the ledger's dict, and those that have left it."""
        now = self.clock.now()
        began = since or now - USUAL
        found = suggestions(self.fleet, Recorded.of(entries, began, now), worth)
        return {
            "since": isoformat(began),
            "until": isoformat(now),
            "suggestions": [each.as_json() for each in found],
        }


def router(windows: Windows, entries: Callable[[], Awaitable[Mapping[str, Any]]]) -> APIRouter:
    api = APIRouter(tags=["state"])

    @api.get("/windows", response_model=WindowsResponse)
    async def suggested_windows(
        caller: MayRead,
        since: Annotated[
            Since | Left,
            Query(description=f"From this moment on; {USUAL.days} days when left out: see `since`"),
        ] = None,
        worth: Annotated[
            int,
            Query(ge=1, le=24 * 60, description="Minutes that a GPU may be awake for a cold start that nobody meets"),
        ] = _MINUTES,
    ) -> Response:
        """Suggest windows by when callers asked. It takes a key for all models, since it tells who asks for which."""
        caller.need_model(None)
        began = since_of(since, windows.clock.now())
        return await json_response(windows.as_json, began, timedelta(minutes=worth), await entries())

    return api
