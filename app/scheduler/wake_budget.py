"""How often a tier may be woken by us, of our own accord, in a day: the nightly warm-up, the windows, and batches.

Each wake takes one of the day's numbers, a key written once, so that racing wakers never take more than there are.
Callers and people wake a tier as often as they like; a batch that is to begin at once does as well, and is counted.
"""

import secrets
from datetime import UTC, datetime, timedelta
from itertools import count, takewhile
from typing import Any

from loguru import logger

from app.accounting.spending import month_dollars
from app.fleet.schema import Fleet
from jobs.core.clock import isoformat, parse_moment
from jobs.store import keys
from jobs.store.protocols import DictLike

BY_WINDOW = "window"
SYNTHETIC = frozenset({"nightly", BY_WINDOW})
"""Who posts what no person asked for."""

BY_BATCH = "batch"
"""Why batches wake a tier, all of them that begin while it comes."""


def opening(fleet: Fleet, tier: str, at: datetime) -> str:
    """Why a window wakes the tier at that time. Two openings on one day are two reasons, however often each is said."""
    zone = fleet.schedule.zone
    starts = (window.opened_at(at, zone) for window in fleet.windows if window.tier == tier)
    began = min((start for start in starts if start is not None), default=None)
    return keys.window(tier) if began is None else f"{keys.window(tier)}/{isoformat(began)}"


class Wakes:
    def __init__(self, facts: DictLike, fleet: Fleet) -> None:
        self._facts = facts
        self._fleet = fleet

    def take(
        self, tier: str, why: str, now: datetime, *, since: datetime | None = None, is_asked_for: bool = False
    ) -> bool:
        """Take one of today's wakes of this tier; false when none is left, or the month's budget stops them.

        Asked again with the same `why` on the same day, it is the same wake.

        Args:
            tier: which is to be woken.
            why: for what.
            now: the time.
            since: one with the same `why` is the same only if it was taken since then.
            is_asked_for: somebody wants it now: then there is always one left, unless the budget stops all.

        """
        if self.is_stopped(now):
            logger.warning("tier {} is not woken: the month's budget is spent", tier)
            return False
        token = secrets.token_hex(8)
        for number in count(1) if is_asked_for else range(1, self.budget(tier) + 1):
            key = keys.wake(tier, self._day(now), number)
            if self._facts.put(key, {"v": 1, "at": isoformat(now), "why": why, "token": token}, skip_if_exists=True):
                return True
            taken: dict[str, Any] = self._facts.get(key) or {}
            is_same = why == taken.get("why") and (since is None or parse_moment(taken["at"]) >= since)
            if is_same or token == taken.get("token"):
                return True
        self._facts.put(keys.refused_wake(tier, self._day(now)), {"v": 1, "at": isoformat(now), "why": why})
        return False

    def is_stopped(self, now: datetime) -> bool:
        """Whether the month's budget is spent, and the fleet says that nothing is woken then."""
        alerts = self._fleet.alerts
        if alerts.on_budget == "alert" or alerts.monthly_budget_dollars is None:
            return False
        entries = dict(self._facts.items(*keys.SORTS["usage"]))
        return month_dollars(entries, self._fleet, now) >= alerts.monthly_budget_dollars

    def is_used_up(self, tier: str, now: datetime) -> bool:
        """Whether somebody was refused a wake of this tier today."""
        return self._facts.get(keys.refused_wake(tier, self._day(now))) is not None

    def used(self, tier: str, now: datetime) -> int:
        """How many of today's wakes are taken; more than there are, where somebody asked for some."""
        day = self._day(now)
        return sum(1 for _ in takewhile(lambda n: self._facts.get(keys.wake(tier, day, n)) is not None, count(1)))

    def budget(self, tier: str) -> int:
        return self._fleet.tier(tier).own_wakes_per_day

    def next_day(self, now: datetime) -> datetime:
        """When there are wakes again."""
        zone = self._fleet.schedule.zone
        tomorrow = now.astimezone(zone).date() + timedelta(days=1)
        return datetime(tomorrow.year, tomorrow.month, tomorrow.day, tzinfo=zone).astimezone(UTC)

    def _day(self, now: datetime) -> str:
        return now.astimezone(self._fleet.schedule.zone).date().isoformat()
