"""What a server behind the gateway can do wrong, one thing at a time: what the caller sees, and what is recorded.

Each in the three dialects, and OpenAI's two ways to stream.
"""

import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from app.gateway.wire import Patience
from tests.gateways import (
    CLOCK,
    DIALECTS,
    OPENAI,
    Dialect,
    Heard,
    Line,
    Running,
    Scripted,
    asked,
    dead_port,
    gateway,
)

each_dialect = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)

IMPATIENT = Patience(answer_seconds=0.4, silence_seconds=0.4)


def error_of(dialect: Dialect, response: httpx.Response) -> str:
    """The text of an answer that is an error, after its shape was checked."""
    told = response.json()
    match dialect.name:
        case "ollama":
            assert set(told) == {"error"}
            return str(told["error"])
        case "anthropic":
            assert (told["type"], set(told["error"])) == ("error", {"type", "message"})
            assert told["request_id"] == response.headers["x-request-id"]
        case _:
            assert set(told["error"]) == {"message", "type", "param", "code"}
    return str(told["error"]["message"])


def ending(running: Running) -> tuple[str, str]:
    row = running.row()
    return row.about.ending, row.about.model


@each_dialect
def test_asleep_then_ready(tmp_path: Path, dialect: Dialect) -> None:
    """A tier that answers 503 and then wakes costs its caller time and nothing else."""
    with (
        Scripted(lambda _, line: dialect.play(line), asleep=3) as server,
        gateway(tmp_path, {"a10g": server.url}, comment_seconds=9) as running,
    ):
        response = asked(running, dialect)
        assert response.status_code == 200
        assert response.content == b"".join(dialect.pieces)
        row = running.row()
        assert (row.about.ending, row.sums.prompt_tokens, row.sums.output_tokens) == ("success", 7, 3)
        assert running.composed.metrics.wakes() == 1
        assert len(server.asked) == 1


@each_dialect
def test_a_503_of_the_request_itself(tmp_path: Path, dialect: Dialect) -> None:
    """A tier that falls asleep between two requests is woken again, and the request is sent again."""
    left = [2]

    def script(_: Heard, line: Line) -> None:
        if left[0]:
            left[0] -= 1
            line.document({"error": "server busy"}, 503)
        else:
            dialect.play(line)

    with Scripted(script) as server, gateway(tmp_path, {"a10g": server.url}, comment_seconds=9) as running:
        response = asked(running, dialect)
        assert response.content == b"".join(dialect.pieces)
        assert ending(running)[0] == "success"
        assert len(server.asked) == 3
        assert {heard.body for heard in server.asked} == {server.asked[0].body}


@each_dialect
def test_never_awake(tmp_path: Path, dialect: Dialect) -> None:
    """A tier that does not wake within its startup limit is told of with 503, Retry-After, and what it said last."""
    with (
        Scripted(lambda _, line: dialect.play(line), asleep=10_000) as server,
        gateway(tmp_path, {"a10g": server.url}, startup=0.4, comment_seconds=9) as running,
    ):
        response = asked(running, dialect)
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) > 0
        assert "503" in error_of(dialect, response) or "waking a10g" in error_of(dialect, response)
        assert ending(running) == ("timeout", "llama3.2:latest")
        assert not server.asked


@each_dialect
def test_refused_then_ready(tmp_path: Path, dialect: Dialect) -> None:
    """A server that is not there yet is waited for."""
    port = dead_port()
    with gateway(tmp_path, {"a10g": f"http://127.0.0.1:{port}"}, comment_seconds=9) as running:
        late: list[Scripted] = []
        opening = threading.Timer(0.2, lambda: late.append(Scripted(lambda _, line: dialect.play(line), port)))
        opening.start()
        response = asked(running, dialect)
        assert response.content == b"".join(dialect.pieces)
        assert ending(running)[0] == "success"
        late[0].close()


@each_dialect
def test_reset_before_the_first_byte(tmp_path: Path, dialect: Dialect) -> None:
    """A connection that is reset instead of an answer is tried again: nothing was said yet."""
    left = [2]

    def script(_: Heard, line: Line) -> None:
        if left[0]:
            left[0] -= 1
            line.reset()
        else:
            dialect.play(line)

    with Scripted(script) as server, gateway(tmp_path, {"a10g": server.url}, comment_seconds=9) as running:
        assert asked(running, dialect).content == b"".join(dialect.pieces)
        assert ending(running)[0] == "success"


