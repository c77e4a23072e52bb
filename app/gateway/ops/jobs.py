"""Jobs over HTTP: post, list, tell, follow, cancel, retry, dismiss. Words and JSON are those of the command line.

All lists go by one look at the ledger, which serves whoever asks within two seconds; each page is made once for it.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from app.gateway.auth.keys import Caller
from app.gateway.catalog.shared_answer import MadeOnce
from app.gateway.event_loop.long_answers import response_of
from app.gateway.ops import schemas
from app.gateway.ops.context import OpsContext
from app.gateway.ops.follow_jobs import Followed, Following
from app.gateway.ops.job_events import COME_BACK, ID, STILL_HERE, Revision, frame, news
from app.gateway.ops.job_lists import JobLists, JobsQuery, MaySee, summary
from app.gateway.ops.ledger_pool import LedgerPool
from app.gateway.ops.post_jobs import MayChange, MayRead, Poster, find_job, model_about, model_of
from jobs.cli.job_commands import LISTED
from jobs.core.errors import BadRequest, FailureClass
from jobs.core.json_text import json_bytes
from jobs.ledger.all_jobs import OPEN, JobFilter
from jobs.ledger.job import Job, JobState, Posted
from jobs.ledger.kinds import kind_named
from jobs.ledger.reader import LedgerReader

LISTED_AT_MOST = 1_000

SILENCE_SECONDS = 15.0
"""After so long without news comes a comment: proxies cut a stream that says nothing for a minute."""

ClassText = Annotated[FailureClass | schemas.Left, Query(alias="class", description="How its last attempt failed")]
GroupClass = Annotated[FailureClass, Query(alias="class", description="How their last attempts failed")]
SearchText = Annotated[str, Field(max_length=200)]
CursorText = Annotated[str, Field(pattern=r"^[0-9]{1,14}\.[A-Za-z0-9-]{1,64}$")]
IdText = Annotated[str, Field(pattern="^[A-Za-z0-9-]{1,64}$")]
SubjectText = Annotated[str, Field(max_length=700)]
EventId = Annotated[str, Field(pattern=f"^{ID}$")]
Id = Annotated[IdText, Path(description="A job's id", examples=["k7m2p9x4qd-1"])]


_LIVE = {"cache-control": "no-store", "x-accel-buffering": "no"}
"""Proxies such as nginx hold a stream back until they have kilobytes of it, unless they are told not to."""


class EventStream(Followed):
    media_type = "text/event-stream"


_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "`move` for each change of the state, `progress` in between; each with the job as it stood",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    },
    204: {"description": "The job has ended, and the client has heard so: do not come again"},
    # Said once more, because FastAPI would document them as event streams, too.
    **{
        status: {
            "description": failure["description"],
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Failure"}}},
        }
        for status, failure in schemas.FAILURES.items()
    },
}
_POSTED: dict[int | str, dict[str, Any]] = {
    200: {"model": schemas.JobResponse, "description": "It was under way already, and is shared"},
    201: {"model": schemas.JobResponse, "description": "It is posted, and will end, whatever happens to any worker"},
}

_CHECKED: dict[int | str, dict[str, Any]] = {204: {"description": "With `check`: it would be posted"}}


def router(ops_context: OpsContext, ledger_pool: LedgerPool, following: Following) -> APIRouter:
    api = APIRouter(prefix="/jobs", tags=["jobs"])
    _reading(api, ops_context, ledger_pool)
    _following(api, ops_context, ledger_pool, following)
    _changing(api, Poster(ops_context, ledger_pool))
    return api


def _reading(api: APIRouter, ops_context: OpsContext, ledger_pool: LedgerPool) -> None:
    kinds = ops_context.kinds
    answers, pages = MadeOnce[bytes](), MadeOnce[bytes]()  # of the newest look

    def sight(caller: Caller) -> MaySee | None:
        """What a caller may see; None when that is everything."""
        return (lambda job: caller.may_see(model_of(job))) if caller.models else None

    @api.get("", response_model=schemas.JobsResponse)
    async def jobs(
        *,
        caller: MayRead,
        kind: Annotated[str | schemas.Left, Query(json_schema_extra={"enum": list(ops_context.kinds)})] = None,
        state: Annotated[
            JobState | Literal["open"] | schemas.Left, Query(description="`open` is each that has not ended")
        ] = None,
        failure_class: ClassText = None,
        subject: Annotated[SubjectText | schemas.Left, Query(description="As in a job's JSON")] = None,
        q: Annotated[
            SearchText | schemas.Left, Query(description="Each of these words is in its kind, its model or its id")
        ] = None,
        dead: Annotated[
            bool, Query(description="Only what failed for good, and was not tried again, made needless or dismissed")
        ] = False,
        folded: Annotated[
            bool, Query(description="Of many such failures of one kind and class only the newest, with their number")
        ] = False,
        since: Annotated[
            schemas.Since | schemas.Left, Query(description="Posted then or later, archived jobs among them")
        ] = None,
        begin: Annotated[IdText | schemas.Left, Query(description="As much of an id as is known")] = None,
        cursor: Annotated[CursorText | schemas.Left, Query(description="`next` of the page before")] = None,
        before: Annotated[IdText | schemas.Left, Query(description="Read on after the job of this id")] = None,
        limit: Annotated[int, Query(ge=1, le=LISTED_AT_MOST, description="How many on a page")] = LISTED,
    ) -> Response:
        """List jobs, the newest first, archived ones after those of the ledger. A key for some models sees those about
        them. A search looks at some thousand jobs for a page: one with few jobs, or none, and a `next` goes on there.
        """
        if kind is not None:
            kind_named(kind, kinds)
        began = schemas.since_of(since, ops_context.clock.now())
        states = OPEN if state == "open" else frozenset({JobState(state)} if state else ())
        fitting = JobFilter(kind, subject, began, begin or "", q or "", states, failure_class)
        query = JobsQuery(fitting, dead, folded, limit, cursor, before)
        look = await ledger_pool.look()

        def tell(reader: LedgerReader) -> bytes:
            now = ops_context.clock.now()
            lists = JobLists(look, reader, ops_context.archive, kinds, now, sight(caller))
            return json_bytes(lists.listed(query))

        made = await pages.of(look, (query, caller.models), lambda: ledger_pool.read(tell))
        return response_of(made)

    @api.get("/summary", response_model=schemas.JobsSummaryResponse)
    async def summarise(caller: MayRead) -> Response:
        """Count all jobs of the ledger, and tell in groups what failed and needs somebody."""
        look = await ledger_pool.look()

        def sees(subject: str) -> bool:
            return caller.may_see(model_about(subject))

        def tell(_: LedgerReader) -> bytes:
            sees_some = sees if caller.models else None
            return json_bytes(summary(look, may_see=sight(caller), sees=sees_some, kinds=kinds))

        made = await answers.of(look, caller.models, lambda: ledger_pool.read(tell))
        return response_of(made)

    @api.get("/{id}", response_model=schemas.JobResponse)
    async def job(id: Id, caller: MayRead) -> Response:
        """Tell a job's whole story, also when it is archived."""

        def tell(ledger: LedgerReader) -> bytes:
            return json_bytes(find_job(ledger, ops_context, caller, id).as_json())

        return response_of(await ledger_pool.read(tell))


