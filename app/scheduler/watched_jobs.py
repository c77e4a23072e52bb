"""The jobs that an alert check on one machine judges by, kept from one check to the next.

A check wants the jobs that are open, those that failed for good and that nothing supersedes, and who worked last in
each lane. Of the thousands that ended well it needs none: so each look reads what is open and what has ended since the
last one. A tick of a deployment is another container each time, and lists all jobs.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from jobs.core.clock import Clock
from jobs.ledger.dead_letters import current, is_dead
from jobs.ledger.job import Job
from jobs.ledger.reader import LedgerReader
from jobs.telemetry.archive import AFTER

OVERLAP = timedelta(minutes=2)
"""An end is dated before it is written, and a clock may be set back a little."""


class WatchedJobs:
    """Belongs to one thread.

    Args:
        reader: of the ledger.
        clock: the time.

    """

    def __init__(self, reader: LedgerReader, clock: Clock) -> None:
        self._reader = reader
        self._clock = clock
        self._kept: tuple[Job, ...] = ()
        self._looked_at: datetime | None = None

    def jobs(self) -> list[Job]:
        """The jobs to judge by now.

        Raises:
            StoreTrouble: the ledger fails; the next look reads what this one should have.

        """
        now = self._clock.now()
        since = now - AFTER if self._looked_at is None or now < self._looked_at else self._looked_at - OVERLAP
        ended = {job.id: job for job in self._reader.ended(since=since, until=now + OVERLAP)}
        known = {**self._still(job for job in self._kept if job.id not in ended), **ended}
        opened = {job.id: job for job in self._reader.open_jobs()}
        last = {job.lane: job for job in sorted(known.values(), key=lambda job: job.ended_at or job.posted_at)}
        dead = [job for job in current({**known, **opened}.values()) if is_dead(job)]
        # Whatever superseded another one has done so for good: it need not be kept.
        self._kept = tuple({job.id: job for job in (*dead, *last.values())}.values())
        self._looked_at = now
        return list({job.id: job for job in (*self._kept, *opened.values())}.values())

    def _still(self, jobs: Iterable[Job]) -> dict[str, Job]:
        """Those that are listed still, as they are now: somebody may have dismissed one."""
        found = self._reader.listed(job.id for job in jobs)
        return {job.id: job for job in found}
