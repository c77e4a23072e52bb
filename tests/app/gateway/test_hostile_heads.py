"""Heads and bodies that two programs read in two ways, raw over a socket; after each, a plain request is answered.

What a proxy on the way takes for one request must be one here, and nothing of it reaches a server that should not.
"""

import json
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from jobs.access.keys.proofs import hash_of
from tests.support.dialects import OLLAMA, whole_answer
from tests.support.gateways import CLOCK, RunningGateway, gateway, is_whole
from tests.support.scripted_server import Connection, HeardRequest, ScriptedServer
from tests.support.waiting import PATIENCE, until

KEY, OTHER = "omk_k", "omk_o"
KEYS = f"key {hash_of(KEY)} chat rpm=1000000\nother {hash_of(OTHER)}"
BODY = json.dumps({"model": "llama3.2", "messages": [], "stream": False}).encode()
SIZE = f"Content-Length: {len(BODY)}"
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer(whole_answer) as scripted:
        yield scripted


@pytest.fixture(scope="module")
def running(server: ScriptedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with gateway(tmp_path_factory.mktemp("gateway"), {"a10g": server.url}, keys=KEYS) as found:
        assert is_well(found)
        yield found


def is_well(running: RunningGateway, key: str = OTHER) -> bool:
    """Whether somebody else's plain request is answered."""
    headers = {"x-api-key": key}
    return httpx.post(running.url + OLLAMA.path, content=BODY, headers=headers, timeout=PATIENCE).status_code == 200


def request(
    *lines: str, body: bytes = b"", first: str = "POST /api/chat HTTP/1.1", host: str = "Host: gateway", key: str = KEY
) -> bytes:
    """A request as its bytes."""
    named = [first, *([host] if host else []), *([f"x-api-key: {key}"] if key else []), *lines, "", ""]
    return "\r\n".join(named).encode("latin-1") + body


def said(running: RunningGateway, *pieces: bytes, stays: bool = False) -> bytes:
    """All that comes back for these bytes, sent one after the other has had its effect, until we are let go.

    With `stays` the connection may be kept: then it is what comes until an answer is whole, and for a moment after it.
    """
    with closing(socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE)) as caller:
        for piece in pieces:
            caller.sendall(piece)
            CLOCK.wait(0.02 if len(pieces) > 1 else 0)
        got = b""
        try:
            while piece := caller.recv(65536):
                got += piece
                if stays and is_whole(got):
                    caller.settimeout(0.1)
        except TimeoutError:
            return got + b"<open>"
        except ConnectionResetError:
            pass
        return got


def statuses(answer: bytes) -> list[int]:
    """The status of each answer in what came back."""
    return [int(line.split()[1]) for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]


# -- heads that can be read in two ways --------------------------------------------------------------------------------

