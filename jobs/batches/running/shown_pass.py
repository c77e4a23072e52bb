"""The pass that the lines of a batch show the gateway: made by an attempt, and written down again while it runs."""

from datetime import timedelta

from jobs.batches.passes import BatchPass, new_pass
from jobs.batches.records import BatchRecord
from jobs.core.clock import Clock
from jobs.store import keys
from jobs.store.protocols import ShrinkingDict

LASTS = timedelta(minutes=5)
"""Unless it is written down again. Longer than a store is away whose worker lives."""

RENEWED = timedelta(minutes=1)


class ShownPass:
    """Of one attempt. One thread at a time writes it down; any may read what is shown."""

    def __init__(self, facts: ShrinkingDict, record: BatchRecord, clock: Clock) -> None:
        self._facts = facts
        self._record = record
        self._clock = clock
        self._written_at = float("-inf")
        self.may_wake = False
        self.shown = new_pass(record.id)

    def write(self, *, may_wake: bool) -> None:
        """Have it count, as long as `LASTS`. Only who holds the batch does so: the pass of the attempt before ends."""
        now = self._clock.now()
        written = BatchPass.of(self.shown, self._record.owner, now + LASTS, may_wake=may_wake)
        self._facts.put(keys.batch_pass(self._record.id), written.as_json())
        self._written_at, self.may_wake = self._clock.monotonic(), may_wake

    def renew(self) -> None:
        """Write it down again where it is time for that."""
        if self._clock.monotonic() - self._written_at >= RENEWED.total_seconds():
            self.write(may_wake=self.may_wake)

    def anew(self) -> None:
        """Show another one from now on."""
        self.shown = new_pass(self._record.id)
        self.write(may_wake=self.may_wake)

    def end(self) -> None:
        """Have it count no more."""
        self._facts.pop(keys.batch_pass(self._record.id), None)
