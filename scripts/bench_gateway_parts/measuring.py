"""What is measured of one contestant, from what the callers saw and what /proc says of its processes."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench_gateway_parts.contestants import Contestant
from bench_gateway_parts.load_program import Load
from bench_gateway_parts.processes import cpu_seconds, memory_mb

PACE_MS = 50
"""Between two pieces of one stream: twenty tokens a second, as a large model gives."""
CALLERS = 64
BODY_BYTES = 64 * 1024
QUICK = 100
"""Requests a second from which on ten thousand of them are soon sent."""


@dataclass(frozen=True)
class Size:
    """Of one run.

    Args:
        seconds: for which requests are counted, and for which those with long bodies are.
        streams: how many at once.
        rounds: streams that each caller reads, one after the other.
        pieces: of one stream.
        requests: between two looks at the memory; a tenth of them comes before the first.

    """

    seconds: float
    streams: Sequence[int]
    rounds: int
    pieces: int
    requests: int


def measure(contestant: Contestant, load: Load, size: Size) -> dict[str, Any]:
    """All figures of one contestant."""
    pid = contestant.pid

    def sent(what: str, **options: float) -> dict[str, Any]:
        before = cpu_seconds(pid) if pid else 0.0
        seen = load.send(what, contestant, **options)
        if pid:
            spent = 1e6 * (cpu_seconds(pid) - before)
            seen["cpu_us_each"] = spent / (seen["pieces"] if what == "streams" else seen["requests"])
        if what == "requests":
            seen["requests_per_second"] = seen["requests"] / seen["seconds"]
        return seen

    sent("requests", connections=CALLERS, seconds=min(1.0, size.seconds))  # what is made at the first has been made
    figures: dict[str, Any] = {
        "requests": sent("requests", connections=CALLERS, seconds=size.seconds),
        "bodies": sent("requests", connections=CALLERS, seconds=size.seconds, body=BODY_BYTES),
    }
    for at_once in size.streams:
        figures[f"streams_{at_once}"] = sent("streams", connections=at_once, rounds=size.rounds, pieces=size.pieces)
    if pid and figures["requests"]["requests_per_second"] > QUICK:
        for name, count in (("first", size.requests // 10), ("all", size.requests)):
            sent("requests", connections=CALLERS, count=count)
            figures[f"memory_after_{name}_mb"] = memory_mb(pid, "VmRSS")
    if pid:
        figures["memory_peak_mb"] = memory_mb(pid, "VmHWM")
    return figures


def described(size: Size) -> dict[str, Any]:
    return {**asdict(size), "callers": CALLERS, "body_bytes": BODY_BYTES, "pace_ms": PACE_MS}
