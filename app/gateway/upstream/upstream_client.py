"""HTTP/1.1 to the servers of one tier: connections that stay open, one exchange on each at a time.

Bytes come out as they came in: nothing is decoded, redirected, remembered or retried here. What the caller's side does
not take is not read, so the server feels it. Whoever closes an answer before its end closes the connection, and with it
what the server was doing. Errors are ours, and tell whether a byte of the answer had come.
"""

import asyncio
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import cast
from urllib.parse import urlsplit

import httptools
import httpx

from jobs.core.errors import CutShort, NetworkTrouble, ServerTrouble, Stalled, Unreachable

Header = tuple[bytes, bytes]

HIGH_WATER = 64 * 1024
"""So much of an answer is kept for a caller who does not read, before we stop reading too."""

MOST_HEAD = 64 * 1024
"""Bytes of headers; more is no answer of an Ollama."""

SLICE = 256 * 1024
"""Bytes of a body that are handed on at a time, when the last are on their way: each slice is a copy, and encrypted by
one call on the event loop.
"""

IDLE_SECONDS = 30.0
"""Below the minute after which proxies on the way tend to forget a silent connection."""

_STALE_SECONDS = 1.0
"""A connection that was used a moment ago is not closed for being idle."""

_CONNECT_SECONDS = 10.0
_NO_BODY = frozenset({204, 304})


@dataclass(frozen=True)
class Patience:
    """How long a server may be silent."""

    answer_seconds: float = 900.0
    """Before its first byte: a long prompt, behind others, on a busy GPU."""
    silence_seconds: float = 300.0
    """Between two pieces of an answer."""


@cache
def _tls() -> ssl.SSLContext:
    return httpx.create_ssl_context()


