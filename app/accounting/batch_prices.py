"""What batches will cost, and have: the tiers' prices beside what finished batches, people and containers measured."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.accounting.spending import rows_since
from app.accounting.window_suggestions import USUAL
from app.fleet.schema import Fleet
from app.model_server.settings import PROBE_EVERY
from jobs.batches.estimate import CountedLines, ModelEstimate, PricedTier, Where, model_estimate, served, told
from jobs.batches.measuring import SharedTime
from jobs.batches.records import Estimate
from jobs.batches.speed import known_speeds
from jobs.core.clock import Clock
from jobs.telemetry.cold_starts import start_seconds

Entries = Mapping[str, Any]

LEAVES_SECONDS = PROBE_EVERY.total_seconds() / 2 + 15.0
"""After its last line a server that a batch woke leaves by itself: it looks that often, and waits until gateways have
written down whom they served (`app.model_server.supervisor`)."""


@dataclass(frozen=True)
class BatchPrices:
    """Any thread may use one.

    Args:
        entries: of the ledger's dict, what batches measured and what costs are estimated by; waits for the store.
        fleet: what is declared; None where nothing is.
        clock: the time.
        rented: the servers are paid by the second.

    """

    entries: Callable[[], Entries]
    fleet: Fleet | None
    clock: Clock
    rented: bool

    def dollars_per_second(self) -> dict[str, float]:
        """Of a server of each tier; empty where nothing is paid by the second."""
        if self.fleet is None or not self.rented:
            return {}
        return {tier: self.fleet.dollars_per_hour(tier) / 3600 for tier in self.fleet.tiers}

    def models(self, counted: Iterable[CountedLines], where: Where, endpoint: str) -> list[ModelEstimate]:
        """What the lines to each model will take.

        Raises:
            NotFound: a model is not here.
            StoreTrouble: what it rests on cannot be read.

        """
        return self._models(self.entries(), counted, where, endpoint)

    def estimate(
        self,
        counted: Iterable[CountedLines],
        where: Where,
        endpoint: str,
        *,
        starts_at: datetime | None = None,
        wakes: Callable[[str], bool] = lambda _: False,
    ) -> tuple[Estimate, list[ModelEstimate]]:
        """What a batch will take, and each of its models.

        Args:
            counted: what the read-through counted of each model.
            where: which tier a model is served on.
            endpoint: of its lines.
            starts_at: when a GPU is asked for its first line; now, where nothing is said.
            wakes: whether it has to wake that tier, whose start and idle time are then in its price.

        Raises:
            NotFound: a model is not here.
            StoreTrouble: what it rests on cannot be read.

        """
        entries = self.entries()
        models = self._models(entries, counted, where, endpoint)
        names = {each.lines.tier for each in models}
        tiers = {name: self._tier(entries, name, wakes=self.rented and wakes(name)) for name in names}
        return told(models, tiers, starts_at or self.clock.now()), models

    def _models(
        self, entries: Entries, counted: Iterable[CountedLines], where: Where, endpoint: str
    ) -> list[ModelEstimate]:
        speeds, rows = known_speeds(entries), rows_since(entries, self.clock.now() - USUAL)
        lines = served(counted, where, endpoint)
        return [model_estimate(each, self._tier(entries, each.tier), speeds, rows) for each in lines]

    def _tier(self, entries: Entries, name: str, *, wakes: bool = False) -> PricedTier:
        declared = self.fleet.tiers.get(name) if self.fleet else None
        if declared is None:
            return PricedTier()
        start = start_seconds(entries, self.clock.now() - USUAL).get(name, 0.0) if wakes else 0.0
        idle = min(declared.scaledown_window_seconds, LEAVES_SECONDS) if wakes else 0.0
        most = declared.target_concurrency if self.rented else declared.ollama.num_parallel
        return PricedTier(
            dollars_per_second=self.dollars_per_second().get(name),
            beside=min(declared.ollama.num_parallel, most),
            start_seconds=start,
            idle_seconds=idle,
        )

    def shared_times(self, batch: str, since: datetime) -> dict[tuple[str, str], SharedTime]:
        """What a batch took of each tier by each model since then, as gateways have written it down.

        Raises:
            StoreTrouble: that cannot be read.

        """
        found: dict[tuple[str, str], SharedTime] = {}
        for row in rows_since(self.entries(), since):
            if row.about.batch == batch and row.about.tier:
                where = row.about.tier, row.about.model
                known = found.get(where, SharedTime(0, 0.0))
                found[where] = SharedTime(known.requests + row.sums.count, known.gpu_seconds + row.sums.seconds)
        return found
