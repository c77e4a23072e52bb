"""What is asked about the service itself: `/ops/v1`, `/healthz`, `/readyz`, `/metrics`, and Ollama's pull and delete.

A FastAPI application with an OpenAPI document, at `/ops/v1/openapi.json`; there is no page that shows it, because that
page would load its scripts from elsewhere. Nothing here asks a server, so nothing here wakes one.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response, Security, routing
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import APIKeyHeader, HTTPBearer
from loguru import logger
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from app.gateway.event_loop.long_answers import json_response
from app.gateway.ops import jobs as jobs_api
from app.gateway.ops import ollama_jobs as pulls
from app.gateway.ops import state as state_api
from app.gateway.ops.auth import OpsAuth, concurrency_limit
from app.gateway.ops.context import OpsContext
from app.gateway.ops.follow_jobs import FOLLOWERS, Following
from app.gateway.ops.ledger_pool import LedgerPool
from app.gateway.ops.post_jobs import reader
from app.gateway.ops.schemas import FAILURES, JobResponse, JobsResponse, examples
from app.gateway.protocol.errors import body_of, headers_of, status_of
from jobs.core.errors import Trouble
from jobs.core.sanitize import plain
from jobs.version import VERSION


def create(
    ops_context: OpsContext,
    *,
    ledger_pool: LedgerPool | None = None,
    followers: int = FOLLOWERS,
    more: Sequence[APIRouter] = (),
) -> FastAPI:
    """The application. It lets callers in itself, unless the gateway has.

    Args:
        ops_context: what it works with.
        ledger_pool: asks the ledger, and stays open at the end; one of its own, closed with it, when left out.
        followers: of jobs at once.
        more: routes that come under `/ops/v1` as well.

    """
    pool = ledger_pool or LedgerPool(ops_context.open_ledger, kinds=ops_context.kinds)
    following = Following(followers, ops_context.keys)
    job_counts = state_api.JobCounts(ops_context, pool)  # one for all who ask how many jobs there are

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        if ledger_pool is None:
            pool.close()

    app = FastAPI(
        title="ollama-modal",
        version=VERSION,
        description="Jobs, models, tiers and how all of it stands. A key comes as a bearer's, or in `x-api-key`.",
        openapi_url=None,  # a route of its own, which needs a key
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.add_middleware(
        OpsAuth,
        keys=ops_context.keys,
        limits=ops_context.limits,
        clock=ops_context.clock,
        concurrency=concurrency_limit(ops_context.keys),
        told=ops_context.told,
    )
    _word_failures(app)
    documented: dict[str, Any] = {
        "prefix": "/ops/v1",
        "responses": FAILURES,
        "dependencies": [
            Security(HTTPBearer(auto_error=False)),
            Security(APIKeyHeader(name="x-api-key", auto_error=False)),
        ],
    }
    public = (jobs_api.router(ops_context, pool, following), state_api.router(ops_context, pool, job_counts), *more)
    for api in public:
        app.include_router(api, **documented)
    others = (state_api.probes(ops_context, pool, job_counts), pulls.router(ops_context, pool, following))
    for api in others:
        app.include_router(api, include_in_schema=False)
    #: For `changer`, which has the request alone.
    app.state.audit = ops_context.audit
    #: Of the routes, for `prepare`.
    app.state.endpoints = [
        route.endpoint for api in (*public, *others) for route in api.routes if isinstance(route, routing.APIRoute)
    ]

    @app.get("/ops/v1/openapi.json", include_in_schema=False, dependencies=[Depends(reader)])
    async def document() -> Response:
        return await json_response(_document, app)

    return app


async def prepare(app: FastAPI) -> None:
    """Have made now what is else made on the event loop at the first requests, of which some took a tenth of a second.

    That is each route, which FastAPI makes when it looks for one; what runs work in threads, which it imports then; and
    where each function stands in its file, which it tells with failures.
    """
    nowhere = {"type": "http", "method": "GET", "path": "/", "root_path": "", "headers": []}
    for route in app.routes:
        route.matches(dict(nowhere))
    await run_in_threadpool(lambda: None)
    look_up = getattr(routing, "_extract_endpoint_context", None)  # not in every version, nor for others to rely on
    if look_up is not None:
        for endpoint in app.state.endpoints:
            look_up(endpoint)


def _document(app: FastAPI) -> dict[str, Any]:
    """With the examples as they are: FastAPI leaves out what is null, and a job's JSON does not."""
    openapi = app.openapi()
    schemas = openapi["components"]["schemas"]
    for shape in (JobResponse, JobsResponse):
        schemas[shape.__name__]["examples"] = examples(shape)
    return openapi


def _field_path(loc: Sequence[Any]) -> str:
    """Where in a request something is wrong. The names of its fields are whatever the caller liked."""
    return ".".join(plain(each if len(str(each)) <= _MOST_NAME else f"{str(each)[:_MOST_NAME]}…") for each in loc)


_MOST_NAME = 64


def _word_failures(app: FastAPI) -> None:
    """Every failure has the one shape: what happened, and what to do."""

    @app.exception_handler(Trouble)
    async def trouble(_: Request, error: Trouble) -> JSONResponse:
        return JSONResponse(body_of(error), status_of(error), headers_of(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        words = "; ".join(f"{_field_path(each['loc'])}: {each['msg']}" for each in error.errors()[:5])
        return JSONResponse({"error": words, "hint": "GET /ops/v1/openapi.json tells what is expected"}, 422)

    @app.exception_handler(HTTPException)
    async def elsewhere(request: Request, error: HTTPException) -> JSONResponse:
        words = {
            404: f"there is nothing at {request.url.path[:200]!r}",
            405: f"{request.url.path[:200]!r} does not take {request.method}",
        }.get(error.status_code, error.detail)
        body = {"error": words, "hint": "GET /ops/v1/openapi.json tells what there is"}
        return JSONResponse(body, error.status_code, error.headers)

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, __: ClientDisconnect) -> Response:
        """Whoever left before his body was read hears nothing, and is no mistake of ours."""
        return Response(status_code=400)

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> JSONResponse:
        logger.opt(exception=error).error("{} {} failed", request.method, request.url.path)
        return JSONResponse({"error": "this is our mistake; the log tells more"}, 500)
