"""How a tier stands, for whoever looks: what the gateway knows by asking for callers, and what its containers reported.

What the gateway saw itself is newer; what a container says of its own trouble, nobody else can know. Pure.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from app.gateway.upstream.cold_start import TierState
from app.model_server.health import Health, of_tier
from app.model_server.report import Report
from jobs.core.clock import isoformat


def told(seen: TierState, reports: Sequence[Report], now: datetime) -> dict[str, Any]:
    """The state of the tier and why; since when is as near as the reports tell."""
    health = of_tier(seen.tier, reports, now, is_absent=seen.temper == "asleep")
    overruled = _overrules(health, seen)
    since = seen.since
    if overruled and health.state in {"waking", "lost"}:  # of both nothing newer was heard
        since = max(report.at for report in reports)
    return {
        "tier": seen.tier,
        "state": health.state if overruled else seen.temper,
        "since": isoformat(since),
        "why": health.why if overruled else seen.why,
        "held": seen.held,
    }


def _overrules(health: Health, seen: TierState) -> bool:
    """Whether the containers know better."""
    match seen.temper:
        case "asleep":  # another one may be waking it; and to be lost is not to be asleep
            return health.state in {"waking", "degraded", "lost"}
        case "ready":
            return health.state == "degraded"
        case _:
            return False
