"""HTTP/1.1 to the servers of one tier: connections that stay open, and one exchange on each at a time.

Bytes come out as they came in: nothing is decoded, redirected, remembered or retried here. What the caller's side does
not take is not read, so the server feels it. Closing an answer before its end closes the connection, and so ends what
the server was doing. Errors are ours, and tell whether a byte of the answer had come.
"""

import asyncio
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from urllib.parse import urlsplit

import httpx

from app.engines.engine import Engine
from app.engines.ollama import OLLAMA
from app.gateway.protocol.headers import Header, written
from app.gateway.upstream.connection import Connection
from jobs.core.errors import CutShort, Stalled, Unreachable

IDLE_SECONDS = 30.0
"""Below the minute after which proxies on the way tend to forget a silent connection."""

_CONNECT_SECONDS = 10.0


@dataclass(frozen=True)
class TierUpstream:
    """How the servers of a tier are reached."""

    tier: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What a proxy in front of it wants: Modal's token, or nothing."""
    startup: timedelta = timedelta(seconds=300)
    """How long a cold start may take, and a load after it."""
    most_containers: int = 1
    """How many servers may stand behind the url; any of them may take a request."""
    is_remote: bool = False
    """They are containers of a platform: a session id in a request leads it to the one that an earlier request met, as
    far as that goes on; and they tell of their starts, and are told which models are waited for."""
    engine: Engine = OLLAMA
    """What answers there."""


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


class UpstreamAnswer:
    """An answer whose head is here. Close it, whatever happens."""

    def __init__(self, client: "UpstreamClient", connection: Connection) -> None:
        self._client = client
        self.connection = connection
        self.status = connection.status
        self.headers = connection.headers
        # Each as the connection has it, and documents it: one step less for each piece.
        self.read = connection.read
        self.take = connection.take
        self.pass_to = connection.pass_to
        self.receive_by = connection.receive_by

    def header(self, name: bytes) -> bytes:
        return self.connection.header(name)

    @property
    def is_request_sent(self) -> bool:
        """Whether all of the request has gone out: a server may answer before."""
        return self.connection.is_sent

    @property
    def is_over(self) -> bool:
        """Whether what was read last was the last of it."""
        return self.connection.is_over

    async def whole(self, most: int) -> bytes:
        """All that is left of it, and of a long one its beginning."""
        body = b""
        while len(body) < most and (piece := await self.read()):
            body += piece
        return body[:most]

    def close(self) -> None:
        """Give the connection back when the answer is whole; else end it, and what the server does for us."""
        self._client.give_back(self.connection)


class UpstreamClient:
    """The connections to the servers of one tier. Belongs to one event loop, but for `open_exchanges`."""

    def __init__(self, upstream: TierUpstream, patience: Patience) -> None:
        parts = urlsplit(upstream.url)
        assert parts.hostname is not None
        self.url = upstream.url.rstrip("/")
        self._is_tls = parts.scheme == "https"
        self._host = parts.hostname
        self._port = parts.port or (443 if self._is_tls else 80)
        self._patience = patience
        more = "".join(f"{name}: {value}\r\n" for name, value in upstream.headers.items())
        self._common = f"host: {parts.netloc}\r\naccept-encoding: identity\r\n{more}".encode()
        self._idle: list[Connection] = []
        #: Changed by the event loop alone; its length may be read by any thread.
        self._busy: set[Connection] = set()
        self._timer: asyncio.TimerHandle | None = None
        #: A connection that is being opened for who asks next.
        self._ahead: asyncio.Task[Connection] | None = None

    @property
    def open_exchanges(self) -> int:
        return len(self._busy)

    def beginning(self, method: str, path: str) -> bytes:
        """Of the head of a request."""
        return b"%b %b HTTP/1.1\r\n%b" % (method.encode(), path.encode(), self._common)

    def begin(self, beginning: bytes, headers: bytes, body: bytearray) -> Connection | None:
        """Send a request as `ask` does, on a connection that is open; None where there is none.

        Args:
            beginning: of its head.
            headers: beside our own, as they are written.
            body: as `ask` has it.

        """
        connection = self._take()
        if connection is not None:
            self._busy.add(connection)
            connection.ask(b"%b%bcontent-length: %d\r\n\r\n" % (beginning, headers, len(body)), body)
        return connection

    async def ask(
        self,
        method: str,
        path: str,
        headers: Iterable[Header] | bytes = (),
        body: bytes | bytearray = b"",
        *,
        begun: Connection | None = None,
    ) -> UpstreamAnswer:
        """Send a request, and wait for the head of its answer.

        Args:
            method: of the request.
            path: where it goes.
            headers: beside our own; or as they are written.
            body: all of it; it must stay as it is until it is sent.
            begun: where the same request was begun, if it was.

        Raises:
            Unreachable: no server is there.
            Stalled: not a byte for too long.
            CutShort: the connection ended before the head was there.
            ServerTrouble: what came is not HTTP.

        """
        fields = headers if isinstance(headers, bytes) else written(headers)
        head = b"%b%bcontent-length: %d\r\n\r\n" % (self.beginning(method, path), fields, len(body))
        while True:
            connection = begun or self._take() or await self._opened_ahead() or await self._connect()
            self._busy.add(connection)
            try:
                if begun is None:
                    connection.ask(head, body)
                begun = None
                await connection.head()
            except CutShort:
                self.give_back(connection)
                # A server may close a silent connection at the very moment we use it again, which is no failure.
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
        if self._ahead is not None:
            self._ahead.cancel()
            self._ahead.add_done_callback(_abort)
            self._ahead = None

    def _take(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_lost:
                return connection
        return None

    def connect_ahead(self) -> None:
        """Begin to open a connection, for who asks in a moment and has something else to wait for until then."""
        if self._ahead is None and not self._idle:
            self._ahead = asyncio.create_task(self._connect(), name=f"connect to {self._host}")

    async def _opened_ahead(self) -> Connection | None:
        ahead, self._ahead = self._ahead, None
        connection = None if ahead is None else await ahead
        return None if connection is None or connection.is_lost else connection

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
            self._timer = loop.call_later(self._period, self._check_silence)
        return connection

    @property
    def _period(self) -> float:
        return min(1.0, self._patience.answer_seconds / 4, self._patience.silence_seconds / 4)

    def _check_silence(self) -> None:
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
        self._timer = loop.call_later(self._period, self._check_silence) if self._busy or self._idle else None


def _abort(connecting: "asyncio.Task[Connection]") -> None:
    """Nobody takes it any more, nor its failure."""
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().transport.abort()
