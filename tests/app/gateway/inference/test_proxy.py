"""How bytes pass the gateway: at once, unchanged, as fast as the slower side, and nothing that must stop here."""

import asyncio
import gc
import json
import os
import random
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path

import httpx
import pytest

from tests.support.dialects import ANTHROPIC, DIALECTS, OLLAMA, OPENAI, TALK, Dialect, each_dialect, whole_answer
from tests.support.gateways import CLOCK, ModelList, RunningGateway, asked, caller_of, gateway, is_whole, model
from tests.support.scripted_server import Connection, HeardRequest, ScriptedServer
from tests.support.waiting import PATIENCE, until


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer(whole_answer) as scripted:
        yield scripted


@pytest.fixture(scope="module")
def shared(server: ScriptedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway for tests that leave nothing behind."""
    with gateway(tmp_path_factory.mktemp("gateway"), {"a10g": server.url}, headers={"Modal-Key": "wk-1"}) as running:
        assert asked(running, OLLAMA).status_code == 200
        yield running


def raw(running: RunningGateway, request: bytes) -> bytes:
    """What comes back for these bytes, until an answer is whole or the gateway ends the connection."""
    with socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE) as caller:
        caller.sendall(request)
        got = b""
        while not is_whole(got) and (piece := caller.recv(65536)):
            got += piece
        return got


def quiet(folder: Path, server: ScriptedServer) -> AbstractContextManager[RunningGateway]:
    """A gateway that says nothing of its own to callers who wait, however slow this machine is."""
    return gateway(folder, {"a10g": server.url})


# -- streams -----------------------------------------------------------------------------------------------------------


@each_dialect
def test_a_piece_is_never_held_for_the_next(tmp_path: Path, dialect: Dialect) -> None:
    """Each piece reaches the caller before the server has made the next one."""
    read = threading.Semaphore(0)

    def script(_: HeardRequest, line: Connection) -> None:
        line.begin(dialect.kind)
        for piece in dialect.pieces:
            line.chunk(piece)
            assert read.acquire(timeout=PATIENCE)
        line.end()

    with (
        ScriptedServer(script) as scripted,
        quiet(tmp_path, scripted) as running,
        httpx.stream("POST", running.url + dialect.path, json=dialect.body, timeout=PATIENCE) as response,
    ):
        got = []
        for piece in response.iter_raw():
            got.append(piece)
            read.release()
        assert got == list(dialect.pieces)


def test_an_error_goes_on_counting_the_events(tmp_path: Path) -> None:
    """Where a stream of counted events is cut, the error that ends it has the number after the last one passed on."""

    def script(_: HeardRequest, line: Connection) -> None:
        line.begin("text/event-stream")
        for number in range(12):
            kind = b"response.output_text.delta"
            line.chunk(b'event: %b\ndata: {"delta":"a","sequence_number":%d,"type":"%b"}\n\n' % (kind, number, kind))
        line.end()

    responses = next(each for each in DIALECTS if each.name == "responses")
    with ScriptedServer(script) as scripted, quiet(tmp_path, scripted) as running:
        said = asked(running, responses).text.split("\n\n")
    told = [json.loads(each.partition("data: ")[2]) for each in said if each]
    assert [each["sequence_number"] for each in told] == list(range(13))
    assert told[-1]["type"] == "error"


def test_a_usage_that_nobody_asked_for_is_counted_and_not_passed_on(tmp_path: Path) -> None:
    """However a stream is cut, its caller has the bytes that he would have had, and its tokens are counted."""
    words = b"".join(
        b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"%d"},"finish_reason":null}]}\n\n' % number
        for number in range(50)
    )
    usage = b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}\n\n'
    done = b"data: [DONE]\n\n"
    dice = random.Random(7)

    def script(heard: HeardRequest, line: Connection) -> None:
        assert heard.json["stream_options"] == {"include_usage": True}
        line.begin(OPENAI.kind)
        left = words + usage + done
        while left:
            size = dice.choice([1, 3, 30, 300])
            line.chunk(left[:size])
            left = left[size:]
        line.end()

    with ScriptedServer(script) as scripted, quiet(tmp_path, scripted) as running:
        for times in range(1, 6):
            assert asked(running, OPENAI).content == words + done
            (row,) = running.rows(times)
            assert (row.sums.prompt_tokens, row.sums.output_tokens) == (7 * times, 3 * times)
        assert asked(running, OPENAI, stream_options={"include_usage": True}).content == words + usage + done


def test_of_who_leaves_early_nothing_is_counted(tmp_path: Path) -> None:
    """Ollama counts at the end: of a stream that its caller leaves before, no tokens are recorded, and none guessed."""

    def script(_: HeardRequest, line: Connection) -> None:
        line.begin(OPENAI.kind)
        line.chunk(OPENAI.pieces[0])
        line.await_end()

    with ScriptedServer(script) as scripted, quiet(tmp_path, scripted) as running:
        with closing(caller_of(running, OPENAI)) as caller:
            assert caller.recv(65536)
        row = running.row()
        assert (row.about.ending, row.sums.prompt_tokens, row.sums.output_tokens) == ("client_gone", 0, 0)


def test_bytes_pass_unchanged(tmp_path: Path) -> None:
    """However a stream is cut into pieces on its way, the caller has its very bytes."""
    dice = random.Random(7)
    said = b"".join(OLLAMA.pieces[0] for _ in range(500)) + dice.randbytes(100_000) + b"\n" + OLLAMA.pieces[-1]

    def script(_: HeardRequest, line: Connection) -> None:
        line.begin(OLLAMA.kind)
        left = said
        while left:
            size = dice.choice([1, 3, 100, 1000, 70_000])
            line.chunk(left[:size])
            left = left[size:]
        line.end()

    with ScriptedServer(script) as scripted, gateway(tmp_path, {"a10g": scripted.url}) as running:
        assert asked(running, OLLAMA).content == said
        assert running.row().about.ending == "success"


def test_the_server_feels_a_caller_who_does_not_read(tmp_path: Path) -> None:
    """What a caller does not read is not taken from the server either, and others are answered meanwhile."""
    sent = [0]
    piece = b"x" * 65536

    def script(heard: HeardRequest, line: Connection) -> None:
        if heard.path != OLLAMA.path:
            whole_answer(heard, line)
            return
        line.begin(OLLAMA.kind)
        for _ in range(2000):
            line.chunk(piece)
            sent[0] += len(piece)

    with ScriptedServer(script) as scripted, gateway(tmp_path, {"a10g": scripted.url}) as running:
        with closing(caller_of(running, OLLAMA)):
            until(lambda: sent[0] > 0)
            before = -1
            while before != sent[0]:
                before = sent[0]
                CLOCK.wait(0.3)
            assert sent[0] < 40_000_000  # what the buffers of four sockets hold, of 131 MB
            assert asked(running, OPENAI).status_code == 200
        until(lambda: running.open_exchanges() == 0, "the end of what nobody reads")
        assert {row.about.ending for row in running.rows(2)} == {"success", "client_gone"}


def test_connections_are_kept_on_both_sides(tmp_path: Path) -> None:
    """Many requests one after another share one connection to the gateway and one to the server."""
    with (
        ScriptedServer(whole_answer) as scripted,
        gateway(tmp_path, {"a10g": scripted.url}) as running,
        httpx.Client(timeout=PATIENCE) as client,
    ):
        for dialect in DIALECTS * 3:
            assert client.post(running.url + dialect.path, json=dialect.body).content == b"".join(dialect.pieces)
        assert len(scripted.lines) == 1
        assert len(running.server._server.server_state.connections) == 1


# -- callers who leave -------------------------------------------------------------------------------------------------


@each_dialect
def test_who_leaves_ends_his_generation(tmp_path: Path, dialect: Dialect) -> None:
    """A caller who leaves in the middle ends what the server does for him, at once, and is recorded as gone."""
    left = threading.Event()

    def script(_: HeardRequest, line: Connection) -> None:
        line.begin(dialect.kind)
        line.chunk(dialect.pieces[0])
        line.await_end()
        left.set()

    with ScriptedServer(script) as scripted, quiet(tmp_path, scripted) as running:
        with closing(caller_of(running, dialect)) as caller:
            assert caller.recv(4096)
        assert left.wait(PATIENCE)
        assert running.row().about.ending == "client_gone"


def test_who_leaves_after_the_terminator_was_served(tmp_path: Path) -> None:
    """A client that hangs up as soon as it has read the terminator had the whole answer."""

    def script(_: HeardRequest, line: Connection) -> None:
        line.begin(OPENAI.kind)
        for piece in OPENAI.pieces:
            line.chunk(piece)
        line.await_end()

    with ScriptedServer(script) as scripted, gateway(tmp_path, {"a10g": scripted.url}) as running:
        with closing(caller_of(running, OPENAI)) as caller:
            got = b""
            while b"[DONE]" not in got:
                got += caller.recv(4096)
        row = running.row()
        assert (row.about.ending, row.sums.output_tokens) == ("success", 3)


def test_two_hundred_leave(tmp_path: Path) -> None:
    """200 callers who leave at random moments leave no request, no task and no descriptor behind, and end no load."""
    dice = random.Random(11)
    loaded, may_load = threading.Event(), threading.Event()

    def opening(heard: HeardRequest, line: Connection) -> None:
        if heard.path == "/api/version":
            line.document({"version": "1"})
            return
        assert may_load.wait(PATIENCE)
        line.document({"done": True, "done_reason": "load"})
        loaded.set()

    def script(_: HeardRequest, line: Connection) -> None:
        line.begin(OPENAI.kind)
        while True:
            line.chunk(OPENAI.pieces[0])
            CLOCK.wait(0.02)

    with ScriptedServer(script, opening=opening) as scripted, gateway(tmp_path, {"a10g": scripted.url}) as running:
        assert httpx.get(f"{running.url}/healthz", timeout=PATIENCE).status_code == 200
        descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - the number is all that is asked for

        callers = []
        for index in range(200):
            callers.append(caller_of(running, OPENAI))
            if index == 120:
                may_load.set()
            if dice.random() < 0.7:
                callers.pop(dice.randrange(len(callers))).close()
        assert loaded.wait(PATIENCE)
        dice.shuffle(callers)
        for caller in callers:
            CLOCK.wait(dice.random() / 100)
            caller.close()

        until(lambda: running.open_exchanges() == 0, "the last exchange's end")
        rows = running.rows(200)
        assert {row.about.ending for row in rows} == {"client_gone"}
        assert len(scripted.loads) == 1
        state = running.server._server.server_state
        until(lambda: not state.tasks and not state.connections, "the last task's end")
        until(lambda: not scripted.lines or len(scripted.lines) <= 1, "the servers' side")
        gc.collect()
        until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors + 2, "closed descriptors")  # noqa: PTH208
        assert not [name for name in every_task() if name.startswith(("load ", "wake "))]


def every_task() -> list[str]:
    return [each.get_name() for each in gc.get_objects() if isinstance(each, asyncio.Task) and not each.done()]


# -- what goes to the server -------------------------------------------------------------------------------------------


def test_headers_that_stop_here(shared: RunningGateway, server: ScriptedServer) -> None:
    """Of a caller's headers only harmless ones go on, Host and the proxy's token are ours, and the body is all his."""
    body = b'{ "model" : "llama3.2","messages":[{"role":"user","content":"\\u00e9"}], "stream":false }'
    sent = {
        "Authorization": "Bearer omk_secret",
        "X-Api-Key": "omk_secret",
        "Cookie": "session=secret",
        "Origin": "https://evil.example",
        "Modal-Key": "wk-evil",
        "Modal-Secret": "secret",
        "Modal-Session-ID": "x",
        "Proxy-Authorization": "Basic secret",
        "X-Forwarded-For": "10.0.0.1",
        "Connection": "keep-alive, User-Agent",
        "TE": "trailers",
        "Upgrade": "h2c",
        "Accept-Encoding": "gzip, br",
        "Anthropic-Version": "2023-06-01",
        "Content-Type": "application/json",
        "X-Request-ID": "abc-1",
    }
    response = httpx.post(f"{shared.url}/api/chat", content=body, headers=sent, timeout=PATIENCE)
    assert response.status_code == 200
    heard = server.asked[-1]
    assert heard.body == body
    assert dict(heard.headers) == {
        "host": server.url.removeprefix("http://"),
        "accept-encoding": "identity",
        "Modal-Key": "wk-1",
        "accept": "*/*",
        "anthropic-version": "2023-06-01",
        "content-type": "application/json",
        "x-request-id": "abc-1",
        "content-length": str(len(body)),
    }
    assert "secret" not in str(heard.headers)


def test_headers_that_come_back(tmp_path: Path) -> None:
    """Of a server's headers those of its connection and of the proxy stop here; who served is told beside the rest."""

    def script(_: HeardRequest, line: Connection) -> None:
        body = b'{"done":true}'
        line.head(
            200,
            "application/json",
            f"Content-Length: {len(body)}",
            "Connection: keep-alive, X-Hop",
            "Keep-Alive: timeout=5",
            "X-Hop: 1",
            "Set-Cookie: modal=1",
            "Modal-Function-Call-Id: fc-1",
            "Server: Modal",
            "Date: never",
            "X-Served-Tier: h100",
            "X-Fine: yes",
        )
        line.send(body)

    with ScriptedServer(script) as scripted, gateway(tmp_path, {"a10g": scripted.url}) as running:
        response = asked(running, OLLAMA)
        headers = {name: value for name, value in response.headers.items() if name != "date"}
        assert re.fullmatch(r"[0-9a-f]{16}", headers.pop("x-request-id"))
        assert headers == {
            "content-type": "application/json",
            "content-length": "13",
            "x-fine": "yes",
            "x-served-model": "llama3.2:latest",
            "x-served-tier": "a10g",
        }
        assert response.headers["date"] != "never"


@pytest.mark.parametrize("id", ["", "a b", "x" * 65, "новый", 'a"b', "a,b"])
def test_a_strange_request_id_is_replaced(shared: RunningGateway, server: ScriptedServer, id: str) -> None:
    """A request id that is not short and plain is replaced by one of ours, everywhere."""
    headers = [(b"x-request-id", id.encode())]
    response = httpx.post(shared.url + OLLAMA.path, json=OLLAMA.body, headers=headers, timeout=PATIENCE)
    assert re.fullmatch(r"[0-9a-f]{16}", response.headers["x-request-id"])
    assert server.asked[-1].header("x-request-id") == response.headers["x-request-id"]


def test_a_name_in_another_case(tmp_path: Path) -> None:
    """A missing tag is latest and case is folded; only for /api/embeddings, which knows no case, the body changes."""

    def script(_: HeardRequest, line: Connection) -> None:
        line.document({"done": True, "embedding": [1.0]})

    source = ModelList([model("Nomic-Embed:latest")])
    with ScriptedServer(script) as scripted, gateway(tmp_path, {"a10g": scripted.url}, source=source) as running:
        for path in ("/api/chat", "/api/embeddings"):
            body = {"model": "NOMIC-embed", "prompt": "x"}
            response = httpx.post(running.url + path, json=body, timeout=PATIENCE)
            assert response.headers["x-served-model"] == "Nomic-Embed:latest"
        chat, embeddings = scripted.asked
        assert chat.json == {"model": "NOMIC-embed", "prompt": "x"}
        assert embeddings.json == {"model": "Nomic-Embed:latest", "prompt": "x"}


def form(boundary: str = "b0", **fields: str) -> bytes:
    parts = [f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{fields[key]}' for key in fields]
    return "\r\n".join([*parts, f"--{boundary}--", ""]).encode()


def test_a_form_is_read_for_its_model(tmp_path: Path) -> None:
    """The model of a transcription stands in a form, which passes as it is; plain text may come back."""

    def script(_: HeardRequest, line: Connection) -> None:
        line.head(200, "text/plain", "Content-Length: 5")
        line.send(b"hello")

    with ScriptedServer(script) as scripted, gateway(tmp_path, {"a10g": scripted.url}) as running:
        body = form(file="RIFF....", model="llama3.2")
        headers = {"content-type": "multipart/form-data; boundary=b0"}
        response = httpx.post(f"{running.url}/v1/audio/transcriptions", content=body, headers=headers, timeout=PATIENCE)
        assert (response.status_code, response.content) == (200, b"hello")
        (heard,) = scripted.asked
        assert heard.body == body
        assert heard.header("content-type") == headers["content-type"]
        assert running.row().about.ending == "success"


# -- what reaches no server --------------------------------------------------------------------------------------------

CHAT = json.dumps({"model": "llama3.2", "messages": TALK}).encode()


def request(*lines: str, body: bytes = CHAT, first: str = "POST /api/chat HTTP/1.1") -> bytes:
    return "\r\n".join([first, "Host: gateway", "Connection: close", *lines, "", ""]).encode() + body


CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(CHAT), CHAT)


@pytest.mark.parametrize(
    "sent",
    [
        request(f"Content-Length: {len(CHAT)}", "Transfer-Encoding: chunked", body=CHUNKED),
        request("Transfer-Encoding: chunked", f"Content-Length: {len(CHAT)}", body=CHUNKED),
        request(f"Content-Length: {len(CHAT)}", f"Content-Length: {len(CHAT) + 1}"),
        request(f"Content-Length: {len(CHAT)}, {len(CHAT)}"),
        request(f"Content-Length: +{len(CHAT)}"),
        request("Content-Length: -1"),
        request("Transfer-Encoding: xchunked", body=CHUNKED),
        request("Transfer-Encoding: chunked, identity", body=CHUNKED),
        request(f"Content-Length : {len(CHAT)}"),
        request(f"Content-Length: {len(CHAT)}", "X-Fold: a\r\n b"),
        request(f"Content-Length: {len(CHAT)}", "X-Bad: a\x00b"),
        request(f"Content-Length: {len(CHAT)}", first="POST /api/chat HTTP/1.1\r\nX: y\r\r"),
        request(f"Content-Length: {len(CHAT)}", *(f"X-{number}: {'y' * 1000}" for number in range(70))),
        request(f"Content-Length: {len(CHAT)}", first=f"POST /api/chat?{'y' * 70_000} HTTP/1.1"),
    ],
    ids=lambda sent: sent[:90].decode("latin-1").partition("close")[0][-20:],
)
def test_smuggled_requests_reach_nobody(shared: RunningGateway, server: ScriptedServer, sent: bytes) -> None:
    """A request that two readers could cut differently is refused with 400, and no byte of it goes on."""
    before = len(server.heard)
    assert raw(shared, sent).startswith(b"HTTP/1.1 400 ")
    assert len(server.heard) == before


@pytest.mark.parametrize(
    "path",
    [
        "/api/%2e%2e/api/chat",
        "/v1/../api/chat",
        "/api/chat/../chat",
        "/api/chat%00",
        "/api/chat;x",
        "/API/CHAT",
        "/v1/%2e%2e/%2e%2e/etc/passwd",
        "//api//../chat",
        "/api/blobs/../../chat",
        "/ops/../api/chat",
        "/v1/models/..%2f..%2fapi",
        "http://127.0.0.1:11434/api/create",
        "/api/chat\\..\\create",
    ],
)
def test_path_tricks_reach_nobody(shared: RunningGateway, server: ScriptedServer, path: str) -> None:
    """A path that is not in the table, whatever it would mean after some cleaning, reaches no server."""
    before = len(server.heard)
    said = raw(shared, request(f"Content-Length: {len(CHAT)}", first=f"POST {path} HTTP/1.1"))
    assert said.split(b" ")[1] in {b"400", b"403", b"404", b"405"}, said
    assert len(server.heard) == before


@pytest.mark.parametrize("path", ["/api/chat/", "/api/chat%2f", "//api/chat", "/api//chat//", "/api/chat?beta=true"])
def test_slashes_are_forgiven(shared: RunningGateway, server: ScriptedServer, path: str) -> None:
    """A doubled or trailing slash is forgiven; the server sees the clean path and no query."""
    assert httpx.post(shared.url + path, content=CHAT, timeout=PATIENCE).status_code == 200
    assert server.asked[-1].path == "/api/chat"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "missing request body"),
        (b"{", "no JSON"),
        (b"[]", "not an object"),
        (b'"llama3.2"', "not an object"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"model":"llama3.2","x":NaN}', "no JSON"),
        (b'{"model":"llama3.2","x":"\n"}', "no JSON"),
        (b'{"model":"llama3.2","x":01}', "no JSON"),
        (b'{"model":"llama3.2","x":1]', "no JSON"),
        (b'{"model":"llama3.2","model":null}', "more than once"),
        ('{"model":"llama3.2","options":{},"option\u017f":{}}'.encode(), "more than once"),
        ('{"model":"llama3.2","keep_alive":1,"\u212aeep_alive":0}'.encode(), "more than once"),
        (b'{"model":"llama3.2","options":{"num_ctx":1,"num_ctx":2}}', "more than once"),
        (b"{" + b",".join(b'"a%d":0' % number for number in range(300)) + b"}", "more than 256 fields"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"model":"llama3.2","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b"{}", "model is required"),
        (b'{"model":null}', "model is required"),
        (b'{"model":7}', "model is required"),
        (b'{"model":{"a":1}}', "model is required"),
        (b'{"model":""}', "model is required"),
        (b'{"model":"llama3.2","MODEL":"other"}', "more than once"),
        (b'{"model":"llama3.2","\\u004dodel":"other"}', "more than once"),
        (b'{"model":"../../etc/passwd"}', "slashes"),
        (b'{"model":"../passwd"}', "is not a model name"),
        (b'{"model":"a/b/c/d"}', "slashes"),
        (b'{"model":"llama3.2@sha256:00"}', "pins a digest"),
        (b'{"model":"llama3.2\\u0000"}', "is not a model name"),
        (b'{"model":"\\ud800"}', "is not a model name"),
        (b'{"model":"' + b"a" * 5000 + b'"}', "is not a model name"),
        ('{"model":"llama3.2"}'.encode("utf-16"), "no JSON"),
        (b'\xef\xbb\xbf{"model":"llama3.2"}', "no JSON"),
        (b'{"model":"llama3.2"} {"model":"other"}', "no JSON"),
    ],
    ids=lambda value: value[:40].decode("latin-1") if isinstance(value, bytes) else None,
)
@pytest.mark.parametrize("dialect", [OLLAMA, OPENAI, ANTHROPIC], ids=lambda dialect: dialect.name)
def test_bad_bodies_reach_nobody(
    shared: RunningGateway, server: ScriptedServer, dialect: Dialect, body: bytes, told: str
) -> None:
    """A body that names no model, or two, or is no JSON as Go reads it, is a 400 that says what is wrong."""
    before = len(server.heard)
    if told in {"slashes", "is not a model name", "pins a digest"}:  # all else is as it should be
        more = {name: value for name, value in dialect.body.items() if name != "model"}
        body = body.removesuffix(b"}") + b"," + json.dumps(more).encode().removeprefix(b"{")
    response = httpx.post(shared.url + dialect.path, content=body, timeout=PATIENCE)
    assert response.status_code == 400
    assert told in response.text
    assert len(server.heard) == before


