"""The month's budget of all tiers together, where the fleet says that it stops something once it is spent.

    no_wakes  nothing wakes a tier any more; what is awake answers
    refuse    no request to a model is taken

What is under way ends, and admins pass. Whether it is spent is looked at every minute, beside the requests; where that
cannot be known for a while, it is closed, and that is what is said.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from loguru import logger

from app.gateway.auth.keys import Caller
from jobs.access.budgets import BudgetSpent
from jobs.access.keys.key_words import ADMIN
from jobs.core.clock import Clock
from jobs.core.errors import StoreTrouble, StoreUnavailable

OnBudget = Literal["no_wakes", "refuse"]

EVERY_SECONDS = 60.0
TRUSTED_FOR = timedelta(minutes=10)
"""So long what was seen last counts while the store cannot be asked."""

COME_AGAIN = timedelta(seconds=10)


@dataclass(frozen=True)
class MonthBudget:
    """What was declared.

    Args:
        dollars: for a month.
        stops: what, once they are spent.
        spent: what was, in this month; waits for the store.
        ends: when the month does in which a moment lies.

    """

    dollars: float
    stops: OnBudget
    spent: Callable[[], float]
    ends: Callable[[datetime], datetime]


class FleetBudget:
    """Belongs to one event loop."""

    def __init__(self, budget: MonthBudget, clock: Clock) -> None:
        self._budget = budget
        self._clock = clock
        self._known: float | None = None
        self._known_at = float("-inf")
        self._trouble = "it has not answered yet"
        self._looking: asyncio.Task[None] | None = None
        self._was_well = False

    @property
    def is_open(self) -> bool:
        """Whether all is known to be well; looked at before anything else is, also while a look does not end."""
        return self._was_well and not self._is_in_doubt()

    async def run(self) -> None:
        """Look at what is spent, every minute."""
        while True:
            await self.look()
            await asyncio.sleep(EVERY_SECONDS)

    async def look(self) -> None:
        """The same, once; several who ask wait for one look."""
        if self._looking is None:
            self._looking = asyncio.create_task(self._look(), name="fleet budget")
        await asyncio.shield(self._looking)

    async def _look(self) -> None:
        try:
            self._known = await asyncio.to_thread(self._budget.spent)
            self._known_at = self._clock.monotonic()
        except StoreTrouble as trouble:
            self._trouble = str(trouble)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is not known what is spent
            self._trouble = f"{type(error).__name__}: {error}"
            logger.opt(exception=error).error("what the month has cost could not be worked out")
        finally:
            self._looking = None
            was, self._was_well = self._was_well, not self._is_in_doubt() and not self._is_spent()
            if was and not self._was_well:
                logger.warning("the month's budget of the fleet stops: {}", self._budget.stops)

    async def insist(self, caller: Caller) -> None:
        """Refuse a request to a model, where the fleet wants that.

        Raises:
            BudgetSpent: the month's budget is.
            StoreUnavailable: whether it is cannot be told.

        """
        if not self.is_open and self._budget.stops == "refuse" and not caller.may(ADMIN):
            await self._refuse("nothing is asked of its servers")

    async def insist_on_waking(self, caller: Caller, tier: str) -> None:
        """The same of a request for which a tier would have to be woken."""
        if not self.is_open and not caller.may(ADMIN):
            await self._refuse(f"tier {tier!r}, which is asleep, is not woken")

    async def _refuse(self, what: str) -> None:
        if self._is_in_doubt():
            await self._first_look()
        if self._is_in_doubt():
            raise StoreUnavailable(
                f"whether the month's budget of the fleet is spent cannot be told, since the ledger could not be asked:"
                f" {self._trouble}; until then {what}",
                hint="nothing says that it is spent; ask again soon",
                retry_after=COME_AGAIN,
            )
        if self._is_spent():
            now = self._clock.now()
            until = self._budget.ends(now)
            raise BudgetSpent(
                f"the month's budget of the fleet, ${self._budget.dollars:,.0f}, is spent: {what} until"
                f" {until:%Y-%m-%d %H:%M} {until.tzname()}",
                hint="whoever runs this can raise it; a key with the scope admin passes",
                retry_after=until - now,
            )

    async def _first_look(self) -> None:
        await asyncio.wait({asyncio.ensure_future(self.look())}, timeout=4.0)

    def _is_in_doubt(self) -> bool:
        return self._known is None or self._clock.monotonic() - self._known_at > TRUSTED_FOR.total_seconds()

    def _is_spent(self) -> bool:
        return self._known is not None and self._known >= self._budget.dollars
