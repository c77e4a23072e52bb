"""How a batch stands, told while it runs: to whoever reads its state, and in its job's progress."""

from dataclasses import replace
from datetime import datetime

from loguru import logger

from jobs.batches.batch_store import BatchStore
from jobs.batches.records import BatchState, BatchStatus, BatchUse, Estimate, LineCounts
from jobs.core.clock import Clock
from jobs.core.errors import StoreTrouble
from jobs.worker.attempt import RunningAttempt


class RunState:
    """Of one attempt, and of one thread at a time.

    Args:
        store: where it is told.
        attempt: whose it is.
        before: how the batch stood before it.
        clock: the time.

    """

    def __init__(self, store: BatchStore, attempt: RunningAttempt, before: BatchState | None, clock: Clock) -> None:
        self._store = store
        self._attempt = attempt
        self._clock = clock
        self._before = before
        begun = before or BatchState("validating", "", clock.now())
        self.now = replace(begun, status="validating", holder=attempt.holder, at=clock.now(), starts_at=None, note="")

    @property
    def use_before(self) -> BatchUse:
        """What earlier attempts took."""
        return self._before.use if self._before else BatchUse()

    def enter(self, status: BatchStatus) -> None:
        """It stands so from now on."""
        now = self._clock.now()
        began = self.now.in_progress_at
        self.now = replace(
            self.now,
            status=status,
            in_progress_at=now if status == "in_progress" and began is None else began,
            finalizing_at=now if status == "finalizing" else self.now.finalizing_at,
        )
        self.say()

    def note(
        self,
        *,
        counts: LineCounts | None = None,
        use: BatchUse | None = None,
        estimate: Estimate | None = None,
        starts_at: datetime | None = None,
        note: str | None = None,
        tiers: tuple[str, ...] | None = None,
    ) -> None:
        """Know more of it; said the next time."""
        self.now = replace(
            self.now,
            counts=counts or self.now.counts,
            use=use or self.now.use,
            estimate=estimate or self.now.estimate,
            starts_at=starts_at,
            note=self.now.note if note is None else note,
            tiers=self.now.tiers if tiers is None else tiers,
        )

    def say(self) -> None:
        """Tell how it stands. A store that fails is told the next time."""
        self.now = replace(self.now, at=self._clock.now())
        counts = self.now.counts
        done = f" {counts.ended:,} of {counts.total:,} lines" if counts.total else ""
        self._attempt.progress.begin(f"{self.now.status.replace('_', ' ')}{done}")
        try:
            self._store.say(self._attempt.job.subject, self.now)
        except StoreTrouble as trouble:
            logger.warning("how the batch stands is not told for now: {}", trouble)
