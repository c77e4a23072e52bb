"""What a request and a piece of a stream make the gateway do, counted: there is no clock in it.

The whole gateway answers, with a real server behind it; only the caller's side of the connection is counted.
"""

import asyncio
import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any, TypeVar, cast

import pytest

from app.gateway.http_protocol import ConnectionLimits, StrictHttpProtocol
from app.log_queue import LineQueue
from jobs.access.keys.proofs import hash_of
from tests.support.call_counts import calls_by_name
from tests.support.checkout import ROOT
from tests.support.gateways import RunningGateway, gateway
from tests.support.scripted_server import Connection, HeardRequest, ScriptedServer
from tests.support.waiting import PATIENCE

T = TypeVar("T")

KEY = "omk_of_ann"
KEYS = "".join(f"k{number} sha256:{number:064x} chat\n" for number in range(20)) + f"ann {hash_of(KEY)} chat"

OURS = (str(ROOT / "app"), str(ROOT / "jobs"))

CALLS_OF_A_REQUEST = 120
"""Functions of Python that a whole request may call, from its first byte to its record."""

CALLS_OF_A_STREAM = 170
"""The same for a whole stream of two pieces."""

CALLS_OF_A_PIECE = 1.5
"""The same for a piece of a stream: one, but for the first of each length."""

ANSWER = json.dumps(
    {"choices": [{"message": {"content": "Hello"}}], "usage": {"prompt_tokens": 5, "completion_tokens": 1}}
).encode()


