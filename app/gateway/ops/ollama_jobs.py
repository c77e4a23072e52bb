"""Ollama's `/api/pull` and `/api/delete`, as jobs: no server takes part, and whoever leaves ends nothing.

`ollama pull` and the libraries see the frames they know (server/images.go:1021-1122). Several blobs come at once here,
so their bytes are told as one sum, in the one frame that Ollama itself has for such: `pulling model`, digest
`sha256:model`.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from app.gateway.auth.keys import Caller
from app.gateway.ops.context import OpsContext
from app.gateway.ops.follow_jobs import Followed, Following
from app.gateway.ops.ledger_pool import LedgerPool
from app.gateway.ops.post_jobs import MayChange, Poster
from app.gateway.protocol.json_body.search import fields_of
from jobs.core.errors import BadName, BadRequest, NotFound, Stalled
from jobs.core.model_name import ModelName
from jobs.core.sanitize import plain
from jobs.core.units import human_span
from jobs.ledger.job import Job, JobState

MANIFEST = {"status": "pulling manifest"}
VERIFYING = {"status": "verifying sha256 digest"}
WRITING = {"status": "writing manifest"}
SUCCESS = {"status": "success"}

REPEAT_SECONDS = 5.0
"""A frame is told again after so long without another, as Ollama does all the time: it keeps the connection alive."""

DELETE_WAITS = timedelta(minutes=10)
"""A delete takes a moment, but it may stand behind pulls."""

PullFrame = Mapping[str, Any]
HasLeft = Callable[[], Awaitable[bool]]
"""Whether the caller is gone. FastAPI goes on for one who is, so whoever waits for a job asks."""


class Frames:
    """What a pull's job tells, as Ollama's frames, in Ollama's order; nothing is told twice in a row. Pure."""

    def __init__(self) -> None:
        self._last: PullFrame = MANIFEST
        self._attempt = 0
        self._checks: list[PullFrame] = []

    def see(self, job: Job) -> Iterator[PullFrame]:
        """What is new."""
        if len(job.attempts) != self._attempt:
            self._attempt = len(job.attempts)
            self._checks = [VERIFYING, WRITING]
        for frame in self._frames(job):
            if frame != self._last:
                self._last = frame
                yield frame

    def _frames(self, job: Job) -> Iterator[PullFrame]:
        match job.state:
            case JobState.QUEUED:
                yield MANIFEST
            case JobState.WAITING:
                yield {"status": f"waiting to try again: {plain(job.attempts[-1].message or 'no reason was told')}"}
            case JobState.RUNNING:
                yield from self._moving(job)
            case JobState.SUCCEEDED:
                yield from self._checked(WRITING, job)
                yield SUCCESS
            case _:
                yield {"error": failure(job)}

    def _moving(self, job: Job) -> Iterator[PullFrame]:
        match job.progress.status:
            case "" | "asking for the manifest" | "asking the server to pull" | "pulling manifest":
                yield MANIFEST
            case "verifying sha256 digest":
                yield from self._checked(VERIFYING, job)
            case "publishing" | "writing manifest":
                yield from self._checked(WRITING, job)
            case status if status.startswith("pulling"):
                yield from self._bytes(job)
            case status:
                yield {"status": plain(status)}

    def _bytes(self, job: Job) -> Iterator[PullFrame]:
        reading = job.progress
        if not reading.total:
            return
        completed = reading.total if job.state is JobState.SUCCEEDED else min(reading.completed, reading.total)
        frame: dict[str, Any] = {"status": "pulling model", "digest": "sha256:model", "total": reading.total}
        yield {**frame, **({"completed": completed} if completed else {})}  # zeros are left out on Ollama's wire

    def _checked(self, upto: PullFrame, job: Job) -> Iterator[PullFrame]:
        """What comes after the bytes, as far as it was not told yet."""
        if VERIFYING in self._checks:
            yield from self._bytes(job)
        while upto in self._checks:
            yield self._checks.pop(0)


def failure(job: Job) -> str:
    """Why the job did not succeed, in Ollama's words where it has some."""
    last = job.attempts[-1]
    if job.state is JobState.CANCELLED:
        return f"the {job.kind} was cancelled, job {job.id}"
    if job.kind == "pull" and last.failure_class == "not_found":
        return "pull model manifest: file does not exist"
    why = plain(last.message or "no reason was told")
    return f"{why} ({plain(last.hint)})" if last.hint else why


