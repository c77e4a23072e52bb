"""How things stand: models, tiers, routes, usage, health; and the probes of whoever watches this process.

All of it is known here already, by what the servers reported and what the ledger holds. It may be asked as often as
monitoring likes, and wakes nothing.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import JSONResponse
from loguru import logger
from pydantic import Field

from app.gateway.clerks import Clerks
from app.gateway.keys import ADMIN, Caller
from app.gateway.metrics import CONTENT_TYPE
from app.gateway.office import Office
from app.gateway.posting import reader
from app.gateway.shapes import Day, HealthTold, Left, ModelsTold, ModelText, RouteTold, TiersTold, UsagesTold
from jobs.errors import NotFound
from jobs.ledger import Ledger
from jobs.record import State

STALE = timedelta(minutes=1)
"""What is known of models and servers is looked up every few seconds; beyond this, something is wrong."""

STORE_SECONDS = 5.0
"""A store that has not answered a small question for so long cannot be worked with."""

COUNT_EVERY = timedelta(seconds=15)
"""Counting jobs reads them all, so whoever asks more often gets the last count."""

Context = Annotated[int, Field(ge=1, le=100_000_000)]

NOWHERE = "no-such-job"


class Census:
    """How many jobs there are of each kind and state, counted now and then."""

    def __init__(self, office: Office, clerks: Clerks) -> None:
        self._clock = office.clock
        self._clerks = clerks
        self._counting = asyncio.Lock()
        self._counts: Mapping[tuple[str, str], int] = {}
        self._at: float | None = None

    async def count(self) -> Mapping[tuple[str, str], int]:
        async with self._counting:
            now = self._clock.monotonic()
            if self._at is None or now - self._at >= COUNT_EVERY.total_seconds():
                self._counts = await self._clerks.do(_counted)
                self._at = now
            return self._counts


def _counted(ledger: Ledger) -> Mapping[tuple[str, str], int]:
    return Counter((job.kind, str(job.state)) for job in ledger.jobs())


async def problems(office: Office, clerks: Clerks) -> list[str]:
    """Why this gateway cannot do its work, if so."""
    found = []
    try:
        await asyncio.wait_for(clerks.do(_reached), STORE_SECONDS)
    except TimeoutError:
        found.append(f"the ledger has not answered for {STORE_SECONDS:.0f} s")
    except Exception as error:  # noqa: BLE001 - whatever keeps the ledger away is what was asked
        logger.warning("the ledger cannot be reached: {}: {}", type(error).__name__, error)
        found.append(f"the ledger cannot be reached: {type(error).__name__}")
    age = office.age()
    if age is None:
        found.append("the models and servers have not been looked at yet")
    elif age > STALE:
        found.append(f"the models and servers were last looked at {age.total_seconds():.0f} s ago")
    return found


def _reached(ledger: Ledger) -> None:
    try:
        ledger.get(NOWHERE)
    except NotFound:
        return


def router(office: Office, clerks: Clerks) -> APIRouter:
    api = APIRouter(tags=["state"])
    census = Census(office, clerks)

    @api.get("/models", response_model=ModelsTold, dependencies=[Depends(reader)])
    async def models() -> JSONResponse:
        """List the whole models, and say what is wrong with the rest."""
        found = await asyncio.to_thread(office.models)
        complaints = await asyncio.to_thread(office.complaints)
        return JSONResponse({"models": [dict(each) for each in found], "complaints": list(complaints)})

    @api.get("/tiers", response_model=TiersTold, dependencies=[Depends(reader)])
    async def tiers() -> JSONResponse:
        """Tell which tiers are asleep, waking, ready, degraded or lost, and since when."""
        return JSONResponse({"tiers": [dict(each) for each in office.tiers()]})

    @api.get("/route", response_model=RouteTold, dependencies=[Depends(reader)])
    async def route(
        model: Annotated[ModelText, Query()],
        context: Annotated[Context | Left, Query(description="`num_ctx`, if asked for")] = None,
    ) -> JSONResponse:
        """Tell on which tier a model is answered, and why, in words and numbers."""
        return JSONResponse(dict(await asyncio.to_thread(office.route, model, context)))

    @api.get("/usage", response_model=UsagesTold)
    async def usage(
        caller: Annotated[Caller, Depends(reader)],
        since: Annotated[Day | Left, Query(description="From this day on, in UTC")] = None,
    ) -> JSONResponse:
        """Sum up who used what, by day. A key without the admin scope sees its own."""
        rows = await asyncio.to_thread(office.usage, since)
        return JSONResponse({"usage": [dict(row) for row in rows if caller.may(ADMIN) or row["key"] == caller.name]})

    @api.get("/health", response_model=HealthTold, dependencies=[Depends(reader)])
    async def health() -> JSONResponse:
        """Tell how all of it stands."""
        found = await problems(office, clerks)
        counts: Counter[str] = Counter()
        if not found:
            for (_, state), count in (await census.count()).items():
                counts[state] += count
        found += office.problems()  # the gateway itself serves on, so whether it is ready does not depend on them
        models = await asyncio.to_thread(office.models)
        told: dict[str, Any] = {
            "status": "trouble" if found else "ok",
            "problems": found,
            "version": version("ollama-modal"),
            "models": {"count": len(models), "bytes": sum(int(each["size"]) for each in models)},
            "tiers": [dict(each) for each in office.tiers()],
            "jobs": {str(state): counts[state] for state in State},
        }
        return JSONResponse(told)

    return api


def probes(office: Office, clerks: Clerks) -> APIRouter:
    """For whoever watches this process. Only `/healthz` needs no key: it tells nothing, and touches nothing."""
    api = APIRouter()
    census = Census(office, clerks)

    @api.get("/healthz")
    async def healthz() -> JSONResponse:
        return JSONResponse({"status": "ok"})

    @api.get("/readyz", dependencies=[Depends(reader)])
    async def readyz() -> JSONResponse:
        found = await problems(office, clerks)
        if found:
            return JSONResponse({"error": "; ".join(found)}, 503, {"retry-after": "5"})
        return JSONResponse({"status": "ready"})

    @api.get("/metrics", dependencies=[Depends(reader)])
    async def metrics() -> Response:
        counts = await census.count()
        return Response(await clerks.do(lambda _: office.metrics.render(counts)), media_type=CONTENT_TYPE)

    return api
