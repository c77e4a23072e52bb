"""Puts together what limits keys, from what a gateway is made of: prices, budgets, and what the fleet says of both."""

from collections.abc import Callable, Mapping
from typing import Any

from app.accounting.key_budgets import KnownSpending
from app.accounting.spending import month_dollars
from app.fleet.schema import Fleet
from app.gateway.auth.admission import Admission
from app.gateway.auth.budgets import Budgets
from app.gateway.auth.fleet_budget import FleetBudget, MonthBudget
from app.gateway.auth.rate_limits import RateLimits
from jobs.access.budgets import span_of
from jobs.core.clock import Clock
from jobs.store import keys
from jobs.store.protocols import ShrinkingDict

Entries = Mapping[str, Any]


def admission(
    facts: ShrinkingDict,
    clock: Clock,
    *,
    writer: str,
    fleet: Fleet | None,
    rented: bool,
    past: Callable[[], Entries],
    write_usage: Callable[[], object],
) -> Admission:
    """What limits keys, and what the month's budget stops.

    Args:
        facts: the ledger's dict.
        clock: the time.
        writer: names this process in what it writes.
        fleet: what is declared; None where nothing is.
        rented: the servers are paid by the second.
        past: what has left the dict for the archive, by the keys that it had there.
        write_usage: writes down what this process has counted so far.

    """

    def current() -> Entries:
        write_usage()  # so that what has just happened is in it
        return dict(facts.items(*keys.SORTS["usage"]))

    known = KnownSpending(lambda: {**past(), **current()}, fleet, clock, rented=rented)
    month = month_budget(fleet, current, clock) if fleet and rented else None
    idle = {name: tier.scaledown_window_seconds for name, tier in fleet.tiers.items()} if fleet and rented else {}
    return Admission(
        RateLimits(clock),
        Budgets(facts, clock, known, writer),
        clock,
        fleet=FleetBudget(month, clock) if month else None,
        idle_seconds=idle,
    )


def month_budget(fleet: Fleet, current: Callable[[], Entries], clock: Clock) -> MonthBudget | None:
    """The month's budget of the fleet, where it stops something."""
    dollars, stops = fleet.alerts.monthly_budget_dollars, fleet.alerts.on_budget
    if dollars is None or stops == "alert":
        return None
    return MonthBudget(
        dollars,
        stops,
        lambda: month_dollars(current(), fleet, clock.now()),
        lambda now: span_of("month", now, fleet.schedule.zone).ends,
    )
