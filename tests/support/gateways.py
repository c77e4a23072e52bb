"""A gateway over real sockets, and servers behind it that do what a test says, down to the byte."""

import json
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import httpx

from app.fleet.schema import Fleet
from app.gateway.auth.keys import Keys
from app.gateway.catalog.state import KnownState, ModelsSource
from app.gateway.compose import Composed, GatewayParts
from app.gateway.dashboard.plans import Plans, unknown_night
from app.gateway.http_protocol import ConnectionLimits
from app.gateway.http_server import HttpServer, listening
from app.gateway.inference.routing import Router
from app.gateway.upstream.holding import HoldTiming
from app.gateway.upstream.upstream_client import Patience, TierUpstream
from jobs.cli.job_commands import Outlook
from jobs.core.clock import SystemClock
from jobs.core.model_name import ModelName
from jobs.ledger.ledger import Ledger
from jobs.models.card import KnownModel
from jobs.models.placement import Tier
from jobs.store.sqlite import SqliteDict, SqliteQueue
from jobs.telemetry.usage import Row, usage

CLOCK = SystemClock()
PATIENCE = 20.0

QUICK = HoldTiming(first_poll_seconds=0.02, longest_poll_seconds=0.05, unseen_seconds=1.0)


def until(is_so: Callable[[], Any], what: str = "it") -> Any:
    """Wait for another thread to get there."""
    deadline = CLOCK.monotonic() + PATIENCE
    while not (answer := is_so()):
        assert CLOCK.monotonic() < deadline, f"{what} never came to be"
        CLOCK.wait(0.005)
    return answer


# -- a server that does as it is told ----------------------------------------------------------------------------------


@dataclass
class Heard:
    """A request as it came over the wire."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key.lower() == name), "")

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def only_loads(self) -> bool:
        return self.path == "/api/generate" and not {"prompt", "keep_alive"} & set(self.json)


class Line:
    """The server's end of one connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = bytearray()

    def heard(self) -> Heard | None:
        """The next request; None when the other side has left."""
        while b"\r\n\r\n" not in self._buffer:
            if not self._more():
                return None
        head = self._taken(self._buffer.index(b"\r\n\r\n") + 4)[:-4]
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ")
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        length = int(next((value for name, value in headers if name.lower() == "content-length"), 0))
        while len(self._buffer) < length:
            if not self._more():
                return None
        return Heard(method, path, headers, self._taken(length))

    def _taken(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def _more(self) -> bool:
        try:
            piece = self.sock.recv(65536)
        except OSError:
            return False
        self._buffer += piece
        return bool(piece)

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def head(self, status: int = 200, kind: str = "application/json", *more: str) -> None:
        lines = [f"HTTP/1.1 {status} Whatever", f"Content-Type: {kind}", *more]
        self.send("\r\n".join([*lines, "", ""]).encode())

    def document(self, document: Any, status: int = 200) -> None:
        body = json.dumps(document).encode()
        self.head(status, "application/json; charset=utf-8", f"Content-Length: {len(body)}")
        self.send(body)

    def begin(self, kind: str) -> None:
        self.head(200, kind, "Transfer-Encoding: chunked")

    def chunk(self, piece: bytes) -> None:
        self.send(b"%x\r\n%b\r\n" % (len(piece), piece))

    def end(self) -> None:
        self.send(b"0\r\n\r\n")

    def await_end(self) -> None:
        """Wait until the other side closes."""
        while self._more():
            pass

    def is_left(self) -> bool:
        """Whether the other side has closed by now."""
        readable, _, _ = select.select([self.sock], [], [], 0)
        return bool(readable) and not self._more()

    def reset(self) -> None:
        """Close as a process that is killed: the other side gets an error instead of an end."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


Script = Callable[[Heard, Line], None]


class Scripted:
    """A server whose every answer is a test's. It is awake and loads what it is asked to, unless told otherwise."""

    def __init__(
        self, script: Script, port: int = 0, *, asleep: int = 0, hang_ups: int = 0, opening: Script | None = None
    ) -> None:
        self._script = script
        self._opening = opening or self._opens
        self._asleep = asleep
        self._hang_ups = hang_ups
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.heard: list[Heard] = []
        self.lines: set[Line] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def asked(self) -> list[Heard]:
        """What callers asked, without what the gateway asks by itself."""
        return [each for each in self.heard if each.path != "/api/version" and not each.only_loads]

    @property
    def loads(self) -> list[Heard]:
        return [each for each in self.heard if each.only_loads]

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes whoever accepts, who else would keep the port
        self._listener.close()
        for line in list(self.lines):
            line.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            if self._hang_ups:
                self._hang_ups -= 1
                Line(sock).reset()
                continue
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(Line(sock),), daemon=True).start()

    def _serve(self, line: Line) -> None:
        with self._lock:
            self.lines.add(line)
        try:
            while (heard := line.heard()) is not None:
                with self._lock:
                    self.heard.append(heard)
                if self._asleep:
                    self._asleep -= 1
                    line.head(503, "text/plain", "Content-Length: 0")
                elif heard.path == "/api/version" or heard.only_loads:
                    self._opening(heard, line)
                else:
                    self._script(heard, line)
        except OSError:
            pass
        finally:
            with self._lock:
                self.lines.discard(line)
            line.close()

    @staticmethod
    def _opens(heard: Heard, line: Line) -> None:
        if heard.path == "/api/version":
            line.document({"version": "0.0.1"})
        else:
            line.document({"model": heard.json["model"], "done": True, "done_reason": "load"})