REFUSED: dict[str, bytes] = {
    "gzip under chunked": request("Transfer-Encoding: gzip, chunked", body=CHUNKED),
    "gzip over chunked": request("Transfer-Encoding: chunked, gzip", body=CHUNKED),
    "gzip-and-chunked-in-two-lines": request("Transfer-Encoding: gzip", "Transfer-Encoding: chunked", body=CHUNKED),
    "gzip alone": request("Transfer-Encoding: gzip", body=BODY),
    "identity": request("Transfer-Encoding: identity", SIZE, body=BODY),
    "coding-twice": request("Transfer-Encoding: chunked", "Transfer-Encoding: chunked", body=CHUNKED),
    "coding-listed-twice": request("Transfer-Encoding: chunked, chunked", body=CHUNKED),
    "coding-with-a-tab": request("Transfer-Encoding: \x0bchunked", body=CHUNKED),
    "coding-misspelt": request("Transfer-Encoding: xchunked", SIZE, body=BODY),
    "coding-empty": request("Transfer-Encoding:", SIZE, body=BODY),
    "coding-before-a-space": request("Transfer-Encoding : chunked", body=CHUNKED),
    "coding-and-length": request("Transfer-Encoding: chunked", SIZE, body=CHUNKED),
    "length-and-coding": request(SIZE, "Transfer-Encoding: chunked", body=CHUNKED),
    "coding-of-1.0": request("Transfer-Encoding: chunked", body=CHUNKED, first="POST /api/chat HTTP/1.0"),
    "coding-folded": request("Transfer-Encoding:\r\n chunked", body=CHUNKED),
    "length-twice": request(SIZE, SIZE, body=BODY),
    "two-lengths": request("Content-Length: 5", SIZE, body=BODY),
    "length-listed": request(f"{SIZE}, {len(BODY)}", body=BODY),
    "length-signed": request(f"Content-Length: +{len(BODY)}", body=BODY),
    "length-negative": request("Content-Length: -5", body=BODY),
    "length-in-hex": request("Content-Length: 0x31", body=BODY),
    "length-empty": request("Content-Length:", body=BODY),
    "length-beyond-numbers": request("Content-Length: 99999999999999999999999", body=BODY),
    "bare-lf": request(SIZE).replace(b"\r\n", b"\n") + BODY,
    "one-bare-lf": request(SIZE, body=BODY).replace(b"gateway\r\n", b"gateway\n"),
    "one-bare-cr": request(SIZE, body=BODY).replace(b"gateway\r\n", b"gateway\r"),
    "ends-in-lf-lf": request(SIZE).replace(b"\r\n\r\n", b"\n\n") + BODY,
    "folded": request("X-A: 1\r\n folded", SIZE, body=BODY),
    "begins-with-a-space": request(SIZE, body=BODY, host=" Host: gateway"),
    "nul-in-a-value": request("X-A: a\0b", SIZE, body=BODY),
    "nul-in-a-name": request("X\0A: b", SIZE, body=BODY),
    "control-character": request("X-A: a\x01b", SIZE, body=BODY),
    "without-a-name": request(": b", SIZE, body=BODY),
    "without-a-colon": request("abc", SIZE, body=BODY),
    "no-host": request(SIZE, body=BODY, host=""),
    "two-hosts": request("Host: other", SIZE, body=BODY),
    "another-host-in-the-address": request(SIZE, body=BODY, first="POST http://evil.example/api/chat HTTP/1.1"),
    "an-address-without-a-path": request(SIZE, body=BODY, first="POST http://gateway HTTP/1.1"),
    "no-address": request(SIZE, body=BODY, first="POST api/chat HTTP/1.1"),
    "tunnel": request(first="CONNECT evil.example:443 HTTP/1.1"),
    "letters-beyond-ascii": request(SIZE, body=BODY, first="POST /api/chat\xff HTTP/1.1"),
    "nul-in-the-address": request(SIZE, body=BODY, first="POST /api/chat\0 HTTP/1.1"),
    "http-2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "version-2.0": request(SIZE, body=BODY, first="POST /api/chat HTTP/2.0"),
    "version-0.9": request(SIZE, body=BODY, first="POST /api/chat HTTP/0.9"),
    "version-1.2": request(SIZE, body=BODY, first="POST /api/chat HTTP/1.2"),
    "small-letters": request(SIZE, body=BODY, first="post /api/chat HTTP/1.1"),
    "long-head": request("X-A: " + "a" * 70_000, SIZE, body=BODY),
    "long-address": request(SIZE, body=BODY, first=f"POST /{'a' * 70_000} HTTP/1.1"),
    "many-lines": request(*["a:"] * 300, SIZE, body=BODY),
    "many-trailers": request("Transfer-Encoding: chunked", body=CHUNKED[:-2] + b"a:\r\n" * 300 + b"\r\n"),
    "chunk-without-a-size": request("Transfer-Encoding: chunked", body=b"zz\r\n"),
    "chunk-below-nothing": request("Transfer-Encoding: chunked", body=b"-1\r\n"),
    "chunk-in-0x": request("Transfer-Encoding: chunked", body=b"0x" + CHUNKED),
    "chunk-beyond-numbers": request("Transfer-Encoding: chunked", body=b"f" * 17 + b"\r\n"),
    "chunk-with-lf": request("Transfer-Encoding: chunked", body=CHUNKED.replace(b"\r\n", b"\n")),
    "chunk-that-spills": request("Transfer-Encoding: chunked", body=CHUNKED.replace(b"\r\n0", b"XX0")),
}


@pytest.mark.parametrize("raw", REFUSED.values(), ids=[name.replace(" ", "-") for name in REFUSED])
def test_what_can_be_read_in_two_ways_is_refused(running: RunningGateway, server: ScriptedServer, raw: bytes) -> None:
    """400 and the end of the connection; no server hears of it, and the next request is answered."""
    before = len(server.heard)
    answer = said(running, raw)
    assert (statuses(answer), b"<open>" in answer) == ([400], False)
    assert len(server.heard) == before
    assert is_well(running)


@pytest.mark.parametrize(
    "raw",
    [
        request(f"{SIZE} \t", body=BODY),
        request(SIZE, body=BODY, first="POST http://gateway/api/chat HTTP/1.1"),
        request(SIZE, body=BODY, first="POST http://Gateway:80/api/chat HTTP/1.1"),
        request(SIZE, "Content-Encoding: identity", body=BODY),
        request("Transfer-Encoding: Chunked", body=CHUNKED.replace(b"\r\n", b";an=extension\r\n", 1)),
        request(SIZE, body=BODY, first="POST /api/chat HTTP/1.0", host=""),
        request("X-A: \xff", SIZE, body=BODY),
        b"\r\n" + request(SIZE, body=BODY),
    ],
    ids=[
        "spaces-at-the-end",
        "whole-address",
        "with-its-port",
        "identity",
        "extension",
        "1.0",
        "latin-1",
        "an-empty-line-before",
    ],
)
def test_what_only_looks_odd_is_answered(running: RunningGateway, raw: bytes) -> None:
    """What the standard allows is no fault."""
    assert statuses(said(running, raw, stays=True)) == [200]


