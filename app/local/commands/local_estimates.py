"""What a batch will take on this machine, from what finished batches and people's requests measured here."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.accounting.batch_prices import BatchPrices
from app.fleet.file import parsed
from app.fleet.schema import Fleet, parse
from jobs.batches.lines.line_check import Checked
from jobs.batches.records import BatchStart
from jobs.core.clock import Clock
from jobs.core.errors import Trouble
from jobs.core.model_name import ModelName
from jobs.home.home import Home, Stack
from jobs.home.status import aliases_here
from jobs.store import keys


@dataclass(frozen=True)
class LocalEstimates:
    """Nothing here is paid by the second, and servers are awake.

    Args:
        home: of this machine.
        clock: the time.

    """

    home: Home
    clock: Clock

    def __call__(
        self,
        checked: Checked,
        *,
        endpoint: str,
        start: BatchStart | None,  # noqa: ARG002 - nobody waits for a server of this machine
        expires_at: datetime | None,  # noqa: ARG002
        max_dollars: float | None,  # noqa: ARG002
    ) -> dict[str, Any]:
        stack = self.home.read_stack()
        entries = dict(self.home.read_facts().items(keys.BATCH_SPEED, keys.USAGE))
        prices = BatchPrices(lambda: entries, _fleet(stack), self.clock, rented=False)
        known = [tuple(key.removeprefix(keys.BATCH_SPEED).split("/", 1)) for key in entries if keys.BATCH_SPEED in key]

        def where(text: str) -> tuple[str, str]:
            name = ModelName.parse(text)
            alias = aliases_here(self.home, stack).of(name) if stack else None
            model = str(alias.target if alias else name)
            tiers = [server.tier for server in stack.servers] if stack else []
            measured = next((tier for tier, measured in known if measured == model), None)
            return model, measured or next(iter(tiers), "")

        return prices.estimate(checked.models, where, endpoint)[0].as_json()


def _fleet(stack: Stack | None) -> Fleet | None:
    """What `up` was told; None where that was nothing, or cannot be read any more."""
    if stack is None or stack.fleet is None or stack.fleet_text is None:
        return None
    try:
        return parse(parsed(stack.fleet_text, stack.fleet), str(stack.fleet))
    except Trouble:  # `up` says so when it is started again
        return None
