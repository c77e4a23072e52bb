"""The common stream is passed on without a task, and whatever befalls it, nobody can tell."""

import json
import socket
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from jobs.access.keys.proofs import hash_of
from tests.app.gateway.direct.test_direct_answers import (
    KEYS,
    Play,
    Server,
    added,
    answered,
    caller,
    is_at_rest,
    is_refused,
    one_write,
    recorded,
    request,
    warm,
)
from tests.support.gateways import RunningGateway, gateway
from tests.support.scripted_server import Connection, HeardRequest, ScriptedServer
from tests.support.waiting import PATIENCE, until

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n'
DONE = b"data: [DONE]\n\n"
END = b"0\r\n\r\n"


def event(text: str) -> bytes:
    return b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\n' % text.encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


Paced = Callable[[threading.Semaphore], Play]
"""Makes a play that goes on by this."""


def sending(*pieces: bytes, last: Callable[[Connection], object] | None = None) -> Paced:
    """A play that sends these, each once the caller has something of the one before, and then does the last thing."""

    def make(may_go_on: threading.Semaphore) -> Play:
        def play(_: HeardRequest, line: Connection) -> None:
            line.send(pieces[0])
            for piece in pieces[1:]:
                assert may_go_on.acquire(timeout=PATIENCE)
                line.send(piece)
            if last is not None:
                assert may_go_on.acquire(timeout=PATIENCE)
                last(line)

        return play

    return make


FIRST = HEAD + chunk(event("one"))
REST = chunk(USAGE) + chunk(DONE) + END
MANY = [chunk(event(f"{number:03}")) for number in range(100)]
LONG = chunk(event("x" * 70_000))

STREAMS: dict[str, Paced] = {
    "piece by piece": sending(FIRST, *MANY, REST),
    "at once": sending(FIRST + b"".join(MANY) + REST),
    "head first": sending(HEAD, chunk(event("one")), chunk(event("two")), REST),
    "usage by itself": sending(FIRST, chunk(event("two")) + chunk(USAGE), chunk(DONE) + END),
    "usage in the middle": sending(FIRST, chunk(event("two")), chunk(event("six") + USAGE + event("ten")), REST),
    "end by itself": sending(FIRST, *MANY[:5], chunk(USAGE) + chunk(DONE), last=lambda line: line.send(END)),
    "long pieces": sending(FIRST, LONG, MANY[0], LONG + LONG, REST),
    "other digits": sending(FIRST, b"00%X\r\n%b\r\n" % (len(event("two")), event("two")), *MANY[:3], REST),
    "with an extension": sending(FIRST, b"%x;a=b\r\n%b\r\n" % (len(event("two")), event("two")), *MANY[:3], REST),
    "halves of events": sending(FIRST, chunk(event("two") + b"data: {") + chunk(b'"choices":[{}]}\n\n'), REST),
    "halves of chunks": sending(FIRST, MANY[0] + MANY[1][:9], MANY[1][9:] + MANY[2] + b"2", MANY[3][1:], REST),
    "another event": sending(FIRST, chunk(b": comment\n\n"), chunk(event("two")), REST),
    "its own error": sending(FIRST, MANY[0], chunk(b'data: {"error":{"message":"broken"}}\n\n') + END),
    "no terminator": sending(FIRST, MANY[0], chunk(event("two")) + END),
    "nothing more": sending(FIRST, END),
    "cut": sending(FIRST, MANY[0], MANY[1], last=lambda line: line.close()),
    "cut in a chunk": sending(FIRST, MANY[0] + MANY[1][:9], last=lambda line: line.reset()),
    "cut at once": sending(FIRST, last=lambda line: line.reset()),
    "no sense": sending(FIRST, MANY[0], b"zz\r\nwhat\r\n"),
    "more than its end": sending(FIRST, MANY[0], REST + b"HTTP/1.1 200 OK\r\n\r\n"),
    "silent": sending(FIRST, MANY[0], last=lambda line: line.await_end()),
    "by its length": sending(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n" % (len(event("one")) * 2)
        + event("one"),
        event("two"),
    ),
    "until it closes": sending(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + event("one"),
        event("two"),
        last=Connection.close,
    ),
    "of another status": sending(HEAD.replace(b"200 OK", b"201 Created") + chunk(event("one")), MANY[0], REST),
    "in lines": sending(
        HEAD.replace(b"text/event-stream", b"application/x-ndjson") + chunk(b'{"a":1}\n'),
        chunk(b'{"a":2}\n'),
        chunk(b'{"done":true}\n') + END,
    ),
}  # fmt: skip


class Heard:
    """A caller's connection, of which whoever sends knows when something has come."""

    def __init__(self, line: socket.socket, may_go_on: threading.Semaphore) -> None:
        self._line = line
        self._may_go_on = may_go_on

    def recv(self, size: int) -> bytes:
        piece = self._line.recv(size)
        self._may_go_on.release()
        return piece