def request(*, stream: bool) -> bytes:
    body = json.dumps({"model": "llama3.2", "stream": stream, "messages": [{"role": "user", "content": "hi"}]}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer %b\r\n" % KEY.encode()
    return head + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(text: str) -> bytes:
    return b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\n' % text.encode()


DONE = b"data: [DONE]\n\n"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Told:
    """What the server does next, as the test says it: each answer of it is made of bytes that go out at once."""

    def __init__(self) -> None:
        self.stream_of(0)

    def stream_of(self, pieces: int) -> None:
        """Have the next stream be one of so many pieces, the first of them with the head, and of an end."""
        self.pieces = pieces
        self.may_go_on = threading.Semaphore(0)
        """Whether the next piece may come."""

    def go_on(self) -> None:
        self.may_go_on.release()

    def play(self, heard: HeardRequest, line: Connection) -> None:
        if not heard.json.get("stream"):
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(ANSWER)
            line.send(head + ANSWER)
            return
        if self.pieces:
            line.send(STREAM_HEAD + chunk(event("0")))
        else:
            line.send(STREAM_HEAD)
        for number in range(1, self.pieces):
            assert self.may_go_on.acquire(timeout=PATIENCE)
            line.send(chunk(event(str(number))))
        assert self.may_go_on.acquire(timeout=PATIENCE)
        line.send(chunk(DONE) + b"0\r\n\r\n")


@pytest.fixture(scope="module")
def told() -> Told:
    return Told()


@pytest.fixture(scope="module")
def running(told: Told, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with (
        ScriptedServer(told.play) as server,
        gateway(tmp_path_factory.mktemp("gateway"), {"a10g": server.url}, keys=KEYS) as found,
    ):
        yield found


class CallersEnd(asyncio.Transport):
    """The transport of a caller's connection, which notes what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.was_written = asyncio.Event()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))
        self.was_written.set()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name in {"sockname", "peername"} else default

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        raise AssertionError("the connection was closed")


class Caller:
    """One connection of a caller, on the gateway's own loop."""

    def __init__(self, running: RunningGateway) -> None:
        server = running.server._server
        self.transport = CallersEnd()
        self.protocol = StrictHttpProtocol(
            ConnectionLimits(), config=server.config, server_state=server.server_state, app_state={}
        )
        self.protocol.connection_made(self.transport)

    async def ask(self, *, stream: bool = False, go_on: Callable[[], object] = lambda: None) -> list[bytes]:
        """Ask, and call this after each write until the answer is whole; what was written."""
        self.transport.written.clear()
        self.protocol.data_received(request(stream=stream))
        while not self.protocol.cycle.response_complete:
            self.transport.was_written.clear()
            await asyncio.wait_for(self.transport.was_written.wait(), PATIENCE)
            go_on()
        return list(self.transport.written)

    def leave(self) -> None:
        self.protocol.connection_lost(ConnectionResetError())


def on_the_loop(running: RunningGateway, trial: Callable[[Caller], Coroutine[Any, Any, T]]) -> T:
    """What this comes to on the loop of the gateway, with a caller who has been answered once before."""

    async def whole() -> T:
        caller = Caller(running)
        try:
            await caller.ask()
            return await trial(caller)
        finally:
            caller.leave()

    loop = running.server._server.servers[0].get_loop()
    return asyncio.run_coroutine_threadsafe(whole(), loop).result(3 * PATIENCE)


def test_a_short_answer_is_one_write(running: RunningGateway) -> None:
    """An answer that a server gives at once goes out with its head."""
    (written,) = on_the_loop(running, lambda caller: caller.ask())
    head, _, body = written.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"x-served-model: llama3.2:latest" in head
    assert body == ANSWER


def test_what_the_gateway_answers_itself_is_one_write(running: RunningGateway) -> None:
    """So does a list, and an error."""

    async def trial(caller: Caller) -> list[list[bytes]]:
        found = []
        for first in (b"GET /api/tags", b"GET /nowhere", b"HEAD /api/version"):
            caller.transport.written.clear()
            caller.protocol.data_received(first + b" HTTP/1.1\r\nHost: gateway\r\nx-api-key: %b\r\n\r\n" % KEY.encode())
            while not caller.protocol.cycle.response_complete:
                caller.transport.was_written.clear()
                await asyncio.wait_for(caller.transport.was_written.wait(), PATIENCE)
            found.append(list(caller.transport.written))
        return found

    assert [len(written) for written in on_the_loop(running, trial)] == [1, 1, 1]


def test_a_stream_begins_with_its_first_piece(running: RunningGateway, told: Told) -> None:
    """The head of a stream goes out with the first piece that is there, each other piece by itself, the end with the
    last."""
    told.stream_of(3)
    written = on_the_loop(running, lambda caller: caller.ask(stream=True, go_on=told.go_on))
    assert len(written) == 4
    assert written[0].endswith(b"\r\n\r\n" + chunk(event("0")))
    assert written[1:] == [chunk(event("1")), chunk(event("2")), chunk(DONE) + b"0\r\n\r\n"]


def test_a_head_does_not_wait_for_a_stream_to_begin(running: RunningGateway, told: Told) -> None:
    """A caller has the head of a stream before its first piece, where that is not there yet."""
    told.stream_of(0)
    written = on_the_loop(running, lambda caller: caller.ask(stream=True, go_on=told.go_on))
    assert len(written) == 2
    assert written[0].endswith(b"\r\n\r\n")
    assert written[1] == chunk(DONE) + b"0\r\n\r\n"


def test_a_request_has_no_task(running: RunningGateway, told: Told) -> None:
    """No task is made for a common request, be its answer a document or a stream."""

    async def trial(caller: Caller, *, stream: bool) -> list[int]:
        loop, made = asyncio.get_running_loop(), 0

        def make(loop: asyncio.AbstractEventLoop, work: Any, **more: Any) -> asyncio.Task[Any]:
            nonlocal made
            made += work.__qualname__ != "Event.wait"  # the test's own
            return asyncio.Task(work, loop=loop, **more)

        found = []
        loop.set_task_factory(cast("Any", make))
        try:
            for count in (10, 20):
                made = 0
                for _ in range(count):
                    told.stream_of(2)
                    await caller.ask(stream=stream, go_on=told.go_on)
                found.append(made)
        finally:
            loop.set_task_factory(None)
        return found

    assert on_the_loop(running, partial(trial, stream=False)) == [0, 0]
    assert on_the_loop(running, partial(trial, stream=True)) == [0, 0]


def test_meters_are_found_once(running: RunningGateway) -> None:
    """Counting a request looks no meter up by its labels, and the body and the routes are not worked out anew."""

    async def trial(caller: Caller) -> Counter[str]:
        with calls_by_name(OURS) as counted:
            for _ in range(10):
                await caller.ask()
        return counted

    counted = on_the_loop(running, trial)
    assert counted["judge"] == 10  # requests were counted
    assert not {"labels", "place_model", "weigh", "compare_digest", "contextualize"} & counted.keys()


def test_a_head_that_comes_again_is_not_read(running: RunningGateway) -> None:
    """What a client sends with each request is parsed once, its key looked up once, and its path as well."""

    async def trial(caller: Caller) -> Counter[str]:
        with calls_by_name(OURS) as counted:
            for _ in range(10):
                await caller.ask()
        return counted

    counted = on_the_loop(running, trial)
    assert counted["again"] == counted["is_over"] == counted["concerns"] == 10
    assert not {"feed_data", "on_url", "key_of", "clean", "_refuse_wrong"} & counted.keys()


def test_a_request_takes_few_steps(running: RunningGateway) -> None:
    """What a request calls is bounded, and the hundredth calls as much as the second."""

    async def trial(caller: Caller) -> list[int]:
        found = []
        for count in (20, 40):
            with calls_by_name(OURS) as counted:
                for _ in range(count):
                    await caller.ask()
            found.append(counted.total())
        return found

    once, twice = on_the_loop(running, trial)
    assert twice <= 2 * once + 40
    assert once / 20 <= CALLS_OF_A_REQUEST


def test_a_stream_takes_few_steps(running: RunningGateway, told: Told) -> None:
    """What a stream calls beside its pieces is bounded as well."""

    async def trial(caller: Caller) -> int:
        with calls_by_name(OURS) as counted:
            for _ in range(20):
                told.stream_of(2)
                await caller.ask(stream=True, go_on=told.go_on)
        return counted.total()

    assert on_the_loop(running, trial) / 20 <= CALLS_OF_A_STREAM


def test_a_piece_takes_few_steps(running: RunningGateway, told: Told) -> None:
    """A piece of a stream is passed on where it comes; the end of a stream is looked for once, however many came."""

    async def trial(caller: Caller) -> list[Counter[str]]:
        found = []
        for pieces in (20, 40):
            told.stream_of(pieces)
            with calls_by_name(OURS) as counted:
                await caller.ask(stream=True, go_on=told.go_on)
            found.append(counted)
        return found

    few, many = on_the_loop(running, trial)
    assert few["verdict"] == many["verdict"] == 1
    assert few["feed_data"] == many["feed_data"]  # that of the caller's request
    assert (many.total() - few.total()) / 20 <= CALLS_OF_A_PIECE


def test_a_line_is_made_by_the_thread_that_writes_it() -> None:
    """A line that comes as values is made elsewhere, in its turn, and none is lost when the queue stops."""
    written: list[str] = []
    makers: set[str] = set()

    def line(number: int) -> Callable[[], str]:
        def make() -> str:
            makers.add(threading.current_thread().name)
            return f"late {number}\n"

        return make

    queue = LineQueue(written.append, str)
    expected = []
    for number in range(500):
        queue.write_later(line(number))
        expected.append(f"late {number}\n")
        if number % 100 == 50:
            queue.write(f"soon {number}\n")
            expected.append(f"soon {number}\n")
    queue.stop()
    assert "".join(written) == "".join(expected)
    assert makers == {"log"}


def test_lines_that_come_as_values_are_bounded_too() -> None:
    """What finds no place is counted, and nobody waits."""
    may_write = threading.Event()
    queue = LineQueue(lambda _: may_write.wait(PATIENCE), str, limit=4_000)
    for _ in range(100):
        queue.write_later(lambda: "late\n")
    assert 0 < queue.dropped <= 90
    may_write.set()
    queue.stop()


LATE_LINES = """
import sys, threading
from loguru import logger
from app.logs import Line, in_container, request_of_lines, tell_later
in_container({"MODAL_TASK_ID": "ta-1"}, tier="a10g")
threads = set()
def words(number):
    threads.add(threading.current_thread().name)
    return f"late {number}", (("model", "m"),)
request_of_lines.set("r-1")
for number in range(300):
    tell_later(Line(number, words, "here:1"))
    if number == 150:
        logger.warning("soon")
logger.remove()
print(threads)
"""


def test_nothing_is_lost_at_the_end() -> None:
    """What a process has told until it ends is written, in order; no thread but the log's has worded it."""
    done = subprocess.run([sys.executable, "-c", LATE_LINES], capture_output=True, text=True, cwd=ROOT, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    messages = [line["message"] for line in lines]
    assert messages == [*(f"late {number}" for number in range(151)), "soon", *(f"late {n}" for n in range(151, 300))]
    late = next(line for line in lines if line["message"] == "late 7")
    about = {"level": "INFO", "where": "here:1", "container": "ta-1", "tier": "a10g", "request": "r-1", "model": "m"}
    assert about.items() <= late.items()
    assert done.stdout.strip() == "{'log'}"
