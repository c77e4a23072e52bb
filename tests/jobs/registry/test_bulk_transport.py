"""The transport that carries blobs: connections used again, dead ones noticed, and trouble told in httpx's words."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx
import pytest

from jobs.registry.bulk_transport import PIECE, Bulk
from tests.support.processes import free_port
from tests.support.waiting import PATIENCE, until

Script = list[list[bytes]]
"""For each connection in turn, what it answers to each request; then it is closed."""


class Seen(list[bytes]):
    """The requests that a server saw, and how many of its connections it has closed."""

    closed = 0


@contextmanager
def serving(script: Script) -> Iterator[tuple[str, Seen]]:
    """A server that answers by script; its address, and the requests it saw."""
    seen = Seen()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            for answers in script:
                connection, _ = listening.accept()
                with connection, suppress(ConnectionError):  # a client may leave in the middle
                    for answer in answers:
                        asked = b""
                        while not asked.endswith(b"\r\n\r\n"):
                            if not (more := connection.recv(4096)):
                                return
                            asked += more
                        seen.append(asked)
                        connection.sendall(answer)
                seen.closed += 1

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", seen
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(transport=Bulk(ssl.create_default_context()), timeout=PATIENCE) as client:
        yield client


def answer(body: bytes, *headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def test_a_connection_is_used_again(client: httpx.Client) -> None:
    """Once an answer was read to its end, the next request goes over the same connection, with all its headers."""
    with serving([[answer(b"one"), answer(b""), answer(b"three")]]) as (url, seen):
        bodies = [client.get(f"{url}/{n}?q=%20", headers={"Range": "bytes=0-2"}).content for n in range(3)]

    assert bodies == [b"one", b"", b"three"]
    assert [each.split(b"\r\n")[0] for each in seen] == [b"GET /%d?q=%%20 HTTP/1.1" % n for n in range(3)]
    assert all(each.lower().count(b"\r\nhost: 127.0.0.1:") == 1 and b"Range: bytes=0-2" in each for each in seen)


def test_what_is_given_back_after_the_end_is_closed() -> None:
    """An answer that is read to its end when its transport is closed already leaves no connection open."""
    with serving([[answer(b"one")]]) as (url, _), Bulk(ssl.create_default_context()) as bulk:
        response = bulk.handle_request(httpx.Request("GET", url))
        assert isinstance(response.stream, httpx.SyncByteStream)
        bulk.close()
        assert b"".join(response.stream) == b"one"
        response.close()
    assert response.stream._connection.sock is None  # type: ignore[attr-defined]


def test_a_closed_connection_is_noticed(client: httpx.Client) -> None:
    """An idle connection that the other side closed is left, and a new one made, without an error."""
    with serving([[answer(b"one")], [answer(b"two")]]) as (url, seen):
        assert client.get(url).content == b"one"
        until(lambda: seen.closed)
        assert client.get(url).content == b"two"


@pytest.mark.parametrize("header", [b"Connection: close", b"X-Anything: else"])
def test_half_an_answer_ends_its_connection(client: httpx.Client, header: bytes) -> None:
    """An answer that nobody read to its end takes its connection with it, as one does that says so."""
    with serving([[answer(b"x" * 8 * PIECE, header)], [answer(b"two")]]) as (url, _):
        with client.stream("GET", url) as response:
            assert 0 < len(next(response.iter_raw())) <= PIECE
        assert client.get(url).content == b"two"


def test_an_early_end_is_no_whole_answer(client: httpx.Client) -> None:
    """A body shorter than its Content-Length is an error, after the bytes that came."""
    with serving([[answer(b"x" * 100)[:-40]]]) as (url, _), client.stream("GET", url) as response:
        got: list[bytes] = []
        with pytest.raises(httpx.RemoteProtocolError, match="40 bytes early"):
            got.extend(response.iter_raw())
    assert b"".join(got) == b"x" * 60


def test_chunks_are_put_together(client: httpx.Client) -> None:
    """A body without a length comes in chunks and is told whole."""
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
    with serving([[chunked, answer(b"three")]]) as (url, _):
        assert client.get(url).content == b"onetwo"
        assert client.get(url).content == b"three"


@pytest.mark.parametrize("said", [b"SSH-2.0-OpenSSH_9.6\r\n", b""])
def test_what_is_no_http_is_told(client: httpx.Client, said: bytes) -> None:
    """Somebody who speaks otherwise, or hangs up without a word, is a protocol error and no bug."""
    with serving([[said]]) as (url, _), pytest.raises(httpx.RemoteProtocolError):
        client.get(url)


def test_silence_ends_at_the_timeout(client: httpx.Client) -> None:
    """A server that accepts and says nothing is left after the read timeout."""
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(httpx.ReadTimeout):
        client.get(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.1)


def test_nobody_there_is_a_connect_error(client: httpx.Client) -> None:
    """A closed port and a name that nobody has are told as httpx tells them; other verbs are refused."""
    port = free_port()
    for url in (f"http://127.0.0.1:{port}", "http://name.invalid"):
        with pytest.raises(httpx.ConnectError):
            client.get(url)
    with pytest.raises(httpx.UnsupportedProtocol):
        client.post(f"http://127.0.0.1:{port}")


def test_https_is_checked(client: httpx.Client) -> None:
    """What answers on HTTPS without a certificate we trust never sees the request."""
    with socket.create_server(("127.0.0.1", 0)) as plain:

        def hang_up() -> None:
            connection, _ = plain.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer(b"hello"))

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(httpx.ConnectError):
            client.get(f"https://127.0.0.1:{plain.getsockname()[1]}")
        thread.join(PATIENCE)
