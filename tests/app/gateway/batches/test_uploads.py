"""Uploads over the wire: slow, broken and hostile ones, and what they leave behind."""

import re
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from loguru import logger

from jobs.access.keys.key_records import KeySettings
from jobs.access.keys.key_store import KeyStore
from jobs.access.keys.proofs import hash_of
from jobs.batches.limits import BatchLimits
from tests.support.batch_gateways import BatchGateway, batch_gateway, uploads
from tests.support.gateway_process import gateway_process
from tests.support.waiting import PATIENCE, until

KEY, OTHER = "omk_key", "omk_other"
KEYS = f"key {hash_of(KEY)} chat\nother {hash_of(OTHER)} chat"

AIR = 48 << 20
"""Memory that comes and goes: of an upload two pieces of a megabyte, and what the allocator gives back late."""

HEAD = b'--cut\r\nContent-Disposition: form-data; name="file"; filename="secret-name.jsonl"\r\n\r\n'
TAIL = b'\r\n--cut\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--cut--\r\n'


@pytest.fixture
def served(tmp_path: Path) -> Iterator[BatchGateway]:
    with batch_gateway(tmp_path, keys=KEYS) as found:
        yield found


def caller(served: BatchGateway, length: int | None, *lines: str, path: str = "/v1/files", key: str = KEY) -> Any:
    """A connection on which an upload has begun; without a length, in chunks."""
    size = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    head = (
        f"POST {path} HTTP/1.1", "host: x", f"authorization: Bearer {key}",
        "content-type: multipart/form-data; boundary=cut", size, *lines,
    )  # fmt: skip
    found = socket.create_connection(("127.0.0.1", served.running.port), timeout=PATIENCE)
    found.sendall("\r\n".join([*head, "", ""]).encode())
    return closing(found)


def status(line: socket.socket) -> int:
    answer = b""
    while b"\r\n\r\n" not in answer:
        piece = line.recv(65536)
        assert piece, answer
        answer += piece
    return int(answer.split(b" ", 2)[1])


def test_an_upload_in_chunks(served: BatchGateway) -> None:
    """A body whose length nobody says is taken as any other, and so is one that waits to be asked for."""
    body = HEAD + b"{}" + TAIL
    with caller(served, None) as line:
        for at in range(0, len(body), 10):
            piece = body[at : at + 10]
            line.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
        line.sendall(b"0\r\n\r\n")
        assert status(line) == 200
    with caller(served, len(body), "expect: 100-continue") as line:
        assert line.recv(100).startswith(b"HTTP/1.1 100")
        line.sendall(body)
        assert status(line) == 200
    assert {file.bytes for file in served.storage.files()} == {2}


def test_who_leaves_in_between_leaves_nothing(served: BatchGateway) -> None:
    """Of an upload whose caller goes away nothing stays, and his slot is another's."""
    for _ in range(10):
        with caller(served, 50_000_000) as line:
            line.sendall(HEAD + b"x" * 3_000_000)
            until(lambda: uploads(served.storage), "the beginning of the upload")
        until(lambda: not uploads(served.storage), "the end of the upload")
    assert served.storage.files() == []


def test_who_sends_nothing_is_refused(tmp_path: Path) -> None:
    """An upload that stops is answered 408 after a while, and nothing of it stays."""
    with batch_gateway(tmp_path, keys=KEYS, body_seconds=2.0) as served, caller(served, 50_000_000) as line:
        line.sendall(HEAD + b"x" * 3_000_000)
        assert status(line) == 408
        assert not uploads(served.storage)


def test_what_says_that_it_is_too_large_is_refused_unread(tmp_path: Path) -> None:
    """A length beyond the limit is refused before a byte has come; a file that grows beyond it, when it does."""
    with batch_gateway(tmp_path, BatchLimits(most_file_bytes=100_000), keys=KEYS) as served:
        with caller(served, 1_000_000) as line:
            assert status(line) == 413
        with caller(served, None) as line:
            line.sendall(b"%x\r\n%b\r\n" % (len(HEAD), HEAD))
            line.sendall(b"%x\r\n%b\r\n" % (150_000, b"x" * 150_000))
            line.sendall(b"%x\r\n%b\r\n0\r\n\r\n" % (len(TAIL), TAIL))
            assert status(line) == 413
        assert not uploads(served.storage)
        answer = post(served, b"x" * 100_000)
        assert answer.json()["bytes"] == 100_000
        refused = post(served, b"x" * 100_001)
        assert (refused.status_code, refused.json()["error"]["type"]) == (413, "invalid_request_error")
        assert "more than 100,000 bytes" in refused.json()["error"]["message"]


def post(served: BatchGateway, content: bytes, key: str = KEY) -> httpx.Response:
    return httpx.post(
        f"{served.url}/v1/files",
        files={"file": ("secret-name.jsonl", content)},
        data={"purpose": "batch"},
        headers={"authorization": f"Bearer {key}"},
        timeout=PATIENCE,
    )


def test_beyond_the_quota_nothing_is_taken(tmp_path: Path) -> None:
    """An upload for which there is no room is answered 507 in the caller's shape, with what to do; nothing stays."""
    with batch_gateway(tmp_path, quota_bytes=3_000_000, keys=KEYS) as served:
        assert post(served, b"x" * 1_000_000).status_code == 200
        refused = post(served, b"x" * 2_500_000)
        assert (refused.status_code, refused.json()["error"]["type"]) == (507, "api_error")
        assert "delete files" in refused.json()["error"]["message"]
        assert not uploads(served.storage)
        body = b'{"requests": [{"custom_id": "a", "params": {"x": "' + b"x" * 2_500_000 + b'"}}]}'
        headers = {"x-api-key": KEY}
        told = httpx.post(f"{served.url}/v1/messages/batches", content=body, headers=headers, timeout=PATIENCE)
        assert (told.status_code, told.json()["type"]) == (507, "error")
        assert not uploads(served.storage)
        assert len(served.storage.files()) == 1