@pytest.mark.parametrize("usage", [{}, {"stream_options": {"include_usage": True}}], ids=["without usage", "with"])
@pytest.mark.parametrize("name", STREAMS)
def test_nobody_can_tell(name: str, usage: dict[str, object], told: Server, running: RunningGateway) -> None:
    """Whatever a server streams, on a connection that was used before it comes and is recorded as on another one."""
    seen, counted = [], []
    for key in ("fresh", "again"):
        with closing(warm(running, key)) as kept:
            until(lambda: is_at_rest(running), "the end of what went before")
            before, may_go_on = recorded(running, key), threading.Semaphore(0)
            told.play = STREAMS[name](may_go_on)
            with closing(caller(running)) if key == "fresh" else kept as line:
                line.sendall(request(key, name, stream=True, **usage))
                seen.append(answered(Heard(line, may_go_on)))  # type: ignore[arg-type] # as far as it is used
            may_go_on.release(2 * len(MANY))  # whoever still waits to send is let go
        until(lambda: is_at_rest(running), "the end of all of it")
        counted.append(added(running, key, before))
    assert seen[0] == seen[1]
    assert counted[0] == counted[1]
    assert sum(value for (*_, what), value in counted[0].items() if what == "count") == 1


@pytest.mark.parametrize("has_terminator", [False, True])
def test_a_caller_who_leaves_ends_it(has_terminator: bool, told: Server, running: RunningGateway) -> None:
    """The server is left at once. Who leaves behind the terminator has had all of it."""
    left = threading.Event()

    def play(_: HeardRequest, line: Connection) -> None:
        line.send(FIRST + (chunk(DONE) if has_terminator else b""))
        line.await_end()
        left.set()

    told.play = play
    with closing(warm(running, "again")) as line:
        before = recorded(running, "again")
        line.sendall(request("again", "wait", stream=True))
        got = b""
        while (b"[DONE]" if has_terminator else b"one") not in got:
            got += line.recv(65536)
    assert left.wait(PATIENCE)
    until(lambda: is_at_rest(running), "the end of all of it")
    ending = "success" if has_terminator else "client_gone"
    assert ("llama3.2:latest", "a10g", ending, "count") in added(running, "again", before)


def test_a_key_that_is_revoked_ends_it(tmp_path: Path) -> None:
    """With an error as its last event; the server is left."""
    left = threading.Event()

    def play(_: HeardRequest, line: Connection) -> None:
        line.send(FIRST)
        line.await_end()
        left.set()

    told = Server(play)
    lines = f"root {hash_of('omk_root')} admin chat"
    with (
        ScriptedServer(told.answer) as server,
        gateway(tmp_path, {"a10g": server.url}, keys=lines, live_keys=True) as running,
        httpx.Client(base_url=running.url, headers={"x-api-key": "omk_root"}, timeout=PATIENCE) as client,
    ):
        key = client.post("/ops/v1/keys", json={"name": "alice"}).json()["key"].removeprefix("omk_")
        with closing(warm(running, key, "alice")) as line:
            line.sendall(request(key, "wait", stream=True))
            got = line.recv(65536)
            client.delete("/ops/v1/keys/alice")
            while not got.endswith(END):
                got += line.recv(65536)
        body = b"".join(got.partition(b"\r\n\r\n")[2].split(b"\r\n")[1::2])
        assert body.startswith(event("one"))
        assert "was revoked" in json.loads(body.removeprefix(event("one") + b"data: "))["error"]["message"]
        assert left.wait(PATIENCE)
        until(lambda: is_at_rest(running), "the end of all of it")
        assert ("llama3.2:latest", "a10g", "refused", "count") in recorded(running, "alice")


def test_it_ends_before_the_gateway_does(tmp_path: Path) -> None:
    """A gateway that is stopped meanwhile passes on the rest, and closes the connection then."""
    may_go_on = threading.Event()

    def play(_: HeardRequest, line: Connection) -> None:
        line.send(FIRST)
        assert may_go_on.wait(PATIENCE)
        line.send(MANY[0] + REST)

    told = Server(play)
    with (
        ScriptedServer(told.answer) as server,
        gateway(tmp_path, {"a10g": server.url}, keys=KEYS) as running,
        closing(warm(running, "again")) as line,
    ):
        line.sendall(request("again", "wait", stream=True))
        got = line.recv(65536)
        stopping = threading.Thread(target=running.server.stop)
        stopping.start()
        until(lambda: is_refused(running), "the end of listening")
        may_go_on.set()
        while piece := line.recv(65536):
            got += piece
        stopping.join(PATIENCE)
    assert got.endswith(DONE + b"\r\n" + END)


def test_a_caller_who_does_not_read_holds_the_server_up(tmp_path: Path) -> None:
    """What he does not take is not read from the server, and he gets all of it once he reads on."""
    sent = threading.Event()
    pieces = 20_000

    def play(_: HeardRequest, line: Connection) -> None:
        line.send(FIRST)
        for _number in range(pieces):
            line.send(chunk(event("y" * 900)))
        sent.set()
        line.send(REST)

    told, got = Server(play), bytearray()
    with (
        ScriptedServer(told.answer) as server,
        gateway(tmp_path, {"a10g": server.url}, keys=KEYS) as running,
        closing(warm(running, "again")) as line,
    ):
        line.sendall(request("again", "much", stream=True))
        got += line.recv(1)
        (busy,) = running.composed.upstream_clients["a10g"]._busy
        until(lambda: busy.is_paused, "no more being read from the server")
        assert not sent.is_set()
        while not got.endswith(END):
            got += line.recv(1 << 20)
    assert got.count(b"y" * 900) == pieces
    assert got.endswith(DONE + b"\r\n" + END)


def test_one_write_is_no_stream(told: Server, running: RunningGateway) -> None:
    """A server that answers a request for a stream with a document is passed on, too."""
    told.play = lambda _, line: one_write(line)
    with closing(warm(running, "again")) as line:
        line.sendall(request("again", "what", stream=True))
        assert answered(line)[0] == b"HTTP/1.1 200 OK"
