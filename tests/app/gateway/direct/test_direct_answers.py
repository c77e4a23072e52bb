"""The common request is answered without a task, and whatever befalls it, nobody can tell."""

import json
import socket
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from jobs.access.keys.proofs import hash_of
from jobs.telemetry.usage import usage
from tests.support.dialects import TALK
from tests.support.gateways import A10G_TIER, RunningGateway, gateway, is_whole
from tests.support.scripted_server import Connection, HeardRequest, ScriptedServer
from tests.support.waiting import PATIENCE, until

KEYS = f"again {hash_of('omk_again')} chat\nfresh {hash_of('omk_fresh')} chat"

PATH = "/v1/chat/completions"

DOCUMENT = {"choices": [{"message": {"content": "Hello"}}], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}
BODY = json.dumps(DOCUMENT).encode()

Play = Callable[[HeardRequest, Connection], None]


def one_write(line: Connection, body: bytes = BODY, status: int = 200, *more: bytes) -> None:
    """An answer as one packet."""
    head = [b"HTTP/1.1 %d Whatever" % status, b"Content-Type: application/json", b"Content-Length: %d" % len(body)]
    line.send(b"\r\n".join([*head, *more, b"", b""]) + body)


def in_halves(_: HeardRequest, line: Connection) -> None:
    line.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY))
    line.send(BODY[:10])
    line.send(BODY[10:])


def in_chunks(_: HeardRequest, line: Connection) -> None:
    line.begin("application/json")
    line.chunk(BODY[:20])
    line.chunk(BODY[20:])
    line.end()


def of_great_length(_: HeardRequest, line: Connection) -> None:
    one_write(line, json.dumps({**DOCUMENT, "more": "x" * 300_000}).encode())


def cut_short(_: HeardRequest, line: Connection) -> None:
    line.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n" + BODY)
    line.close()


def cut_in_its_head(_: HeardRequest, line: Connection) -> None:
    line.send(b"HTTP/1.1 200 OK\r\nContent-")
    line.close()


def of_no_sense(_: HeardRequest, line: Connection) -> None:
    line.send(b"SSH-2.0-OpenSSH_9.2\r\n")


def after_a_hint(_: HeardRequest, line: Connection) -> None:
    line.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
    one_write(line)


def silent_in_its_body(_: HeardRequest, line: Connection) -> None:
    line.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")
    line.await_end()


class Silent:
    """Says nothing until it is left."""

    def __init__(self) -> None:
        self.left = threading.Event()

    def __call__(self, _: HeardRequest, line: Connection) -> None:
        line.await_end()
        self.left.set()


class Once:
    """Plays once, and answers as ever from then on."""

    def __init__(self, play: Play) -> None:
        self._play: Play | None = play

    def __call__(self, heard: HeardRequest, line: Connection) -> None:
        play, self._play = self._play, None
        if play is None:
            one_write(line)
        else:
            play(heard, line)


PLAYS: dict[str, Callable[[], Play]] = {
    "at once": lambda: lambda _, line: one_write(line),
    "with headers": lambda: (
        lambda _, line: one_write(
            line, BODY, 200, b"X-Own: 1", b"Server: x", b"Modal-Function-Call-Id: f", b"Connection: close"
        )
    ),
    "in halves": lambda: in_halves,
    "in chunks": lambda: in_chunks,
    "long": lambda: of_great_length,
    "cut": lambda: cut_short,
    "cut in its head": lambda: cut_in_its_head,
    "no end of a document": lambda: lambda _, line: one_write(line, b'{"choices": '),
    "no sense": lambda: of_no_sense,
    "hint before": lambda: after_a_hint,
    "of another type": lambda: (
        lambda _, line: line.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi")
    ),
    "its own refusal": lambda: lambda _, line: one_write(line, b'{"error": {"message": "no such thing"}}', 400),
    "its own error": lambda: lambda _, line: one_write(line, b'{"error": {"message": "broken"}}', 500),
    "closed to us": lambda: lambda _, line: one_write(line, b'{"error": "token"}', 401),
    "not yet": lambda: Once(lambda _, line: one_write(line, b"{}", 503)),
    "forgotten": lambda: Once(lambda _, line: one_write(line, b'{"error": "model not found"}', 404)),
    "hung up once": lambda: Once(lambda _, line: line.reset()),
    "hung up each time": lambda: lambda _, line: line.reset(),
    "no content": lambda: lambda _, line: line.send(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "silent": lambda: lambda _, line: line.await_end(),
    "silent in its body": lambda: silent_in_its_body,
}


@dataclass
class Server:
    """Plays what it is told to, for those who ask for it."""

    play: Play = lambda _, line: one_write(line)
    heard: threading.Event = field(default_factory=threading.Event)

    def answer(self, heard: HeardRequest, line: Connection) -> None:
        if heard.json["messages"] == TALK:
            one_write(line)
        else:
            self.heard.set()
            self.play(heard, line)


def request(key: str, text: str | None = None, **more: object) -> bytes:
    messages = TALK if text is None else [{"role": "user", "content": text}]
    body = json.dumps({"model": "llama3.2", "messages": messages, **more}).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer omk_{key}\r\nX-Request-Id: mine\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body


def caller(running: RunningGateway) -> socket.socket:
    return socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE)