@pytest.mark.parametrize(
    ("number", "told"),
    [("9" * 5000, "too large"), ("1e999", "too large"), ("1e300", "beyond any use"), ("-2147483649", "beyond any use")],
    ids=lambda value: value[:12],
)
def test_numbers_beyond_any_use_reach_nobody(
    shared: RunningGateway, server: ScriptedServer, number: str, told: str
) -> None:
    """An option that a load depends on is a number that a server can take for what it says, or a 400."""
    before = len(server.heard)
    body = f'{{"model":"llama3.2","options":{{"num_ctx":{number}}}}}'
    response = httpx.post(f"{shared.url}/api/chat", content=body, timeout=PATIENCE)
    assert (response.status_code, len(server.heard)) == (400, before)
    assert told in response.json()["error"]


@pytest.mark.parametrize("name", ["gpt-oss:120b-cloud", "x:cloud", "x:7b:cloud:local"])
def test_cloud_models_are_refused(shared: RunningGateway, server: ScriptedServer, name: str) -> None:
    """Names that Ollama would answer from its cloud are refused here, whatever the servers' settings."""
    before = len(server.heard)
    response = httpx.post(f"{shared.url}/api/chat", json={"model": name}, timeout=PATIENCE)
    assert (response.status_code, len(server.heard)) == (403, before)
    assert "ollama cloud is disabled" in response.json()["error"]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", form(model="llama3.2")),
        ("multipart/form-data; boundary=b0", b"junk" + form(model="llama3.2")),
        ("multipart/form-data; boundary=b0", form(file="x")),
        ("multipart/form-data; boundary=b0", form(model="llama3.2").replace(b"--b0--", b"") + form(model="other")),
        ("multipart/form-data; boundary=b0", form(model="llama3.2").replace(b"\r\n", b"\n")),
        (
            "multipart/form-data; boundary=b0",
            form(a="1", model="llama3.2").replace(b'name="a"', b"name*=utf-8''model"),
        ),
    ],
)
def test_bad_forms_reach_nobody(shared: RunningGateway, server: ScriptedServer, content_type: str, body: bytes) -> None:
    """A form that does not say exactly once which model is meant is refused."""
    before = len(server.heard)
    headers = {"content-type": content_type}
    response = httpx.post(f"{shared.url}/v1/audio/transcriptions", content=body, headers=headers, timeout=PATIENCE)
    assert (response.status_code, len(server.heard)) == (400, before)


