"""What passes between the simulator's HTTP front and its routes: requests, replies, and the server's parts."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from jobs.core.clock import Clock
from jobs.ollama.go_types import GoStruct, go_json
from jobs.ollama.request_types import BODIES
from jobs.testing.ollama.faults import OllamaFault, OllamaFaultKind, OllamaFaults, SimError, at_the_door
from jobs.testing.ollama.go_formats import keep_alive
from jobs.testing.ollama.memory import Runners
from jobs.testing.ollama.pull import Puller
from jobs.testing.ollama.store import Store

VERSION = "0.32.15-simulator"

JSON = "application/json; charset=utf-8"
NDJSON = "application/x-ndjson"
SSE = "text/event-stream"

_UNKNOWN = GoStruct("api.Request", {})


@dataclass(frozen=True)
class SimulatorSettings:
    """What the real one reads from OLLAMA_* and the simulator from OLLAMA_SIM_* besides.

    Sizes are those of jobs.testing.models, a hundredth of the real ones.
    """

    models: Path
    no_prune: bool = False
    keep_alive: timedelta = timedelta(minutes=5)
    max_queue: int = 512
    parallel: int = 1
    max_loaded_models: int = 0
    """0 is as many as fit."""
    context_length: int = 4096
    origins: tuple[str, ...] = ()
    registry: str | None = None
    vram: int | None = None
    tokens_per_second: float = 0.0
    load_bytes_per_second: int = 0
    placing_seconds: float = 0.0
    """From a load's last byte until the model is in memory."""
    prompt_seconds: float = 0.0
    """From a chat's or a completion's prompt until its first token."""
    retry_seconds: float = 1.0
    generations: Path | None = None
    """A file in which each chat or completion that begins has a line: the last words of its prompt."""
    discovery_seconds: float = 0.0
    """Connections are accepted this long before anything is answered."""
    version: str = VERSION


@dataclass(frozen=True)
class SimulatorParts:
    """One server, as its routes see it. Every connection's thread uses it; each part guards what it shares."""

    settings: SimulatorSettings
    store: Store
    runners: Runners
    puller: Puller
    faults: OllamaFaults
    clock: Clock
    stopping: threading.Event


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    gone: Callable[[], bool]
    """Whether whoever asked has left."""
    faults: dict[OllamaFaultKind, OllamaFault] = field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        """The body, keys in lower case as Go matches them; `/v1` has other words for an empty one."""
        if not self.body:
            empty = "EOF" if self.path.startswith("/v1/") else "missing request body"
            raise SimError(empty, 400, at_the_door=True)
        with at_the_door():
            document = go_json(self.body, BODIES.get(self.path, _UNKNOWN))
            fields = {key.lower(): value for key, value in document.items()}
            if self.path.startswith("/api/"):
                keep_alive(fields.get("keep_alive"))
        return fields


@dataclass(frozen=True)
class Reply:
    """A whole answer."""

    status: int = 200
    body: bytes = b""
    content_type: str = JSON


@dataclass(frozen=True)
class Stream:
    """An answer in pieces, each sent as it comes. The pieces end it; an exception among them cuts it."""

    pieces: Iterator[bytes]
    content_type: str


SimulatorAnswer = Reply | Stream


def as_json(document: Any, status: int = 200, content_type: str = JSON) -> Reply:
    return Reply(status, dumps(document), content_type)


def dumps(document: Any, *, sort_keys: bool = False) -> bytes:
    """Compact, in UTF-8, with the escapes that Go's encoder writes."""
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False, sort_keys=sort_keys)
    for plain, escape in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026"), ("\u2028", "\\u2028")):
        text = text.replace(plain, escape)
    return text.encode()


def as_line(document: Any, status: int = 200) -> Reply:
    """How `/v1` answers are written: by an encoder that ends the line and names no charset."""
    return Reply(status, dumps(document) + b"\n", "application/json")


def event(said: dict[str, Any], *, sort_keys: bool = False) -> bytes:
    """One event of a stream, under the name of its type."""
    return f"event: {said['type']}\ndata: ".encode() + dumps(said, sort_keys=sort_keys) + b"\n\n"


def with_error(frames: Iterator[dict[str, Any]], fault: OllamaFault | None) -> Iterator[dict[str, Any]]:
    """The frames, up to the one at which an `error` fault strikes."""
    for count, frame in enumerate(frames):
        if fault and count >= fault.value:
            raise SimError(fault.text)
        yield frame


def ndjson(frames: Iterator[dict[str, Any]]) -> Stream:
    """Frames as lines. The first is awaited here, so that an error before it still has its own status."""
    try:
        first = next(frames)
    except StopIteration:
        return Stream(iter(()), NDJSON)
    return Stream(_lines(first, frames), NDJSON)


def _lines(first: dict[str, Any], frames: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    yield dumps(first) + b"\n"
    try:
        for frame in frames:
            yield dumps(frame) + b"\n"
    except SimError as error:
        yield dumps({"error": error.text}) + b"\n"