@each_dialect
def test_reset_each_time(tmp_path: Path, dialect: Dialect) -> None:
    """A request that ends the server each time is given up after three times: it may be the request."""
    with (
        Scripted(lambda _, line: line.reset()) as server,
        gateway(tmp_path, {"a10g": server.url}, comment_seconds=9) as running,
    ):
        response = asked(running, dialect)
        assert response.status_code == 502
        assert "closed the connection" in error_of(dialect, response)
        assert ending(running)[0] == "upstream_cut"
        assert len(server.asked) == 3


def _cut(line: Line) -> None:
    line.close()


def _reset(line: Line) -> None:
    CLOCK.wait(0.05)  # else the reset overtakes the bytes before it
    line.reset()


def _quiet_end(line: Line) -> None:
    line.end()


def _garbage(line: Line) -> None:
    line.send(b"this is no chunk\r\n")
    line.await_end()


@each_dialect
@pytest.mark.parametrize("how", [_cut, _reset, _quiet_end, _garbage], ids=lambda how: how.__name__)
def test_the_stream_ends_before_its_end(tmp_path: Path, dialect: Dialect, how: Callable[[Line], None]) -> None:
    """After the first byte nothing is tried again; the caller has what came, and the dialect's own error after it."""

    def script(_: Heard, line: Line) -> None:
        line.begin(dialect.kind)
        line.chunk(dialect.pieces[0])
        how(line)

    with Scripted(script) as server, gateway(tmp_path, {"a10g": server.url}) as running:
        response = asked(running, dialect)
        assert response.status_code == 200
        assert response.content.startswith(dialect.pieces[0])
        assert dialect.error_in(response.content)
        assert ending(running)[0] == ("error" if how is _garbage else "upstream_cut")
        assert len(server.asked) == 1
        assert running.row().sums.first_bytes == 1


@each_dialect
def test_cut_inside_a_line(tmp_path: Path, dialect: Dialect) -> None:
    """When half a line was said, the error stands on a line of its own."""

    def script(_: Heard, line: Line) -> None:
        line.begin(dialect.kind)
        line.chunk(dialect.pieces[0] + dialect.pieces[1][:20])

    def script_and_cut(heard: Heard, line: Line) -> None:
        script(heard, line)
        line.close()

    with Scripted(script_and_cut) as server, gateway(tmp_path, {"a10g": server.url}) as running:
        response = asked(running, dialect)
        assert dialect.error_in(response.content)
        assert ending(running)[0] == "upstream_cut"


@each_dialect
def test_hang_before_the_first_byte(tmp_path: Path, dialect: Dialect) -> None:
    """A server that takes a request and never says a word ends as 504 after the patience for answers."""
    with (
        Scripted(lambda _, line: line.await_end()) as server,
        gateway(tmp_path, {"a10g": server.url}, patience=IMPATIENT) as running,
    ):
        response = asked(running, dialect)
        assert response.status_code == 504
        assert "silent" in error_of(dialect, response)
        assert ending(running)[0] == "timeout"
        assert running.open_exchanges() == 0


@each_dialect
def test_hang_in_the_middle(tmp_path: Path, dialect: Dialect) -> None:
    """A stream that stops moving is ended after the patience for silence, in the dialect's own words."""

    def script(_: Heard, line: Line) -> None:
        line.begin(dialect.kind)
        line.chunk(dialect.pieces[0])
        line.await_end()

    with Scripted(script) as server, gateway(tmp_path, {"a10g": server.url}, patience=IMPATIENT) as running:
        response = asked(running, dialect)
        assert response.content.startswith(dialect.pieces[0])
        assert "silent" in dialect.error_in(response.content)
        assert ending(running)[0] == "timeout"


@each_dialect
def test_slow_is_no_fault(tmp_path: Path, dialect: Dialect) -> None:
    """A stream that is slow but moves may last longer than any silence is allowed to."""

    def script(_: Heard, line: Line) -> None:
        line.begin(dialect.kind)
        for piece in dialect.pieces:
            for byte in (piece[:5], piece[5:]):
                CLOCK.wait(0.15)
                line.chunk(byte)
        line.end()

    with Scripted(script) as server, gateway(tmp_path, {"a10g": server.url}, patience=IMPATIENT) as running:
        assert asked(running, dialect).content == b"".join(dialect.pieces)
        assert ending(running)[0] == "success"