def test_trailers_are_no_headers(running: RunningGateway, server: ScriptedServer) -> None:
    """A key in a trailer lets nobody in; nor does one name the request, or reach a server."""

    def ending_in(*trailers: bytes) -> bytes:
        return CHUNKED[:-2] + b"".join(line + b"\r\n" for line in trailers) + b"\r\n"

    late = ending_in(b"x-api-key: " + KEY.encode())
    assert statuses(said(running, request("Transfer-Encoding: chunked", body=late, key=""), stays=True)) == [401]
    odd = ending_in(b"x-request-id: trailed", b"user-agent: trailed", b"content-type: trailed")
    answer = said(running, request("Transfer-Encoding: chunked", body=odd), stays=True)
    assert (statuses(answer), b"trailed" in answer) == ([200], False)
    assert "trailed" not in str(server.asked[-1].headers)


def test_what_comes_behind_a_request_is_not_read(running: RunningGateway, server: ScriptedServer) -> None:
    """One request is answered at a time: another or garbage behind it neither reaches a server nor harms its answer."""
    for behind in (request(SIZE, body=BODY), b"\0garbage\r\n\r\n", b"GET /api/tags HTTP/1.1\r\nX: y\r\n\r\n"):
        before = len(server.asked)
        answer = said(running, request(SIZE, body=BODY) + behind)
        assert (statuses(answer), b"<open>" in answer) == ([200], False)
        assert answer.rstrip().endswith(b"0")  # the last chunk: all of it came
        assert len(server.asked) - before == 1
        assert is_well(running)


def test_requests_one_after_the_other_share_a_connection(running: RunningGateway) -> None:
    """Whoever waits for each answer is answered on one connection for as long as he likes."""
    with httpx.Client(base_url=running.url, headers={"x-api-key": KEY}, timeout=PATIENCE) as client:
        for path in ("/api/version", "/nowhere", "/api/tags", "/ops/v1/tiers", "/api/version"):
            client.head(path)
            answer = client.get(path)
            assert "close" not in answer.headers.get("connection", "")
        assert client.post(OLLAMA.path, content=BODY).status_code == 200
        local = {connection.info for connection in client._transport._pool.connections}  # type: ignore[attr-defined]
    assert len(local) == 1


def test_who_leaves_with_a_request_behind_is_noticed(tmp_path: Path) -> None:
    """A caller who sends a second request and goes ends what the server does for the first."""

    def script(_: HeardRequest, line: Connection) -> None:
        line.begin(OLLAMA.kind)
        line.chunk(OLLAMA.pieces[0])
        line.await_end()

    with ScriptedServer(script) as slow, gateway(tmp_path, {"a10g": slow.url}) as running:
        with socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE) as caller:
            caller.sendall(2 * request(SIZE, body=BODY))
            assert caller.recv(12) == b"HTTP/1.1 200"
            assert running.open_exchanges() == 1
        until(lambda: running.open_exchanges() == 0)
        assert len(slow.asked) == 1


def test_a_body_that_was_not_asked_for_is_no_request(running: RunningGateway, server: ScriptedServer) -> None:
    """Refused before its body was asked for, a request ends its connection: what comes next could be either."""
    before = len(server.heard)
    head = request("Expect: 100-continue", "Content-Length: 500", key="")
    answer = said(running, head, request(SIZE, body=BODY))
    assert (statuses(answer), b"<open>" in answer) == ([401], False)
    assert len(server.heard) == before
    with closing(socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE)) as caller:
        caller.sendall(request("Expect: 100-continue", SIZE))
        got = caller.recv(65536)
        assert statuses(got) == [100]
        caller.sendall(BODY)
        while not is_whole(got):
            got += caller.recv(65536)
        assert statuses(got) == [100, 200]
    old = said(running, request("Expect: 100-continue", SIZE, body=BODY, first="POST /api/chat HTTP/1.0"), stays=True)
    assert statuses(old) == [200]