def answered(line: socket.socket) -> tuple[bytes, list[bytes], bytes]:
    """The status, the headers in order, without the time and what frames the body, and the body; of an answer or of
    what there is of one. One that is known as a whole may be framed by its length."""
    got = b""
    while not got or not is_whole(got):
        try:
            piece = line.recv(65536)
        except ConnectionResetError:
            break
        if not piece:
            break
        got += piece
    head, _, body = got.partition(b"\r\n\r\n")
    status, *headers = head.split(b"\r\n")
    if b"transfer-encoding: chunked" in headers:
        body = b"".join(body.split(b"\r\n")[1::2])  # none of these has such an end of a line in it
    return status, sorted(each for each in headers if not each.startswith(_FRAMES)), body


_FRAMES = (b"date:", b"content-length:", b"transfer-encoding:")


def recorded(running: RunningGateway, key: str) -> Counter[tuple[object, ...]]:
    """What the requests of a key come to so far: how many ended how, and their tokens."""
    running.composed.usage_recorder.flush()
    found: Counter[tuple[object, ...]] = Counter()
    for about, sums in ((row.about, row.sums) for row in usage(running.facts) if row.about.key == key):
        of = about.model, about.tier, about.ending
        found += Counter(
            {
                (*of, "count"): sums.count,
                (*of, "prompt"): sums.prompt_tokens,
                (*of, "output"): sums.output_tokens,
                (*of, "first bytes"): sums.first_bytes,
            }
        )
    return found


def warm(running: RunningGateway, key: str, name: str = "") -> socket.socket:
    """The connection of somebody who was answered once, as most are."""
    line, before = caller(running), recorded(running, name or key)
    line.sendall(request(key))
    assert answered(line)[0] == b"HTTP/1.1 200 OK"
    until(lambda: recorded(running, name or key) != before, "the record")
    return line


def added(running: RunningGateway, key: str, before: Counter[tuple[object, ...]]) -> Counter[tuple[object, ...]]:
    """What came since, once something has."""
    found: Counter[tuple[object, ...]] = until(lambda: recorded(running, key) - before, "the record")
    return found


def is_at_rest(running: RunningGateway) -> bool:
    """Whether nothing is under way, and nothing is held for what was."""
    composed = running.composed
    present = composed.admission.rates._present.copy().values()
    under_way = composed._parts.keys.under_way
    return not (running.open_exchanges() or composed.budget.taken or any(present) or under_way)


@pytest.mark.parametrize("name", PLAYS)
def test_nobody_can_tell(name: str, told: Server, running: RunningGateway) -> None:
    """Whatever a server does, a request on a connection that was used before is answered and recorded as the first of
    another connection is."""
    seen, counted = [], []
    for key in ("fresh", "again"):
        with closing(warm(running, key)) as kept:
            until(lambda: is_at_rest(running), "the end of what went before")
            before = recorded(running, key)
            told.play = PLAYS[name]()
            with closing(caller(running)) if key == "fresh" else kept as line:
                line.sendall(request(key, name))
                seen.append(answered(line))
        until(lambda: is_at_rest(running), "the end of all of it")
        counted.append(added(running, key, before))
    assert seen[0] == seen[1]
    assert counted[0] == counted[1]
    assert sum(value for (*_, what), value in counted[0].items() if what == "count") == 1


