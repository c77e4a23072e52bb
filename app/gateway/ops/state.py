"""Models, tiers, routes, usage and health; and the probes of monitoring.

All of it is known here already, by what the servers reported and what the ledger holds. Monitoring may ask as often as
it likes, and wakes nothing.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import JSONResponse
from loguru import logger
from pydantic import Field

from app.gateway.auth.keys import Caller
from app.gateway.catalog.shared_answer import SharedAnswer
from app.gateway.event_loop.long_answers import json_response
from app.gateway.inference.metrics import CONTENT_TYPE
from app.gateway.ops import schemas
from app.gateway.ops.context import Document, OpsContext
from app.gateway.ops.ledger_pool import LedgerPool
from app.gateway.ops.post_jobs import MayChange, MayRead, reader, sees_use
from jobs.core.errors import StoreTrouble, StoreUnavailable
from jobs.core.model_name import ModelName
from jobs.ledger.job import JobState
from jobs.ledger.reader import LedgerReader
from jobs.version import VERSION

STALE = timedelta(minutes=1)
"""What is known of models and servers is looked up every few seconds; beyond this, something is wrong."""

STORE_SECONDS = 5.0
"""A store that has not answered a small question for so long cannot be worked with."""

Context = Annotated[int, Field(ge=1, le=100_000_000)]


class JobCounts:
    """How many jobs there are of each kind and state, by the last look at them; by one before while that takes long.

    Belongs to one event loop; a pool's thread counts, and hands over a mapping that is never changed.
    """

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
        if self._counting is None:
            self._counting = asyncio.create_task(self._count())
            self._counting.add_done_callback(self._counted)
        counting = self._counting
        await asyncio.wait({counting}, timeout=STORE_SECONDS)
        if counting.done():
            return counting.result()
        if self._is_older_than(STALE):
            raise StoreUnavailable(f"the ledger has not answered for {STORE_SECONDS:.0f} s")
        return self._counts

    async def _count(self) -> Mapping[tuple[str, str], int]:
        look = await self._ledger_pool.look()

        def add_up(_: LedgerReader) -> Mapping[tuple[str, str], int]:
            counts: Counter[tuple[str, str]] = Counter()
            for (kind, _subject, state), count in look.counts.items():
                counts[kind, state] += count
            return counts

        return await self._ledger_pool.read(add_up)

    def _counted(self, counting: "asyncio.Task[Mapping[tuple[str, str], int]]") -> None:
        self._counting = None
        if not counting.cancelled() and counting.exception() is None:
            self._counts, self._at = counting.result(), self._clock.monotonic()

    def _is_older_than(self, age: timedelta) -> bool:
        return self._at is None or self._clock.monotonic() - self._at >= age.total_seconds()


async def problems(ops_context: OpsContext, ledger_pool: LedgerPool) -> list[str]:
    """Why this gateway cannot do its work, if so."""
    why = []
    try:
        await asyncio.wait_for(ledger_pool.reach(), STORE_SECONDS)
    except TimeoutError:
        why.append(f"the ledger has not answered for {STORE_SECONDS:.0f} s")
    except Exception as error:  # noqa: BLE001 - whatever keeps the ledger away is what was asked
        logger.warning("the ledger cannot be reached: {}: {}", type(error).__name__, error)
        why.append(f"the ledger cannot be reached: {type(error).__name__}")
    age = ops_context.age()
    if age is None:
        why.append("the models and servers have not been looked at yet")
    elif age > STALE:
        why.append(f"the models and servers were last looked at {age.total_seconds():.0f} s ago")
    return why


def versions_by_name(thrown: Iterable[tuple[str, str]]) -> Mapping[str, Collection[str]]:
    """The digests of the versions in the trash, by the name in small letters."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, digest in thrown:
        found[name].add(digest)
    return found


def _can_roll_back(model: Document, thrown: Mapping[str, Collection[str]]) -> bool:
    """Whether the trash has a version of it that is not the one published now."""
    return any(digest != model["digest"] for digest in thrown.get(str(model["name"]).lower(), ()))


def _models_for(
    ops_context: OpsContext,
    caller: Caller,
    known: Sequence[Document],
    wrong: Sequence[str],
    thrown: Mapping[str, Collection[str]],
) -> Document:
    seen = [
        {**each, "can_roll_back": _can_roll_back(each, thrown)} for each in known if caller.may_name(str(each["name"]))
    ]
    aliases = [dict(each) for each in ops_context.aliases(caller.may_use)]
    return {"models": seen, "aliases": aliases, "complaints": [] if caller.models else list(wrong)}


def _tiers_for(ops_context: OpsContext, caller: Caller) -> list[dict[str, Any]]:
    """Why a tier is as it is names the models that it loads, which are not for every key."""
    return [dict(each) | ({"why": "", "coming": None} if caller.models else {}) for each in ops_context.tiers()]


def _usage_for(caller: Caller, rows: Iterable[Mapping[str, Any]]) -> Document:
    return {"usage": [dict(row) for row in rows if sees_use(caller, row["key"], row["model"])]}


