"""A head that comes again on its connection is not read again, and nobody can tell by what is answered."""

import json
import socket
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta

import pytest

from app.gateway.http_head import ReadHead
from jobs.access.keys.proofs import hash_of
from tests.support.dialects import OLLAMA, whole_answer
from tests.support.gateways import CLOCK, RunningGateway, gateway, is_whole
from tests.support.scripted_server import ScriptedServer
from tests.support.waiting import PATIENCE, until

KEYS = (
    f"root {hash_of('omk_root')} admin\n"
    f"key {hash_of('omk_k')} chat\nboss {hash_of('omk_boss')} admin\nfew {hash_of('omk_few')} chat rpm=3\n"
    f"short {hash_of('omk_short')} chat expires={CLOCK.now() + timedelta(seconds=1):%Y-%m-%dT%H:%M:%SZ}"
)


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer(whole_answer) as scripted:
        yield scripted


@pytest.fixture(scope="module")
def running(server: ScriptedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with gateway(tmp_path_factory.mktemp("gateway"), {"a10g": server.url}, keys=KEYS) as found:
        yield found


@pytest.fixture
def line(running: RunningGateway) -> Iterator[socket.socket]:
    with closing(socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE)) as caller:
        yield caller


def request(text: str = "hi", key: str = "omk_k", *more: str) -> bytes:
    body = json.dumps({"model": "llama3.2", "messages": [{"role": "user", "content": text}], "stream": False}).encode()
    lines = (
        f"POST {OLLAMA.path} HTTP/1.1",
        "Host: gateway",
        f"x-api-key: {key}",
        f"Content-Length: {len(body)}",
        *more,
    )
    return "\r\n".join([*lines, "", ""]).encode() + body


def answer(line: socket.socket, *pieces: bytes) -> int:
    """The status of what is answered to these bytes."""
    for piece in pieces:
        line.sendall(piece)
        CLOCK.wait(0.02 if len(pieces) > 1 else 0)
    got = b""
    while not is_whole(got):
        piece = line.recv(65536)
        assert piece, got
        got += piece
    return int(got.split()[1])


def test_only_the_body_is_another(server: ScriptedServer, line: socket.socket) -> None:
    """Requests with the same head and bodies of other lengths each get what they ask for, in whatever pieces."""
    before = len(server.asked)
    texts = ["hi", "hi", "hello", "x" * 10, "y" * 70_000, "z"]
    for text in texts:
        assert answer(line, request(text)) == 200
    said = request("in parts")
    assert answer(line, said[:30], said[30:-20], said[-20:]) == 200
    assert answer(line, said[:-20], said[-20:]) == 200
    asked = [each.json["messages"][0]["content"] for each in server.asked[before:]]
    assert asked == [*texts, "in parts", "in parts"]


def test_another_head_is_read(line: socket.socket) -> None:
    """Another key, another header or another length that is none is judged by itself."""
    assert answer(line, request()) == 200
    assert answer(line, request(key="omk_x")) == 401
    assert answer(line, request()) == 200
    assert answer(line, request("hi", "omk_k", "content-encoding: gzip")) == 400
    assert answer(line, request()) == 200
    assert answer(line, request().replace(b"Content-Length: ", b"Content-Length: +")) == 400


def test_each_request_counts(line: socket.socket) -> None:
    """A key's requests are counted one by one, though its head is read once."""
    assert [answer(line, request(key="omk_few")) for _ in range(4)] == [200, 200, 200, 429]


def test_a_key_ends_when_it_expires(line: socket.socket) -> None:
    """That a head was let in once lets nothing in after its key has expired."""
    until(lambda: answer(line, request(key="omk_short")) == 401, "the end of the key")


