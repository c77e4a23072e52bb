"""What a batch would take, before it is posted: `POST /ops/v1/batches/estimate`. It is told counts, never a line.

It asks no server, and writes nothing down.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from app.accounting.batch_prices import BatchPrices
from app.fleet.schema import Fleet
from app.gateway.auth.keys import Caller
from app.gateway.event_loop.long_answers import json_response
from app.gateway.ops.post_jobs import MayRead
from app.gateway.ops.schemas import Left, ModelField
from jobs.batches.estimate import Where, too_dear
from jobs.batches.limits import MOST_FILE_MIB, MOST_LINES, BatchLimits
from jobs.batches.records import BatchStart
from jobs.batches.start_rules import Decision, NotYet, TierNow, decide
from jobs.core.clock import Clock, isoformat

MOST_BYTES = MOST_FILE_MIB * 1024 * 1024
MOST_TOKENS = 10**12
USUAL_WINDOW = timedelta(hours=24)
"""As a batch is posted that says no deadline."""

Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages"]


class CountedModel(BaseModel):
    """What was counted of the lines that name one model."""

    model_config = ConfigDict(extra="forbid")

    model: ModelField
    lines: Annotated[int, Field(ge=1, le=MOST_LINES)]
    prompt_bytes: Annotated[int, Field(ge=0, le=MOST_BYTES, description="Of the texts that they say")]
    max_tokens: Annotated[
        int, Field(ge=0, le=MOST_TOKENS, description="That they allow their answers, added up over those that do")
    ] = 0
    unlimited: Annotated[int, Field(ge=0, le=MOST_LINES, description="Lines that set their answers no limit")] = 0


Dollars = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class EstimateBody(BaseModel):
    """Counts of a batch's lines. Contents have no place in it."""

    model_config = ConfigDict(extra="forbid")

    models: Annotated[list[CountedModel], Field(min_length=1, max_length=1000)]
    endpoint: Annotated[Endpoint, Field(description="What each line asks for")] = "/v1/chat/completions"
    start: Annotated[BatchStart | Left, Field(description="When it may begin; the fleet's, where nothing is said")] = (
        None
    )
    by: Annotated[AwareDatetime | Left, Field(description="The deadline; 24 hours from now when left out")] = None
    max_dollars: Annotated[Dollars | Left, Field(description="What it may cost")] = None


class UseEntry(BaseModel):
    prompt_tokens: int
    output_tokens: int
    line_seconds: Annotated[float, Field(description="From sending a line to its answer, added up over all lines")]
    gpu_seconds: float
    dollars: Annotated[float | None, Field(description="Null where nothing is paid by the second")]


class ModelEstimateEntry(UseEntry):
    model: str
    tier: str
    lines: int
    basis: Literal["measured", "usage", "guess"]
    reason: str


class EstimateResponse(UseEntry):
    """`dollars` are of serving; a wake that it needs, and the idle time after it, stand beside them."""

    seconds: Annotated[float, Field(description="From the first line to the last")]
    wake_dollars: float | None
    idle_dollars: float | None
    extra_dollars: Annotated[float | None, Field(description="Of the wake and the idle time together")]
    starts_at: AwareDatetime
    done_at: AwareDatetime
    basis: Literal["measured", "usage", "guess"]
    reason: Annotated[str, Field(description="What it rests on, in words")]
    note: Annotated[str, Field(description="What it would wait for, or what will not hold; empty where all will")]
    refused: Annotated[str | None, Field(description="Why it would be refused by its `max_dollars`; null else")]
    models: list[ModelEstimateEntry]


@dataclass(frozen=True)
class Estimates:
    """Tells what batches would take. Waits for the store, but for what it is handed.

    Args:
        clock: the time.
        fleet: what is declared; None where nothing is.
        rented: servers are paid by the second, and sleep.
        limits: what is declared of batches.
        where: as what and on which tier a model is served, for a caller.
        tiers: how some tiers are now.

    """

    clock: Clock
    fleet: Fleet | None
    rented: bool
    limits: BatchLimits
    where: Callable[[Caller], Where]
    tiers: Callable[[Collection[str], datetime], Sequence[TierNow]]

    def as_json(self, caller: Caller, body: EstimateBody, entries: Mapping[str, Any]) -> dict[str, Any]:
        """
        Raises:
            NotFound: a model is not here.
            Forbidden: it is not for this key.
        """
        prices = BatchPrices(lambda: entries, self.fleet, self.clock, rented=self.rented)
        now, where = self.clock.now(), self.where(caller)
        first, _ = prices.estimate(body.models, where, body.endpoint)
        tiers = self.tiers({where(each.model)[1] for each in body.models}, now)
        decision = decide(
            body.start or self.limits.start,
            tiers,
            now=now,
            deadline=body.by or now + USUAL_WINDOW,
            seconds=first.seconds,
        )
        starts_at, wakes = _start(decision, tiers, now)
        told, models = prices.estimate(
            body.models,
            where,
            body.endpoint,
            starts_at=starts_at,
            wakes=wakes.__contains__,
        )
        refusal = too_dear(body.max_dollars, told)
        return {
            **told.as_json(),
            "starts_at": isoformat(starts_at),
            "note": decision.note,
            "refused": refusal and refusal.message,
            "models": [each.as_json() for each in models],
        }


def _start(decision: Decision, tiers: Sequence[TierNow], now: datetime) -> tuple[datetime, frozenset[str]]:
    """When it would begin at the latest, and which tiers it would have to wake for that."""
    if isinstance(decision, NotYet):
        woken = {each.name for each in tiers if each.sleeps and decision.not_before >= decision.latest}
        return decision.not_before, frozenset(woken)
    return now, frozenset(decision.wakes)


def router(estimates: Estimates, entries: Callable[[], Awaitable[Mapping[str, Any]]]) -> APIRouter:
    """
    Args:
        estimates: tells.
        entries: what the ledger's dict has of what batches measured, and of what costs are estimated by.
    """
    api = APIRouter(prefix="/batches", tags=["batches"])

    @api.post("/estimate", response_model=EstimateResponse)
    async def estimate_batch(caller: MayRead, body: EstimateBody) -> Response:
        """Tell what a batch would take: tokens, time of GPUs, dollars, and when it would be done. Posts nothing."""
        return await json_response(estimates.as_json, caller, body, await entries())

    return api