def _health_for(ops_context: OpsContext, caller: Caller, why: list[str], counts: Mapping[str, int]) -> Document:
    models = ops_context.models()
    return {
        "status": "trouble" if why else "ok",
        "problems": why,
        "notes": [] if caller.models else list(ops_context.notes()),
        "version": VERSION,
        "models": {"count": len(models), "bytes": sum(int(each["size"]) for each in models)},
        "tiers": _tiers_for(ops_context, caller),
        "jobs": {str(state): counts[state] for state in JobState},
    }


def router(ops_context: OpsContext, ledger_pool: LedgerPool, job_counts: JobCounts) -> APIRouter:
    api = APIRouter(tags=["state"])
    _models(api, ops_context, ledger_pool)

    @api.get("/tiers", response_model=schemas.TiersResponse)
    async def tiers(caller: MayRead) -> Response:
        """Tell which tiers are asleep, waking, ready, degraded or lost, and since when."""
        return await json_response(lambda: {"tiers": _tiers_for(ops_context, caller)})

    @api.get("/route", response_model=schemas.RouteResponse)
    async def route(
        caller: MayRead,
        model: Annotated[schemas.ModelField, Query()],
        context: Annotated[Context | schemas.Left, Query(description="`num_ctx`, if asked for")] = None,
    ) -> Response:
        """Tell on which tier a model is answered, and why, in words and numbers."""
        name = ModelName.parse(model)
        caller.need_model(ops_context.subject(name), asked_as=name)
        return await json_response(lambda: dict(ops_context.route(model, context, caller.may_use)))

    @api.get("/usage", response_model=schemas.UsageResponse)
    async def usage(
        caller: MayRead,
        since: Annotated[schemas.Since | schemas.Left, Query(description="From this day on, in UTC")] = None,
    ) -> Response:
        """Sum up who used what, by day. A key without the admin scope sees its own."""
        began = schemas.since_of(since, ops_context.clock.now())
        rows = await ops_context.usage(began.date() if began else None)
        return await json_response(_usage_for, caller, rows)

    @api.get("/health", response_model=schemas.HealthResponse)
    async def health(caller: MayRead) -> Response:
        """Tell how all of it stands."""
        why = await problems(ops_context, ledger_pool)
        counts: Counter[str] = Counter()
        if not why:
            try:
                for (_, state), count in (await job_counts.count()).items():
                    counts[state] += count
            except StoreTrouble as trouble:
                why.append(str(trouble))
        why += ops_context.problems()  # the gateway itself serves on, so whether it is ready does not depend on them
        return await json_response(_health_for, ops_context, caller, why, counts)

    return api


def _models(api: APIRouter, ops_context: OpsContext, ledger_pool: LedgerPool) -> None:
    async def look_beside() -> tuple[Sequence[str], Mapping[str, Collection[str]]]:
        return await asyncio.to_thread(lambda: (ops_context.complaints(), versions_by_name(ops_context.thrown())))

    beside = SharedAnswer(look_beside, ledger_pool.shared_for)  # of the models that are listed

    def look() -> tuple[Sequence[Document], int]:
        """The models, and a number that is another one when others are listed: the loop compares no names."""
        known = ops_context.models()
        return known, hash(tuple((each["name"], each["digest"]) for each in known))

    @api.get("/models", response_model=schemas.ModelsResponse)
    async def models(caller: MayRead) -> Response:
        """List the whole models and their other names, and say what is wrong. A key for some models sees only those."""
        known, version = await asyncio.to_thread(look)
        wrong, thrown = await beside(version)
        return await json_response(_models_for, ops_context, caller, known, wrong, thrown)


def probes(ops_context: OpsContext, ledger_pool: LedgerPool, job_counts: JobCounts) -> APIRouter:
    """For monitoring. Only `/healthz` needs no key: it says that this process answers, and reads nothing."""
    api = APIRouter()

    @api.get("/healthz")
    async def healthz() -> JSONResponse:
        return JSONResponse({"status": "ok"})

    @api.get("/readyz", dependencies=[Depends(reader)])
    async def readyz() -> JSONResponse:
        why = await problems(ops_context, ledger_pool)
        if why:
            return JSONResponse({"error": "; ".join(why)}, 503, {"retry-after": "5"})
        return JSONResponse({"status": "ready"})

    @api.get("/metrics")
    async def metrics(caller: MayChange) -> Response:
        caller.need_model(None)  # it names all models and all keys
        counts: Mapping[tuple[str, str], int] = {}
        try:
            counts = await job_counts.count()
            ops_context.metrics.store_up(True)
        except StoreTrouble as trouble:  # what this process knows by itself is shown
            logger.warning("the jobs cannot be counted: {}", trouble)
            ops_context.metrics.store_up(False)
        return Response(await asyncio.to_thread(ops_context.metrics.render, counts), media_type=CONTENT_TYPE)

    return api