class Connection(asyncio.Protocol):
    """One connection, and the exchange that is on it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self.transport: asyncio.Transport
        self.is_lost = False
        self.quiet_since = self._loop.time()
        self._is_busy = False
        self._unsent: bytes | bytearray = b""
        self._sent = 0
        self._is_full = False
        self._goes_on = False

    # One exchange

    def ask(self, head: bytes, body: bytes | bytearray) -> None:
        """Send a request. The body must stay as it is until all of it `is_sent`, or the exchange has ended."""
        self._parser = httptools.HttpResponseParser(self)
        self.status = 0
        self.headers: list[Header] = []
        self.has_head = False
        self.is_complete = False
        self.is_paused = False
        self._failure: NetworkTrouble | None = CutShort("the server hung up at once") if self.is_lost else None
        self._pieces: list[bytes] = []
        self._size = 0
        self._head_size = 0
        self._is_interim = False
        self._ends_with_connection = False
        self._is_busy = True
        self.may_be_stale = self._loop.time() - self.quiet_since > _STALE_SECONDS
        self.quiet_since = self._loop.time()
        self.transport.write(head)
        self._unsent, self._sent = body, 0
        self._send()

    @property
    def is_sent(self) -> bool:
        return not self._unsent

    def _send(self) -> None:
        """The next slice, and the others in later turns of the loop, as the server takes them."""
        self._goes_on = False
        if not self._unsent or self._is_full or self.is_lost:
            return
        piece = self._unsent[self._sent : self._sent + SLICE]
        self._sent += len(piece)
        if self._sent >= len(self._unsent):
            self._unsent = b""
        else:
            self._goes_on = True
            self._loop.call_soon(self._send)
        self.transport.write(piece)

    @property
    def heard_nothing(self) -> bool:
        return not self.has_head and not self._head_size

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
        piece = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._size = 0
        if self.is_paused:
            self.is_paused = False
            self.quiet_since = self._loop.time()
            self.transport.resume_reading()
        return piece

    @property
    def is_over(self) -> bool:
        return self.is_complete and not self._pieces

    def release(self) -> bool:
        """End the exchange; true when the connection is good for another one."""
        good = self.is_complete and self.is_sent and not self._failure and not self.is_lost and self._parser_keeps_alive
        self._is_busy = False
        self._unsent = b""
        self.quiet_since = self._loop.time()
        if not good:
            self.transport.abort()
        return good

    def fail(self, trouble: NetworkTrouble) -> None:
        self._failure = self._failure or trouble
        self.transport.abort()
        self._wake()

    # What the transport tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass of it

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        if not self._goes_on:
            self._send()

    def data_received(self, data: bytes) -> None:
        self.quiet_since = self._loop.time()
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
        if self._size > HIGH_WATER and not self.is_paused:
            self.is_paused = True
            self.transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        if not self._is_busy or self.is_complete:
            return
        if self._ends_with_connection and exc is None:
            self.is_complete = True
        elif self._failure is None:
            said = f": {exc}" if exc else ""
            self._failure = CutShort(f"the server closed the connection{said}")
        self._wake()

    # What the parser finds. After the end of the answer, whatever comes was not asked for.

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
        names = {name for name, _ in self.headers}
        framed = b"content-length" in names or b"transfer-encoding" in names or status in _NO_BODY
        self._ends_with_connection = not framed
        self._parser_keeps_alive = framed and self._parser.should_keep_alive()
        self.has_head = True

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)
        self._size += len(body)

    def on_message_complete(self) -> None:
        if self._is_interim:
            self._is_interim = False
        else:
            self.is_complete = True

    _parser_keeps_alive = False

    # Waiting

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class UpstreamAnswer:
    """An answer whose head is here. Close it, whatever happens."""

    def __init__(self, wire: "UpstreamClient", connection: Connection) -> None:
        self._wire = wire
        self._connection = connection
        self.status = connection.status
        self.headers = connection.headers

    def header(self, name: bytes) -> bytes:
        return next((value for key, value in self.headers if key == name), b"")

    async def read(self) -> bytes:
        """See `Connection.read`."""
        return await self._connection.read()

    @property
    def is_asked(self) -> bool:
        """Whether all of the request has gone out: a server may answer before."""
        return self._connection.is_sent

    @property
    def is_over(self) -> bool:
        """Whether what was read last was the last of it."""
        return self._connection.is_over

    async def whole(self, most: int) -> bytes:
        """All that is left of it, and of a long one its beginning."""
        found = b""
        while len(found) < most and (piece := await self.read()):
            found += piece
        return found[:most]

    def close(self) -> None:
        """Give the connection back when the answer is whole; else end it, and what the server does for us."""
        self._wire.give_back(self._connection)


class UpstreamClient:
    """The way to the servers of one tier. Belongs to one event loop."""

    def __init__(self, url: str, headers: Iterable[Header] = (), patience: Patience | None = None) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self.url = url.rstrip("/")
        self._is_tls = parts.scheme == "https"
        self._host = parts.hostname
        self._port = parts.port or (443 if self._is_tls else 80)
        self._patience = patience or Patience()
        more = b"".join(b"%b: %b\r\n" % header for header in headers)
        self._common = b"host: %b\r\naccept-encoding: identity\r\n" % parts.netloc.encode() + more
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def open_exchanges(self) -> int:
        return len(self._busy)

    async def ask(
        self, method: str, path: str, headers: Iterable[Header] = (), body: bytes | bytearray = b""
    ) -> UpstreamAnswer:
        """Send a request, and wait for the head of its answer.

        Raises:
            Unreachable: nobody is there.
            Stalled: not a byte for too long.
            CutShort: the connection ended before the head was there.
            ServerTrouble: what came is not HTTP.

        """
        fields = b"".join(b"%b: %b\r\n" % header for header in headers)
        head = b"%b %b HTTP/1.1\r\n%b%bcontent-length: %d\r\n\r\n" % (
            method.encode(), path.encode(), self._common, fields, len(body),
        )  # fmt: skip
        while True:
            connection = self._take() or await self._connect()
            self._busy.add(connection)
            try:
                connection.ask(head, body)
                await connection.head()
            except CutShort:
                self.give_back(connection)
                # A server may close a silent connection at the very moment we use it again. That is nobody's failure.
                if connection.may_be_stale and connection.heard_nothing:
                    continue
                raise
            except BaseException:
                self.give_back(connection)
                raise
            return UpstreamAnswer(self, connection)

    def give_back(self, connection: Connection) -> None:
        self._busy.discard(connection)
        if connection.release():
            self._idle.append(connection)

    def close(self) -> None:
        """End every connection."""
        if self._timer is not None:
            self._timer.cancel()
        for connection in (*self._idle, *self._busy):
            connection.transport.abort()
        self._idle.clear()

    def _take(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_lost:
                return connection
        return None

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                _, connection = await loop.create_connection(
                    Connection, self._host, self._port, ssl=_tls() if self._is_tls else None
                )
        except TimeoutError as error:
            raise Unreachable(f"no connection to {self._host}:{self._port} within {_CONNECT_SECONDS:.0f} s") from error
        except OSError as error:
            raise Unreachable(f"no connection to {self._host}:{self._port}: {error.strerror or error}") from error
        if self._timer is None:
            self._timer = loop.call_later(self._period, self._look)
        return connection

    @property
    def _period(self) -> float:
        return min(1.0, self._patience.answer_seconds / 4, self._patience.silence_seconds / 4)

    def _look(self) -> None:
        """One timer for all connections: a timer for each piece would cost more than the piece."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in list(self._busy):
            longest = self._patience.silence_seconds if connection.has_head else self._patience.answer_seconds
            if now - connection.quiet_since > longest:
                who = "caller did not read" if connection.is_paused else "server was silent"
                connection.fail(Stalled(f"the {who} for {longest:.0f} s"))
        kept = []
        for connection in self._idle:
            if connection.is_lost or now - connection.quiet_since > IDLE_SECONDS:
                connection.transport.abort()
            else:
                kept.append(connection)
        self._idle = kept
        self._timer = loop.call_later(self._period, self._look) if self._busy or self._idle else None
