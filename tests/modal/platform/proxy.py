"""What stands in front of a server: its address, where a token is wanted or not, and where nobody waits in a queue.

Without the token a request gets 401, and reaches and wakes nobody. At zero containers it gets 503 at once, and one is
started. Everything else goes on to a ready container, byte for byte, in both directions at once.
"""

import asyncio
import contextlib
from collections.abc import Mapping

from tests.modal.platform.apps import Apps
from tests.modal.platform.containers import Containers

MOST_HEAD = 64 * 1024


class Proxy:
    """What stands before one deployed server.

    Args:
        apps: where the server is deployed.
        containers: where it runs.
        app: the name of its app.
        name: its own.
        port: where its containers listen; they share one network here, so a test gives each server a port of its own.
        token: what `Modal-Key` and `Modal-Secret` have to be, unless the server wants none.

    """

    def __init__(
        self, apps: Apps, containers: Containers, *, app: str, name: str, port: int, token: tuple[str, str]
    ) -> None:
        self._apps, self._containers = apps, containers
        self._app, self._name, self._port, self._token = app, name, port, token
        self.refused = 0
        """Requests without the token."""
        self.unserved = 0
        """Requests that found no container."""

    async def listen(self) -> asyncio.Server:
        server = await asyncio.start_server(self._meet, "127.0.0.1", 0, limit=MOST_HEAD)
        host, port = server.sockets[0].getsockname()[:2]
        self._apps.server_urls[self._app, self._name] = f"http://{host}:{port}"
        return server

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            head = await reader.readuntil(b"\r\n\r\n")
            status, why = self._judged(_headers(head))
            if status == 200:
                await self._pass_on(head, reader, writer)
            else:
                body = f"modal-http: {why}\n".encode()
                writer.write(
                    b"HTTP/1.1 %d %b\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b"
                    % (status, why.encode(), len(body), body)
                )
                await writer.drain()
        writer.close()

    def _judged(self, headers: Mapping[str, str]) -> tuple[int, str]:
        function = self._apps.deployed_function(self._app, self._name)
        shown = (headers.get("modal-key"), headers.get("modal-secret"))
        if not function.definition.http_config.unauthenticated and shown != self._token:
            self.refused += 1
            return 401, "missing or invalid credentials"
        alive = [one for one in self._containers.alive([function.id]) if one.state != "stopping"]
        if any(one.state == "ready" for one in alive):
            return 200, ""
        if not alive:
            self._containers.start(function)
        self.unserved += 1
        return 503, "no container is ready"

    async def _pass_on(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._port)
        there_writer.write(head)
        ways = [asyncio.create_task(_copied(reader, there_writer)), asyncio.create_task(_copied(there_reader, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            there_writer.close()


async def _copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(MOST_HEAD):
            writer.write(piece)
            await writer.drain()


def _headers(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
