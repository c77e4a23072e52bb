"""Connections that say nothing, or say it without end: none of them is kept, and none keeps a place from others."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from app.gateway.auth.keys import Keys
from app.gateway.auth.live_keys import LiveKeys
from app.gateway.auth.rate_limits import RateLimits
from app.gateway.http_protocol import ConnectionLimits
from app.gateway.ops.auth import OpsAuth, concurrency_limit
from app.gateway.protocol.body import bounded
from jobs.access.keys.proofs import hash_of
from tests.support.dialects import DIALECTS, OLLAMA, Dialect, error_of, whole_answer
from tests.support.gateways import CLOCK, RunningGateway, caller_of, gateway
from tests.support.moved_clock import HandLoop
from tests.support.scripted_server import Connection, ScriptedServer
from tests.support.waiting import PATIENCE, until

SOON = ConnectionLimits(head_seconds=1.0, unread_seconds=1.0)


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer(whole_answer) as scripted:
        yield scripted


@pytest.fixture(scope="module")
def running(server: ScriptedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway that waits for a head or a body no longer than a moment."""
    folder = tmp_path_factory.mktemp("gateway")
    with gateway(folder, {"a10g": server.url}, limits=SOON, body_seconds=1.0) as found:
        yield found


def dripped(running: RunningGateway, said: bytes, drip: bytes) -> bytes:
    """What somebody is answered who says this, and then something of that again and again."""
    with closing(socket.create_connection(("127.0.0.1", running.port), timeout=0.02)) as caller:
        caller.sendall(said)
        got, deadline = b"", CLOCK.monotonic() + PATIENCE
        while CLOCK.monotonic() < deadline:
            try:
                if not (piece := caller.recv(4096)):
                    return got
                got += piece
            except TimeoutError:
                pass
            except (
                ConnectionResetError
            ):  # what was on its way to a connection that closes resets it; the answer was read
                return got
            if drip:
                with suppress(OSError):  # then the next look finds it closed
                    caller.sendall(drip)
    raise AssertionError("the connection was kept")


HEAD = b"POST /api/chat HTTP/1.1\r\nHost: gateway\r\n"


@pytest.mark.parametrize(
    ("said", "drip", "answer"),
    [
        (b"", b"", b""),
        (b"", b"\r\n", b""),
        (HEAD, b"", b"HTTP/1.1 408 "),
        (HEAD, b"x-slow: 1\r\n", b"HTTP/1.1 408 "),
        (b"GET /api/version HTTP/1.1\r\nHost: gateway\r\n\r\n", b"\r\n", b"HTTP/1.1 200 "),
        (b"GET /api/version HTTP/1.1\r\nHost: gateway\r\nContent-Length: 999999\r\n\r\n", b"x", b"HTTP/1.1 200 "),
        (HEAD + b"Content-Length: 999999999\r\n\r\n", b"x", b"HTTP/1.1 413 "),
    ],
    ids=[
        "nothing",
        "empty-lines",
        "half-a-head",
        "headers-for-ever",
        "answered-then-lines",
        "a-get-with-body",
        "too-large",
    ],
)
def test_silence_and_dripping_end(running: RunningGateway, said: bytes, drip: bytes, answer: bytes) -> None:
    """A connection that brings no whole head in time is closed, and told so when it had begun one."""
    got = dripped(running, said, drip)
    assert got.startswith(answer)
    assert got.count(b"HTTP/1.1") == bool(answer)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_a_body_that_does_not_come(running: RunningGateway, server: ScriptedServer, dialect: Dialect) -> None:
    """A body that stops, or drips, is a 408 in the caller's own shape, and its connection is closed."""
    before = len(server.heard)
    head = b"POST %b HTTP/1.1\r\nHost: gateway\r\nContent-Length: 1000000\r\n\r\n" % dialect.path.encode()
    got = dripped(running, head, b" ")
    head, _, body = got.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0].startswith("HTTP/1.1 408 ")
    assert "connection: close" in lines
    headers = dict(line.split(": ", 1) for line in lines[1:])
    assert "too little for too long" in error_of(dialect, httpx.Response(408, headers=headers, content=body))
    assert len(server.heard) == before


def test_a_slow_body_gives_its_place_back(tmp_path: Path, server: ScriptedServer) -> None:
    """Whoever drips a body holds the one place of his key no longer than a body may take."""
    key = {"x-api-key": "omk_a"}
    line = f"alice {hash_of('omk_a')} concurrent=1"
    with (
        gateway(tmp_path, {"a10g": server.url}, keys=line, body_seconds=4.0) as running,
        httpx.Client(base_url=running.url, headers=key, timeout=PATIENCE) as client,
    ):

        def answer() -> int:
            return client.get("/api/version").status_code

        with socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE) as caller:
            caller.sendall(HEAD + b"x-api-key: omk_a\r\nContent-Length: 9\r\n\r\n")
            until(lambda: answer() == 429)
            assert caller.recv(4096).startswith(b"HTTP/1.1 408 ")
            until(lambda: answer() == 200)


def test_a_slow_line_is_no_fault() -> None:
    """A body may take as long as it needs, as long as it comes faster than a trickle."""

    async def trial() -> int:
        left = [5]
        loop = asyncio.get_running_loop()
        assert isinstance(loop, HandLoop)

        async def receive() -> Message:
            await loop.pass_seconds(0.03)
            left[0] -= 1
            return {"type": "http.request", "body": b"x" * 16 * 1024, "more_body": left[0] > 0}

        body, count = bounded(receive, seconds=0.05), 0
        while (await body())["more_body"]:
            count += 1
        return count

    with asyncio.Runner(loop_factory=HandLoop) as runner:
        assert runner.run(trial()) == 4


def test_the_ops_api_does_not_wait_either() -> None:
    """A body for the ops API that does not come is a 408; what comes after a whole body may take for ever."""
    said: list[Message] = []

    async def trial() -> None:
        async def inside(_: Scope, receive: Receive, __: Send) -> None:
            await receive()

        async def never() -> Message:
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: Message) -> None:
            said.append(message)

        keys = LiveKeys.fixed(Keys.parse(""))
        ops_auth = OpsAuth(inside, keys, RateLimits(CLOCK), CLOCK, concurrency_limit(keys), body_seconds=0.01)
        await ops_auth({"type": "http", "path": "/ops/v1/jobs", "headers": [], "method": "POST"}, never, send)

    with pytest.raises(Exception, match="too little") as caught:
        asyncio.run(trial())
    assert getattr(caught.value, "status_code", 0) == 408


def test_who_takes_nothing_of_his_answer(tmp_path: Path) -> None:
    """A caller who reads nothing of an answer that waits for him is let go, and the server with him."""

    def script(_: object, line: Connection) -> None:
        line.begin(OLLAMA.kind)
        while not line.is_left():
            line.chunk(OLLAMA.pieces[0] * 1000)

    with ScriptedServer(script) as endless, gateway(tmp_path, {"a10g": endless.url}, limits=SOON) as running:
        caller = caller_of(running, OLLAMA)
        until(lambda: running.open_exchanges() == 1)
        until(lambda: not running.server._server.server_state.connections, "the connection's end")
        assert running.row().about.ending == "client_gone"
        assert running.open_exchanges() == 0
        caller.close()