@each_dialect
def test_malformed(tmp_path: Path, dialect: Dialect) -> None:
    """What is no HTTP is a 502, and nobody sees its bytes."""

    def script(_: Heard, line: Line) -> None:
        line.send(b"SSH-2.0-OpenSSH_9.6\r\n")
        line.await_end()

    with Scripted(script) as server, gateway(tmp_path, {"a10g": server.url}) as running:
        response = asked(running, dialect)
        assert response.status_code == 502
        assert "makes no sense" in error_of(dialect, response)
        assert ending(running)[0] == "error"


@each_dialect
def test_a_page_of_another_program(tmp_path: Path, dialect: Dialect) -> None:
    """A 200 of a type that no Ollama sends is a 502, in the caller's shape."""

    def script(_: Heard, line: Line) -> None:
        line.head(200, "text/html", "Content-Length: 6")
        line.send(b"<html>")

    with Scripted(script) as server, gateway(tmp_path, {"a10g": server.url}) as running:
        response = asked(running, dialect)
        assert response.status_code == 502
        assert "text/html" in error_of(dialect, response)
        assert ending(running)[0] == "error"


@each_dialect
def test_shorter_than_it_said(tmp_path: Path, dialect: Dialect) -> None:
    """A document that ends before its Content-Length does so for the caller as well: no client takes it for whole."""

    def script(_: Heard, line: Line) -> None:
        line.head(200, "application/json", "Content-Length: 1000")
        line.send(b'{"model": "llama3.2"')
        line.close()

    with Scripted(script) as server, gateway(tmp_path, {"a10g": server.url}) as running:
        with pytest.raises(httpx.RemoteProtocolError, match=r"incomplete|closed"):
            asked(running, dialect, stream=False)
        assert ending(running)[0] == "upstream_cut"


@each_dialect
def test_longer_than_it_said(tmp_path: Path, dialect: Dialect) -> None:
    """Bytes behind the end of an answer reach nobody, and the connection that they came on is not used again."""
    body = b'{"done": true, "eval_count": 1}'

    def script(_: Heard, line: Line) -> None:
        line.head(200, "application/json", f"Content-Length: {len(body)}")
        line.send(body + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")

    with Scripted(script) as server, gateway(tmp_path, {"a10g": server.url}) as running:
        for _ in range(3):
            assert asked(running, dialect, stream=False).content == body
        assert {row.about.ending for row in running.rows(3)} == {"success"}


@each_dialect
def test_a_refusal_passes_as_it_is(tmp_path: Path, dialect: Dialect) -> None:
    """What a server refuses in its own JSON passes byte for byte, with its status."""
    with (
        Scripted(lambda _, line: line.document({"error": "time: missing unit"}, 400)) as server,
        gateway(tmp_path, {"a10g": server.url}) as running,
    ):
        response = asked(running, dialect)
        assert (response.status_code, response.json()) == (400, {"error": "time: missing unit"})
        assert ending(running)[0] == "refused"


@each_dialect
def test_a_failed_load_is_told(tmp_path: Path, dialect: Dialect) -> None:
    """When a server cannot load the model, its own words reach everybody who waits, and nobody tries once more."""
    said = "llama runner process has terminated: cudaMalloc failed: out of memory"

    def opening(heard: Heard, line: Line) -> None:
        line.document(
            {"version": "1"} if heard.path == "/api/version" else {"error": said},
            200 if heard.path == "/api/version" else 500,
        )

    with (
        Scripted(lambda _, line: dialect.play(line), opening=opening) as server,
        gateway(tmp_path, {"a10g": server.url}) as running,
    ):
        response = asked(running, dialect)
        assert response.status_code == 500
        assert said in error_of(dialect, response)
        assert ending(running)[0] == "error"
        assert len(server.loads) == 1
        assert not server.asked


def test_a_proxy_that_lets_nobody_in(tmp_path: Path) -> None:
    """A 401 of the door before the servers is the gateway's trouble, and not that of the caller's key."""

    def script(_: Heard, line: Line) -> None:
        line.document({"error": "modal-http: missing or invalid proxy token"}, 401)

    with Scripted(script) as server, gateway(tmp_path, {"a10g": server.url}) as running:
        response = asked(running, OPENAI)
        assert response.status_code == 502
        assert "closed to the gateway" in response.json()["error"]["message"]
