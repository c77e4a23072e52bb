"""The cold starts of servers and the loads of models, by their phases. Facts under `cold/<tier>/<container>/<n>`. Pure
but for one listing.

    container    asked, until the first line of the container's own code
    weights      until the weights are visible there
    engine       until the engine answers
    bytes        until the model's bytes are read
    memory       until the model is in memory
    handover     what passes between the server and the gateway, which notices by asking
    first_token  until the first byte of an answer

A phase lasts from the end of the one before. What did not happen, or cannot be known, is absent and its time is in the
next that is known: a load in a server that runs has no container, and an engine that does not say when it has read all
bytes has them in `memory`. Two machines' clocks differ, so each measures its own part by a clock that never goes back:
the server its phases, the gateway the whole. What is left is the way between them, and only that is parted by the time
of day. So the phases add up to the whole, whatever the clocks say.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any, Literal, Self, get_args

from jobs.core import foreign
from jobs.core.clock import isoformat
from jobs.store import keys
from jobs.store.protocols import ReadableDict

Phase = Literal["container", "weights", "engine", "bytes", "memory", "handover", "first_token"]
PHASES: tuple[Phase, ...] = get_args(Phase)

OF_THE_SERVER: tuple[Phase, ...] = ("weights", "engine", "bytes", "memory")
"""What a server measures by itself."""

OF_THE_READ: tuple[Phase, ...] = ("bytes", "memory")
"""What takes longer the larger the model is."""

Kind = Literal["start", "load"]

TELL_AT_LEAST_EVERY = timedelta(seconds=10)
"""So often at least a server says that it starts or loads, also where nothing is news."""

LONGEST_SECONDS = 30 * 86400.0
"""No phase takes longer; what says so makes no sense."""

FIRST, LAST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
"""Between these every cold start is, however wrong a clock."""


@dataclass(frozen=True)
class ColdStart:
    """The start of a server, or a load in one that ran, as far as it is over.

    Args:
        tier: which kind of server.
        container: the server; where that tells nothing of itself, the gateway that waited for it.
        n: numbers those of the container.
        kind: whether a server had to start for it.
        at: when it was asked for; where nobody did, when it began.
        model: that was to be in memory; empty where none was.
        size: of the model in bytes, where it is known.
        seconds: how long each phase took.
        bytes_per_second: at which the model's bytes came in, as whoever read them measured it.

    """

    tier: str
    container: str
    n: int
    kind: Kind
    at: datetime
    model: str = ""
    size: int | None = None
    seconds: Mapping[Phase, float] = field(default_factory=dict, hash=False)
    bytes_per_second: float | None = None

    @property
    def key(self) -> str:
        return keys.cold(self.tier, self.container, self.n)

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    @property
    def rate(self) -> float | None:
        """Bytes per second: as it was measured, else the size by the time of reading, which has that of moving it to
        memory in it where the two cannot be told apart."""
        took = self.seconds.get("bytes") or self.seconds.get("memory")
        return self.bytes_per_second or (self.size / took if self.size and took else None)

    def as_json(self) -> dict[str, Any]:
        rate = self.rate
        return {
            "v": 1,
            "tier": self.tier,
            "container": self.container,
            "n": self.n,
            "kind": self.kind,
            "at": isoformat(self.at),
            "model": self.model,
            "size": self.size,
            "seconds": seconds_as_json(self.seconds),
            "total_seconds": round(self.total, 3),
            "bytes_per_second": rate and round(rate),
        }

    @classmethod
    def from_json(cls, document: Any) -> Self | None:
        """None for what makes no sense."""
        wire = foreign.fields(document)
        tier, container, at = foreign.text(wire.get("tier")), foreign.text(wire.get("container")), _moment(wire)
        if not tier or not container or at is None:
            return None
        return cls(
            tier=tier,
            container=container,
            n=foreign.count(wire.get("n")),
            kind="load" if wire.get("kind") == "load" else "start",
            at=at,
            model=foreign.text(wire.get("model")),
            size=_size(wire.get("size")),
            seconds=seconds_of(wire.get("seconds")),
            bytes_per_second=_number(wire.get("bytes_per_second")),
        )

    @classmethod
    def listed(cls, answer: Mapping[str, Any]) -> tuple[list[Self], int]:
        """Those of an answer to `GET /ops/v1/cold`, and how many older ones it leaves out."""
        read = map(cls.from_json, foreign.items(answer.get("starts")))
        return [each for each in read if each is not None], max(0, foreign.count(answer.get("older")))


@dataclass(frozen=True)
class Progress:
    """How far a start or a load has come, as its server reports it; when it is over, how it went.

    Args:
        n: numbers those of one server; its own start is 0.
        kind: as of `ColdStart`.
        at: when it began there, by that machine's clock.
        model: that is on its way into memory; empty while nobody has named one.
        phase: that goes on; None once it is over.
        seconds: of the phases that have ended.
        in_phase: seconds that the one that goes on has lasted.
        size: of the model, where it is known.
        read: of these bytes so many have come in, where that can be known.
        bytes_per_second: at which they come, as whoever reads them measured it.

    """

    n: int
    kind: Kind
    at: datetime
    model: str = ""
    phase: Phase | None = None
    seconds: Mapping[Phase, float] = field(default_factory=dict, hash=False)
    in_phase: float = 0.0
    size: int | None = None
    read: int | None = None
    bytes_per_second: float | None = None

    @property
    def is_over(self) -> bool:
        return self.phase is None

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    def as_json(self) -> dict[str, Any]:
        return {
            "n": self.n,
            "kind": self.kind,
            "at": isoformat(self.at),
            "model": self.model,
            "phase": self.phase,
            "seconds": seconds_as_json(self.seconds),
            "in_phase": round(self.in_phase, 3),
            "size": self.size,
            "read": self.read,
            "bytes_per_second": self.bytes_per_second and round(self.bytes_per_second),
        }

    @classmethod
    def from_json(cls, document: Any) -> Self | None:
        """None for what makes no sense."""
        wire = foreign.fields(document)
        at, phase = _moment(wire), wire.get("phase")
        if at is None:
            return None
        return cls(
            n=foreign.count(wire.get("n")),
            kind="load" if wire.get("kind") == "load" else "start",
            at=at,
            model=foreign.text(wire.get("model")),
            phase=next((each for each in PHASES if each == phase), None),
            seconds=seconds_of(wire.get("seconds")),
            in_phase=_seconds(wire.get("in_phase")) or 0.0,
            size=_size(wire.get("size")),
            read=None if wire.get("read") is None else max(0, foreign.count(wire.get("read"))),
            bytes_per_second=_number(wire.get("bytes_per_second")),
        )


def seconds_as_json(seconds: Mapping[Phase, float]) -> dict[str, float]:
    return {phase: round(seconds[phase], 3) for phase in PHASES if phase in seconds}


def seconds_of(document: Any) -> dict[Phase, float]:
    wire = foreign.fields(document)
    read = {phase: _seconds(wire.get(phase)) for phase in PHASES}
    return {phase: seconds for phase, seconds in read.items() if seconds is not None}


def _moment(wire: Mapping[str, Any]) -> datetime | None:
    at = foreign.moment(wire.get("at"))
    return at if at is not None and FIRST <= at < LAST else None


def _size(value: Any) -> int | None:
    size = foreign.count(value)
    return size if size > 0 else None


def _seconds(value: Any) -> float | None:
    seconds = _number(value)
    return None if seconds is None or seconds > LONGEST_SECONDS else seconds


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 <= value < 1e18 else None


# -- reading -----------------------------------------------------------------------------------------------------------


def cold_starts(entries: Mapping[str, Any], since: datetime | None = None) -> list[ColdStart]:
    """Those among these entries, newest first; one that makes no sense is left out."""
    read = (ColdStart.from_json(value) for key, value in entries.items() if key.startswith(keys.COLD))
    found = [each for each in read if each is not None]
    return sorted((each for each in found if since is None or each.at >= since), key=lambda each: each.at, reverse=True)


def read_cold_starts(facts: ReadableDict, since: datetime | None = None) -> list[ColdStart]:
    """Those that the ledger has, newest first."""
    return cold_starts(dict(facts.items(keys.COLD)), since)


def start_seconds(entries: Mapping[str, Any], since: datetime | None = None) -> dict[str, float]:
    """How long a start of each tier takes: the middle of those among these entries, from being asked for to the first
    token. Loads in servers that ran are none."""
    took: dict[str, list[float]] = {}
    for each in cold_starts(entries, since):
        if each.kind == "start":
            took.setdefault(each.tier, []).append(each.total)
    return {tier: median(seconds) for tier, seconds in took.items()}


def medians(starts: Iterable[ColdStart]) -> dict[Phase, float]:
    """How long each phase took in the median, of those that had it."""
    had: dict[Phase, list[float]] = {}
    for each in starts:
        for phase, seconds in each.seconds.items():
            had.setdefault(phase, []).append(seconds)
    return {phase: median(had[phase]) for phase in PHASES if phase in had}
