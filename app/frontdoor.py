"""Serves the gateway from a thread of this process: uvicorn on an event loop of its own.

The socket is bound before anything else is started, so a port that is taken is told at once.
"""

import asyncio
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import uvicorn
from loguru import logger
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.gateway.asgi import App
from jobs.clock import Clock
from jobs.errors import Bug, Refused

KEEP_ALIVE_SECONDS = 75
"""Above the minute for which clients and proxies like to keep a connection: then it is they who close it."""

GRACE_SECONDS = 5
"""For answers that are under way when the stack is stopped."""

MOST_HEAD = 64 * 1024
"""Bytes of an address and headers. Nobody who may ask needs more, and uvicorn itself would take them without end."""

_BACKLOG = 2048
_LOOK_SECONDS = 0.01


def listening(host: str, port: int) -> socket.socket:
    """A socket that is bound there.

    Raises:
        Refused: the port is taken, or is not for us.

    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise Refused(
            f"port {port} of {host} cannot be used: {getattr(error, 'strerror', None) or error}",
            hint="end what listens there, or pass another --port; 0 picks a free one",
        ) from error
    return listener


def url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@dataclass(frozen=True)
class Bounds:
    """How long a connection may leave us waiting. Of bodies the gateway tells, in the caller's own shape."""

    head_seconds: float = 20.0
    """From the connection, or from the first byte of a later request, until its head is there."""
    unread_seconds: float = 300.0
    """So long a caller may take nothing of an answer that waits for him."""


class _Alarm:
    """Rings once, unless it is cleared before; to set it again while it is set changes nothing."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._seconds = seconds
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None

    def set(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._rings)

    def clear(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _rings(self) -> None:
        self._timer = None
        self._ring()


class Bounded(HttpToolsProtocol):
    """uvicorn's own, but a head that does not end is refused as any other that makes no sense, and nobody holds a
    connection by silence or by dripping.
    """

    def __init__(self, bounds: Bounds, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head = 0
        self._is_in_head = False
        self._pieces: list[bytes] = []
        self._no_head = _Alarm(self.loop, bounds.head_seconds, self._late)
        self._no_reader = _Alarm(self.loop, bounds.unread_seconds, self._unread)

    # How much

    def on_message_begin(self) -> None:
        self._head = 0
        self._is_in_head = True
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(name + value)
        super().on_header(name, value)

    def _count(self, part: bytes) -> None:
        self._head += len(part)
        if self._head > MOST_HEAD:
            raise ValueError("the head is too long")

    # A body in chunks of a byte costs by its length, and not by the square of it: its pieces are handed on together.

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        self._hand_on()
        super().on_message_complete()

    def _hand_on(self) -> None:
        if self._pieces:
            body = b"".join(self._pieces)
            self._pieces.clear()
            super().on_body(body)

    # How long

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own
        super().connection_made(transport)
        self._no_head.set()

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._no_head.clear()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._hand_on()
        # Beside the beginning of a head: empty lines before one, and what is left of a body that was answered unread.
        if (self._is_in_head or not self._is_answering) and not self.transport.is_closing():
            self._no_head.set()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._no_reader.set()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._no_reader.clear()

    def connection_lost(self, exc: Exception | None) -> None:
        self._no_head.clear()
        self._no_reader.clear()
        super().connection_lost(exc)

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _late(self) -> None:
        if self._is_answering:  # the head is that of a request behind the one that is being answered
            self._no_head.set()
            return
        if self._is_in_head:
            self.transport.write(_LATE)
        self.transport.close()

    def _unread(self) -> None:
        self.transport.abort()


_LATE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class FrontDoor:
    """
    Args:
        app: what is served.
        listener: where; it is closed with us.
        clock: for pauses.
        bounds: how long a connection may leave us waiting.
    """

    def __init__(self, app: App, listener: socket.socket, clock: Clock, bounds: Bounds | None = None) -> None:
        self.url = url_of(listener)
        self.failure: BaseException | None = None
        self._listener = listener
        self._clock = clock
        self._server = uvicorn.Server(
            uvicorn.Config(
                cast("Any", app),  # uvicorn's types say TypedDict where the standard says mapping
                loop="uvloop",
                http=cast("Any", partial(Bounded, bounds or Bounds())),
                ws="none",
                lifespan="on",
                log_config=None,
                log_level="critical",
                access_log=False,
                server_header=False,
                proxy_headers=False,  # who forwarded a request decides nothing here
                backlog=_BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )
        self._thread = threading.Thread(target=self._serve, name="gateway", daemon=True)

    def start(self) -> None:
        """Return when requests are answered.

        Raises:
            Bug: it does not come up.

        """
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise Bug(f"the gateway did not start: {self.failure or 'its log tells why'}")
            self._clock.wait(_LOOK_SECONDS)

    def stop(self) -> None:
        """Take no more, and let what is under way end."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(2 * GRACE_SECONDS)
        self._listener.close()

    def wait_end(self) -> None:
        """Return when it answers no more, for whatever reason."""
        self._thread.join()

    @property
    def has_ended(self) -> bool:
        return not self._thread.is_alive()

    def _serve(self) -> None:
        try:
            self._server.run(sockets=[self._listener])
        except BaseException as failure:  # noqa: BLE001 - a thread's edge: `up` ends with it
            logger.opt(exception=failure).error("the gateway crashed")
            self.failure = failure