def router(ops_context: OpsContext, ledger_pool: LedgerPool, following: Following) -> APIRouter:
    api = APIRouter()
    work = Pulls(ops_context, ledger_pool, Poster(ops_context, ledger_pool))

    @api.post("/api/pull")
    async def pull(request: Request, caller: MayChange) -> Response:
        body = await _body(request)
        with ExitStack() as slot:
            leave = following.begin(request)
            slot.callback(leave)
            answer = await work.pull(caller, body, leave, request.is_disconnected)
            if isinstance(answer, Followed):  # which gives the slot back itself, at its end
                slot.pop_all()
            return answer

    @api.delete("/api/delete")
    async def delete(request: Request, caller: MayChange) -> Response:
        body = await _body(request)
        with ExitStack() as slot:
            slot.callback(following.begin(request))
            return await work.delete(caller, body, request.is_disconnected)

    return api


@dataclass(frozen=True)
class Pulls:
    ops_context: OpsContext
    ledger_pool: LedgerPool
    poster: Poster
    delete_waits: timedelta = DELETE_WAITS

    async def pull(
        self, caller: Caller, body: Mapping[str, Any], leave: Callable[[], None], has_left: HasLeft
    ) -> Response:
        """`leave` is called when a stream has ended."""
        text = _model(body)
        try:
            ModelName.parse(text)
        except BadName as error:
            raise BadRequest("invalid model name", hint=f"{error}; {error.hint}") from error
        # `insecure` only permits, and what is asked over http is known from the registries' list: over https it changes
        # nothing. A user's name and password may come along; Ollama ignores them too, and here they must not reach the
        # ledger.
        job = (await self.poster.post(caller, "pull", text)).job
        if body.get("stream") is not False:
            return Followed.held(self._stream(job), leave, media_type="application/x-ndjson")
        ended = await self._ended(job, has_left)
        if ended is None:
            return Response()
        if ended.state is JobState.SUCCEEDED:
            return JSONResponse(SUCCESS)
        return JSONResponse({"error": failure(ended)}, 500)

    async def delete(self, caller: Caller, body: Mapping[str, Any], has_left: HasLeft) -> Response:
        text = _model(body)
        if not text:
            raise BadRequest("model is required")
        try:
            name = ModelName.parse(text)
        except BadName as error:
            raise BadRequest(f"name {json.dumps(text)} is invalid", hint=error.hint) from error
        if await asyncio.to_thread(self.ops_context.remove_alias, caller, name):
            return Response(status_code=200)
        try:
            job = (await self.poster.post(caller, "delete", text)).job
        except NotFound as error:
            raise NotFound(f"model '{text}' not found", hint=error.hint) from error
        try:
            ended = await asyncio.wait_for(self._ended(job, has_left), self.delete_waits.total_seconds())
        except TimeoutError as error:
            raise Stalled(
                f"the delete has waited for {human_span(self.delete_waits)}, and goes on as job {job.id}",
                hint=f"`ollama-modal job {job.id} --follow`",
            ) from error
        if ended is None:
            return Response()
        if ended.state is JobState.SUCCEEDED:
            return Response(status_code=200)
        if ended.attempts[-1].failure_class == "not_found":
            raise NotFound(f"model '{text}' not found")
        return JSONResponse({"error": failure(ended)}, 500)

    async def _ended(self, job: Job, has_left: HasLeft) -> Job | None:
        """The job at its end; None when its caller left before, who is waited for no more. The job goes on."""
        async for now in self.ledger_pool.follow(job):
            job = now
            if not job.has_ended and await has_left():
                return None
        await asyncio.to_thread(self.ops_context.changed)
        return job

    async def _stream(self, job: Job) -> AsyncIterator[bytes]:
        frames, loop = Frames(), asyncio.get_running_loop()
        yield _line(MANIFEST)
        last: PullFrame = MANIFEST
        sent_at = loop.time()
        async for now in self.ledger_pool.follow(job):
            if now.has_ended:
                await asyncio.to_thread(self.ops_context.changed)
            for frame in frames.see(now):
                last, sent_at = frame, loop.time()
                yield _line(frame)
            if loop.time() - sent_at > REPEAT_SECONDS:
                sent_at = loop.time()
                yield _line(last)


_FIELDS = frozenset({"model", "name", "stream"})


async def _body(request: Request) -> Mapping[str, Any]:
    """What the body says, its keys in lower case: Go reads them in any."""
    fields = fields_of(await request.body(), _FIELDS)
    return {name: fields.whole(name) for name in _FIELDS if fields.span(name)}


def _model(body: Mapping[str, Any]) -> str:
    text = body.get("model") or body.get("name") or ""
    if not isinstance(text, str):
        raise BadRequest("the model is no text", hint='as in {"model": "llama3.2"}')
    return text.strip()


def _line(frame: PullFrame) -> bytes:
    return json.dumps(frame).encode() + b"\n"
