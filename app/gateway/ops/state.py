"""How things stand: models, tiers, routes, usage, health; and the probes of whoever watches this process.

All of it is known here already, by what the servers reported and what the ledger holds. It may be asked as often as
monitoring likes, and wakes nothing.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import JSONResponse
from loguru import logger
from pydantic import Field

from app.gateway.auth.keys import Caller
from app.gateway.inference.metrics import CONTENT_TYPE
from app.gateway.ops.context import OpsContext
from app.gateway.ops.ledger_pool import LedgerPool
from app.gateway.ops.post_jobs import changer, reader, sees_use
from app.gateway.ops.schemas import (
    Day,
    HealthResponse,
    Left,
    ModelsResponse,
    ModelText,
    RouteResponse,
    TiersResponse,
    UsageResponse,
)
from jobs.core.errors import NotFound, StoreTrouble, StoreUnavailable
from jobs.core.model_name import ModelName
from jobs.ledger.job import JobState
from jobs.ledger.reader import LedgerReader
from jobs.version import VERSION

STALE = timedelta(minutes=1)
"""What is known of models and servers is looked up every few seconds; beyond this, something is wrong."""

STORE_SECONDS = 5.0
"""A store that has not answered a small question for so long cannot be worked with."""

COUNT_EVERY = timedelta(seconds=15)
"""Counting jobs reads them all, so whoever asks more often gets the last count."""

Reader = Annotated[Caller, Depends(reader)]
Context = Annotated[int, Field(ge=1, le=100_000_000)]

NOWHERE = "no-such-job"


class Census:
    """How many jobs there are of each kind and state, counted now and then, by one for all who ask meanwhile."""

    def __init__(self, ops_context: OpsContext, ledger_pool: LedgerPool) -> None:
        self._clock = ops_context.clock
        self._ledger_pool = ledger_pool
        self._counting: asyncio.Task[Mapping[tuple[str, str], int]] | None = None
        self._counts: Mapping[tuple[str, str], int] = {}
        self._at: float | None = None

    async def count(self) -> Mapping[tuple[str, str], int]:
        """The counts, or the last ones where counting takes long.

        Raises:
            StoreTrouble: the ledger cannot be asked, or has not answered in time and not for long.

        """
        if self._counting is None and self._is_older_than(COUNT_EVERY):
            self._counting = asyncio.create_task(self._ledger_pool.read(_counted))
            self._counting.add_done_callback(self._counted)
        if (counting := self._counting) is not None:
            await asyncio.wait({counting}, timeout=STORE_SECONDS)
            if counting.done():
                return counting.result()
            if self._is_older_than(STALE):
                raise StoreUnavailable(f"the ledger has not answered for {STORE_SECONDS:.0f} s")
        return self._counts

    def _counted(self, counting: "asyncio.Task[Mapping[tuple[str, str], int]]") -> None:
        self._counting = None
        if not counting.cancelled() and counting.exception() is None:
            self._counts, self._at = counting.result(), self._clock.monotonic()

    def _is_older_than(self, age: timedelta) -> bool:
        return self._at is None or self._clock.monotonic() - self._at >= age.total_seconds()


def _counted(ledger: LedgerReader) -> Mapping[tuple[str, str], int]:
    return Counter((job.kind, str(job.state)) for job in ledger.jobs())


async def problems(ops_context: OpsContext, ledger_pool: LedgerPool) -> list[str]:
    """Why this gateway cannot do its work, if so."""
    found = []
    try:
        await asyncio.wait_for(ledger_pool.read(_reached), STORE_SECONDS)
    except TimeoutError:
        found.append(f"the ledger has not answered for {STORE_SECONDS:.0f} s")
    except Exception as error:  # noqa: BLE001 - whatever keeps the ledger away is what was asked
        logger.warning("the ledger cannot be reached: {}: {}", type(error).__name__, error)
        found.append(f"the ledger cannot be reached: {type(error).__name__}")
    age = ops_context.age()
    if age is None:
        found.append("the models and servers have not been looked at yet")
    elif age > STALE:
        found.append(f"the models and servers were last looked at {age.total_seconds():.0f} s ago")
    return found


def _reached(ledger: LedgerReader) -> None:
    try:
        ledger.get(NOWHERE)
    except NotFound:
        return


def router(ops_context: OpsContext, ledger_pool: LedgerPool, census: Census) -> APIRouter:
    api = APIRouter(tags=["state"])

    def told_tiers(caller: Caller) -> list[dict[str, Any]]:
        """Why a tier is as it is names the models that it loads, which are not for every key."""
        return [dict(each) | ({"why": ""} if caller.models else {}) for each in ops_context.tiers()]

    @api.get("/models", response_model=ModelsResponse)
    async def models(caller: Reader) -> JSONResponse:
        """List the whole models, and say what is wrong with the rest. A key for some models sees only those."""
        found = await asyncio.to_thread(ops_context.models)
        complaints = () if caller.models else await asyncio.to_thread(ops_context.complaints)
        seen = [dict(each) for each in found if caller.may_name(str(each["name"]))]
        return JSONResponse({"models": seen, "complaints": list(complaints)})

    @api.get("/tiers", response_model=TiersResponse)
    async def tiers(caller: Reader) -> JSONResponse:
        """Tell which tiers are asleep, waking, ready, degraded or lost, and since when."""
        return JSONResponse({"tiers": told_tiers(caller)})

    @api.get("/route", response_model=RouteResponse)
    async def route(
        caller: Reader,
        model: Annotated[ModelText, Query()],
        context: Annotated[Context | Left, Query(description="`num_ctx`, if asked for")] = None,
    ) -> JSONResponse:
        """Tell on which tier a model is answered, and why, in words and numbers."""
        caller.need_model(ModelName.parse(model))
        return JSONResponse(dict(await asyncio.to_thread(ops_context.route, model, context, caller.may_use)))

    @api.get("/usage", response_model=UsageResponse)
    async def usage(
        caller: Reader,
        since: Annotated[Day | Left, Query(description="From this day on, in UTC")] = None,
    ) -> JSONResponse:
        """Sum up who used what, by day. A key without the admin scope sees its own."""
        rows = await asyncio.to_thread(ops_context.usage, since)
        seen = [dict(row) for row in rows if sees_use(caller, row["key"], row["model"])]
        return JSONResponse({"usage": seen})

    @api.get("/health", response_model=HealthResponse)
    async def health(caller: Reader) -> JSONResponse:
        """Tell how all of it stands."""
        found = await problems(ops_context, ledger_pool)
        counts: Counter[str] = Counter()
        if not found:
            try:
                for (_, state), count in (await census.count()).items():
                    counts[state] += count
            except StoreTrouble as trouble:
                found.append(str(trouble))
        found += ops_context.problems()  # the gateway itself serves on, so whether it is ready does not depend on them
        models = await asyncio.to_thread(ops_context.models)
        told: dict[str, Any] = {
            "status": "trouble" if found else "ok",
            "problems": found,
            "version": VERSION,
            "models": {"count": len(models), "bytes": sum(int(each["size"]) for each in models)},
            "tiers": told_tiers(caller),
            "jobs": {str(state): counts[state] for state in JobState},
        }
        return JSONResponse(told)

    return api


def probes(ops_context: OpsContext, ledger_pool: LedgerPool, census: Census) -> APIRouter:
    """For whoever watches this process. Only `/healthz` needs no key: it tells nothing, and touches nothing."""
    api = APIRouter()

    @api.get("/healthz")
    async def healthz() -> JSONResponse:
        return JSONResponse({"status": "ok"})

    @api.get("/readyz", dependencies=[Depends(reader)])
    async def readyz() -> JSONResponse:
        found = await problems(ops_context, ledger_pool)
        if found:
            return JSONResponse({"error": "; ".join(found)}, 503, {"retry-after": "5"})
        return JSONResponse({"status": "ready"})

    @api.get("/metrics")
    async def metrics(caller: Annotated[Caller, Depends(changer)]) -> Response:
        caller.need_model(None)  # it names all models and all keys
        counts: Mapping[tuple[str, str], int] = {}
        try:
            counts = await census.count()
            ops_context.metrics.store_up(True)
        except StoreTrouble as trouble:  # all that this process knows by itself is told
            logger.warning("the jobs cannot be counted: {}", trouble)
            ops_context.metrics.store_up(False)
        return Response(await asyncio.to_thread(ops_context.metrics.render, counts), media_type=CONTENT_TYPE)

    return api