def test_what_is_refused_by_name(shared: RunningGateway, server: ScriptedServer) -> None:
    """Encoded bodies, rendered prompts, and names that are not here never reach a server; near names are told."""
    before = len(server.heard)
    post = f"{shared.url}/api/chat"
    assert httpx.post(post, content=CHAT, headers={"content-encoding": "zstd"}, timeout=PATIENCE).status_code == 400
    assert httpx.post(post, json={"model": "llama3.2", "_debug_render_only": True}, timeout=PATIENCE).status_code == 403
    unknown = httpx.post(post, json={"model": "llama3.1"}, timeout=PATIENCE)
    assert unknown.status_code == 404
    assert "llama3.2:latest" in unknown.json()["error"]
    assert "ollama-modal pull llama3.1" in unknown.json()["error"]
    assert len(server.heard) == before


# -- size --------------------------------------------------------------------------------------------------------------


def test_a_large_body_passes(shared: RunningGateway, server: ScriptedServer) -> None:
    """Thirty megabytes of images inside a body reach the server unchanged, but for a word behind them."""
    image = os.urandom(15_000_000).hex()
    body = json.dumps({"images": [image, "\\" * 4001 + '"' + image], "model": "llama3.2", "stream": True}).encode()
    assert httpx.post(f"{shared.url}/api/chat", content=body, timeout=PATIENCE).status_code == 200
    assert server.asked[-1].body == body[:-1] + b',"truncate":false}'


