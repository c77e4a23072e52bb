"""How each tier and each of its containers is, by what they last reported. Pure; it asks and wakes nobody.

asleep     no container is up, which is healthy
waking     one is starting
ready      all that are up can do their work
degraded   one is up and cannot do all of it: probes unanswered, or a model partly beside the GPU
lost       the last one was killed, failed, or could not start, and none has come since; or none can start
gone       it is declared no more: the end of its history, for as long as it is not declared again
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, Self

from app.model_server.report import REPORT_STALE, Report
from app.model_server.start_failures import UNHEARD_AFTER, refused_starts
from jobs.core.clock import isoformat, parse_moment

HealthState = Literal["asleep", "waking", "ready", "degraded", "lost", "gone"]
GONE: Literal["gone"] = "gone"
"""Of a container that ended as it should, and of a tier."""

LOST_FOR = timedelta(hours=1)
"""After that a tier of which nobody has asked anything counts as asleep: the next request starts another container."""

REPORT_LATE = timedelta(seconds=75)
"""Two reports of a server that is up, and some; one whose last word is older may still be there, or gone."""


@dataclass(frozen=True)
class Health:
    """A tier at one moment.

    Args:
        tier: its name.
        state: as above.
        why: what led to it, in words.
        containers: how each container is that was heard of within the hour.
        next_start: before this nobody starts another container, because the last ones refused to.

    """

    tier: str
    state: HealthState
    why: str = ""
    containers: Mapping[str, str] = field(default_factory=dict, hash=False)
    next_start: datetime | None = None

    @property
    def is_trouble(self) -> bool:
        return self.state in {"degraded", "lost"}


def of_container(report: Report, now: datetime) -> tuple[str, str]:
    """The state of one container, and why."""
    age = now - report.at
    match report.state:
        case "waking":
            return ("waking", "") if age <= UNHEARD_AFTER else ("lost", "it was not heard of since it began to start")
        case "serving" if age > REPORT_STALE:
            return "lost", f"not heard of since {isoformat(report.at)}"
        case "serving":
            why = report.why or _beside_the_gpu(report)
            return ("degraded", why) if why else ("ready", "")
        case "ended":
            return GONE, ""
        case _:  # silent, failed, refused
            return "lost", report.why


def _beside_the_gpu(report: Report) -> str:
    if report.gpu is None:
        return ""
    partly = [each for each in report.loaded if 0 < each.size_vram < each.size]
    shares = [f"{each.name} has {each.size_vram / each.size:.0%} of itself on the GPU" for each in partly]
    return "; ".join(shares)


def of_tier(tier: str, reports: Iterable[Report], now: datetime, *, is_absent: bool = False) -> Health:
    """The state of a tier, by the reports of its containers; `is_absent` says that it was asked, and nobody answered.

    A tier whose starts are refused is lost until one succeeds, however long ago that was: that nobody asks for it mends
    nothing. Nor does an older container that said it served, and has not been heard of as often as it should since.
    """
    reports = tuple(reports)
    starts = refused_starts(reports, now)
    recent = sorted((each for each in reports if now - each.at <= LOST_FOR), key=lambda report: report.at)
    states = {report.container: of_container(report, now) for report in recent}
    containers = {name: state for name, (state, _) in states.items()}
    if starts.is_broken and (is_absent or not any(_is_up(each, now) for each in recent)):
        return Health(tier, "lost", f"its starts are refused: {starts.why}", containers, starts.next_at)
    for state in ("degraded", "ready", "waking"):
        whys = [why for each, why in states.values() if each == state]
        if whys:
            return Health(tier, state, next(filter(None, whys), ""), containers)
    last = recent[-1].container if recent else None
    if last is not None and states[last][0] == "lost":
        return Health(tier, "lost", states[last][1], containers)
    return Health(tier, "asleep", "", containers)


def _is_up(report: Report, now: datetime) -> bool:
    return report.state == "serving" and now - report.at <= REPORT_LATE


# -- history -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Turn:
    """An entry of a tier's history: from here on it was so. The n-th one is written once, by whoever saw it first."""

    n: int
    at: datetime
    health: Health

    def as_json(self) -> dict[str, Any]:
        health = self.health
        return {
            "v": 1,
            "n": self.n,
            "at": isoformat(self.at),
            "tier": health.tier,
            "state": health.state,
            "why": health.why,
            "containers": dict(health.containers),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        health = Health(document["tier"], document["state"], document.get("why", ""), document.get("containers", {}))
        return cls(int(document["n"]), parse_moment(document["at"]), health)


def next_turn(last: Turn | None, now_is: Health, now: datetime) -> Turn | None:
    """What has to be written down, when the tier, or one of its containers, is not as it was."""
    if last is None:
        return None if (now_is.state, now_is.containers) == ("asleep", {}) else Turn(1, now, now_is)
    was = last.health
    before = {name: state for name, state in was.containers.items() if state not in {GONE, "lost"}}
    changed = {name: state for name, state in now_is.containers.items() if before.get(name, state) != state}
    fresh = {name for name in now_is.containers if name not in was.containers}
    return None if was.state == now_is.state and not changed and not fresh else Turn(last.n + 1, now, now_is)
