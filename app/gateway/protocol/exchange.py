"""One request and the means to answer it: what every handler of the gateway is given."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from starlette.types import ASGIApp, Message, Receive, Send
from uvicorn.protocols.http.flow_control import FlowControl

from app.gateway.auth.keys import BatchLine, Caller
from app.gateway.protocol.headers import Header
from app.gateway.protocol.routes import RouteEntry
from jobs.core.errors import Trouble

JSON = b"application/json; charset=utf-8"


class ChunkCaller(Protocol):
    """The connection of a caller whose answer has begun, as whoever passes chunks on sees it."""

    transport: asyncio.Transport
    """Takes chunks while the caller does."""
    flow: FlowControl
    """Says whether that is so."""
    disconnected: bool
    """Whether the caller has left before the end of the answer."""


class CallerConnection(Protocol):
    """The connection that a request came by, as far as ASGI does not say it."""

    @property
    def decided(self) -> Any:
        """What was made of the same head before, on this connection; None where nothing."""

    def decide(self, decided: object, app: ASGIApp | None = None, begin: Any = None, /) -> None:
        """Keep this for the next request with the same head. If they are given, `begin` is called with its cycle and
        answers it, or has a task do it, in which this application answers."""

    def take(self) -> bytearray | None:
        """The body, if all of it has come; else None, and it is there for `receive`."""

    @property
    def query(self) -> bytes:
        """What stands behind the `?` of the address."""

    @property
    def is_gone(self) -> bool:
        """Whether the caller has left before the end of the answer."""

    def cancel_when_gone(self) -> None:
        """Have the task that answers cancelled, once, if the caller leaves before the end of the answer."""

    async def send(self, message: Message, /) -> None:
        """As ASGI has it."""

    def begin(self, status: int, headers: Sequence[Header], /) -> None:
        """The head of an answer; where it `is_full`, wait for `room` before."""

    def write(self, piece: bytes, /, *, is_last: bool = False) -> None:
        """A piece of the body of an answer that has begun; where it `is_full`, wait for `room` before."""

    def write_chunk(self, piece: bytes, chunk: bytes, /) -> bool:
        """A piece as `write` takes it, which may be a chunk already; false, and nothing is done, where it `is_full`."""

    def chunks_to(self) -> ChunkCaller | None:
        """What takes chunks that are pieces of this answer, past `write_chunk`, while the caller is there and takes
        them. None where the answer takes no chunks, or its head has not gone out."""

    @property
    def is_full(self) -> bool:
        """Whether the caller does not take what was written."""

    async def room(self) -> None:
        """Wait until the caller takes more, or leaves."""


def _nothing() -> None:
    """Gives up no hold."""


def _keep_nothing() -> Callable[[], None]:
    return _nothing


@dataclass(slots=True)
class Exchange:
    """A request whose key is known and whose body has been read, but where it `is_streamed`.

    Args:
        id: names it in logs and in the answer's `x-request-id`.
        entry: what the table says about its path.
        below: what stands in the braces of the entry's path.
        method: as the caller said it.
        headers: of the request, names in lower case.
        body: all of it; empty once it is not needed any more.
        caller: whose key it came with.
        at: when it came.
        began: the same on the clock that never goes back.
        send: sends the head of an answer, as ASGI has it.
        connection: takes what comes behind the head.
        to_server: what of the headers goes on to a server, as it is written there.

    """

    id: str
    entry: RouteEntry
    below: str
    method: str
    headers: Sequence[Header]
    body: bytes | bytearray
    caller: Caller
    at: datetime
    began: float
    send: Send = field(repr=False)
    connection: CallerConnection = field(repr=False)
    to_server: bytes = field(default=b"", repr=False)
    batch_line: BatchLine | None = None
    """Where it sends a line of a batch."""
    ended_for: Trouble | None = None
    """Why it was ended from here: its key is good no more, or it is a line that gave way."""
    head_start: Any = None
    """What was done for it before it had a task; of whoever passes it on."""
    status: int = 0
    """What it was answered; 0 as long as it was not."""
    is_recorded: bool = False
    """Whether the handler records it."""
    keep: Callable[[], Callable[[], None]] = field(default=_keep_nothing, repr=False)
    """Keeps the body until what is returned is called, beyond the end of the request if need be."""
    drop: Callable[[], None] = field(default=_nothing, repr=False)
    """Gives up the request's own hold on the body."""
    told: Callable[[], Sequence[Header]] | None = field(default=None, repr=False)
    """Makes what the head of the answer tells of the key's limits, where it has some."""
    receive: Receive | None = field(default=None, repr=False)
    """Where the body is handed on as it comes: waits for more of it."""

    @property
    def is_gone(self) -> bool:
        """Whether the caller has left."""
        return self.connection.is_gone

    @property
    def is_direct(self) -> bool:
        """Whether nobody stands between us and the connection who would add something to a head."""
        return self.send == self.connection.send

    def forget_body(self) -> None:
        """It has gone where it had to go."""
        self.body = b""
        self.drop()

    async def answer(self, document: Any, status: int = 200, *, more: Sequence[Header] = ()) -> None:
        """A whole answer: JSON."""
        await self.answer_bytes(
            json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode(), status, JSON, more=more
        )

    async def answer_bytes(self, body: bytes, status: int, content_type: bytes, *, more: Sequence[Header] = ()) -> None:
        await self.begin(status, [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), *more])
        self.connection.write(b"" if self.method == "HEAD" else body, is_last=True)

    async def begin(self, status: int, headers: Sequence[Header]) -> None:
        """The head of an answer."""
        self.status = status
        with_id = [*headers, (b"x-request-id", self.id.encode())]
        if self.told is not None:
            with_id += self.told()
        if self.is_direct:
            if self.connection.is_full:
                await self.connection.room()
            self.connection.begin(status, with_id)
        else:
            await self.send({"type": "http.response.start", "status": status, "headers": with_id})

    async def write(self, piece: bytes) -> None:
        """A piece of the body, once the caller's side has room for it."""
        if self.connection.is_full:
            await self.connection.room()
        self.connection.write(piece)

    async def end(self, piece: bytes = b"") -> None:
        """The end of the body, with its last piece."""
        if self.connection.is_full:
            await self.connection.room()
        self.connection.write(piece, is_last=True)


Handler = Callable[[Exchange], Awaitable[None]]