def test_too_large_a_body_is_refused(shared: RunningGateway, server: ScriptedServer) -> None:
    """More than 100 MB is a 413, said before it has been sent when its length is told, and in the caller's shape."""
    before = len(server.heard)
    head = request(f"Content-Length: {100 * 1024 * 1024 + 1}", body=b"", first="POST /v1/messages HTTP/1.1")
    said = raw(shared, head.replace(b"Connection: close\r\n", b""))
    assert said.startswith(b"HTTP/1.1 413 ")
    assert b"request_too_large" in said
    assert raw(shared, head.replace(b"1048576", b"9" * 30)).startswith(b"HTTP/1.1 4")

    def lies() -> Iterator[bytes]:
        for _ in range(101):
            yield b" " * 1024 * 1024

    response = httpx.post(f"{shared.url}/api/chat", content=lies(), timeout=PATIENCE)
    assert response.status_code == 413
    assert len(server.heard) == before


def test_structure_without_end_is_refused(shared: RunningGateway, server: ScriptedServer) -> None:
    """Millions of small things in a body are refused unread: only texts and images may be large."""
    before = len(server.heard)
    body = b'{"model":"llama3.2","input":[' + b"[]," * 3_000_000 + b"0]}"
    response = httpx.post(f"{shared.url}/api/embed", content=body, timeout=PATIENCE)
    assert response.status_code == 400
    assert "beside its texts" in response.json()["error"]
    assert len(server.heard) == before