def test_another_protocol_is_not_spoken(running: RunningGateway, server: ScriptedServer) -> None:
    """An offer to speak another one is passed over, and what follows the request is not taken for one."""
    offers = [
        request("Connection: Upgrade", "Upgrade: h2c", first="GET /api/version HTTP/1.1"),
        request("Connection: Upgrade", "Upgrade: h2c", "Content-Length: 3", first="GET /api/version HTTP/1.1") + b"abc",
        request("Connection: Upgrade", "Upgrade: websocket", first="GET /api/version HTTP/1.1"),
    ]
    before = len(server.heard)
    for offer in offers:
        for behind in (request(SIZE, body=BODY), offer):
            for pieces in ([offer + behind], [offer, behind]):
                answer = said(running, *pieces)
                assert (statuses(answer), b"<open>" in answer) == ([200], False)
    assert len(server.heard) == before
    assert is_well(running)


JDK = (
    b"POST /api/chat HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nContent-Length: %d\r\nHost: gateway\r\n"
    b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\nUpgrade: h2c\r\nUser-Agent: Java-http-client/17\r\n"
    b"Content-Type: application/json\r\nx-api-key: %b\r\n\r\n" % (len(BODY), KEY.encode())
)
"""As java.net.http.HttpClient sends it to an http:// address; the body comes by itself."""


@pytest.mark.parametrize(
    "pieces",
    [
        (JDK + BODY,),
        (JDK, BODY),
        (JDK[:90], JDK[90:-1], JDK[-1:], BODY[:9], BODY[9:]),
        (JDK.replace(SIZE.encode(), b"Transfer-Encoding: chunked"), CHUNKED[:9], CHUNKED[9:]),
        (JDK.replace(b"Host", b"Expect: 100-continue\r\nHost"), BODY),
        (JDK.replace(b"Connection: Upgrade, HTTP2", b"Connection: keep-alive, uPGRADE\r\nconnection: HTTP2"), BODY),
    ],
    ids=["at-once", "head-and-body", "in-pieces", "chunked", "asked-for-its-body", "two-connections"],
)
def test_whoever_offers_another_protocol_is_answered(
    running: RunningGateway, server: ScriptedServer, pieces: list[bytes]
) -> None:
    """As if he had not, body and all (RFC 9110, 7.8); the server hears nothing of the offer."""
    before = len(server.asked)
    answer = said(running, *pieces, stays=True)
    assert [each for each in statuses(answer) if each != 100] == [200]
    assert len(server.asked) == before + 1
    heard = server.asked[-1]
    assert json.loads(heard.body)["model"] == "llama3.2"
    assert not {"upgrade", "http2-settings"} & {name.lower() for name, _ in heard.headers}
    assert is_well(running)


def test_a_body_behind_an_offer_is_a_body(running: RunningGateway, server: ScriptedServer) -> None:
    """A request within the body of one that offers another protocol reaches nobody, however long it is said to be."""
    inner = request(SIZE, body=BODY)
    for lines, body in (
        ([f"Content-Length: {len(inner)}"], inner),
        (["Transfer-Encoding: chunked"], b"%x\r\n%b\r\n0\r\n\r\n" % (len(inner), inner)),
    ):
        before = len(server.heard)
        for pieces in ((lines, body), (lines, body + inner)):
            raw = request("Connection: Upgrade", "Upgrade: h2c", *pieces[0], body=pieces[1])
            answer = said(running, raw)
            assert (statuses(answer), b"<open>" in answer) == ([400], False)  # it is no JSON
            assert b"Invalid HTTP" not in answer
        assert len(server.heard) == before


OFFER = b"\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"


@pytest.mark.parametrize("raw", REFUSED.values(), ids=[name.replace(" ", "-") for name in REFUSED])
def test_an_offer_makes_nothing_plainer(running: RunningGateway, server: ScriptedServer, raw: bytes) -> None:
    """What can be read in two ways is refused with an offer of another protocol as it is without, before and behind."""
    head, end, body = raw.partition(b"\r\n\r\n")
    before = len(server.heard)
    for offering in (raw.replace(b"\r\n", OFFER, 1), head + OFFER + end[2:] + body):
        answer = said(running, offering)
        assert (statuses(answer), b"<open>" in answer) == ([400], False)
    assert len(server.heard) == before


def test_what_is_not_there_counts_in_the_minute(tmp_path: Path, server: ScriptedServer) -> None:
    """Unknown paths, wrong methods, and what is not served use up a key's minute as everything else does."""
    keys = f"few {hash_of(KEY)} rpm=3\nother {hash_of(OTHER)}"
    with (
        gateway(tmp_path, {"a10g": server.url}, keys=keys) as running,
        httpx.Client(base_url=running.url, headers={"x-api-key": KEY}, timeout=PATIENCE) as client,
    ):
        asked = [("GET", "/nowhere"), ("PUT", "/api/chat"), ("POST", "/api/me"), ("GET", "/nowhere")]
        answers = [client.request(*each) for each in asked]
        assert [each.status_code for each in answers] == [404, 405, 403, 429]
        assert int(answers[-1].headers["retry-after"]) > 0
        assert is_well(running)
