"""What is kept of a request: one record, written exactly once, with how it ended and by what evidence.

Success means that the terminator was seen. What the record goes to, `UsageRecorder` and the meters, never makes a
caller wait.
"""

import asyncio
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Literal, Protocol

from app.gateway.protocol.exchange import Exchange
from app.logs import About, Line, tell_later
from jobs.telemetry.usage import UsageRecorder

RequestEnding = Literal["success", "client_gone", "upstream_cut", "timeout", "refused", "error"]
"""
success       the end of the answer was seen
client_gone   the caller left before
upstream_cut  the server's answer ended before its end
timeout       the server was silent for too long
refused       answered with a status of 400 to 499, by the gateway or a server, or 503 because too many wait
error         answered with another error, or with an error inside the stream
"""


@dataclass(slots=True)
class RequestRecord:
    """One request to a model. `model` and `tier` are empty when it was refused before they were known. Nobody changes
    one; there is one for each request, and to have it frozen would double what it costs.
    """

    request_id: str
    at: datetime
    key: str
    model: str
    tier: str
    route: str
    """The path as the table has it."""
    dialect: str
    ending: RequestEnding
    status: int
    prompt_tokens: int | None
    output_tokens: int | None
    first_byte_seconds: float | None
    seconds: float
    held_seconds: float
    """How long it waited for a server to wake or a model to load."""
    woke: bool
    """Whether this request is the one that woke the tier."""
    alias: str = ""
    """The name that it asked for, where that is not the model's own."""
    is_prompt_truncated: bool = False
    """Whether the model was given less than the prompt, as far as that is known."""
    batch: str = ""
    """Whose line it was, where it was one of a batch."""
    shared_seconds: float | None = None
    """Of a line of a batch, its part of the servers' time, which it shares with those beside it."""


class Recorder(Protocol):
    """Takes records, on the event loop; returns at once."""

    def add(self, record: RequestRecord) -> None: ...


def turned_away(exchange: Exchange, ending: RequestEnding, seconds: float) -> RequestRecord:
    """The record of a request that was refused before anything was asked of a server."""
    return RequestRecord(
        request_id=exchange.id,
        at=exchange.at,
        key=exchange.caller.name,
        model="",
        tier="",
        route=exchange.entry.path,
        dialect=exchange.entry.speech,
        ending=ending,
        status=exchange.status or 499,
        prompt_tokens=None,
        output_tokens=None,
        first_byte_seconds=None,
        seconds=seconds,
        held_seconds=0.0,
        woke=False,
    )


class Records:
    """Where records go: the usage, the meters, and one line in the log, which a thread words. No prompt is in any.

    Belongs to one event loop. Those of one turn of it go there together, one behind the other, at its end: to come back
    to this code for each of them costs half as much again.
    """

    def __init__(self, usage_recorder: UsageRecorder, metrics: Recorder) -> None:
        self._usage_recorder = usage_recorder
        self._metrics = metrics
        self._of_this_turn: list[RequestRecord] = []

    def add(self, record: RequestRecord) -> None:
        self._of_this_turn.append(record)
        if len(self._of_this_turn) == 1:
            asyncio.get_running_loop().call_soon(self.pass_on)

    def pass_on(self) -> None:
        """Pass on what has come."""
        records, self._of_this_turn = self._of_this_turn, []
        for record in records:
            self._usage_recorder.add(record)
            self._metrics.add(record)
            tell_later(Line(record, _told, _WHERE, record.request_id))


def _told(record: RequestRecord) -> tuple[str, About]:
    """The message of the log, and what it belongs to."""
    about = _about(record.tier, record.model, record.alias, record.key, record.is_prompt_truncated)
    return line(record), (*about, ("batch", record.batch)) if record.batch else about


@lru_cache(256)
def _about(tier: str, model: str, alias: str, key: str, is_prompt_truncated: bool) -> About:
    """What a line belongs to; nearly all belong to what others did."""
    return ("tier", tier), ("model", model), ("alias", alias), ("key", key), ("prompt_truncated", is_prompt_truncated)


def line(record: RequestRecord) -> str:
    """The record in one line."""
    counted = "" if record.prompt_tokens is None else f", {record.prompt_tokens} prompt tokens"
    if record.output_tokens is not None:
        counted += f", {record.output_tokens} output tokens"
    first = "" if record.first_byte_seconds is None else f", first byte after {record.first_byte_seconds:.3f} s"
    held = f", held {record.held_seconds:.1f} s" if record.held_seconds else ""
    shared = f", {record.shared_seconds:.3f} s of a server" if record.shared_seconds is not None else ""
    of_batch = f", a line of {record.batch}{shared}" if record.batch else ""
    truncated = ", prompt truncated" if record.is_prompt_truncated else ""
    asked = f" as {record.alias}" if record.alias else ""
    return (
        f"{record.route} {record.model or 'no model'}{asked} on {record.tier or 'no tier'} for {record.key}:"
        f" {record.ending} {record.status}, {record.seconds:.3f} s{first}{held}{counted}"
        f"{truncated}{of_batch}"
    )


_WHERE = f"{__name__}:{line.__code__.co_firstlineno}"
