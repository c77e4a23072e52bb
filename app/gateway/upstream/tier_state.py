"""The state of a tier: what the gateway knows by asking for callers, joined with what its containers reported.

What the gateway saw itself is newer; what a container says of its own trouble, it alone can know. Pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from app.gateway.upstream.cold_words import Coming
from app.model_server.health import Health, of_tier
from app.model_server.report import Report
from jobs.core.clock import isoformat

TierStateName = Literal["asleep", "waking", "ready"]


@dataclass(frozen=True)
class TierState:
    """The state of a tier, as far as the gateway knows without asking it. Asleep is healthy."""

    tier: str
    state: TierStateName
    since: datetime
    why: str = ""
    held: int = 0
    """Callers that wait for it now."""


def as_json(seen: TierState, reports: Sequence[Report], now: datetime, coming: Coming | None = None) -> dict[str, Any]:
    """The state of the tier and why, and what is on its way there; since when is as near as the reports tell."""
    health = of_tier(seen.tier, reports, now, is_absent=seen.state == "asleep")
    from_reports = _reports_decide(health, seen)
    since = seen.since
    if from_reports and health.state in {"waking", "lost"}:  # of both nothing newer was heard
        since = max(report.at for report in reports)
    return {
        "tier": seen.tier,
        "state": health.state if from_reports else seen.state,
        "since": isoformat(since),
        "why": health.why if from_reports else seen.why,
        "held": seen.held,
        "coming": coming and coming.as_json(),
    }


def _reports_decide(health: Health, seen: TierState) -> bool:
    """Whether the containers know better than the gateway."""
    match seen.state:
        case "asleep":  # another gateway may be waking it; and a lost tier is not asleep
            return health.state in {"waking", "degraded", "lost"}
        case "ready":
            return health.state == "degraded"
        case _:
            return False