def test_a_key_has_its_share_of_uploads(served: BatchGateway) -> None:
    """One key has a quarter of the uploads at once; more are told to come again, and others are not held up."""
    lines = [caller(served, 50_000_000) for _ in range(2)]
    try:
        for each in lines:
            each.__enter__().sendall(HEAD + b"x" * 2_000_000)
        until(lambda: len(uploads(served.storage)) == 2, "two uploads")
        refused = post(served, b"{}")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "10")
        assert post(served, b"{}", OTHER).status_code == 200
    finally:
        for each in lines:
            each.__exit__(None, None, None)
    until(lambda: post(served, b"{}").status_code == 200, "the share that was given back")


def test_a_file_that_goes_away_ends_its_download(served: BatchGateway) -> None:
    """What is removed while somebody reads it ends his answer without its end, so that he knows; no file was open."""
    file = post(served, b"x" * 30_000_000).json()["id"]
    headers, url = {"authorization": f"Bearer {KEY}"}, f"{served.url}/v1/files/{file}"
    with httpx.stream("GET", f"{url}/content", headers=headers, timeout=PATIENCE) as answer:
        pieces = answer.iter_raw()
        next(pieces)
        assert httpx.delete(url, headers=headers, timeout=PATIENCE).status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            list(pieces)
    assert post(served, b"{}").status_code == 200


def test_a_key_that_is_revoked_ends_its_upload(tmp_path: Path) -> None:
    """An upload goes no further than its key: it is answered 401, and nothing of it stays."""
    with batch_gateway(tmp_path, live_keys=True) as served:
        keys = KeyStore(served.running.facts, served.clock)
        keys.make("key", hash_of(KEY), KeySettings(), by="test")
        until(lambda: post(served, b"{}").status_code == 200, "the key")
        with caller(served, 50_000_000) as line:
            line.sendall(HEAD + b"x" * 3_000_000)
            until(lambda: uploads(served.storage), "the beginning of the upload")
            keys.revoke("key", by="test")
            assert status(line) == 401
        until(lambda: not uploads(served.storage), "the end of the upload")


def test_nothing_of_a_file_is_logged(served: BatchGateway) -> None:
    """Neither a file's name nor what stands in it gets into a log, whatever goes wrong."""
    told: list[str] = []
    sink = logger.add(told.append, level="TRACE", format="{message} {exception}")
    try:
        assert post(served, b"secret-content").status_code == 200
        for body in (HEAD + b"secret-content", b"secret-content", HEAD + b"secret-content" + TAIL[:-4]):
            with caller(served, len(body)) as line:
                line.sendall(body)
                assert status(line) == 400
        for body in (b'{"requests": ["secret-content"]}', b'{"requests": [{"custom_id": "secret-content"}]}'):
            headers = {"x-api-key": KEY}
            url = f"{served.url}/v1/messages/batches"
            assert httpx.post(url, content=body, headers=headers, timeout=PATIENCE).status_code == 400
    finally:
        logger.remove(sink)
    assert not re.search("secret", "".join(told))


def test_a_large_file_takes_little_memory(tmp_path: Path) -> None:
    """A file of 96 MB comes and goes while the gateway keeps a few of them, and its event loop hardly works for it."""
    size, piece = 96 << 20, b"x" * (1 << 20)

    def body() -> Iterator[bytes]:
        yield HEAD
        for _ in range(size >> 20):
            yield piece
        yield TAIL

    headers = {"authorization": f"Bearer {KEY}", "content-type": "multipart/form-data; boundary=cut"}
    with gateway_process(tmp_path, {}, KEYS) as process, httpx.Client(timeout=PATIENCE, headers=headers) as client:
        files = f"{process.url}/v1/files"
        first = client.post(files, content=HEAD + b"{}" + TAIL)  # what is imported and opened once
        assert client.get(f"{files}/{first.json()['id']}/content").content == b"{}"
        before = process.rss()
        process.forget_most()
        file = client.post(files, content=body()).json()
        assert file["bytes"] == size
        with client.stream("GET", f"{files}/{file['id']}/content") as answer:
            got = sum(len(each) for each in answer.iter_raw())
        assert got == size
        assert process.most_rss() - before < AIR


def test_a_large_list_of_requests_takes_little_memory(tmp_path: Path) -> None:
    """A body of twenty thousand requests, all on one line, is made lines of a file with the memory of a few."""
    request = b'{"custom_id": "%06d", "params": {"model": "llama3.2", "max_tokens": 9, "messages": ["%b"]}}'
    count, text = 20_000, b"x" * 2000

    def body() -> Iterator[bytes]:
        yield b'{"requests": ['
        for first in range(0, count, 1000):
            lines = b",".join(request % (number, text) for number in range(first, first + 1000))
            yield lines if not first else b"," + lines
        yield b"]}"

    with gateway_process(tmp_path, {}, KEYS) as process:
        ask = httpx.Client(timeout=PATIENCE, headers={"x-api-key": KEY, "content-type": "application/json"})
        with ask as client:
            url = f"{process.url}/v1/messages/batches"
            assert client.post(url, content=b'{"requests": [' + request % (1, text) + b"]}").status_code == 200
            before = process.rss()
            process.forget_most()
            batch = client.post(url, content=body()).json()
            assert batch["request_counts"]["processing"] == count
            assert process.most_rss() - before < AIR
