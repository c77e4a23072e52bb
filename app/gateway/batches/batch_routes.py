"""OpenAI's batches: `/v1/batches`, one of them, and its cancel."""

from app.gateway.batches import told
from app.gateway.batches.acts import cancel, post
from app.gateway.batches.asked import (
    asked_of,
    endpoint_of,
    input_file_of,
    kept_seconds,
    limit_of,
    members_of,
    parameters,
)
from app.gateway.batches.parts import BatchContext, batch_id, find_batch, find_file, lists_of, owner_of
from app.gateway.protocol.exchange import JSON, Exchange
from jobs.access.keys.key_words import CHAT
from jobs.batches.batch_store import BatchStore
from jobs.batches.records import BatchRecord, FileRecord
from jobs.core.errors import BadRequest
from jobs.core.foreign import fields
from jobs.core.json_text import json_bytes

USUAL_PAGE, MOST_PAGE = 20, 100


class BatchRoutes:
    """Belongs to one event loop."""

    def __init__(self, context: BatchContext) -> None:
        self._context = context

    async def all(self, exchange: Exchange) -> None:
        """`/v1/batches`."""
        if exchange.method == "POST":
            await self._post(exchange)
        else:
            await self._list(exchange)

    async def one(self, exchange: Exchange) -> None:
        """`/v1/batches/{id}`."""
        found = await self._context.batches(
            exchange.caller,
            lambda store: told.openai_batch(find_batch(store, exchange.caller, exchange.below, "openai")),
        )
        await exchange.answer(found)

    async def cancel(self, exchange: Exchange) -> None:
        """`/v1/batches/{id}/cancel`."""
        batch = await cancel(self._context, exchange, "openai")
        await exchange.answer(told.openai_batch(batch))

    async def _list(self, exchange: Exchange) -> None:
        said = parameters(exchange.connection.query)
        limit = limit_of(said, default=USUAL_PAGE, most=MOST_PAGE)

        def page(store: BatchStore) -> bytes:
            found = store.list(lists_of(exchange.caller), dialect="openai", after=said.get("after"), limit=limit)
            documents = [told.openai_batch(each) for each in found.batches]
            return json_bytes(told.openai_page(documents, has_more=found.has_more))

        await exchange.answer_bytes(await self._context.batches(exchange.caller, page), 200, JSON)

    async def _post(self, exchange: Exchange) -> None:
        context, caller = self._context, exchange.caller
        caller.need(CHAT)
        members, now = members_of(exchange.body), context.clock.now()
        asked, endpoint = asked_of(members, now, context.parts.zone), endpoint_of(members)
        kept = fields(members.get("output_expires_after"))
        id = input_file_of(members)
        file = await context.files(caller, lambda storage: find_file(storage, caller, id, for_content=True))
        _need_input(file)
        record = BatchRecord(
            id=batch_id(exchange, "openai"),
            dialect="openai",
            owner=owner_of(caller),
            input_file_id=file.id,
            endpoint=endpoint,
            completion_window=asked.completion_window,
            created_at=now,
            expires_at=asked.expires_at,
            start=asked.start or context.parts.limits.start,
            max_dollars=asked.max_dollars,
            metadata=asked.metadata,
            posted_by=caller.name,
            results_kept_seconds=kept_seconds(kept.get("anchor"), kept.get("seconds"), "output_expires_after"),
        )
        batch = await post(context, caller, record)
        await exchange.answer(told.openai_batch(batch))


def _need_input(file: FileRecord) -> None:
    """
    Raises:
        BadRequest: the file holds results.
    """
    if file.purpose != "batch":
        raise BadRequest(
            f"file {file.id!r} has the purpose {file.purpose!r}", hint="upload the lines with purpose=batch"
        )
