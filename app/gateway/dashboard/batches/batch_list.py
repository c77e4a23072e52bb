"""Batches over HTTP beside the dialects' own routes: list them, tell of one, end one.

An administrator sees all of them, others their own; to a caller who may not see one, it is not there. All who look
within two seconds share one look at the store.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query, Response
from loguru import logger

from app.gateway.auth.keys import Caller
from app.gateway.catalog.shared_answer import SharedAnswer
from app.gateway.dashboard.batches.batch_entries import BatchEntry, BatchesResponse, BatchId
from app.gateway.event_loop.long_answers import response_of
from app.gateway.ops.ledger_pool import LedgerPool
from app.gateway.ops.post_jobs import MayRead
from app.gateway.ops.schemas import Left
from app.logs import request_of_lines
from jobs.access.audit import Audit
from jobs.access.keys.key_words import ADMIN
from jobs.batches.batch_document import document_of
from jobs.batches.batch_store import Batch, BatchStore
from jobs.core.clock import Clock
from jobs.core.errors import NotFound
from jobs.core.json_text import json_bytes
from jobs.ledger.kinds import BATCHES_LANE
from jobs.ledger.ledger import Ledger
from jobs.store.protocols import ShrinkingDict

LISTED = 20
LISTED_AT_MOST = 1_000

ALL = 1 << 40
"""More than there will ever be."""


@dataclass(frozen=True)
class BatchList:
    """The batches behind the routes. The event loop asks; threads of the pool wait for the store.

    Args:
        facts: the ledger's dict.
        ledger_pool: asks the ledger.
        clock: the time.
        audit: where it is written down who did what.
        send_worker: starts a worker for a lane.

    """

    facts: ShrinkingDict
    ledger_pool: LedgerPool
    clock: Clock
    audit: Audit
    send_worker: Callable[[str], object]

    async def all(self) -> Sequence[Batch]:
        """All batches, the newest first."""
        return await self.ledger_pool.look_up(lambda ledger: self._store(ledger).list(limit=ALL).batches)

    async def find(self, caller: Caller, id: str) -> Batch:
        """A batch that this caller may see.

        Raises:
            NotFound: there is none.

        """
        return _seen(await self.ledger_pool.look_up(lambda ledger: self._store(ledger).find(id)), caller, id)

    async def cancel(self, caller: Caller, id: str, request: str) -> Batch:
        """Ask a batch to end; what is done of it stays. One that has ended stays as it is.

        Raises:
            NotFound: there is none that this caller may see.

        """

        def cancelling(ledger: Ledger) -> Batch:
            store = self._store(ledger)
            batch = _seen(store.find(id), caller, id)
            if batch.has_ended:
                return batch
            with self._act(caller, id, request):
                batch = store.cancel(id, by=caller.name)
            self._send()
            return batch

        return await self.ledger_pool.do(cancelling)

    def _store(self, ledger: Ledger) -> BatchStore:
        return BatchStore(self.facts, ledger, self.clock)

    def _act(self, caller: Caller, id: str, request: str) -> AbstractContextManager[object]:
        """Only what administrators do is written down."""
        if not caller.may(ADMIN):
            return nullcontext()
        return self.audit.act(who=caller.name, request=request, act="cancel", subject=id)

    def _send(self) -> None:
        """Have a worker come, who ends it. One that cannot be sent now loses nothing: the next sweep sends again."""
        try:
            self.send_worker(BATCHES_LANE)
        except Exception as error:  # noqa: BLE001 - it is asked to end, whatever the platform says now
            logger.warning("lane {} could not be sent a worker: {}", BATCHES_LANE, type(error).__name__)


def sees_batch(caller: Caller, owner: str) -> bool:
    """Whether a caller is told of a batch: of his own always, as an administrator of all models of others' as well."""
    return owner == caller.name or (caller.may(ADMIN) and not caller.models)


def _seen(batch: Batch | None, caller: Caller, id: str) -> Batch:
    if batch is None or not sees_batch(caller, batch.record.owner):
        raise NotFound(f"there is no batch {id[:64]!r}", hint="`ollama-modal batches` lists them")
    return batch


def router(batches: BatchList) -> APIRouter:
    api = APIRouter(prefix="/batches", tags=["batches"])
    looked = SharedAnswer(batches.all, batches.ledger_pool.shared_for)

    @api.get("", response_model=BatchesResponse)
    async def list_batches(
        caller: MayRead,
        after: Annotated[
            str | Left, Query(max_length=100, description="The id of the last one that is known already")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=LISTED_AT_MOST, description="How many on a page")] = LISTED,
    ) -> Response:
        """List batches, the newest first: an administrator's are all, another's his own."""
        found = await looked(batches.ledger_pool.changes)
        mine = [each for each in found if sees_batch(caller, each.record.owner)]
        known = next((n for n, each in enumerate(mine, 1) if each.id == after), 0)
        documents = [document_of(each) for each in mine[known : known + limit]]
        return response_of(json_bytes({"batches": documents, "more": known + limit < len(mine)}))

    @api.get("/{id}", response_model=BatchEntry)
    async def show_batch(id: BatchId, caller: MayRead) -> Response:
        """Tell how a batch stands."""
        return response_of(json_bytes(document_of(await batches.find(caller, id))))

    @api.post("/{id}/cancel", response_model=BatchEntry)
    async def cancel_batch(id: BatchId, caller: MayRead) -> Response:
        """Ask a batch to end. What is done of it stays, and can be read; one that has ended stays as it is."""
        batch = await batches.cancel(caller, id, request_of_lines.get())
        return response_of(json_bytes(document_of(batch)))

    return api
