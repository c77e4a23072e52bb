"""HTTP/1.1 as the gateway's server reads it: uvicorn's protocol, strict about heads and with limits to every wait.

A head that can be read in two ways is refused, and no caller holds a connection by silence or by dripping.
"""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httptools
from starlette.types import Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

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


class StrictHttpProtocol(HttpToolsProtocol):
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
        self._head = 0
        self._lines = 0
        self._is_in_head = False
        self._has_declined = False
        """Another protocol was offered with this request, which is the connection's last."""
        self.has_unknown_method = False
        """What cannot be read is a request, but for its method."""
        self._discards = False
        """Whatever else comes on this connection is thrown away."""
        self._pieces: list[bytes] = []
        self._head_timeout = _Timeout(self.loop, limits.head_seconds, self._head_expired)
        self._reader_timeout = _Timeout(self.loop, limits.unread_seconds, self._reader_expired)

    # The size of a head

    def on_message_begin(self) -> None:
        if self._discards or (self._is_answering and not self._is_answer_sent):
            raise ValueError("a request came before the answer to the one before")
        self._head = self._lines = 0
        self._is_in_head = True
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(name + value)
        self._lines += 1
        if self._lines > MOST_LINES:
            raise ValueError("the head has too many lines")
        if self._is_in_head:  # else it is a trailer, which says nothing to anybody here
            super().on_header(name, value.strip(b" \t"))

    def _count(self, part: bytes) -> None:
        self._head += len(part)
        if self._head > MOST_HEAD:
            raise ValueError("the head is too long")

    # What a head may say

    def _require_plain(self) -> None:
        """Insist that the head can be read in one way only, beside what llhttp refuses by itself.

        Raises:
            ValueError: it cannot.

        """
        version = self.parser.get_http_version()
        if version not in {"1.0", "1.1"}:
            raise ValueError("another version of HTTP")
        codings = [value.lower() for name, value in self.headers if name == b"transfer-encoding"]
        if codings and (version, codings) != ("1.1", [b"chunked"]):
            raise ValueError("a body in another coding than chunked, or chunked for HTTP/1.0")
        hosts = [value for name, value in self.headers if name == b"host"]
        if len(hosts) > 1 or (version == "1.1" and not hosts):
            raise ValueError("not exactly one Host")
        _, is_absolute, rest = self.url.partition(b"://")
        addressed = [_host(rest.partition(b"/")[0]), *map(_host, hosts)]
        if is_absolute and not self.url.startswith(b"/") and len(set(addressed)) > 1:
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
        super().on_message_complete()
        if self._has_declined:
            self._discards = True

    def _hand_on(self) -> None:
        if self._pieces:
            body = b"".join(self._pieces)
            self._pieces.clear()
            super().on_body(body)

    # Time

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own
        super().connection_made(transport)
        self._head_timeout.set()

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        if self.parser.should_upgrade():  # it is read once more
            return
        self._head_timeout.clear()
        self._require_plain()
        waits = self.expect_100_continue
        self.expect_100_continue = waits and self.parser.get_http_version() == "1.1"
        super().on_headers_complete()
        if self.parser.get_http_version() == "1.0":
            self.cycle.send = _without_chunks(self.cycle)  # type: ignore[assignment, method-assign] # its class is named in uvicorn
        if waits or self._has_declined:  # a body that was not asked for may never come, and what comes then is no body
            self.cycle.keep_alive = False

    def data_received(self, data: bytes) -> None:
        if self._discards:
            return
        super().data_received(data)
        self._hand_on()
        # Beside the beginning of a head: empty lines before one, and what is left of a body that was answered unread.
        if (self._is_in_head or not self._is_answering) and not self.transport.is_closing():
            self._head_timeout.set()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reader_timeout.set()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._reader_timeout.clear()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_timeout.clear()
        self._reader_timeout.clear()
        super().connection_lost(exc)

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def _is_answer_sent(self) -> bool:
        """Whether a client has all of the answer already, by its length, though its end was not noted here yet."""
        cycle = self.cycle
        return cycle.response_started and not cycle.chunked_encoding and cycle.expected_content_length == 0

    def _head_expired(self) -> None:
        if self._is_answering:  # the head is that of a request behind the one that is being answered
            self._head_timeout.set()
            return
        if self._is_in_head:
            self.transport.write(_LATE)
        self.transport.close()

    def _reader_expired(self) -> None:
        self.transport.abort()


def _without_chunks(cycle: RequestResponseCycle) -> Send:
    """The sending of an answer of HTTP/1.0, which has no chunks: what has no length ends with the connection."""
    send = cycle.send
    has_length = False

    async def send_plain(message: Any) -> None:
        nonlocal has_length
        if message["type"] == "http.response.start":
            has_length = any(name.lower() == b"content-length" for name, _ in message.get("headers", ()))
            cycle.chunked_encoding = None if has_length else False
        elif not has_length:
            cycle.expected_content_length = len(message.get("body", b""))  # each piece has its own, for uvicorn's check
        await send(message)

    return send_plain


_REQUEST_LINE = re.compile(rb"(?:\r\n)*[!#$%&'*+.^_`|~0-9A-Z-]{1,64} [^\x00-\x20\x7f]+ HTTP/1\.[01]\r?\n")
"""A request whose method nobody knows, rather than another protocol, or a method that some would read as another."""

_UNKNOWN_METHOD = (
    b"HTTP/1.1 405 Method Not Allowed\r\nallow: GET, HEAD, POST, PUT, DELETE, OPTIONS\r\nconnection: close\r\n"
    b"content-length: 0\r\n\r\n"
)

_OFFER = frozenset({b"upgrade", b"http2-settings"})
"""What offers another protocol: headers, and the options of Connection that name them."""

_LATE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
