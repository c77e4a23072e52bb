"""What a server behind the gateway can do wrong, one thing at a time: what the caller sees, and what is recorded.

Each in the three dialects, and OpenAI's two ways to stream.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.gateway.upstream.upstream_client import Patience
from jobs.telemetry.usage import Row, usage
from tests.support.dialects import OPENAI, Dialect, each_dialect, error_of
from tests.support.gateways import CLOCK, ModelList, RunningGateway, asked, gateway, model
from tests.support.processes import free_port
from tests.support.scripted_server import Connection, HeardRequest, ScriptedServer
from tests.support.waiting import until

SILENCE = 1.5
"""Seconds for which an impatient gateway's server may say nothing: a busy machine stalls for less."""


@dataclass
class Trial:
    """A gateway that others have used before, and a model that nobody has: nothing of it is known, nor loaded."""

    running: RunningGateway
    port: int
    model: str

    def asked(self, dialect: Dialect, **more: Any) -> httpx.Response:
        return asked(self.running, dialect, model=self.model, **more)

    def row(self, count: int = 1) -> Row:
        """The one row of this model's requests, once so many were recorded."""

        def recorded() -> list[Row]:
            self.running.composed.usage_recorder.flush()
            return [row for row in usage(self.running.facts) if row.about.model == f"{self.model}:latest"]

        until(lambda: sum(row.sums.count for row in recorded()) >= count, "the record")
        (row,) = recorded()
        assert row.sums.count == count
        return row

    def ending(self) -> str:
        return self.row().about.ending


def trials(folder: Path, **how: Any) -> Iterator[Callable[[], Trial]]:
    """Trials in one gateway; each brings its own server to the port that the gateway knows."""
    port, source = free_port(), ModelList([])
    with gateway(folder, {"a10g": f"http://127.0.0.1:{port}"}, source=source, **how) as running:

        def trial() -> Trial:
            name = f"m{len(source.models)}"
            source.models = [*source.models, model(name)]
            running.known_state.refresh()
            running.composed.cold_starts["a10g"].lost("another server is there now")
            return Trial(running, port, name)

        yield trial


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Trial]]:
    yield from trials(tmp_path_factory.mktemp("calm"))


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Trial]]:
    patience = Patience(answer_seconds=SILENCE, silence_seconds=SILENCE)
    yield from trials(tmp_path_factory.mktemp("impatient"), patience=patience, startup=2 * SILENCE)


@pytest.fixture
def trial(calm: Callable[[], Trial]) -> Trial:
    return calm()


@pytest.fixture
def hasty(impatient: Callable[[], Trial]) -> Trial:
    """Where a server may be silent for no longer than that, and has twice as long to wake."""
    return impatient()


@each_dialect
def test_asleep_then_ready(trial: Trial, dialect: Dialect) -> None:
    """A tier that answers 503 and then wakes costs its caller time and nothing else."""
    before = trial.running.composed.metrics.wakes()
    with ScriptedServer(lambda _, line: dialect.play(line), trial.port, asleep=3) as server:
        response = trial.asked(dialect)
        assert response.status_code == 200
        assert response.content == b"".join(dialect.pieces)
        row = trial.row()
        assert (row.about.ending, row.sums.prompt_tokens, row.sums.output_tokens) == ("success", 7, 3)
        assert trial.running.composed.metrics.wakes() == before + 1
        assert len(server.asked) == 1


@each_dialect
def test_a_503_of_the_request_itself(trial: Trial, dialect: Dialect) -> None:
    """A tier that falls asleep between two requests is woken again, and the request is sent again."""
    left = [2]

    def script(_: HeardRequest, line: Connection) -> None:
        if left[0]:
            left[0] -= 1
            line.document({"error": "server busy"}, 503)
        else:
            dialect.play(line)

    with ScriptedServer(script, trial.port) as server:
        response = trial.asked(dialect)
        assert response.content == b"".join(dialect.pieces)
        assert trial.ending() == "success"
        assert len(server.asked) == 3
        assert {heard.body for heard in server.asked} == {server.asked[0].body}


@each_dialect
def test_never_awake(hasty: Trial, dialect: Dialect) -> None:
    """A tier that does not wake within its startup limit is told of with 503, Retry-After, and what it said last."""
    with ScriptedServer(lambda _, line: dialect.play(line), hasty.port, asleep=10_000) as server:
        response = hasty.asked(dialect)
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) > 0
        assert "503" in error_of(dialect, response) or "waking a10g" in error_of(dialect, response)
        assert hasty.ending() == "timeout"
        assert not server.asked


