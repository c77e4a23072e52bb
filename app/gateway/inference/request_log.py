"""What is kept of a request: one record, written exactly once, with how it ended and by what evidence.

Success means that the terminator was seen. What the record goes to, `UsageRecorder` and the meters, never makes a
caller wait.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from loguru import logger

from app.gateway.inference.metrics import Metrics
from app.gateway.protocol.exchange import Exchange
from jobs.telemetry.usage import UsageRecorder, Use

RequestEnding = Literal["success", "client_gone", "upstream_cut", "timeout", "refused", "error"]
"""
success       the end of the answer was seen
client_gone   the caller left before
upstream_cut  the server's answer ended before its end
timeout       the server was silent for too long
refused       answered with a status of 400 to 499, here or there, or 503 because too many wait
error         answered with another error, or with an error inside the stream
"""


@dataclass(frozen=True)
class RequestRecord:
    """One request to a model. `model` and `tier` are empty when it did not come so far."""

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


class Recorder(Protocol):
    """Takes records, on the event loop. It must return at once, whatever becomes of them."""

    def add(self, served: RequestRecord) -> None: ...


def turned_away(exchange: Exchange, ending: RequestEnding, seconds: float) -> RequestRecord:
    """The record of a request that came no farther than the door."""
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
    """Where records go: the books of usage, the meters, and one line in the log. No prompt is in any of them."""

    def __init__(self, usage_recorder: UsageRecorder, metrics: Metrics) -> None:
        self._usage_recorder = usage_recorder
        self._metrics = metrics

    def add(self, served: RequestRecord) -> None:
        self._usage_recorder.add(
            Use(
                at=served.at,
                model=served.model,
                key=served.key,
                tier=served.tier,
                ending=served.ending,
                prompt_tokens=served.prompt_tokens or 0,
                output_tokens=served.output_tokens or 0,
                first_byte_seconds=served.first_byte_seconds,
                seconds=served.seconds,
            )
        )
        self._metrics.add(served)
        logger.bind(tier=served.tier, model=served.model, key=served.key).info("{}", line(served))


def line(served: RequestRecord) -> str:
    """The record in one line."""
    counted = ", ".join(
        f"{count} {kind} tokens"
        for count, kind in ((served.prompt_tokens, "prompt"), (served.output_tokens, "output"))
        if count is not None
    )
    first = "" if served.first_byte_seconds is None else f", first byte after {served.first_byte_seconds:.3f} s"
    held = f", held {served.held_seconds:.1f} s" if served.held_seconds else ""
    return (
        f"{served.route} {served.model or 'no model'} on {served.tier or 'no tier'} for {served.key}: {served.ending}"
        f" {served.status}, {served.seconds:.3f} s{first}{held}{', ' if counted else ''}{counted}"
    )
