"""HTTP/1.1 as the gateway's server reads it: uvicorn's protocol, strict about heads and with limits to every wait.

A head that can be read in two ways is refused, and no caller holds a connection by silence or by dripping.
"""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast
from urllib.parse import unquote

import httptools

from app.gateway.http_cycle import CALLER, CallersProtocol, HttpCycle
from app.gateway.http_head import ReadHead

MOST_HEAD = 64 * 1024
"""Bytes of an address and headers. No caller needs more, and uvicorn itself would take them without end."""

MOST_LINES = 256
"""Headers of a request, and trailers. Each costs the loop a microsecond, and delays every other request by as much."""


@dataclass(frozen=True)
class ConnectionLimits:
    """How long a connection may leave us waiting. Slow bodies the gateway refuses, in the caller's own shape."""

    head_seconds: float = 20.0
    """From the connection, or from the first byte of a later request, until its head is there."""
    unread_seconds: float = 300.0
    """So long a caller may take nothing of an answer that is ready."""


class _Timeout:
    """Calls back once, unless it is cleared before; to set it again while it is set changes nothing."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, call: Callable[[], None]) -> None:
        self._loop = loop
        self._seconds = seconds
        self._call = call
        self._timer: asyncio.TimerHandle | None = None

    def set(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._expire)

    def clear(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        self._timer = None
        self._call()


def _host(text: bytes) -> bytes:
    """A host as it is compared: in no case, and without the port that http has by itself."""
    return text.lower().removesuffix(b":80")


class _Parser(httptools.HttpRequestParser):
    """llhttp stops reading at the offer of another protocol; the reader is then handed what it did not read."""

    def __init__(self, reader: "StrictHttpProtocol") -> None:
        super().__init__(reader)
        self._reader = reader
        # As uvicorn's: what comes behind a request with `Connection: close` is no fault of that request.
        self.set_dangerous_leniencies(lenient_data_after_close=True)

    def feed_data(self, data: Any) -> None:
        try:
            super().feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._reader.decline(bytes(data[offer.args[0] :]))
        except httptools.HttpParserInvalidMethodError:
            self._reader.has_unknown_method = _REQUEST_LINE.match(data) is not None
            raise


class StrictHttpProtocol(CallersProtocol):
    """One connection; belongs to its event loop. A head that does not end is refused as any other that makes no sense.

    A request cannot be read in two ways, of which a proxy might take the other. One request is answered at a time: what
    comes behind it meanwhile is not read, and the connection is closed after the answer, so that a client which sends
    several at once asks the rest again (RFC 9112, 9.3.2).

    No other protocol is spoken. A request that offers one, as the JDK's client does each time, is answered as if it did
    not (RFC 9110, 7.8), and as the last of its connection: a proxy may believe that the other protocol has begun.
    """

    def __init__(self, limits: ConnectionLimits, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parser = _Parser(self)
        self.cycle: HttpCycle = None  # type: ignore[assignment] # as uvicorn's
        self._head = 0
        self._lines = 0
        self._is_in_head = False
        self._rests_since = 0.0
        self._has_declined = False
        """Another protocol was offered with this request, which is the connection's last."""
        self.has_unknown_method = False
        """What cannot be read is a request, but for its method."""
        self._discards = False
        """Whatever else comes on this connection is thrown away."""
        self._pieces: list[bytes] = []
        self._is_between = True
        """All that came was read to the end of a request, and nothing of another one has come."""
        self._read_head: ReadHead | None = None
        self._head_timeout = _Timeout(self.loop, limits.head_seconds, self._head_expired)
        self._reader_timeout = _Timeout(self.loop, limits.unread_seconds, self._reader_expired)

    # The size of a head

    def on_message_begin(self) -> None:
        if self._discards or (self._is_answering and not self.cycle.is_answer_sent):
            raise ValueError("a request came before the answer to the one before")
        self._head = self._lines = 0
        self._is_in_head = True
        self._is_between = False
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._head += len(url)
        if self._head > MOST_HEAD:
            raise ValueError("the head is too long")
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head += len(name) + len(value)
        if self._head > MOST_HEAD:
            raise ValueError("the head is too long")
        self._lines += 1
        if self._lines > MOST_LINES:
            raise ValueError("the head has too many lines")
        if self._is_in_head:  # else it is a trailer, which says nothing to anybody here
            name, value = name.lower(), value.strip(b" \t")
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
            self.headers.append((name, value))

    # What a head may say

    def _require_plain(self, version: str) -> None:
        """Insist that the head can be read in one way only, beside what llhttp refuses by itself.

        Raises:
            ValueError: it cannot.

        """
        if version not in _VERSIONS:
            raise ValueError("another version of HTTP")
        codings: list[bytes] = []
        hosts: list[bytes] = []
        for name, value in self.headers:
            if name == b"host":
                hosts.append(value)
            elif name == b"transfer-encoding":
                codings.append(value.lower())
        if codings and (version, codings) != ("1.1", [b"chunked"]):
            raise ValueError("a body in another coding than chunked, or chunked for HTTP/1.0")
        if len(hosts) > 1 or (version == "1.1" and not hosts):
            raise ValueError("not exactly one Host")
        if not self.url.startswith(b"/"):
            _, is_absolute, rest = self.url.partition(b"://")
            addressed = [_host(rest.partition(b"/")[0]), *map(_host, hosts)]
            if is_absolute and len(set(addressed)) > 1:
                raise ValueError("another host in the address than in Host")

    def send_400_response(self, msg: str) -> None:
        """The answer to what cannot be read, but never inside the answer to the request before it."""
        if not self._is_answering:
            if self.has_unknown_method:
                self.transport.write(_UNKNOWN_METHOD)
                self.transport.close()
            else:
                super().send_400_response(msg)
            return
        self._discards = True
        self.cycle.keep_alive = False
        if not self.cycle.more_body:  # that request was whole: its answer goes on
            return
        if self.cycle.response_started:
            self.transport.close()
        else:
            super().send_400_response(msg)

    def decline(self, rest: bytes) -> None:
        """Read the request whose head has just been read once more, without its offer of another protocol.

        Args:
            rest: what came behind the head, perhaps its body.

        """
        if self._has_declined or self.parser.get_method() == b"CONNECT":
            raise httptools.HttpParserError("another protocol where none may be offered")
        self._has_declined = True
        head = self._head_without_offer()
        self.parser = _Parser(self)
        self.parser.feed_data(head)
        self.parser.feed_data(rest)

    def _head_without_offer(self) -> bytes:
        """The head as llhttp has read it, so that it cannot be read in another way now."""
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                tokens = [token.strip(b" \t") for token in value.split(b",")]
                lines.append(b"connection: " + b", ".join(each for each in tokens if each.lower() not in _OFFER))
            elif name not in _OFFER:
                lines.append(name + b": " + value)
        return b"\r\n".join([*lines, b"", b""])

    # A body in chunks of a byte costs by its length, and not by the square of it: its pieces are handed on together.

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():  # it is read once more
            return
        self._hand_on()
        self._is_between = True
        super().on_message_complete()
        if self._has_declined:
            self._discards = True

    def _hand_on(self) -> None:
        if self._pieces:
            body = b"".join(self._pieces)
            self._pieces.clear()
            super().on_body(body)

    # Time. One timer looks after the rest between requests: to set one anew after each answer costs as much as a write.

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        self._rests_since = self.loop.time()
        if self.pipeline:
            self.begin_task(self.pipeline.pop()[0])  # type: ignore[arg-type] # put there by us
        elif self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that rests for too long, and look again later at any other."""
        rests_until = self._rests_since + self.timeout_keep_alive
        if self._is_answering or self._is_in_head or self.loop.time() < rests_until:
            pause = max(rests_until - self.loop.time(), 1.0)
            self.timeout_keep_alive_task = self.loop.call_later(pause, self.timeout_keep_alive_handler)
        else:
            self.transport.close()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own
        super().connection_made(transport)
        self._head_timeout.set()

    def on_headers_complete(self) -> None:
        """As uvicorn's, for what is not refused: no other protocol is spoken, and nobody is told that too many came."""
        self._is_in_head = False
        if self.parser.should_upgrade():  # it is read once more
            return
        self._head_timeout.clear()
        version = self.parser.get_http_version()
        self._require_plain(version)
        waits = self.expect_100_continue
        self.expect_100_continue = waits and version == "1.1"
        scope: Any = self.scope
        scope["method"] = self.parser.get_method().decode("ascii")
        scope["http_version"] = version
        scope["path"], scope["raw_path"], scope["query_string"] = _parts_of(self.url)
        is_old = version == "1.0"
        keep_alive = not is_old and self.parser.should_keep_alive()
        before, cycle = self.cycle, HttpCycle(self, scope, keep_alive=keep_alive, is_old=is_old)
        scope["extensions"] = {CALLER: cycle}
        if waits or self._has_declined:  # a body that was not asked for may never come, and what comes then is no body
            cycle.keep_alive = False
        self.cycle = cycle
        if before is None or before.response_complete:
            self.begin_task(cycle)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:  # noqa: ARG002 - as uvicorn calls it
        self.begin_task(cycle)

    def begin_task(self, cycle: HttpCycle) -> None:
        """Have a task answer a request."""
        cycle.task = self.loop.create_task(cycle.run(self.app))
        self.tasks.add(cycle.task)

    # A head that comes again

    def _is_taken(self, head: ReadHead, data: bytes) -> bool:
        """Begin to answer a request which has the same head as the one before, and has come as a whole."""
        if (found := head.again(data)) is None:
            self._read_head = None
            return False
        start, length = found
        if len(data) - start != int(length or 0):
            return False
        self._head_timeout.clear()
        self.expect_100_continue = False
        cycle = self.cycle = HttpCycle(self, head.scope, keep_alive=True)
        cycle.read_head = head
        cycle.begin_again(length, memoryview(data)[start:])
        return True

    def data_received(self, data: bytes) -> None:
        if self._discards:
            return
        is_between = self._is_between and not self._is_answering
        if is_between and self._read_head is not None and self._is_taken(self._read_head, data):
            return
        before = self.cycle
        self._feed(data)
        cycle = self.cycle
        if is_between and cycle is not before and cycle.keep_alive and not self._is_in_head:
            if self._read_head is None:
                self._read_head = ReadHead.of(data, cast("Any", cycle.scope))
            cycle.read_head = self._read_head

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.send_400_response(_UNREADABLE)
            return
        self._hand_on()
        # Beside the beginning of a head: empty lines before one, and what is left of a body that was answered unread.
        if (self._is_in_head or not self._is_answering) and not self.transport.is_closing():
            self._head_timeout.set()

    def shutdown(self) -> None:
        """Take no more, and have what is under way end: uvicorn counts on a task for each."""
        if self.cycle is not None and self.cycle.direct is not None:
            self.cycle.direct.hand_over()
        super().shutdown()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reader_timeout.set()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._reader_timeout.clear()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_timeout.clear()
        self._reader_timeout.clear()
        cycle = self.cycle
        self._unset_keepalive_if_required()
        super().connection_lost(exc)
        if cycle is not None:
            cycle.lost()

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _head_expired(self) -> None:
        if self._is_answering:  # the head is that of a request behind the one that is being answered
            self._head_timeout.set()
            return
        if self._is_in_head:
            self.transport.write(_LATE)
        self.transport.close()

    def _reader_expired(self) -> None:
        self.transport.abort()