@each_dialect
def test_refused_then_ready(trial: Trial, dialect: Dialect) -> None:
    """A server that is not there yet is waited for."""
    late: list[ScriptedServer] = []
    opening = threading.Timer(0.2, lambda: late.append(ScriptedServer(lambda _, line: dialect.play(line), trial.port)))
    opening.start()
    response = trial.asked(dialect)
    assert response.content == b"".join(dialect.pieces)
    assert trial.ending() == "success"
    late[0].close()


@each_dialect
def test_reset_before_the_first_byte(trial: Trial, dialect: Dialect) -> None:
    """A connection that is reset instead of an answer is tried again: nothing was said yet."""
    left = [2]

    def script(_: HeardRequest, line: Connection) -> None:
        if left[0]:
            left[0] -= 1
            line.reset()
        else:
            dialect.play(line)

    with ScriptedServer(script, trial.port):
        assert trial.asked(dialect).content == b"".join(dialect.pieces)
        assert trial.ending() == "success"


@each_dialect
def test_hung_up_at_once(trial: Trial, dialect: Dialect) -> None:
    """A server that takes a connection only to close it is asked again, however early that happens."""
    with ScriptedServer(lambda _, line: dialect.play(line), trial.port, hang_ups=3):
        assert trial.asked(dialect).content == b"".join(dialect.pieces)
        assert trial.ending() == "success"


@each_dialect
def test_reset_each_time(trial: Trial, dialect: Dialect) -> None:
    """A request that ends the server each time is given up after three times: it may be the request."""
    with ScriptedServer(lambda _, line: line.reset(), trial.port) as server:
        response = trial.asked(dialect)
        assert response.status_code == 502
        assert "closed the connection" in error_of(dialect, response)
        assert trial.ending() == "upstream_cut"
        assert len(server.asked) == 3


def _cut(line: Connection) -> None:
    line.close()


def _reset(line: Connection) -> None:
    CLOCK.wait(SILENCE)  # else the reset overtakes the bytes before it
    line.reset()


def _quiet_end(line: Connection) -> None:
    line.end()


def _garbage(line: Connection) -> None:
    line.send(b"this is no chunk\r\n")
    line.await_end()


@each_dialect
@pytest.mark.parametrize("how", [_cut, _reset, _quiet_end, _garbage], ids=lambda how: how.__name__)
def test_the_stream_ends_before_its_end(trial: Trial, dialect: Dialect, how: Callable[[Connection], None]) -> None:
    """After the first byte nothing is tried again; the caller has what came, and the dialect's own error after it."""

    def script(_: HeardRequest, line: Connection) -> None:
        line.begin(dialect.kind)
        line.chunk(dialect.pieces[0])
        how(line)

    with ScriptedServer(script, trial.port) as server:
        response = trial.asked(dialect)
        assert response.status_code == 200
        assert response.content.startswith(dialect.pieces[0])
        assert dialect.error_in(response.content)
        assert trial.ending() == ("error" if how is _garbage else "upstream_cut")
        assert len(server.asked) == 1
        assert trial.row().sums.first_bytes == 1


@each_dialect
def test_cut_inside_a_line(trial: Trial, dialect: Dialect) -> None:
    """When half a line was said, the error stands on a line of its own."""

    def script(_: HeardRequest, line: Connection) -> None:
        line.begin(dialect.kind)
        line.chunk(dialect.pieces[0] + dialect.pieces[1][:20])

    def script_and_cut(heard: HeardRequest, line: Connection) -> None:
        script(heard, line)
        line.close()

    with ScriptedServer(script_and_cut, trial.port):
        response = trial.asked(dialect)
        assert dialect.error_in(response.content)
        assert trial.ending() == "upstream_cut"


@each_dialect
def test_hang_before_the_first_byte(hasty: Trial, dialect: Dialect) -> None:
    """A server that takes a request and never says a word ends as 504 after the patience for answers."""
    with ScriptedServer(lambda _, line: line.await_end(), hasty.port):
        response = hasty.asked(dialect)
        assert response.status_code == 504
        assert "silent" in error_of(dialect, response)
        assert hasty.ending() == "timeout"
        assert hasty.running.open_exchanges() == 0


@each_dialect
def test_hang_in_the_middle(hasty: Trial, dialect: Dialect) -> None:
    """A stream that stops moving is ended after the patience for silence, in the dialect's own words."""

    def script(_: HeardRequest, line: Connection) -> None:
        line.begin(dialect.kind)
        line.chunk(dialect.pieces[0])
        line.await_end()

    with ScriptedServer(script, hasty.port):
        response = hasty.asked(dialect)
        assert response.content.startswith(dialect.pieces[0])
        assert "silent" in dialect.error_in(response.content)
        assert hasty.ending() == "timeout"


