"""What the budgets of keys go by: prices as `cost` shares them, and what the usage knows of before."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta, tzinfo
from typing import Any

from app.accounting.spending import estimate, rows_since
from app.fleet.schema import Fleet
from jobs.access.budgets import Span, Taken, Tariff
from jobs.core.clock import Clock
from jobs.telemetry.cost import per_second

EVERY = timedelta(minutes=1)
"""How often what `cost` makes of a span is worked out anew; its containers count every few seconds."""


class KnownSpending:
    """A `Known`. Any thread may ask for anything; only `tariff` does not wait.

    Args:
        entries: what costs are estimated by, of the dict and of the archive; waits for the store.
        fleet: what is declared; None where nothing is.
        clock: the time.
        rented: the servers are paid by the second.

    """

    def __init__(
        self, entries: Callable[[], Mapping[str, Any]], fleet: Fleet | None, clock: Clock, *, rented: bool
    ) -> None:
        self._entries = entries
        self._fleet = fleet
        self._clock = clock
        self._rented = rented
        self._fixed = Tariff(
            of_containers={tier: fleet.dollars_per_hour(tier) / 3600 for tier in fleet.tiers}
            if fleet and rented
            else {},
            without_gpu=frozenset(name for name, tier in fleet.tiers.items() if tier.gpu is None)
            if fleet
            else frozenset(),
            charges_cold=bool(fleet and rented and fleet.keys.charge_cold),
        )
        #: By the name of a span, its prices, and when they were worked out. Any thread puts one in, in one step.
        self._known: dict[str, tuple[Tariff, float]] = {}

    @property
    def zone(self) -> tzinfo:
        return self._fleet.schedule.zone if self._fleet else UTC

    def tariff(self, span: Span) -> Tariff:
        """The prices, as they were worked out last; before that, those of containers."""
        known = self._known.get(span.name)
        return known[0] if known else self._fixed

    def refresh(self, span: Span) -> None:
        """Have them worked out anew, unless that was done just now.

        Raises:
            StoreTrouble: what they rest on cannot be read.

        """
        known, now = self._known.get(span.name), self._clock.monotonic()
        if not self._rented or self._fleet is None or (known and now - known[1] < EVERY.total_seconds()):
            return
        shared = per_second(estimate(self._entries(), self._fleet, span.began, self._clock.now()))
        tariff = replace(self._fixed, of_requests=shared.of_requests, of_lines=shared.of_lines)
        self._known = {name: each for name, each in self._known.items() if now - each[1] < _FORGET} | {
            span.name: (tariff, now)
        }

    def before(self, key: str, span: Span) -> Taken:
        """What a key took in a span by the usage, whose days are those of UTC: those that begin in the span.

        Raises:
            StoreTrouble: that cannot be read.

        """
        first = span.began.astimezone(UTC)
        day = first.date() if first.time() == time() else first.date() + timedelta(days=1)
        midnight = datetime.combine(day, time(), UTC)
        total = Taken()
        for row in rows_since(self._entries(), midnight):
            if row.about.key == key and row.about.tier and row.about.day < span.ends.astimezone(UTC).date().isoformat():
                sums = row.sums
                tokens = sums.prompt_tokens + sums.output_tokens
                seconds = {row.about.tier: sums.seconds}
                total += Taken(sums.count, tokens, **({"lines": seconds} if row.about.batch else {"seconds": seconds}))
        return total


_FORGET = 3 * 86400