def _following(api: APIRouter, ops_context: OpsContext, ledger_pool: LedgerPool, following: Following) -> None:
    @api.get("/{id}/events", response_class=EventStream, responses=_EVENTS)
    async def events(
        request: Request,
        id: Id,
        caller: MayRead,
        last_event_id: Annotated[EventId | schemas.Left, Header(examples=["1.0"])] = None,
    ) -> Response:
        """Follow a job as server-sent events; they end with it. With `Last-Event-ID` it goes on after that one."""
        job = await ledger_pool.read(lambda ledger: find_job(ledger, ops_context, caller, id))
        seen = Revision.parse(last_event_id) if last_event_id else None
        if seen is not None and seen.moves > Revision.of(job).moves:
            raise BadRequest(f"job {id!r} has not come to event {str(seen)!r} yet", hint="is it another job's?")
        if seen is not None and job.has_ended and not list(news(job, seen)):
            return Response(status_code=204)
        leave = following.begin(request)
        return EventStream.held(_stream(ledger_pool, job, seen), leave, headers=_LIVE)


def _changing(api: APIRouter, poster: Poster) -> None:
    async def post(
        caller: MayChange,
        body: schemas.JobBody,
        *,
        check: Annotated[bool, Query(description="Post nothing: say whether it would be refused, and why")] = False,
    ) -> Response:
        """Post a job. One of this kind about this model that is under way is shared."""
        if check:
            await poster.check(caller, **body.model_dump(exclude={"attempts"}))
            return Response(status_code=204)
        return _answer(await poster.post(caller, **body.model_dump()))

    post.__annotations__["body"] = schemas.job_body(poster.ops_context.kinds)
    api.post("", status_code=201, response_model=schemas.JobResponse, responses=_POSTED | _CHECKED)(post)

    kinds = poster.ops_context.kinds
    harmless = [name for name, kind in kinds.items() if not kind.takes_away]

    @api.post("/retry", response_model=schemas.ChangedJobsResponse)
    async def retry_group(
        caller: MayChange,
        kind: Annotated[str, Query(json_schema_extra={"enum": harmless})],
        failure_class: GroupClass,
    ) -> JSONResponse:
        """Post a group of failed jobs again, some of them at a time; never such as take weights away."""
        return JSONResponse((await poster.retry_group(caller, kind, failure_class)).as_json())

    @api.post("/dismiss", response_model=schemas.ChangedJobsResponse)
    async def dismiss_group(
        caller: MayChange,
        kind: Annotated[str, Query(json_schema_extra={"enum": list(kinds)})],
        failure_class: GroupClass,
    ) -> JSONResponse:
        """Hear no more of a group of failed jobs, some of them at a time."""
        return JSONResponse((await poster.dismiss_group(caller, kind, failure_class)).as_json())

    @api.post("/{id}/cancel", response_model=schemas.JobResponse)
    async def cancel(id: Id, caller: MayChange) -> JSONResponse:
        """Ask a job to stop. One that has ended stays as it is."""
        return JSONResponse((await poster.cancel(caller, id)).as_json())

    @api.post("/{id}/dismiss", response_model=schemas.JobResponse)
    async def dismiss(id: Id, caller: MayChange) -> JSONResponse:
        """Hear no more of a job that failed for good: it keeps its story, and is no alarm any more."""
        return JSONResponse((await poster.dismiss(caller, id)).as_json())

    @api.post("/{id}/retry", status_code=201, response_model=schemas.JobResponse, responses=_POSTED)
    async def retry(
        id: Id,
        caller: MayChange,
        *,
        anyway: Annotated[
            bool, Query(description="Also a delete or rollback of weights that something else changed since")
        ] = False,
    ) -> JSONResponse:
        """Post an ended job again, exactly as it was posted."""
        return _answer(await poster.retry(caller, id, anyway=anyway))


def _answer(posted: Posted) -> JSONResponse:
    """201 for a job that is new, 200 for one that is shared."""
    job = posted.job
    return JSONResponse(job.as_json(), 200 if posted.attached else 201, {"location": f"/ops/v1/jobs/{job.id}"})


async def _stream(ledger_pool: LedgerPool, job: Job, seen: Revision | None) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    yield COME_BACK
    spoke_at = loop.time()
    async for now in ledger_pool.follow(job):
        for revision, shown in news(now, seen):
            seen, spoke_at = revision, loop.time()
            yield frame(revision, shown)
        if loop.time() - spoke_at > SILENCE_SECONDS:
            spoke_at = loop.time()
            yield STILL_HERE