# -- the gateway -------------------------------------------------------------------------------------------------------


def model(text: str) -> KnownModel:
    return KnownModel(ModelName.parse(text), "0" * 64, 1_000_000, datetime(2026, 1, 1, tzinfo=UTC), {})


@dataclass
class Shelf:
    """Where the gateway's models come from: a list."""

    models: Sequence[KnownModel] = field(default_factory=lambda: [model("llama3.2")])

    def stamp(self, _: Any, /) -> Any:
        return tuple(self.models)

    def read(self) -> Sequence[KnownModel]:
        return self.models


@dataclass
class Running:
    """A gateway that answers."""

    url: str
    composed: Composed
    facts: SqliteDict
    door: HttpServer
    standing: KnownState

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def rows(self, count: int = 1) -> list[Row]:
        """What was recorded, once so many requests were."""

        def recorded() -> list[Row]:
            self.composed.usage_recorder.flush()
            rows = usage(self.facts)
            return rows if sum(row.sums.count for row in rows) >= count else []

        found: list[Row] = until(recorded, "the record")
        assert sum(row.sums.count for row in found) == count
        return found

    def row(self) -> Row:
        (row,) = self.rows()
        return row

    def open_exchanges(self) -> int:
        return sum(client.open_exchanges for client in self.composed.upstream_clients.values())


@contextmanager
def gateway(
    folder: Path,
    servers: Mapping[str, str],
    *,
    keys: str = "",
    shelf: ModelsSource | None = None,
    startup: float = 5.0,
    patience: Patience | None = None,
    pace: HoldTiming = QUICK,
    tiers: Sequence[Tier] | None = None,
    comment_seconds: float = 0.05,
    headers: Mapping[str, str] | None = None,
    fleet: Fleet | None = None,
    most_containers: int = 1,
    body_seconds: float = PATIENCE,
    limits: ConnectionLimits | None = None,
    plan: Callable[[], Outlook] = unknown_night,
    refresh_seconds: float = 2.0,
) -> Iterator[Running]:
    """A gateway in front of these servers, by tier."""
    path = folder / "gateway.sqlite"
    facts = SqliteDict(path)
    standing = KnownState(facts, shelf or Shelf(), CLOCK)
    known = tiers or [Tier(name, None, gpu_promised=False) for name in servers]
    parts = GatewayParts(
        upstreams={
            name: TierUpstream(name, url, headers or {}, timedelta(seconds=startup), most_containers)
            for name, url in servers.items()
        },
        known_state=standing,
        router=Router(standing, known),
        keys=Keys.parse(keys),
        facts=facts,
        open_ledger=lambda: Ledger(SqliteQueue(path, clock=CLOCK), SqliteDict(path), CLOCK),
        clock=CLOCK,
        writer="test",
        version="0.0.1",
        patience=patience or Patience(),
        hold_timing=pace,
        comment_seconds=comment_seconds,
        fleet=fleet,
        plans=Plans(night=plan),
        body_seconds=body_seconds,
        refresh_seconds=refresh_seconds,
    )
    standing.refresh()
    composed = Composed(parts)
    door = HttpServer(composed.app, listening("127.0.0.1", 0), CLOCK, limits)
    door.start()
    try:
        yield Running(door.url, composed, facts, door, standing)
    finally:
        door.stop()
        facts.close()


