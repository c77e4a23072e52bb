"""What would be done: `GET /ops/v1/plan` tells of the next night, `GET /ops/v1/plan/prune` of a prune now.

The same plans as `ollama-modal plan` and `prune --dry-run` print where the weights are. How they are made is
handed in: on Modal by a function that has the volume. No server is asked, and nothing is posted.
A plan names every model, asks registries and takes a container: it is for administrators of all models.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from app.gateway.auth.fair_shares import KeyCount, Shares
from app.gateway.auth.keys import Caller
from app.gateway.event_loop.long_answers import json_in_thread, response_of
from app.gateway.ops.post_jobs import MayChange
from app.gateway.ops.schemas import query_of
from jobs.cli.job_commands import Preview
from jobs.cli.signature import parameter, with_signature
from jobs.core.errors import Unsupported
from jobs.ledger.kinds import KINDS

WAITING = 4
"""Plans that are made or wait their turn; each may take a minute."""

POLL_SECONDS = 0.5
"""How often it is checked whether a plan's caller is still there."""


def unknown_night() -> Preview:
    raise Unsupported("this gateway cannot tell what the next night would do", hint="`ollama-modal plan` does, there")


def unknown_prune(_: dict[str, Any]) -> Preview:
    raise Unsupported(
        "this gateway cannot tell what a prune would do", hint="`ollama-modal prune --dry-run` does, over there"
    )


@dataclass(frozen=True)
class Plans:
    """
    Args:
        night: what the next night would do. It may take a minute: registries are asked.
        prune: what a prune that is asked for in these words would do.
    """

    night: Callable[[], Preview] = unknown_night
    prune: Callable[[dict[str, Any]], Preview] = unknown_prune


class PlanRow(BaseModel):
    """A step, in words."""

    do: str
    what: str
    size: str
    why: str


class PlanResponse(BaseModel):
    """What would be done."""

    summary: str
    notes: Annotated[list[str], Field(description="What is left alone, and what could not be learnt")]
    rows: list[PlanRow]
    plan: Annotated[dict[str, Any], Field(description="As the command prints it with `--json`")]


def as_json(plan: Preview) -> dict[str, Any]:
    return {
        "summary": plan.summary,
        "notes": list(plan.notes),
        "rows": [dict(zip(("do", "what", "size", "why"), row, strict=True)) for row in plan.rows()],
        "plan": plan.as_json(),
    }


def router(plans: Plans, keys: KeyCount) -> APIRouter:
    """
    Args:
        plans: how they are made.
        keys: how many there are.
    """
    api = APIRouter(tags=["state"])
    begun: set[asyncio.Task[bytes]] = set()  # which the event loop itself would not keep
    turn = asyncio.Lock()  # each reads all manifests, and on Modal has a container; so one after the other
    slots = Shares(
        "plans being made", WAITING, keys=keys, hint="wait for it to come", retry_after=timedelta(seconds=10)
    )

    async def made(make: Callable[[], Preview], is_wanted: Callable[[], bool]) -> bytes:
        async with turn:
            return await json_in_thread(lambda: as_json(make())) if is_wanted() else b""

    async def answer(request: Request, caller: Caller, make: Callable[[], Preview]) -> Response:
        caller.need_model(None)
        leave = slots.take(caller.name)
        is_here = True
        making = asyncio.create_task(made(make, lambda: is_here), name="plan")
        begun.add(making)
        making.add_done_callback(_retrieve)
        making.add_done_callback(begun.discard)
        try:
            # FastAPI goes on for a caller who is gone. A plan that is begun cannot be ended: it keeps its turn, not
            # the slot; one that only waited for its turn is not begun.
            while not (await asyncio.wait({making}, timeout=POLL_SECONDS))[0]:
                if await request.is_disconnected():
                    return Response()
            return response_of(making.result())
        finally:
            is_here = False
            leave()

    @api.get("/plan", response_model=PlanResponse)
    async def night(request: Request, caller: MayChange) -> Response:
        """Tell what the next night would do, and why. Registries are asked, so it may take a minute."""
        return await answer(request, caller, plans.night)

    async def prune(request: Request, caller: MayChange, **options: Any) -> Response:
        return await answer(request, caller, lambda: plans.prune(kind.request(None, kind.read(options)).request))

    kind = KINDS["prune"]
    typed = [parameter("request", Request), parameter("caller", MayChange), *query_of(kind)]
    doc = "Tell what a prune would do now. It removes nothing."
    api.get("/plan/prune", response_model=PlanResponse)(with_signature(prune, "prune", doc, typed))

    return api


def _retrieve(making: "asyncio.Task[bytes]") -> None:
    """Take its failure: when its caller has left nobody else does, and asyncio complains of that."""
    if not making.cancelled():
        making.exception()
