"""One connection to a server, and the exchange that is on it: HTTP/1.1 as bytes, fed to and from llhttp.

Belongs to one event loop, which its transport, its parser and the readers of its answers all run on.
"""

import asyncio
from collections.abc import Callable
from typing import cast

import httptools

from jobs.core.errors import CutShort, NetworkTrouble, ServerTrouble

HIGH_WATER = 64 * 1024
"""So much of an answer is kept for a caller who does not read, before we stop reading too."""

MOST_HEAD = 64 * 1024
"""Bytes of headers; more is no answer of an Ollama."""

SHORT = 128 * 1024
"""Bytes of a body that go out together with the head."""

SLICE = 256 * 1024
"""Bytes of a body that are handed on at a time, when the last are on their way: each slice is a copy, and encrypted by
one call on the event loop.
"""

_STALE_SECONDS = 1.0
"""A connection that was used a moment ago is not closed for being idle."""

_NO_BODY = frozenset({204, 304})
_FRAMES = frozenset({b"content-length", b"transfer-encoding"})

_MOST_DIGITS = 10
"""Bytes in which the length of a chunk is looked for, with what ends it."""

Sink = Callable[[bytes, bytes], bool]
"""Takes a piece, and the same as one chunk of HTTP, where it came as that; false if it does not."""

Receive = Callable[[bytes], None]
"""What a transport calls with what has come."""


