"""What a gateway measures of one cold start, and what that and its server's own word come to together. Pure but for the
clock that is handed in.

The gateway's clock measures the whole, the server's its own part; what is left is the way between them. Only how much
of that was before the container's first line, and how much after the model was in memory, the time of day has to tell:
if clocks differ, time is in the wrong one of the two, and the sum is right.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.model_server.report import Report
from jobs.core.clock import Clock
from jobs.telemetry.cold_starts import ColdStart, Phase, Progress

CLOCKS_DIFFER = timedelta(minutes=1)
"""A start that ended so long before it was asked for may still be the one that was waited for: what a server that is
heard of for the first time says of the time of day nobody can check."""

_NOTICED_WITHIN = timedelta(seconds=1)
"""A server's own clock may be so much ahead of when the gateway noticed."""


@dataclass(frozen=True)
class Waited:
    """A wait that is over. All seconds are since it was asked for.

    Args:
        tier: which tier.
        model: that was waited for, as the server names it; empty where none was.
        asked_at: by the gateway's clock.
        woke: the tier was not there at first.
        awake: when it answered.
        loaded: when the gateway knew the model to be in memory.
        first_token: when the first byte of a streamed answer came, where there was one.

    """

    tier: str
    model: str
    asked_at: datetime
    woke: bool
    awake: float
    loaded: float
    first_token: float | None = None


class ColdWait:
    """Measures one. Belongs to the event loop.

    Args:
        tier: which tier.
        model: that is waited for.
        clock: for when and how long.
        settle: is called once with what it came to.

    """

    def __init__(self, tier: str, model: str, clock: Clock, settle: Callable[[Waited], object]) -> None:
        self._tier = tier
        self._model = model
        self._clock = clock
        self._settle = settle
        self._asked_at = clock.now()
        self._asked = clock.monotonic()
        self._awake: float | None = None
        self._woke = False
        self._loaded: float | None = None
        self._is_settled = False

    @property
    def is_cold(self) -> bool:
        """Whether somebody had to wait for the tier, or for a load worth the name."""
        return self._loaded is not None

    @property
    def seconds(self) -> float:
        return self._clock.monotonic() - self._asked

    @property
    def loading_seconds(self) -> float:
        """Since the tier answered."""
        return self.seconds - (self._awake or 0.0)

    def tier_answers(self, *, woke: bool) -> None:
        """The tier answers; `woke` where it did not at first."""
        self._awake, self._woke = self.seconds, self._woke or woke

    def loaded(self, *, is_real: bool) -> None:
        """The model is in memory; it was there before, unless the load was a real one."""
        if is_real or self._woke:
            self._loaded = self.seconds

    def first_token(self, *, is_streamed: bool) -> None:
        """An answer has begun. One that is not streamed begins when all of it is there, which tells nothing."""
        self.settle(self.seconds if is_streamed else None)

    def settle(self, first_token: float | None = None) -> None:
        """It is over, with or without an answer; once."""
        if self._loaded is None or self._is_settled:
            return
        self._is_settled = True
        self._settle(
            Waited(
                self._tier,
                self._model,
                self._asked_at,
                self._woke,
                self._awake or 0.0,
                self._loaded,
                first_token,
            )
        )


# -- what it comes to --------------------------------------------------------------------------------------------------


def alone(waited: Waited, writer: str, size: int | None, *, is_remote: bool) -> ColdStart:
    """By what the gateway measured, where no server told of it. What came before a remote one answered counts for its
    container; on one machine there is none, and it was the engine that was waited for."""
    seconds: dict[Phase, float] = {}
    if waited.woke:
        seconds["container" if is_remote else "engine"] = waited.awake
    seconds["memory"] = waited.loaded - (waited.awake if waited.woke else 0.0)
    return ColdStart(
        tier=waited.tier,
        container=writer,
        n=round(waited.asked_at.timestamp() * 1000),
        kind="start" if waited.woke else "load",
        at=waited.asked_at,
        model=waited.model,
        size=size,
        seconds=seconds | _answered(waited),
    )


def joined(
    waited: Waited, reports: Iterable[Report], size: int | None, *, tells_loads: bool = True
) -> ColdStart | None:
    """By what the gateway measured and what the server that it waited for told; None while none has.

    Args:
        waited: what the gateway measured.
        reports: of the tier's servers.
        size: of the model, where it is known here.
        tells_loads: a server that tells of its start tells of its loads as well; where it does not, as on one machine,
            what came after the start was the load.

    """
    found = [each for report in reports if (each := _met(waited, report, tells_loads=tells_loads)) is not None]
    if not found:
        return None
    until = waited.asked_at + timedelta(seconds=waited.loaded) + _NOTICED_WITHIN
    report, start, load = max(found, key=lambda each: (_ended(*each) <= until, _ended(*each)))
    parts = _parts(waited, start, load)
    own = sum(parts.values())
    at, rest = waited.asked_at, waited.loaded - own
    seconds: dict[Phase, float] = {}
    if rest < 0:  # it had begun before anybody here asked
        at, rest = at - timedelta(seconds=-rest), 0.0
    elif start is not None:
        before = report.here(start.at) - waited.asked_at
        seconds["container"] = min(max(0.0, before.total_seconds()), rest)
        rest -= seconds["container"]
    last = load or start
    assert last is not None
    return ColdStart(
        tier=waited.tier,
        container=report.container,
        n=(start or last).n,
        kind="load" if start is None else "start",
        at=at,
        model=waited.model,
        size=last.size or size,
        seconds={**seconds, **parts, "handover" if tells_loads else "memory": rest, **_answered(waited)},
        bytes_per_second=last.bytes_per_second,
    )


def _met(
    waited: Waited, report: Report, *, tells_loads: bool
) -> tuple[Report, Progress | None, Progress | None] | None:
    """The start and the load of this server that ended in the model's being in memory; None where it told of none."""
    then = [each for each in report.progress if _was_then(waited, report, each)]
    starts = [each for each in then if each.kind == "start" and waited.woke]
    loads = [each for each in then if each.kind == "load"]
    start = starts[0] if starts else None
    load = next((each for each in loads if each.model == waited.model), None)
    is_of_start = start is not None and (not waited.model or start.model == waited.model or not tells_loads)
    if is_of_start:
        return report, start, None
    return (report, start, load) if load is not None else None


def _was_then(waited: Waited, report: Report, progress: Progress) -> bool:
    return progress.is_over and _ended(report, progress, None) >= waited.asked_at - CLOCKS_DIFFER


def _ended(report: Report, start: Progress | None, load: Progress | None) -> datetime:
    """When the model was in memory, by the gateway's clock as far as that can be known."""
    last = load or start
    assert last is not None
    return report.here(last.at) + timedelta(seconds=last.total)


def _parts(waited: Waited, start: Progress | None, load: Progress | None) -> dict[Phase, float]:
    """What the server measured; of another model's load at its start only that the others waited."""
    parts: dict[Phase, float] = {}
    if start is not None:
        is_other = load is not None and start.model != waited.model
        kept: Sequence[Phase] = ("weights", "engine") if is_other else tuple(start.seconds)
        parts.update({phase: start.seconds[phase] for phase in kept if phase in start.seconds})
    if load is not None:
        parts.update(load.seconds)
    return parts


def _answered(waited: Waited) -> dict[Phase, float]:
    return {} if waited.first_token is None else {"first_token": waited.first_token - waited.loaded}
