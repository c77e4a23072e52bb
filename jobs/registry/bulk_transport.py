"""HTTP/1.1 for blobs: a transport for `httpx.Client` on the standard library's client, for GET and no proxy.

httpx's own handles every 64 kB in Python several times over, three seconds of processor per GiB, which is what a pull
waited for. This one hands bytes on as the kernel gave them. Addresses, logins and redirects are its caller's.
"""

import select
import socket
import ssl
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any

import httpx

PIECE = 256 * 1024
"""What one read brings at most: more brings no more speed, and a rate limit or a cut is felt sooner with less."""

Origin = tuple[str, str, int]


@dataclass(frozen=True)
class _NewConnection:
    """Told to the request's `trace` as httpcore tells it, so that another thread can cut the connection."""

    socket: socket.socket

    def get_extra_info(self, info: str) -> Any:
        return self.socket if info == "socket" else None

    def close(self) -> None:
        self.socket.close()


class Bulk(httpx.BaseTransport):
    """Any number of threads may ask at once; idle connections are used again.

    Args:
        certificates: whom to trust on HTTPS.

    """

    def __init__(self, certificates: ssl.SSLContext) -> None:
        self._certificates = certificates
        #: Connections that nobody uses; whoever takes one out has it alone; guarded by `_lock`.
        self._idle: dict[Origin, list[HTTPConnection]] = defaultdict(list)
        self._lock = threading.Lock()
        #: Set once, by `close`; guarded by `_lock`.
        self._is_closed = False

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.method != "GET":
            raise httpx.UnsupportedProtocol(f"only GET is spoken here, not {request.method}", request=request)
        origin = _origin(request.url)
        connection = self._idle_connection(origin) or self._new_connection(origin, request)
        try:
            with _translated(request):
                answer = _send(connection, request)
        except BaseException:
            connection.close()
            raise
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.getheaders()]
        return httpx.Response(answer.status, headers=headers, stream=_Body(self, origin, connection, answer, request))

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, defaultdict(list)
        for connections in idle.values():
            for connection in connections:
                connection.close()

    def give_back(self, origin: Origin, connection: HTTPConnection) -> None:
        """Keep it for the next who asks; one that comes back after the end is closed: nobody else would."""
        with self._lock:
            if not self._is_closed:
                self._idle[origin].append(connection)
                return
        connection.close()

    def _idle_connection(self, origin: Origin) -> HTTPConnection | None:
        """A connection from before that the other side has not closed meanwhile."""
        while True:
            with self._lock:
                if not self._idle[origin]:
                    return None
                connection = self._idle[origin].pop()
            if not _has_news(connection):
                return connection
            connection.close()

    def _new_connection(self, origin: Origin, request: httpx.Request) -> HTTPConnection:
        scheme, host, port = origin
        timeouts = request.extensions.get("timeout", {})
        trace = request.extensions.get("trace", lambda *_: None)
        connection = HTTPConnection(host, port)
        try:
            made = socket.create_connection((host, port), timeouts.get("connect"))
            connection.sock = made
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            trace("connection.connect_tcp.complete", {"return_value": _NewConnection(made)})
            if scheme == "https":
                made = connection.sock = self._certificates.wrap_socket(made, server_hostname=host)
                trace("connection.start_tls.complete", {"return_value": _NewConnection(made)})
        except TimeoutError as error:
            connection.close()
            raise httpx.ConnectTimeout(str(error), request=request) from error
        except (OSError, ValueError, OverflowError) as error:  # the last two: no resolver takes that
            connection.close()
            raise httpx.ConnectError(str(error), request=request) from error
        except BaseException:  # whoever traces does not want it
            connection.close()
            raise
        made.settimeout(timeouts.get("read"))
        return connection


class _Body(httpx.SyncByteStream):
    """What comes after the headers, for one thread. Read to its end, it gives the connection back, else closes it."""

    def __init__(
        self, bulk: Bulk, origin: Origin, connection: HTTPConnection, answer: HTTPResponse, request: httpx.Request
    ) -> None:
        self._bulk = bulk
        self._origin = origin
        self._connection = connection
        self._answer = answer
        self._request = request
        self._is_open = True
        self._is_whole = answer.length == 0

    def __iter__(self) -> Iterator[bytes]:
        answer = self._answer
        while answer.length != 0:
            with _translated(self._request):
                piece = answer.read1(PIECE)
            if not piece:
                break
            yield piece
        if answer.length:
            raise httpx.RemoteProtocolError(f"the answer ended {answer.length} bytes early", request=self._request)
        self._is_whole = True

    def close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        self._answer.close()
        if self._is_whole and not self._answer.will_close:
            self._bulk.give_back(self._origin, self._connection)
        else:
            self._connection.close()


def _origin(url: httpx.URL) -> Origin:
    if url.scheme not in {"http", "https"}:
        raise httpx.UnsupportedProtocol(f"{url.scheme!r} is neither http nor https")
    return url.scheme, url.raw_host.decode("ascii"), url.port or {"http": 80, "https": 443}[url.scheme]


def _send(connection: HTTPConnection, request: httpx.Request) -> HTTPResponse:
    path = request.url.raw_path.decode("ascii")
    connection.putrequest("GET", path, skip_host=True, skip_accept_encoding=True)
    for name, value in request.headers.raw:
        connection.putheader(name.decode("ascii"), value)
    connection.endheaders()
    return connection.getresponse()


def _has_news(connection: HTTPConnection) -> bool:
    """Whether an idle connection can be read from: then it was closed, or is out of step."""
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return bool(poll.poll(0))


@contextmanager
def _translated(request: httpx.Request) -> Iterator[None]:
    """What goes wrong while talking, as httpx names it."""
    try:
        yield
    except HTTPException as error:
        raise httpx.RemoteProtocolError(str(error) or type(error).__name__, request=request) from error
    except ValueError as error:  # what cannot be sent: a line feed in a header's value
        raise httpx.LocalProtocolError(str(error), request=request) from error
    except TimeoutError as error:
        raise httpx.ReadTimeout(str(error), request=request) from error
    except OSError as error:
        raise httpx.ReadError(str(error), request=request) from error
