"""How the jobs stand beside the page of a list: which go on, which failed and need somebody, what waits for what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from jobs.ledger import dead_letters
from jobs.ledger.all_jobs import AllJobs, Window, waits_for
from jobs.ledger.dead_letters import DeadGroup
from jobs.ledger.job import Job, Place
from jobs.ledger.kinds import Kinds
from jobs.ledger.reader import LedgerReader
from jobs.listing.dead_memory import KnownJobs
from jobs.listing.superseding import is_current


class Look(Protocol):
    """One look at the jobs. What it does not know is asked of the ledger."""

    @property
    def dead(self) -> Sequence[DeadGroup]:
        """The dead letters in groups, the largest first."""

    @property
    def waits_for(self) -> Mapping[str, Job]:
        """By the id of a job that may not begin yet, the job about the same subject that has to end first."""

    def going_on(self, reader: LedgerReader) -> Sequence[Job]:
        """The jobs that have not ended, the newest first."""

    def window(self, reader: LedgerReader, before: Place | None, most: int) -> Window:
        """Some of the jobs that come after a place."""

    def is_current(self, reader: LedgerReader, job: Job) -> bool:
        """Whether nothing later in the ledger supersedes a job of it."""


@dataclass(frozen=True)
class LookAtAll:
    """By all jobs, which somebody has in memory."""

    jobs: AllJobs

    @property
    def dead(self) -> Sequence[DeadGroup]:
        return self.jobs.dead

    @property
    def waits_for(self) -> Mapping[str, Job]:
        return self.jobs.waits_for

    def going_on(self, _: LedgerReader) -> Sequence[Job]:
        return self.jobs.going_on

    def window(self, _: LedgerReader, before: Place | None, most: int) -> Window:
        return self.jobs.window(before, most)

    def is_current(self, _: LedgerReader, job: Job) -> bool:
        return job.id in self.jobs.current


@dataclass(frozen=True)
class LookAtKnown:
    """By what is known without reading all jobs, over a ledger that has them in their order."""

    known: KnownJobs
    kinds: Kinds

    @cached_property
    def dead(self) -> Sequence[DeadGroup]:
        return dead_letters.groups(self.known.dead)

    @cached_property
    def waits_for(self) -> Mapping[str, Job]:
        return waits_for(_newest_first(self.known.going_on), self.kinds)

    def going_on(self, reader: LedgerReader) -> Sequence[Job]:
        found = reader.listed(job.id for job in self.known.going_on)
        return _newest_first([job for job in found if not job.has_ended])

    def window(self, reader: LedgerReader, before: Place | None, most: int) -> Window:
        return reader.window(before, most)

    def is_current(self, reader: LedgerReader, job: Job) -> bool:
        return is_current(reader, job, self.kinds)


def _newest_first(jobs: Sequence[Job]) -> list[Job]:
    return sorted(jobs, key=lambda job: job.age, reverse=True)
