"""What the parts of an attempt at a batch share, and how a batch ends before all of its lines have a result."""

from collections.abc import Mapping
from dataclasses import dataclass

from jobs.batches.records import BatchRecord, EndStatus
from jobs.batches.running.batch_context import BatchContext, ModelRoute
from jobs.batches.running.run_state import RunState
from jobs.batches.running.shown_pass import ShownPass
from jobs.core.errors import Interrupted
from jobs.worker.attempt import RunningAttempt


@dataclass(frozen=True)
class EndedEarly:
    """The batch ends before all of its lines have a result: how, and why."""

    status: EndStatus
    code: str
    message: str


EXPIRED = EndedEarly("expired", "batch_expired", "the batch's time was over")

Routes = Mapping[str, ModelRoute]
"""By the name that lines have, where they go."""


def tiers_of(routes: Routes) -> tuple[str, ...]:
    """The tiers where lines go, each once."""
    return tuple(dict.fromkeys(route.tier for route in routes.values()))


@dataclass(frozen=True)
class RunParts:
    """Of one attempt.

    Args:
        attempt: it.
        context: what it works with.
        record: the batch.
        state: how it stands.
        shown: its pass.

    """

    attempt: RunningAttempt
    context: BatchContext
    record: BatchRecord
    state: RunState
    shown: ShownPass

    @property
    def is_over(self) -> bool:
        """The batch's time is over."""
        return self.context.clock.now() >= self.record.expires_at

    def why_stopped(self) -> Interrupted | None:
        """Why the attempt is to stop, if it is."""
        try:
            self.attempt.check()
        except Interrupted as why:
            return why
        return None
