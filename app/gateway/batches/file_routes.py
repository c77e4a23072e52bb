"""OpenAI's files, as far as batches need them: `/v1/files`, one of them, and its content."""

from contextlib import suppress
from datetime import datetime, timedelta

from app.gateway.batches import told
from app.gateway.batches.asked import is_descending, kept_seconds, limit_of, parameters
from app.gateway.batches.download import send_file
from app.gateway.batches.parts import BatchContext, find_file, lists_of, owner_of
from app.gateway.batches.received import pieces
from app.gateway.batches.upload_form import UploadForm, too_large
from app.gateway.protocol.errors import TooLarge
from app.gateway.protocol.exchange import JSON, Exchange
from jobs.access.keys.key_words import CHAT
from jobs.batches.batch_store import BatchStore
from jobs.batches.files.file_writer import FileWriter
from jobs.batches.files.files_due import expect
from jobs.batches.records import FileRecord
from jobs.core.errors import BadRequest, Trouble
from jobs.core.json_text import json_bytes

MOST_PAGE = 10_000

MOST_FORM = 64 * 1024
"""Bytes of a form beside its file."""

OCTETS = b"application/octet-stream"


class FileRoutes:
    """Belongs to one event loop."""

    def __init__(self, context: BatchContext) -> None:
        self._context = context

    async def all(self, exchange: Exchange) -> None:
        """`/v1/files`."""
        if exchange.method == "POST":
            file = await self._upload(exchange)
            await exchange.answer(told.openai_file(file))
        else:
            await exchange.answer_bytes(
                await self._context.files(exchange.caller, lambda _: self._page(exchange)), 200, JSON
            )

    async def one(self, exchange: Exchange) -> None:
        """`/v1/files/{id}`."""
        if exchange.method == "DELETE":
            await self._delete(exchange)
            await exchange.answer({"id": exchange.below, "object": "file", "deleted": True})
        else:
            file = await self._find(exchange)
            await exchange.answer(told.openai_file(file))

    async def content(self, exchange: Exchange) -> None:
        """`/v1/files/{id}/content`."""
        context, id = self._context, exchange.below
        file = await self._find(exchange, for_content=True)
        await send_file(
            exchange,
            context.threads,
            lambda offset, size: context.storage.read(id, offset, size),
            size=file.bytes,
            content_type=OCTETS,
        )

    async def _find(self, exchange: Exchange, *, for_content: bool = False) -> FileRecord:
        caller, id = exchange.caller, exchange.below
        return await self._context.files(
            caller, lambda storage: find_file(storage, caller, id, for_content=for_content)
        )

    def _page(self, exchange: Exchange) -> bytes:
        said = parameters(exchange.connection.query)
        limit, purpose, after = (
            limit_of(said, default=MOST_PAGE, most=MOST_PAGE),
            said.get("purpose"),
            said.get("after"),
        )
        files = [
            each
            for each in self._context.storage.files(lists_of(exchange.caller))
            if purpose in {None, "", each.purpose}
        ]
        if not is_descending(said):
            files.reverse()
        first = 0
        if after:
            place = next((n for n, each in enumerate(files) if each.id == after), None)
            if place is None:
                raise BadRequest(f"after {after[:64]!r} is no file of this list")
            first = place + 1
        page = [told.openai_file(each) for each in files[first : first + limit]]
        return json_bytes(told.openai_page(page, has_more=first + limit < len(files)))

    async def _upload(self, exchange: Exchange) -> FileRecord:
        context = self._context
        exchange.caller.need(CHAT)  # who may only look after the service infers nothing, at night either
        most = context.parts.limits.most_file_bytes
        give_back = context.uploads.take(exchange.caller.name)
        #: Made by the thread that finds the file in the form, which nobody runs beside the others.
        begun: list[FileWriter] = []

        def begin(filename: str) -> FileWriter:
            begun.append(context.storage.begin(owner_of(exchange.caller), filename, most_bytes=None))
            return begun[0]

        try:
            form = UploadForm(_content_type(exchange), begin, most_bytes=most)
            try:
                async for piece in pieces(exchange, most=most + MOST_FORM, seconds=context.body_seconds):
                    await context.pieces(form.feed, piece)
            except TooLarge as error:
                raise too_large(most) from error
            form.need_end()
            kept, keep = _kept(form.fields), context.parts.limits.keep
            expires_at = begun[0].created_at + min(kept or keep, keep)
            return await context.pieces(self._finished, begun[0], expires_at)
        except BaseException:
            if begun:
                with suppress(Trouble):  # what is left is pruned, and why it is refused is what counts
                    await context.pieces(begun[0].abandon)
            raise
        finally:
            give_back()

    def _finished(self, writer: FileWriter, expires_at: datetime) -> FileRecord:
        """Have the file there; and the night know when it is over, should no batch be posted of it."""
        record = writer.finish(expires_at=expires_at)
        expect(self._context.facts, expires_at)
        return record

    async def _delete(self, exchange: Exchange) -> None:
        context, id = self._context, exchange.below
        file = await self._find(exchange)

        def delete(store: BatchStore) -> None:
            reading = store.needs_file(id) if file.purpose == "batch" else None
            if reading is not None:
                raise BadRequest(
                    f"file {id!r} is read by batch {reading.id!r}", hint="cancel it first, or wait until it has ended"
                )
            with context.act(exchange, "file-delete", id):
                context.storage.delete(id)

        await context.batches(exchange.caller, delete)


def _content_type(exchange: Exchange) -> bytes:
    return next((value for name, value in exchange.headers if name == b"content-type"), b"")


def _kept(fields: dict[str, str]) -> timedelta | None:
    """How long a file is wanted to be kept, of a form that may be one of a batch's file.

    Raises:
        BadRequest: it is for something else, or says what means nothing.

    """
    purpose = fields.get("purpose")
    if purpose != "batch":
        said = f"purpose {purpose[:40]!r} is not served here" if purpose else "the form has no `purpose`"
        raise BadRequest(said, hint="say `batch`: files are only for batches here")
    if unknown := sorted(set(fields) - _FIELDS):
        raise BadRequest(f"field {unknown[0][:40]!r} is none that we know", hint=f"say {', '.join(sorted(_FIELDS))}")
    seconds = kept_seconds(fields.get(_ANCHOR), fields.get(_SECONDS), "expires_after")
    return timedelta(seconds=seconds) if seconds is not None else None


_ANCHOR, _SECONDS = "expires_after[anchor]", "expires_after[seconds]"
_FIELDS = {"purpose", _ANCHOR, _SECONDS}