# -- the three dialects ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dialect:
    """How one kind of client asks for a stream, and the pieces of an answer to it."""

    name: str
    path: str
    body: Mapping[str, Any]
    kind: str
    pieces: tuple[bytes, ...]
    output_tokens: int | None

    def play(self, line: Line) -> None:
        """The whole answer."""
        line.begin(self.kind)
        for piece in self.pieces:
            line.chunk(piece)
        line.end()

    def error_in(self, said: bytes) -> str:
        """The text of the error event that ends what a client was sent; empty without one."""
        if self.name == "ollama":
            last = said.rstrip(b"\n").rpartition(b"\n")[2]
            return str(json.loads(last).get("error", ""))
        last = said.rstrip(b"\n").rpartition(b"\n\n")[2]
        event, _, data = last.rpartition(b"data: ")
        if self.name == "anthropic":
            assert event == b"event: error\n"
        if self.name == "responses":
            assert event == b"event: error\n"
            return str(json.loads(data)["message"])
        return str(json.loads(data).get("error", {}).get("message", ""))


def _event(name: str, **more: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **more})}\n\n".encode()


def _data(document: Any) -> bytes:
    return f"data: {json.dumps(document)}\n\n".encode()


def _line(**frame: Any) -> bytes:
    return json.dumps(frame).encode() + b"\n"


TALK = [{"role": "user", "content": "hello"}]

OLLAMA = Dialect(
    "ollama",
    "/api/chat",
    {"model": "llama3.2", "messages": TALK},
    "application/x-ndjson",
    (
        _line(model="llama3.2", message={"role": "assistant", "content": "Hel"}, done=False),
        _line(model="llama3.2", message={"role": "assistant", "content": "lo"}, done=False),
        _line(model="llama3.2", done=True, done_reason="stop", prompt_eval_count=7, eval_count=3),
    ),
    3,
)
OPENAI = Dialect(
    "openai",
    "/v1/chat/completions",
    {"model": "llama3.2", "messages": TALK, "stream": True},
    "text/event-stream",
    (
        _data({"choices": [{"delta": {"role": "assistant", "content": "Hel"}}]}),
        _data({"choices": [{"delta": {}, "finish_reason": "stop"}]}),
        _data({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}),
        b"data: [DONE]\n\n",
    ),
    3,
)
ANTHROPIC = Dialect(
    "anthropic",
    "/v1/messages",
    {"model": "llama3.2", "messages": TALK, "stream": True, "max_tokens": 9},
    "text/event-stream",
    (
        _event("message_start", message={"usage": {"input_tokens": 5, "output_tokens": 0}}),
        _event("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hel"}),
        _event("message_delta", delta={}, usage={"input_tokens": 7, "output_tokens": 3}),
        _event("message_stop"),
    ),
    3,
)
RESPONSES = Dialect(
    "responses",
    "/v1/responses",
    {"model": "llama3.2", "input": "hello", "stream": True},
    "text/event-stream",
    (
        _event("response.created", response={}),
        _event("response.output_text.delta", delta="Hel"),
        _event("response.completed", response={"usage": {"input_tokens": 7, "output_tokens": 3}}),
    ),
    3,
)
DIALECTS = (OLLAMA, OPENAI, ANTHROPIC, RESPONSES)


def asked(running: Running, dialect: Dialect, **more: Any) -> httpx.Response:
    """A client's request and its whole answer."""
    body = {**dialect.body, **more}
    return httpx.post(running.url + dialect.path, json=body, timeout=PATIENCE)


def dead_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
