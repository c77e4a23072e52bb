"""Anthropic's batches of messages: `/v1/messages/batches`, one of them, its results, and its cancel."""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NoReturn

from app.gateway.batches import told
from app.gateway.batches.acts import cancel, post
from app.gateway.batches.asked import Asked, asked_of, limit_of, parameters
from app.gateway.batches.download import send_file
from app.gateway.batches.parts import BatchContext, batch_id, find_batch, lists_of, owner_of
from app.gateway.batches.received import pieces
from app.gateway.batches.requests_list import RequestsList
from app.gateway.protocol.exchange import JSON, Exchange
from jobs.access.keys.key_words import CHAT
from jobs.batches.batch_store import Batch, BatchStore
from jobs.batches.files.file_writer import FileWriter
from jobs.batches.lines.custom_ids import CustomIds
from jobs.batches.lines.line_check import MOST_CUSTOM_ID, MOST_LINE_BYTES
from jobs.batches.records import BatchRecord, FileRecord
from jobs.core.errors import BadRequest, NotFound, Trouble
from jobs.core.json_text import json_bytes

USUAL_PAGE, MOST_PAGE = 20, 1000
JSON_LINES = b"application/x-jsonl"
ENDPOINT = "/v1/messages"


class MessageBatchRoutes:
    """Belongs to one event loop."""

    def __init__(self, context: BatchContext) -> None:
        self._context = context

    async def all(self, exchange: Exchange) -> None:
        """`/v1/messages/batches`."""
        if exchange.method == "POST":
            await self._post(exchange)
        else:
            await self._list(exchange)

    async def one(self, exchange: Exchange) -> None:
        """`/v1/messages/batches/{id}`."""
        if exchange.method == "DELETE":
            await self._delete(exchange)
            await exchange.answer({"id": exchange.below, "type": "message_batch_deleted"})
        else:
            await exchange.answer(told.message_batch(await self._find(exchange)))

    async def results(self, exchange: Exchange) -> None:
        """`/v1/messages/batches/{id}/results`."""
        context = self._context
        batch = await self._find(exchange, for_content=True)
        if not batch.has_ended:
            raise BadRequest(f"batch {batch.id!r} has not ended yet", hint="ask for it until `results_url` is there")
        id = batch.end.output_file_id if batch.end is not None else None
        file = await context.files(exchange.caller, lambda storage: storage.file(id)) if id is not None else None
        if id is not None and file is None:
            raise NotFound(f"the results of batch {batch.id!r} are kept no more")
        await send_file(
            exchange,
            context.threads,
            lambda offset, count: context.storage.read(str(id), offset, count),
            size=file.bytes if file is not None else 0,
            content_type=JSON_LINES,
        )

    async def cancel(self, exchange: Exchange) -> None:
        """`/v1/messages/batches/{id}/cancel`."""
        await exchange.answer(told.message_batch(await cancel(self._context, exchange, "anthropic")))

    async def _find(self, exchange: Exchange, *, for_content: bool = False) -> Batch:
        return await self._context.batches(
            exchange.caller,
            lambda store: find_batch(store, exchange.caller, exchange.below, "anthropic", for_content=for_content),
        )

    async def _list(self, exchange: Exchange) -> None:
        said = parameters(exchange.connection.query)
        limit = limit_of(said, default=USUAL_PAGE, most=MOST_PAGE)
        after, before = said.get("after_id"), said.get("before_id")
        if after and before:
            raise BadRequest("after_id and before_id are both there", hint="say one of them")

        def page(store: BatchStore) -> bytes:
            whose = lists_of(exchange.caller)
            found = store.list(whose, dialect="anthropic", after=after, before=before, limit=limit)
            documents = [told.message_batch(each) for each in found.batches]
            return json_bytes(told.message_page(documents, has_more=found.has_more))

        await exchange.answer_bytes(await self._context.batches(exchange.caller, page), 200, JSON)

    async def _post(self, exchange: Exchange) -> None:
        context, caller = self._context, exchange.caller
        caller.need(CHAT)
        id = batch_id(exchange, "anthropic")
        file, lines, asked = await self._take(exchange, id)
        record = BatchRecord(
            id=id,
            dialect="anthropic",
            owner=owner_of(caller),
            input_file_id=file.id,
            endpoint=ENDPOINT,
            completion_window=asked.completion_window,
            created_at=asked.at,
            expires_at=asked.expires_at,
            start=asked.start or context.parts.limits.start,
            max_dollars=asked.max_dollars,
            metadata=asked.metadata,
            posted_by=caller.name,
            lines=lines,
        )
        batch = await post(context, caller, record)
        if batch.record.input_file_id != file.id:  # this request was here before, with another file of the same lines
            await context.files(caller, lambda storage: storage.delete(file.id))
        await exchange.answer(told.message_batch(batch))

    async def _take(self, exchange: Exchange, id: str) -> tuple[FileRecord, int, Asked]:
        """Keep the requests as the lines of a file; how many there are, and what is asked beside them."""
        context, limits = self._context, self._context.parts.limits
        give_back = context.uploads.take(exchange.caller.name)
        writer = context.storage.begin(
            owner_of(exchange.caller),
            f"{id}.jsonl",
            expires_at=context.clock.now() + limits.keep,
            most_bytes=limits.most_file_bytes,
        )
        try:
            lines = _Lines(writer, limits.most_lines)
            requests = RequestsList(lines.add, most_bytes=MOST_LINE_BYTES)
            async for piece in pieces(exchange, most=limits.most_file_bytes, seconds=context.body_seconds):
                await context.pieces(requests.feed, piece)
            asked = asked_of(requests.members(), context.clock.now(), context.parts.zone)
            return await context.pieces(writer.finish), requests.count, asked
        except BaseException:
            with suppress(Trouble):  # what is left is pruned, and why it is refused is what counts
                await context.pieces(writer.abandon)
            raise
        finally:
            give_back()

    async def _delete(self, exchange: Exchange) -> None:
        context, id = self._context, exchange.below

        def delete(store: BatchStore) -> None:
            batch = find_batch(store, exchange.caller, id, "anthropic")
            if not batch.has_ended:
                raise BadRequest(f"batch {id!r} has not ended yet", hint="cancel it first")
            with context.act(exchange, "batch-delete", id):
                files = {batch.record.input_file_id}
                if batch.end is not None:
                    files |= {each for each in (batch.end.output_file_id, batch.end.error_file_id) if each}
                for each in sorted(files):
                    context.storage.delete(each)
                context.storage.drop_work(id)
                store.remove(id)

        await context.batches(exchange.caller, delete)