# -- keys and limits in each shape -------------------------------------------------------------------------------------


def test_whoever_is_not_let_in_is_told_in_his_own_shape(tmp_path: Path) -> None:
    """No key, a wrong scope, a model that is not allowed, too often: each in the caller's dialect, with its status."""
    from jobs.access.keys.proofs import hash_of  # noqa: PLC0415 - only here

    lines = (
        f"alice {hash_of('omk_a')} chat rpm=2\nbob {hash_of('omk_b')} chat models=qwen*\ncarol {hash_of('omk_c')} admin"
    )
    alice, bob = {"authorization": "Bearer omk_a"}, {"x-api-key": "omk_b"}
    with ScriptedServer(whole_answer) as scripted, gateway(tmp_path, {"a10g": scripted.url}, keys=lines) as running:

        def post(dialect: Dialect, headers: dict[str, str]) -> httpx.Response:
            return httpx.post(running.url + dialect.path, json=dialect.body, headers=headers, timeout=PATIENCE)

        assert "error" in post(OLLAMA, {}).json()
        assert post(OPENAI, {}).json()["error"]["type"] == "authentication_error"
        unknown = post(ANTHROPIC, {"x-api-key": "omk_x"})
        assert (unknown.status_code, unknown.json()["error"]["type"]) == (401, "authentication_error")
        assert "www-authenticate" in unknown.headers
        forbidden = post(OPENAI, bob)
        assert (forbidden.status_code, forbidden.json()["error"]["type"]) == (403, "permission_error")
        assert httpx.get(f"{running.url}/nowhere", timeout=PATIENCE).status_code == 401
        assert httpx.get(f"{running.url}/nowhere", headers=bob, timeout=PATIENCE).status_code == 404
        pull = httpx.post(f"{running.url}/api/pull", json={"model": "x"}, headers=bob, timeout=PATIENCE)
        assert pull.status_code == 403
        carol = {"x-api-key": "omk_c"}
        assert post(OLLAMA, carol).status_code == 403  # who administers need not be allowed to infer
        assert httpx.get(f"{running.url}/api/tags", headers=carol, timeout=PATIENCE).status_code == 200
        assert not scripted.heard

        assert [post(OLLAMA, alice).status_code for _ in range(2)] == [200, 200]
        busy = post(ANTHROPIC, alice)
        assert (busy.status_code, busy.json()["error"]["type"]) == (429, "rate_limit_error")
        assert int(busy.headers["retry-after"]) > 0
        told = {(row.about.key, row.about.ending): row.sums.count for row in running.rows(8)}
        assert told == {
            ("", "refused"): 3,
            ("bob", "refused"): 1,
            ("carol", "refused"): 1,
            ("alice", "success"): 2,
            ("alice", "refused"): 1,
        }
