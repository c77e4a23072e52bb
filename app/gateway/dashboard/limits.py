"""What a key may take, what it took, and what is left until when: `GET /ops/v1/limits`. No server is asked."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import AwareDatetime, BaseModel, Field

from app.gateway.auth.keys import Caller
from app.gateway.event_loop.long_answers import json_response
from app.gateway.ops.post_jobs import MayRead
from jobs.access.keys.key_words import ADMIN
from jobs.access.limits import Period, Unit
from jobs.core.errors import NotFound


class MinuteEntry(BaseModel):
    unit: Unit
    limit: int
    left: int
    seconds: Annotated[float, Field(description="Until all of it is there again")]


class CausedEntry(BaseModel):
    """Dollars of servers that the key woke: while they started, and while they waited on after its requests."""

    cold: float
    idle: float
    is_charged: Annotated[bool, Field(description="Whether that is part of what is used")]


class BudgetEntry(BaseModel):
    """A budget of a day or a month. `used`, `held` and `left` add up to `limit`, but for what was overdrawn."""

    unit: Unit
    period: Period
    limit: float
    used: Annotated[float, Field(description="By requests that have ended")]
    held: Annotated[float, Field(description="For requests under way, or in doubt after a gateway was killed")]
    left: float
    until: Annotated[AwareDatetime, Field(description="When it begins anew")]
    caused: Annotated[CausedEntry | None, Field(description="Of dollars")]


class LimitsResponse(BaseModel):
    key: str
    limits: Annotated[dict[str, str], Field(description="In the words of a key's line; defaults are among them")]
    minute: list[MinuteEntry]
    budgets: list[BudgetEntry]


def router(told: Callable[[Caller], Awaitable[Mapping[str, Any]]], named: Callable[[str], Caller | None]) -> APIRouter:
    """
    Args:
        told: how a key stands.
        named: the key of a name; None where there is none.
    """
    api = APIRouter(tags=["state"])

    @api.get("/limits", response_model=LimitsResponse)
    async def limits(
        caller: MayRead,
        key: Annotated[
            str, Query(description="Of another key, which takes the admin scope for all models", max_length=64)
        ] = "",
    ) -> Response:
        """Tell what a key may take, what it took, and what is left until when."""
        if key and key != caller.name:
            caller.need(ADMIN)
            caller.need_model(None)  # as for the keys themselves
            other = named(key)
            if other is None:
                raise NotFound(f"there is no key {key!r}", hint="`ollama-modal keys list` tells which there are")
            caller = other
        document = await told(caller)
        return await json_response(lambda: document)

    return api
