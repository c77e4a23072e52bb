"""What the last night did: `GET /ops/v1/night`. The same as `ollama-modal night` prints, and as `modal run` does.

It comes from the ledger alone, and asks no server.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from app.gateway.catalog.shared_answer import SharedAnswer
from app.gateway.event_loop.long_answers import json_response
from app.gateway.ops.ledger_pool import LedgerPool
from app.gateway.ops.post_jobs import MayRead
from jobs.ledger.kinds import ALL
from jobs.listing.dead_memory import of_last_night
from jobs.telemetry.nightly_report import ids_of_night, report


class NightJobEntry(BaseModel):
    """A job that the night posted, why, and how it stands now."""

    id: str
    kind: str
    subject: str
    why: str
    size: Annotated[int | None, Field(description="How many bytes it is about, where that is known")]
    state: Annotated[str, Field(description="As of any job; `archived` when it has left the ledger since")]
    failure_class: Annotated[str | None, Field(alias="class")]
    message: str | None
    pulled_bytes: int
    freed_bytes: int
    verified_bytes: int


class ReadShareEntry(BaseModel):
    """How far the weights are read in full."""

    bytes: int
    days: Annotated[int, Field(description="In so many days all of it is to be read")]
    all_read_by: Annotated[AwareDatetime, Field(description="When none of it will be unread for longer than that")]


class NightIncident(BaseModel):
    at: AwareDatetime
    kind: str
    subject: str
    message: str


class FailingNight(BaseModel):
    """A night that was due later, and was tried in vain."""

    due: AwareDatetime
    tries: int
    at: Annotated[AwareDatetime | None, Field(description="When it was tried last")]
    trouble: Annotated[str | None, Field(description="What that met; null when it ended without a word")]
    next_at: Annotated[AwareDatetime | None, Field(description="When it is tried again; null when it is given up")]


class NightResponse(BaseModel):
    """What the last night did; `at` is null where none has come yet."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "due": "2026-09-15T01:00:00.000Z",
                    "at": "2026-09-15T01:00:03.000Z",
                    "summary": "1 job, 1 succeeded; pulled 2.0 GB, freed 0 B, verified 0 B",
                    "jobs": [
                        {
                            "id": "k7m2p9x4qd-1",
                            "kind": "pull",
                            "subject": "llama3.2:latest",
                            "why": "the fleet pins it, and it is not here in whole",
                            "size": None,
                            "state": "succeeded",
                            "class": None,
                            "message": None,
                            "pulled_bytes": 2019393189,
                            "freed_bytes": 0,
                            "verified_bytes": 0,
                        }
                    ],
                    "pulled_bytes": 2019393189,
                    "freed_bytes": 0,
                    "verified_bytes": 0,
                    "share": {"bytes": 19851349856, "days": 30, "all_read_by": "2026-10-02T01:00:03.000Z"},
                    "opened": [],
                    "passed": [],
                    "left": [],
                    "tries": 1,
                    "trouble": None,
                    "failing": None,
                }
            ]
        }
    )

    due: Annotated[AwareDatetime | None, Field(description="When it was due, by the schedule")]
    at: Annotated[AwareDatetime | None, Field(description="When it came")]
    summary: Annotated[str, Field(description="All of it in a line")]
    jobs: list[NightJobEntry]
    pulled_bytes: int
    freed_bytes: int
    verified_bytes: int
    share: ReadShareEntry | None
    opened: Annotated[list[NightIncident], Field(description="Incidents that came up since")]
    passed: Annotated[list[NightIncident], Field(description="Incidents that passed since")]
    left: Annotated[list[str], Field(description="What it left alone, and why")]
    tries: Annotated[int | None, Field(description="How often it was tried until it ran")]
    trouble: Annotated[str | None, Field(description="What a try before that met")]
    failing: FailingNight | None


def router(entries: Callable[[], Awaitable[Mapping[str, Any]]], ledger_pool: LedgerPool) -> APIRouter:
    """
    Args:
        entries: what the ledger's dict has of nights and incidents.
        ledger_pool: asks the ledger.
    """
    api = APIRouter(tags=["state"])

    async def ask() -> dict[str, Any]:
        known, look = await entries(), await ledger_pool.look()
        posted = ids_of_night(known)
        return await ledger_pool.read(lambda reader: report(known, of_last_night(reader, look.known, posted)))

    shared = SharedAnswer(ask, ledger_pool.shared_for)

    @api.get("/night", response_model=NightResponse, operation_id="tell_ops_v1_night_get")
    async def last_night(caller: MayRead) -> Response:
        """Tell what the last night did: its jobs and how they ended, what it moved, what it left alone.

        A key for some models is told of the jobs about those.
        """
        night = await shared(ledger_pool.changes)
        if caller.models:
            jobs = [job for job in night["jobs"] if job["subject"] != ALL and caller.may_name(job["subject"])]
            night = {**night, "jobs": jobs, "left": [], "opened": [], "passed": []}
        return await json_response(lambda: night)

    return api
