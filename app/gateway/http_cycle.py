"""One request and its answer, as the gateway's server hands it to the application: uvicorn's, with fewer steps.

The head of an answer waits for the first piece of its body, but never beyond the turn of the event loop in which it was
said: a short answer is written at once with its head, and so is the beginning of a stream that is there already.
"""

import asyncio
from abc import abstractmethod
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from app.gateway.protocol.header_lines import header_line, header_lines

if TYPE_CHECKING:
    from app.gateway.direct.answer import DirectAnswer
    from app.gateway.direct.shared import Begin
    from app.gateway.http_head import ReadHead

CALLER = "ollama_modal.caller"
"""The extension of an ASGI scope that holds the cycle of a request."""

_NO_BODY = frozenset({204, 304})


class CallersProtocol(HttpToolsProtocol):
    """A connection of callers, as its cycles know it: uvicorn's, that begins a task where one asks for it."""

    @abstractmethod
    def begin_task(self, cycle: "HttpCycle") -> None:
        """Have a task answer a request."""


class HttpCycle(RequestResponseCycle):
    """Belongs to the event loop of its connection. To the application it is `Caller`, beside what ASGI has."""

    def __init__(self, protocol: "CallersProtocol", scope: Any, *, keep_alive: bool, is_old: bool = False) -> None:
        """
        Args:
            protocol: of the connection, which has just read the head.
            scope: as ASGI has it.
            keep_alive: the connection is for other requests afterwards, as far as this one says.
            is_old: the request is of HTTP/1.0, which has no chunks: what has no length ends with the connection.

        """
        # All that uvicorn's own has, without its steps.
        self.scope = scope
        self.transport = protocol.transport
        self.flow = protocol.flow
        self.logger = protocol.logger
        self.default_headers = protocol.server_state.default_headers
        self.keep_alive = keep_alive
        self.waiting_for_100_continue = protocol.expect_100_continue
        self.body = bytearray()
        self._protocol = protocol
        self._loop = protocol.loop
        self._tasks = protocol.tasks
        self._is_old = is_old
        self._has_no_body = scope["method"] == "HEAD"

    # What each begins with, and few change, is not put down for each.

    disconnected = False
    more_body = True
    response_started = False
    response_complete = False
    chunked_encoding: bool | None = None
    expected_content_length = 0
    task: asyncio.Task[None] | None = None
    read_head: "ReadHead | None" = None
    """The head, where it is one that may come again."""
    length = b""
    """Of the body, in the digits of a head that has come again."""
    head_start: Any = None
    """What was done for it before its task."""
    direct: "DirectAnswer | None" = None
    """What answers it while it has no task."""
    _protocol: "CallersProtocol | None" = None
    _message_event: asyncio.Event | None = None
    _is_body_here = False
    """All of it came with its head, and nobody has taken it."""
    _is_unframed = False
    _head = b""
    _is_cancelled_when_gone = False

    # What the application may ask beside ASGI

    @property
    def decided(self) -> Any:
        """What the application has made of the same head before, on this connection; None where nothing."""
        return self.read_head and self.read_head.decided

    def decide(self, decided: object, app: Any = None, begin: "Begin | None" = None) -> None:
        """Keep this for the next request with the same head. If they are given, `begin` is called with its cycle and
        answers it, or has a task do it, in which this application answers."""
        if self.read_head is not None:
            self.read_head.decided = decided
            self.read_head.app = app
            self.read_head.begin = begin

    def take(self) -> bytearray | None:
        """The body, if all of it has come; else None, and it is there for `receive`."""
        if self.more_body or self.disconnected:
            return None
        body, self.body = self.body, bytearray()
        self._is_body_here = False
        if self._message_event is not None:
            self._message_event.clear()
        return body

    @property
    def query(self) -> bytes:
        """What stands behind the `?` of the address."""
        query: bytes = self.scope["query_string"]
        return query

    @property
    def is_gone(self) -> bool:
        """Whether the caller has left before the end of the answer."""
        return self.disconnected

    def cancel_when_gone(self) -> None:
        """Have the task that answers cancelled, once, if the caller leaves before the end of the answer."""
        self._is_cancelled_when_gone = True
        if self.disconnected:
            assert self.task is not None
            self._loop.call_soon(self.task.cancel)
        elif self.flow.read_paused:
            self.flow.resume_reading()  # else nothing would be heard of it

    def write(self, piece: bytes, *, is_last: bool = False) -> None:
        """A piece of the body of an answer that has begun; where `is_full`, wait for room before."""
        if self.disconnected:
            return
        if self.chunked_encoding and piece and not is_last and not self._head and not self._has_no_body:
            self.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))  # as nearly all of a stream
        else:
            self._write(piece, is_last=is_last)

    def write_chunk(self, piece: bytes, chunk: bytes) -> bool:
        """A piece as `write` takes it, which may be a chunk already; false, and nothing is done, where it `is_full`."""
        if self.flow.write_paused and not self.disconnected:
            return False
        if chunk and self.chunked_encoding and not (self._head or self._has_no_body or self.disconnected):
            self.transport.write(chunk)
        else:
            self.write(piece)
        return True

    def chunks_to(self) -> "HttpCycle | None":
        """What takes chunks that are pieces of this answer, past `write_chunk`, while the caller is there and takes
        them. None where the answer takes no chunks, or its head has not gone out."""
        return self if self.chunked_encoding and not (self._head or self._has_no_body) else None

    @property
    def is_full(self) -> bool:
        """Whether the caller does not take what was written, and more should wait for `room`."""
        return self.flow.write_paused and not self.disconnected

    async def room(self) -> None:
        """Wait until the caller takes more, or leaves."""
        await self.flow.drain()

    def answer(self, status: int, lines: bytes, body: bytes) -> None:
        """All of an answer at once; `lines` are its head's, as they are written, without those about the rest."""
        if self.disconnected:
            return
        self.response_started = True
        self.chunked_encoding = False
        self.transport.write(
            b"%b%b%bcontent-length: %d\r\n%b\r\n%b" % (
                STATUS_LINE[status],
                _remembered_lines(*self.default_headers),
                lines,
                len(body),
                b"" if self.keep_alive else b"connection: close\r\n",
                body,
            )
        )  # fmt: skip
        self._complete()

    def begin_stream(self, lines: bytes, piece: bytes) -> None:
        """The head of an answer in chunks, with its first piece; `lines` as `answer` has them."""
        if self.disconnected:
            return
        self.response_started = True
        self.chunked_encoding = True
        self.transport.write(
            b"%b%b%b%btransfer-encoding: chunked\r\n\r\n%b" % (
                STATUS_LINE[200],
                _remembered_lines(*self.default_headers),
                lines,
                b"" if self.keep_alive else b"connection: close\r\n",
                b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b"",
            )
        )  # fmt: skip

    # What the connection does with it

    def begin_again(self, length: bytes, body: memoryview) -> None:
        """Answer a request whose head has come again, and whose body is here."""
        self.length = length
        self.body += body
        self.more_body = False
        self._is_body_here = True
        head = self.read_head
        assert head is not None
        if head.begin is None:
            self.start_task()
        else:
            head.begin(self)

    def start_task(self) -> None:
        """Have a task answer a request whose head has come again."""
        assert self.read_head is not None
        assert self._protocol is not None
        scope: Any = self.read_head.scope_with(self.length)
        scope["state"] = self._protocol.app_state.copy()
        scope["extensions"] = {CALLER: self}
        self.scope = scope
        self._protocol.begin_task(self)

    @property
    def message_event(self) -> asyncio.Event:  # type: ignore[override] # uvicorn's is made for each, and rarely used
        """Tells who waits for more of the body."""
        if self._message_event is None:
            self._message_event = asyncio.Event()
            if self._is_body_here:
                self._message_event.set()
        return self._message_event

    async def run(self, app: Any) -> None:
        """Have it answered. An answer that was begun and not ended takes its connection with it."""
        if self.read_head is not None and self.read_head.app is not None:
            app = self.read_head.app
        try:
            await app(self.scope, self.receive, self.send)
        except BaseException:
            self.logger.exception("Exception in ASGI application")
        try:
            if not self.response_started:
                await self.send_500_response()
            elif not self.response_complete and not self.disconnected:
                self._send_head()
                self.transport.close()
        finally:
            self._protocol = None
            if self.head_start is not None:
                self.head_start.drop()
                self.head_start = None
            self._is_cancelled_when_gone = False
            self.scope = {}  # type: ignore[typeddict-item] # of nobody
            if self.task is not None:
                self._tasks.discard(self.task)

    def lost(self) -> None:
        """The caller has left."""
        if self.response_complete:
            return
        self.disconnected = True
        if self.direct is not None:
            self.direct.gone()
        if self._is_cancelled_when_gone and self.task is not None:
            self._is_cancelled_when_gone = False
            self.task.cancel()

    @property
    def is_answer_sent(self) -> bool:
        """Whether a client has all of the answer already, by its length, though its end was not noted here yet."""
        is_all = not self.chunked_encoding and not self._is_unframed and self.expected_content_length == 0
        return self.response_started and is_all and not self._head

    def begin(self, status: int, headers: Any) -> None:
        """The head of an answer; where `is_full`, wait for room before."""
        if not self.disconnected:
            if self.response_started:
                raise RuntimeError("an answer was begun twice")
            self._begin(status, headers)

    # ASGI

    async def send(self, message: Any) -> None:
        """As ASGI has it."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if self.response_complete or (message["type"] == "http.response.start") is self.response_started:
            raise RuntimeError(f"ASGI message {message['type']!r} came where it may not")
        if self.response_started:
            self._write(message.get("body", b""), is_last=not message.get("more_body", False))
        else:
            self._begin(message["status"], message.get("headers", ()))

    def _begin(self, status: int, headers: Any) -> None:
        self.response_started = True
        self.waiting_for_100_continue = False
        lines = [STATUS_LINE[status], *[_remembered_line(name, value) for name, value in self.default_headers]]
        closes = False
        for said, value in headers:
            name = said.lower()
            lines.append(_remembered_line(name, value) if name in _REMEMBERED else header_line(name, value))
            if name not in _ABOUT_THE_REST:
                continue
            if name == b"content-length" and self.chunked_encoding is None:
                self.expected_content_length = int(value)
                self.chunked_encoding = False
            elif name == b"transfer-encoding" and value.lower() == b"chunked":
                self.expected_content_length = 0
                self.chunked_encoding = True
            elif name == b"connection" and b"close" in [token.strip() for token in value.lower().split(b",")]:
                self.keep_alive, closes = False, True
        if not self.keep_alive and not closes:
            lines.append(b"connection: close\r\n")
        if self.chunked_encoding is None and self._is_old:
            self.chunked_encoding, self._is_unframed = False, True
        elif self.chunked_encoding is None and not self._has_no_body and status not in _NO_BODY:
            self.chunked_encoding = True
            lines.append(b"transfer-encoding: chunked\r\n")
        lines.append(b"\r\n")
        self._head = b"".join(lines)
        self._loop.call_soon(self._send_head)

    def _send_head(self) -> None:
        """Send a head that no piece of a body took along."""
        if self._head and not self.disconnected:
            self.transport.write(self._head)
        self._head = b""

    def _write(self, body: bytes, *, is_last: bool) -> None:
        head = self._head
        if self._has_no_body:
            self.expected_content_length = 0
            said = head
        elif self.chunked_encoding:
            said = b"%b%x\r\n%b\r\n" % (head, len(body), body) if body else head
            if is_last:
                said += b"0\r\n\r\n"
        else:
            if not self._is_unframed:
                self._count(len(body), is_last=is_last)
            said = head + body if head else body
        self._head = b""
        if said:
            self.transport.write(said)
        if is_last:
            self._complete()

    def _complete(self) -> None:
        """Leave the connection to the next request."""
        self.response_complete = True
        if self._message_event is not None:
            self._message_event.set()
        if not self.keep_alive:
            self.transport.close()
        if (protocol := self._protocol) is not None:
            self._protocol = None
            protocol.on_response_complete()

    def _count(self, size: int, *, is_last: bool) -> None:
        if size > self.expected_content_length:
            raise RuntimeError("Response content longer than Content-Length")
        self.expected_content_length -= size
        if is_last and self.expected_content_length:
            raise RuntimeError("Response content shorter than Content-Length")


_remembered_line = lru_cache(256)(header_line)
_remembered_lines = lru_cache(4)(header_lines)
_ABOUT_THE_REST = frozenset({b"content-length", b"transfer-encoding", b"connection"})
_REMEMBERED = frozenset({b"content-type", b"x-served-model", b"x-served-tier"})
"""Beside our own, those that are the same again and again."""