class _Lines:
    """Makes each request a line of a file. Used by one thread at a time."""

    def __init__(self, writer: FileWriter, most: int) -> None:
        self._writer = writer
        self._most = most
        self._ids = CustomIds()
        self._count = 0

    def add(self, request: bytes) -> None:
        """
        Raises:
            BadRequest: it is no request as a batch has them.
        """
        at = f"requests[{self._count}]"
        if self._count >= self._most:
            raise BadRequest(f"there are more than {self._most:,} requests", hint="make several batches of them")
        try:
            found = _DECODER.decode(request.decode())
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"{at} is no JSON", hint="send it as clients of Anthropic do") from error
        same = self._ids.add(_custom_id(found, at))
        if same is not None:
            raise BadRequest(f"{at}.custom_id is that of requests[{same - 1}], too", hint="give each one of its own")
        if not isinstance(found.get("params"), dict):
            raise BadRequest(f"{at}.params is no object", hint="it is what /v1/messages takes")
        self._count += 1
        # Outside of texts a line break is a gap, and inside of one it would be no JSON.
        self._writer.write(request.replace(b"\n", b" ").replace(b"\r", b" ") + b"\n")


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def _custom_id(request: Mapping[str, Any], at: str) -> str:
    id = request.get("custom_id")
    if not isinstance(id, str) or not 1 <= len(id) <= MOST_CUSTOM_ID:
        raise BadRequest(f"{at}.custom_id is no text of 1 to {MOST_CUSTOM_ID} characters")
    return id