@each_dialect
def test_slow_is_no_fault(hasty: Trial, dialect: Dialect) -> None:
    """A stream that is slow but moves may last longer than any silence is allowed to."""

    def script(_: HeardRequest, line: Connection) -> None:
        line.begin(dialect.kind)
        for piece in dialect.pieces:
            for byte in (piece[:5], piece[5:]):
                CLOCK.wait(SILENCE / 5)
                line.chunk(byte)
        line.end()

    with ScriptedServer(script, hasty.port):
        assert hasty.asked(dialect).content == b"".join(dialect.pieces)
        assert hasty.ending() == "success"


@each_dialect
def test_malformed(trial: Trial, dialect: Dialect) -> None:
    """What is no HTTP is a 502, and nobody sees its bytes."""

    def script(_: HeardRequest, line: Connection) -> None:
        line.send(b"SSH-2.0-OpenSSH_9.6\r\n")
        line.await_end()

    with ScriptedServer(script, trial.port):
        response = trial.asked(dialect)
        assert response.status_code == 502
        assert "makes no sense" in error_of(dialect, response)
        assert trial.ending() == "error"


@each_dialect
def test_a_page_of_another_program(trial: Trial, dialect: Dialect) -> None:
    """A 200 of a type that no Ollama sends is a 502, in the caller's shape."""

    def script(_: HeardRequest, line: Connection) -> None:
        line.head(200, "text/html", "Content-Length: 6")
        line.send(b"<html>")

    with ScriptedServer(script, trial.port):
        response = trial.asked(dialect)
        assert response.status_code == 502
        assert "text/html" in error_of(dialect, response)
        assert trial.ending() == "error"


@each_dialect
def test_shorter_than_it_said(trial: Trial, dialect: Dialect) -> None:
    """A document that ends before its Content-Length does so for the caller as well: no client takes it for whole."""

    def script(_: HeardRequest, line: Connection) -> None:
        line.head(200, "application/json", "Content-Length: 1000")
        line.send(b'{"model": "llama3.2"')
        line.close()

    with ScriptedServer(script, trial.port):
        with pytest.raises(httpx.RemoteProtocolError, match=r"incomplete|closed"):
            trial.asked(dialect, stream=False)
        assert trial.ending() == "upstream_cut"


@each_dialect
def test_longer_than_it_said(trial: Trial, dialect: Dialect) -> None:
    """Bytes behind the end of an answer reach nobody, and the connection that they came on is not used again."""
    body = b'{"done": true, "eval_count": 1}'

    def script(_: HeardRequest, line: Connection) -> None:
        line.head(200, "application/json", f"Content-Length: {len(body)}")
        line.send(body + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")

    with ScriptedServer(script, trial.port):
        for _ in range(3):
            assert trial.asked(dialect, stream=False).content == body
        assert trial.row(3).about.ending == "success"


@each_dialect
def test_a_refusal_passes_as_it_is(trial: Trial, dialect: Dialect) -> None:
    """What a server refuses in its own JSON passes byte for byte, with its status."""
    with ScriptedServer(lambda _, line: line.document({"error": "time: missing unit"}, 400), trial.port):
        response = trial.asked(dialect)
        assert (response.status_code, response.json()) == (400, {"error": "time: missing unit"})
        assert trial.ending() == "refused"


@each_dialect
def test_a_failed_load_is_told(trial: Trial, dialect: Dialect) -> None:
    """When a server cannot load the model, its own words reach everybody who waits, and nobody tries once more."""
    said = "llama runner process has terminated: cudaMalloc failed: out of memory"

    def opening(heard: HeardRequest, line: Connection) -> None:
        line.document(
            {"version": "1"} if heard.path == "/api/version" else {"error": said},
            200 if heard.path == "/api/version" else 500,
        )

    with ScriptedServer(lambda _, line: dialect.play(line), trial.port, opening=opening) as server:
        response = trial.asked(dialect)
        assert response.status_code == 500
        assert said in error_of(dialect, response)
        assert trial.ending() == "error"
        assert len(server.loads) == 1
        assert not server.asked


def test_a_proxy_that_lets_nobody_in(trial: Trial) -> None:
    """A 401 of Modal's proxy is the gateway's trouble, and not that of the caller's key."""

    def script(_: HeardRequest, line: Connection) -> None:
        line.document({"error": "modal-http: missing or invalid proxy token"}, 401)

    with ScriptedServer(script, trial.port):
        response = trial.asked(OPENAI)
        assert response.status_code == 502
        assert "closed to the gateway" in response.json()["error"]["message"]