class Connection(asyncio.Protocol):
    """One connection, and the exchange that is on it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self.is_awaited = False
        """Whether what comes next is waited for, and nothing came before it that was not taken."""
        self.transport: asyncio.Transport
        self.is_lost = False
        self.quiet_since = self._loop.time()
        self._is_busy = False
        self._sink: Sink | None = None
        self._usual: Receive | None = None
        """Received before another function does in its place."""
        self.watcher: Callable[[], None] | None = None
        """Is called when something has come of an answer, or nothing will any more, in place of those who wait for
        it."""
        self._unsent: bytes | bytearray = b""
        self._sent = 0
        self._is_full = False
        self._is_send_scheduled = False
        self._parser = httptools.HttpResponseParser(self)
        """Of all answers on this connection: one that did not end as it should is its last."""

    # One exchange

    def ask(self, head: bytes, body: bytes | bytearray) -> None:
        """Send a request. The body must stay as it is until all of it `is_sent`, or the exchange has ended."""
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.has_head = False
        self.is_complete = False
        self.is_paused = False
        self._failure: NetworkTrouble | None = CutShort("the server hung up at once") if self.is_lost else None
        self._pieces: list[bytes] = []
        self.size = 0
        """Bytes that have come and were not taken."""
        self._head_size = 0
        self._is_interim = False
        self._ends_with_connection = False
        self.is_between_chunks = False
        """Whether what comes is the beginning of a chunk: one that comes whole and by itself is no parser's matter."""
        self._sink = None
        self.watcher = None
        self.is_awaited = False
        self._is_busy = True
        self.may_be_stale = self._loop.time() - self.quiet_since > _STALE_SECONDS
        self.quiet_since = self._loop.time()
        if len(body) <= SHORT:  # one packet, or two
            self._unsent, self._sent = b"", 0
            self.transport.write(head + body)
            return
        self.transport.write(head)
        self._unsent, self._sent = body, 0
        self._send()

    @property
    def is_sent(self) -> bool:
        return not self._unsent

    def _send(self) -> None:
        """The next slice, and the others in later turns of the loop, as the server takes them."""
        self._is_send_scheduled = False
        if not self._unsent or self._is_full or self.is_lost:
            return
        piece = self._unsent[self._sent : self._sent + SLICE]
        self._sent += len(piece)
        if self._sent >= len(self._unsent):
            self._unsent = b""
        else:
            self._is_send_scheduled = True
            self._loop.call_soon(self._send)
        self.transport.write(piece)

    @property
    def heard_nothing(self) -> bool:
        return not self.has_head and not self._head_size

    @property
    def has_failed(self) -> bool:
        """Whether no more will come of the answer, though it has not ended."""
        return self._failure is not None

    def header(self, name: bytes) -> bytes:
        for key, value in self.headers:
            if key == name:
                return value
        return b""

    async def head(self) -> None:
        """Wait for status and headers.

        Raises:
            NetworkTrouble: they did not come.

        """
        while not self.has_head:
            if self._failure is not None:
                raise self._failure
            await self._wait()

    async def read(self) -> bytes:
        """What has come since the last time, as soon as there is something; empty at the end.

        Raises:
            NetworkTrouble: the answer ended before its end.

        """
        while not self._pieces:
            if self._failure is not None:
                raise self._failure
            if self.is_complete:
                return b""
            await self._wait()
        return self.take()

    def come(self) -> bytes:
        """What has come since the last time, which stays to be taken."""
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)

    def take(self) -> bytes:
        """What has come since the last time; empty where nothing has, which tells nothing of what comes."""
        if not self._pieces:
            return b""
        piece = self.come()
        self._pieces.clear()
        self.size = 0
        if self.is_paused:
            self.is_paused = False
            self.quiet_since = self._loop.time()
            self.transport.resume_reading()
        return piece

    def pass_to(self, sink: Sink) -> None:
        """From now on, hand pieces that come while a reader waits to this, which costs less than to wake the reader.

        The reader gets what it does not take, saying false; and the last piece, and whatever ends the answer.
        """
        self._sink = sink

    def receive_by(self, make: Callable[[Receive], Receive]) -> None:
        """From now on, and until the exchange ends, have another function take what comes.

        Args:
            make: makes it of ours, to which it hands all but a chunk, whole and by itself, that it passes on while the
                connection `is_between_chunks` and `is_awaited`; then it sets `quiet_since`.

        """
        if self._usual is None:
            self._usual = self.data_received
            receive = make(self._usual)
            wrap: Callable[[Receive], Receive] | None = getattr(self._loop, "wrapped", None)
            self.data_received = wrap(receive) if wrap else receive  # type: ignore[assignment, method-assign]
            self.transport.set_protocol(self)  # has the transport look once more for what it calls

    def _receive_again(self) -> None:
        """Take what comes ourselves."""
        usual, self._usual = self._usual, None
        if usual is None:
            return
        if getattr(usual, "__func__", None) is Connection.data_received:
            del self.data_received  # else it would be a circle
        else:
            self.data_received = usual  # type: ignore[assignment, method-assign]
        if not self.is_lost:
            self.transport.set_protocol(self)

    @property
    def is_over(self) -> bool:
        return self.is_complete and not self._pieces

    def release(self) -> bool:
        """End the exchange; true when the connection is good for another one."""
        good = self.is_complete and self.is_sent and not self._failure and not self.is_lost and self._parser_keeps_alive
        self._is_busy = False
        self._sink = None
        self._receive_again()
        self.watcher = None
        self._unsent = b""
        self.quiet_since = self._loop.time()
        if not good:
            self.transport.abort()
        return good

    def fail(self, trouble: NetworkTrouble) -> None:
        self._failure = self._failure or trouble
        self.transport.abort()
        self._notify()

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass of it

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        if not self._is_send_scheduled:
            self._send()

    def data_received(self, data: bytes) -> None:
        self.quiet_since = self._loop.time()
        if self.is_between_chunks and self._is_passed(data):
            return
        if not self._is_busy or self.is_complete:
            self._parser_keeps_alive = False  # bytes that nobody asked for
            self.transport.abort()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self.is_complete:
                self.fail(ServerTrouble(f"the server's answer makes no sense: {error}"))
            self._parser_keeps_alive = False
        if self.is_between_chunks and not data.endswith(b"\r\n"):  # the beginning of the next one's length came, too
            self.is_between_chunks = False
        # What is the next piece, and not the last, is where it belongs once the sink has taken it.
        if (
            self._sink is not None
            and self._pieces
            and self._waiter is not None
            and not self._waiter.done()
            and not self.is_complete
            and self._failure is None
            and self._sink(self.come(), b"")
        ):
            self._pieces.clear()
            self.size = 0
            return
        if self.size > HIGH_WATER and not self.is_paused:
            self.is_paused = True
            self.transport.pause_reading()
        self._notify()

    def _is_passed(self, data: bytes) -> bool:
        """Pass on one chunk, whole and by itself, as nearly all of a stream comes; false where it is anything else.

        The parser is between two chunks before and after it, so it need not know. What is written in another way than
        we write a chunk is the parser's.
        """
        sink, waiter = self._sink, self._waiter
        if sink is None or waiter is None or waiter.done():
            return False
        end = data.find(b"\r\n", 0, _MOST_DIGITS) + 2
        size = len(data) - end - 2
        return size > 0 and data.startswith(b"%x\r\n" % size) and data.endswith(b"\r\n") and sink(data[end:-2], data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        if not self._is_busy or self.is_complete:
            return
        if self._ends_with_connection and exc is None:
            self.is_complete = True
        elif self._failure is None:
            why = f": {exc}" if exc else ""
            self._failure = CutShort(f"the server closed the connection{why}")
        self._notify()

    # What the parser calls. After the end of the answer, whatever comes was not asked for.

    def on_message_begin(self) -> None:
        if self.is_complete:
            raise ValueError("an answer that nobody asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_size += len(name) + len(value)
        if self._head_size > MOST_HEAD:
            raise ValueError("too many headers")
        self.headers.append((name.lower(), value))

    def on_status(self, status: bytes) -> None:
        self._head_size += len(status)

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            self._is_interim = True
            self.headers.clear()
            return
        self.status = status
        framed = status in _NO_BODY
        for name, _ in self.headers:
            if name in _FRAMES:
                framed = True
        self._ends_with_connection = not framed
        self._parser_keeps_alive = framed and self._parser.should_keep_alive()
        self.has_head = True

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)
        self.size += len(body)

    def on_chunk_header(self) -> None:
        self.is_between_chunks = False

    def on_chunk_complete(self) -> None:
        self.is_between_chunks = True

    def on_message_complete(self) -> None:
        self.is_between_chunks = False
        if self._is_interim:
            self._is_interim = False
        else:
            self.is_complete = True

    _parser_keeps_alive = False
    is_between_chunks = False

    # Waiting

    async def _wait(self) -> None:
        waiter = self._waiter = self._loop.create_future()
        self.is_awaited = True
        try:
            await waiter
        finally:
            self._waiter = None
            self.is_awaited = False

    def _notify(self) -> None:
        if self.watcher is not None:
            self.watcher()
        elif self._waiter is not None:
            self.is_awaited = False
            if not self._waiter.done():
                self._waiter.set_result(None)