_VERSIONS = frozenset({"1.0", "1.1"})


def _parts_of(url: bytes) -> tuple[str, bytes, bytes]:
    """Path as text, path as it came, and query; of short addresses, of which there are few, this is remembered."""
    return _remembered_parts(url) if len(url) <= 256 else _parsed(url)


def _parsed(url: bytes) -> tuple[str, bytes, bytes]:
    parts = httptools.parse_url(url)
    path = parts.path.decode("ascii")
    return unquote(path) if "%" in path else path, parts.path, parts.query or b""


_remembered_parts = lru_cache(256)(_parsed)

_UNREADABLE = "Invalid HTTP request received."

_REQUEST_LINE = re.compile(rb"(?:\r\n)*[!#$%&'*+.^_`|~0-9A-Z-]{1,64} [^\x00-\x20\x7f]+ HTTP/1\.[01]\r?\n")
"""A request whose method nobody knows, rather than another protocol, or a method that some would read as another."""

_UNKNOWN_METHOD = (
    b"HTTP/1.1 405 Method Not Allowed\r\nallow: GET, HEAD, POST, PUT, DELETE, OPTIONS\r\nconnection: close\r\n"
    b"content-length: 0\r\n\r\n"
)

_OFFER = frozenset({b"upgrade", b"http2-settings"})
"""What offers another protocol: headers, and the options of Connection that name them."""

_LATE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
