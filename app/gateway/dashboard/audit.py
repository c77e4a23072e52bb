"""Who did what: `GET /ops/v1/audit`, a page at a time, for administrators. From the ledger and its archive."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue

from app.gateway.catalog.shared_answer import MadeOnce, SharedAnswer
from app.gateway.event_loop.long_answers import json_in_thread, response_of
from app.gateway.ops.post_jobs import MayChange
from app.gateway.ops.schemas import Left, Since, since_of
from jobs.access.acts import ACTS
from jobs.access.audit_line import Outcome
from jobs.archive.audited import AuditPage, AuditQuery
from jobs.core.clock import Clock
from jobs.core.json_text import json_bytes

LONG_AGO = datetime.min.replace(tzinfo=UTC)

USUAL = 50
MOST = 1_000
"""Lines of a page."""

_LINE: dict[str, JsonValue] = {
    "id": "2026-09-15/08:00:00.000Z-5f0c9a1e",
    "at": "2026-09-15T08:00:00.000Z",
    "who": "alice",
    "request": "3f9a0c1200000007",
    "act": "pull",
    "subject": "llama3.2:latest",
    "outcome": "posted",
    "class": "",
    "job": "k7m2p9x4qd-1",
    "count": 1,
}


class AuditEntry(BaseModel):
    """One act of an administrator, of a user of the machine, or of a schedule."""

    id: str
    at: Annotated[AwareDatetime, Field(description="When it was begun; of several refusals, when the first came")]
    who: Annotated[str, Field(description="The name of the key; a user of the machine; or a schedule")]
    request: Annotated[str, Field(description="The id of the request, or the command, by which it came")]
    act: Annotated[str, Field(description="What was done", json_schema_extra={"enum": list(ACTS)})]
    subject: Annotated[str, Field(description="To what; empty where the request was refused before it was read")]
    outcome: Annotated[Outcome, Field(description="`posted`, `attached`: its job tells how it ends")]
    why: Annotated[str, Field(alias="class", description="Of the refusal or failure; empty where there is none")]
    job: Annotated[str, Field(description="The job that does it, or to which it was done; empty where none is")]
    count: Annotated[int, Field(description="How many requests this line stands for")]


class AuditResponse(BaseModel):
    """A page, the newest first."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"lines": [_LINE], "next": None}]})

    lines: list[AuditEntry]
    next: Annotated[str | None, Field(description="`before` of the page after this; null on the last one")]


NameText = Annotated[str, Field(max_length=200)]
LineId = Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}/[0-9:.Z]{1,16}-[0-9a-f]{1,16}$")]


async def _this_moment() -> object:
    """Differs from any other one."""
    return object()


def router(read: Callable[[AuditQuery], AuditPage], clock: Clock, version: Callable[[], object]) -> APIRouter:
    """
    Args:
        read: reads a page, in a thread that waits for it.
        clock: the time.
        version: differs from before once something was changed through this gateway.
    """
    api = APIRouter(tags=["state"])
    moment, pages = SharedAnswer(_this_moment), MadeOnce[bytes]()  # each page is read once for all who ask for it

    @api.get("/audit", response_model=AuditResponse)
    async def audit(
        *,
        caller: MayChange,
        since: Annotated[Since | Left, Query(description="Begun then or later; everything when left out")] = None,
        who: Annotated[NameText | Left, Query(description="By this key, user or schedule alone")] = None,
        act: Annotated[
            NameText | Left, Query(description="Of this kind alone", json_schema_extra={"enum": list(ACTS)})
        ] = None,
        before: Annotated[LineId | Left, Query(description="`next` of the page before")] = None,
        limit: Annotated[int, Query(ge=1, le=MOST, description="How many on a page")] = USUAL,
    ) -> Response:
        """List who did what, the newest first. A key for some models sees what was done with it."""
        began = since_of(since, clock.now()) or LONG_AGO
        if caller.models and who not in {None, caller.name}:
            return response_of(json_bytes(AuditPage((), None).as_json()))
        by = caller.name if caller.models else who or ""
        query = AuditQuery(began, by, act or "", before or "", limit)

        asked = (since, query.who, query.act, query.before, limit)
        made = await pages.of(await moment(version()), asked, lambda: json_in_thread(lambda: read(query).as_json()))
        return response_of(made)

    return api