@pytest.mark.parametrize("path", ["/ops/v1/jobs", "/api/pull"])
def test_whoever_reads_the_body_himself_gets_it(line: socket.socket, path: str) -> None:
    """A body that comes with a head that came before is there for those parts, too, that ask for it as ASGI has it."""
    body = b'{"kind": "verify", "model": null}'
    head = f"POST {path} HTTP/1.1\r\nHost: gateway\r\nx-api-key: omk_boss\r\nContent-Length: {len(body)}\r\n"
    asked = f"{head}content-type: application/json\r\n\r\n".encode() + body
    wanted = [201, 200, 200] if path == "/ops/v1/jobs" else [400, 400, 400]
    assert [answer(line, asked) for _ in range(3)] == wanted


def test_requests_behind_each_other(line: socket.socket) -> None:
    """Two of them that come at once are answered as ever: the first one, as the last of its connection."""
    assert answer(line, request()) == 200
    assert answer(line, request() + request()) == 200
    assert line.recv(65536) == b""


HEADERS = [(b"host", b"gateway"), (b"content-length", b"12")]
HEAD = b"POST / HTTP/1.1\r\nHost: gateway\r\nContent-Length: 12\r\n\r\n"


@pytest.mark.parametrize(
    ("comes", "found"),
    [
        (HEAD, (len(HEAD), b"12")),
        (HEAD.replace(b"12", b"7") + b"1234567", (len(HEAD) - 1, b"7")),
        (HEAD.replace(b"12", b"1234567890"), (len(HEAD) + 8, b"1234567890")),
        (HEAD.replace(b"12", b"12345678901"), None),
        (HEAD.replace(b"12", b""), None),
        (HEAD.replace(b"12", b"1 2"), None),
        (HEAD.replace(b"12", b"0x2"), None),
        (HEAD.replace(b"12", b"\xb2"), None),
        (HEAD.replace(b"gateway", b"getaway"), None),
        (HEAD[:-2], None),
        (HEAD[:10], None),
        (HEAD.replace(b"12\r\n", b"12\r\nx: y\r\n"), None),
    ],
)
def test_what_is_the_same_head(comes: bytes, found: tuple[int, bytes] | None) -> None:
    """It is the same byte for byte, but for the digits of its length."""
    head = ReadHead.of(HEAD + b"0123456789ab", {"headers": HEADERS})
    assert head is not None
    assert head.again(comes) == found
    assert head.scope_with(b"3")["headers"] == [HEADERS[0], (b"content-length", b"3")]


@pytest.mark.parametrize(
    ("head", "headers"),
    [
        (HEAD.replace(b"Content-Length: 12", b"Transfer-Encoding: chunked"), [(b"transfer-encoding", b"chunked")]),
        (HEAD, [*HEADERS, (b"x", b"y")]),
        (HEAD.replace(b"gateway", b"a\nb"), HEADERS),
        (b"\r\n" + HEAD, HEADERS),
        (HEAD, [HEADERS[0], (b"content-length", b"13")]),
        (HEAD.replace(b"12", b"12345678901"), [HEADERS[0], (b"content-length", b"12345678901")]),
    ],
)
def test_a_head_that_is_read_each_time(head: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    """One whose lines are not simply its headers is not kept, nor one whose body comes in chunks."""
    with_host = headers if headers[0] == HEADERS[0] else [HEADERS[0], *headers]
    assert ReadHead.of(head, {"headers": with_host}) is None


def test_a_head_without_a_body() -> None:
    """One without a length comes again as it is."""
    plain = b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n"
    head = ReadHead.of(plain, {"headers": [HEADERS[0]]})
    assert head is not None
    assert head.again(plain) == (len(plain), b"")
    assert head.scope_with(b"")["headers"] == [HEADERS[0]]


def test_whoever_reads_the_body_by_itself_has_it(line: socket.socket) -> None:
    """A route that waits for its body finds it, though it has come together with a head that was read before."""
    body = b'{"model": "nothere"}'
    head = b"DELETE /api/delete HTTP/1.1\r\nHost: gateway\r\nx-api-key: omk_root\r\nContent-Length: %d\r\n\r\n" % len(
        body
    )
    assert [answer(line, head + body) for _ in range(3)] == [404, 404, 404]