@pytest.mark.parametrize(
    "more",
    [
        {"stream": True},
        {"model": "nothere"},
        {"model": "LLAMA3.2"},
        {"model": "llama3.2:latest"},
        {"messages": []},
        {"messages": 7},
        {"reasoning_effort": "high"},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"keep_alive": 0},
        {"temperature": "hot"},
        {"more": "x" * 100_000},
        {"more": "x" * 300_000},
        {"more": ["x"] * 1000},
        {"_debug_render_only": True},
    ],
    ids=lambda each: str(each)[:40],
)
def test_what_is_asked_for_decides(more: dict[str, object], told: Server, running: RunningGateway) -> None:
    """Whatever a request says, it is answered and recorded as on another connection."""
    seen, counted = [], []
    for key in ("fresh", "again"):
        with closing(warm(running, key)) as kept:
            until(lambda: is_at_rest(running), "the end of what went before")
            before = recorded(running, key)
            told.play = lambda heard, line: one_write(line, json.dumps({**DOCUMENT, "asked": heard.json}).encode())
            with closing(caller(running)) if key == "fresh" else kept as line:
                line.sendall(request(key, "what", **more))
                seen.append(answered(line))
        counted.append(added(running, key, before))
    assert seen[0] == seen[1]
    assert counted[0] == counted[1]


def test_a_caller_who_leaves_ends_it(told: Server, running: RunningGateway) -> None:
    """The server is left at once, the request is recorded, and nothing is held for it any more."""
    told.play = silent = Silent()
    before = recorded(running, "again")
    told.heard.clear()
    with closing(warm(running, "again")) as line:
        line.sendall(request("again", "wait"))
        assert told.heard.wait(PATIENCE)
    assert silent.left.wait(PATIENCE)
    until(lambda: is_at_rest(running), "the end of all of it")
    until(lambda: ("llama3.2:latest", "a10g", "client_gone", "count") in recorded(running, "again") - before)


def test_a_key_that_is_revoked_ends_it(tmp_path: Path) -> None:
    """With 401, in the caller's own shape; the server is left."""
    silent = Silent()
    told = Server(silent)
    lines = f"root {hash_of('omk_root')} admin chat"
    with (
        ScriptedServer(told.answer) as server,
        gateway(tmp_path, {"a10g": server.url}, keys=lines, live_keys=True) as running,
        httpx.Client(base_url=running.url, headers={"x-api-key": "omk_root"}, timeout=PATIENCE) as client,
    ):
        key = client.post("/ops/v1/keys", json={"name": "alice"}).json()["key"].removeprefix("omk_")
        with closing(warm(running, key, "alice")) as line:
            line.sendall(request(key, "wait"))
            assert told.heard.wait(PATIENCE)
            client.delete("/ops/v1/keys/alice")
            status, _, body = answered(line)
        assert status.startswith(b"HTTP/1.1 401 ")
        assert "was revoked" in json.loads(body)["error"]["message"]
        assert silent.left.wait(PATIENCE)
        until(lambda: is_at_rest(running), "the end of all of it")
        assert ("llama3.2:latest", "a10g", "refused", "count") in recorded(running, "alice")


def test_it_ends_before_the_gateway_does(tmp_path: Path) -> None:
    """A gateway that is stopped meanwhile answers first, and closes the connection then."""
    may_answer = threading.Event()

    def play(_: HeardRequest, line: Connection) -> None:
        assert may_answer.wait(PATIENCE)
        one_write(line)

    told = Server(play)
    with (
        ScriptedServer(told.answer) as server,
        gateway(tmp_path, {"a10g": server.url}, keys=KEYS) as running,
        closing(warm(running, "again")) as line,
    ):
        line.sendall(request("again", "wait"))
        assert told.heard.wait(PATIENCE)
        stopping = threading.Thread(target=running.server.stop)
        stopping.start()
        until(lambda: is_refused(running), "the end of listening")
        may_answer.set()
        status, headers, body = answered(line)
        stopping.join(PATIENCE)
    assert (status, body) == (b"HTTP/1.1 200 OK", BODY)
    assert b"connection: close" in headers


def is_refused(running: RunningGateway) -> bool:
    try:
        caller(running).close()
    except OSError:
        return True
    return False


def test_what_is_cut_is_told(tmp_path: Path) -> None:
    """A prompt of which the count says that it was cut is told of, as on the first request of a connection."""
    context = A10G_TIER.context
    assert context
    counted = context - max((context - 4) // 2, 1)
    document = json.dumps({**DOCUMENT, "usage": {"prompt_tokens": counted, "completion_tokens": 3}}).encode()
    told = Server(lambda _, line: one_write(line, document))
    with (
        ScriptedServer(told.answer) as server,
        gateway(tmp_path, {"a10g": server.url}, keys=KEYS, tiers=[A10G_TIER]) as running,
        closing(warm(running, "again")) as line,
    ):
        for _ in range(2):
            line.sendall(request("again", "x" * 50_000))
            assert b"x-prompt-truncated: true" in answered(line)[1]
        line.sendall(request("again", "x" * 100))
        assert b"x-prompt-truncated: true" not in answered(line)[1]
