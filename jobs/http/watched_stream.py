"""One HTTP exchange that may be silent for minutes, watched while it lasts.

A thread reads; the caller gets lines as they come and is called back while none does, so that a cancelled job or a
stall ends the exchange at once, whatever the server is doing. It judges nothing: that is the caller's business.
"""

import queue
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx

from jobs.http.errors import as_it_is, translated

POLL_EVERY_SECONDS = 0.2
"""How often the caller is called back while nothing comes: soon enough for a person who cancels, and cheap."""


MAX_LINE_BYTES = 16 << 20
"""Of one line: the vectors of four hundred texts."""

MOST_AHEAD = 16
"""Lines that are read before the caller takes them; then the reader waits, and with it the server."""


@dataclass(frozen=True)
class Head:
    """The answer has begun."""

    status: int
    headers: httpx.Headers


class Lifeline:
    """The connection of one request, so that another thread can cut it.

    Closing a socket does not wake a thread that reads it; shutting it down does. The request must open a connection of
    its own: one that is reused was never told of.
    """

    def __init__(self) -> None:
        #: Set by the thread that sends the request; read by the one that cuts it.
        self._connection: Any = None
        #: Set once, by the thread that cuts; read by the one that sends.
        self.is_cut = False

    @property
    def extensions(self) -> dict[str, Any]:
        """For the request."""
        return {"trace": self._remember}

    def cut(self) -> None:
        self.is_cut = True
        connection = self._connection
        if connection is not None and (sock := connection.get_extra_info("socket")) is not None:
            with suppress(OSError):  # it is gone already
                sock.shutdown(socket.SHUT_RDWR)

    def _remember(self, event: str, info: dict[str, Any]) -> None:
        """The transport tells what it does."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self._connection = info["return_value"]
            if self.is_cut:
                self._connection.close()  # nobody else has it yet
        # To give its socket back is what is left to do; and what somebody let go of has nobody to tell.
        if self.is_cut and "close" not in event and not isinstance(info.get("exception"), GeneratorExit):
            raise httpx.ReadError("the connection was cut")


class _End:
    pass


class _Left(Exception):
    """The caller has gone."""


class _StreamThread(threading.Thread):
    """Sends the request, puts what comes into `out`: a Head, lines, then an `_End` or the error."""

    def __init__(self, client: httpx.Client, request: httpx.Request) -> None:
        super().__init__(name=f"reading {request.url}", daemon=True)
        #: Filled by this thread, emptied by the caller's; nothing else is shared but the lifeline.
        self.out: queue.Queue[Head | bytes | _End | Exception] = queue.Queue(MOST_AHEAD)
        self._client = client
        self._request = request
        self._lifeline = Lifeline()
        request.extensions = {**request.extensions, **self._lifeline.extensions}

    def run(self) -> None:
        try:
            response = self._client.send(self._request, stream=True)
            try:
                self._put(Head(response.status_code, response.headers))
                for line in _lines(as_it_is(response)):
                    self._put(line)
            finally:
                response.close()
            self._put(_End())
        except _Left:
            return
        except Exception as error:  # noqa: BLE001 - carried over to the caller's thread
            with suppress(_Left):
                self._put(error)

    def _put(self, event: Head | bytes | _End | Exception) -> None:
        """Wait until there is room.

        Raises:
            _Left: nobody is left who would make some.

        """
        while not self._lifeline.is_cut:
            with suppress(queue.Full):
                self.out.put(event, timeout=POLL_EVERY_SECONDS)
                return
        raise _Left

    def stop(self) -> None:
        """End the exchange now."""
        self._lifeline.cut()
        self.join(timeout=2)


@contextmanager
def exchange(
    client: httpx.Client, request: httpx.Request, *, doing: str, idle: Callable[[], None]
) -> Iterator[Iterator[Head | bytes]]:
    """Send `request`; what comes out is one Head, then the body's lines, without their line feeds.

    The client must not reuse connections, or `stop` may have to wait for the next byte.

    Args:
        client: sends it.
        request: built by that client; its read timeout must be longer than any silence that `idle` lets pass.
        doing: for the message when it fails.
        idle: called a few times a second while nothing comes; may raise to end the exchange.

    Raises:
        Trouble: what httpx's error means.

    """
    reader = _StreamThread(client, request)
    reader.start()
    try:
        yield _events(reader, doing, idle)
    finally:
        reader.stop()


def _events(reader: _StreamThread, doing: str, idle: Callable[[], None]) -> Iterator[Head | bytes]:
    while True:
        try:
            event = reader.out.get(timeout=POLL_EVERY_SECONDS)
        except queue.Empty:
            idle()
            continue
        if isinstance(event, _End):
            return
        if isinstance(event, Exception):
            with translated(doing):
                raise event
        yield event


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Split at line feeds and nowhere else: httpx's own splitter also cuts at U+0085, which JSON may hold."""
    rest = bytearray()
    for chunk in chunks:
        first, *others = chunk.split(b"\n")
        rest += first
        for other in others:
            yield bytes(rest)
            rest = bytearray(other)
        if len(rest) > MAX_LINE_BYTES:
            raise httpx.RemoteProtocolError(f"a line of the answer has more than {MAX_LINE_BYTES:,} bytes")
    if rest:
        yield bytes(rest)
