"""What a batch of a deployment will take, and when it begins, for the commands of `modal run`. It asks no server."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.accounting.batch_prices import BatchPrices
from app.deployment.batches.deployed_batches import DeployedBatches
from app.deployment.servers_worker import tier_of
from app.scheduler.batch_starts import RentedTiers
from jobs.batches.lines.line_check import Checked
from jobs.batches.records import WITHIN, BatchStart
from jobs.batches.start_rules import NotYet, decide
from jobs.core.clock import isoformat
from jobs.core.errors import NotFound
from jobs.store import keys

MEASURED = (keys.BATCH_SPEED, *keys.SORTS["usage"])
"""What prices rest on."""


@dataclass(frozen=True)
class DeployedEstimates:
    """By the fleet that is deployed."""

    batches: DeployedBatches

    def __call__(
        self,
        checked: Checked,
        *,
        endpoint: str,
        start: BatchStart | None,
        expires_at: datetime | None,
        max_dollars: float | None,  # noqa: ARG002 - whoever asks compares
    ) -> dict[str, Any]:
        batches = self.batches
        fleet, facts, now = batches.fleet(), batches.facts, batches.clock.now()
        entries = dict(facts.items(*MEASURED))
        prices = BatchPrices(lambda: entries, fleet, batches.clock, rented=True)
        first, _ = prices.estimate(checked.models, self._where, endpoint)
        tiers = RentedTiers(facts, fleet).now({self._where(each.model)[1] for each in checked.models}, now)
        decision = decide(
            start or fleet.batches.start,
            tiers,
            now=now,
            deadline=expires_at or now + WITHIN,
            seconds=first.seconds,
        )
        starts_at = decision.not_before if isinstance(decision, NotYet) else now
        asleep = {each.name for each in tiers if each.sleeps and starts_at != each.next_window}
        told, _ = prices.estimate(
            checked.models, self._where, endpoint, starts_at=starts_at, wakes=lambda tier: tier in asleep
        )
        return {**told.as_json(), "starts_at": isoformat(starts_at), "note": decision.note}

    def _where(self, text: str) -> tuple[str, str]:
        model = self.batches.model_of(text)
        tier = tier_of(model, self.batches.fleet(), self.batches.facts)
        if tier is None:
            raise NotFound(f"there is no model {text!r} here", hint=f"`ollama-modal pull {text}` brings it")
        return str(model.folded()), tier
