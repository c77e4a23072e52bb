"""Serves the gateway from a thread of this process: uvicorn on an event loop of its own.

The socket is bound before anything else is started, so a port that is taken is an error at once.
"""

import asyncio
import socket
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import uvicorn
import uvloop
from loguru import logger
from starlette.types import ASGIApp

from app.gateway.http_protocol import ConnectionLimits, StrictHttpProtocol
from jobs.core.clock import Clock
from jobs.core.errors import Bug, Refused

KEEP_ALIVE_SECONDS = 75
"""Above the minute for which clients and proxies like to keep a connection: then it is they who close it."""

GRACE_SECONDS = 5
"""For answers that are under way when the stack is stopped."""

_BACKLOG = 2048
_POLL_SECONDS = 0.01


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


class HttpServer:
    """One server on one socket, from `start` to `stop`, in a thread of its own.

    Args:
        app: what is served.
        listener: where; it is closed with us.
        clock: for pauses.
        limits: how long a connection may leave us waiting.
        new_loop: makes the event loop.

    """

    def __init__(
        self,
        app: ASGIApp,
        listener: socket.socket,
        clock: Clock,
        limits: ConnectionLimits | None = None,
        new_loop: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop,
    ) -> None:
        self.url = url_of(listener)
        #: Why the server crashed, if it did. Written by its thread as its last act, read by others once it has ended.
        self.failure: BaseException | None = None
        self._listener = listener
        self._clock = clock
        self._new_loop = new_loop
        #: Runs in the thread alone, but for two flags: the thread sets `started`, and `stop` sets `should_exit`.
        self._server = uvicorn.Server(
            uvicorn.Config(
                cast("Any", app),  # uvicorn's types say TypedDict where the standard says mapping
                loop="none",  # ours
                http=cast("Any", partial(StrictHttpProtocol, limits or ConnectionLimits())),
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
            self._clock.wait(_POLL_SECONDS)

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
            with asyncio.Runner(loop_factory=self._new_loop) as runner:
                runner.run(self._server.serve(sockets=[self._listener]))
        except BaseException as failure:  # noqa: BLE001 - a thread's edge: `up` ends with it
            logger.opt(exception=failure).error("the gateway crashed")
            self.failure = failure
