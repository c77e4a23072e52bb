"""How the jobs stand beside the page of a list: which go on, which failed and need somebody, what waits for what.

By what is known of them without reading all (`jobs.listing.dead_memory`). Where the ledger has its jobs in their order,
pages are read from it; elsewhere the newest are among what is known, and only who reads on has all jobs listed.
"""

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, partial
from typing import Protocol

from jobs.core.clock import Clock
from jobs.ledger import dead_letters
from jobs.ledger.all_jobs import OPEN, AllJobs, JobFilter, Window, waits_for
from jobs.ledger.dead_letters import DeadGroup
from jobs.ledger.job import Job, JobState, Place
from jobs.ledger.kinds import KINDS, Kinds
from jobs.ledger.open_jobs import HeardJob
from jobs.ledger.reader import LedgerReader
from jobs.listing.dead_memory import DeadMemory, KnownJobs
from jobs.listing.jobs_view import JobsView
from jobs.listing.newest import EmptyArchive, page, page_of
from jobs.listing.recent_jobs import Counts, Recent, counts_of


class Look(Protocol):
    """One look at the jobs. What it does not know is asked of the ledger."""

    @property
    def known(self) -> KnownJobs:
        """What it goes by."""

    @property
    def dead(self) -> Sequence[DeadGroup]:
        """The dead letters in groups, the largest first."""

    @property
    def waits_for(self) -> Mapping[str, Job]:
        """By the id of a job that may not begin yet, the job about the same subject that has to end first."""

    @property
    def counts(self) -> Counts:
        """How many jobs the ledger has."""

    def going_on(self, reader: LedgerReader) -> Sequence[Job]:
        """The jobs that have not ended, the newest first."""

    def window(self, reader: LedgerReader, before: Place | None, most: int) -> Window:
        """Some of the jobs that come after a place."""

    def is_current(self, reader: LedgerReader, job: Job) -> bool:
        """Whether nothing later in the ledger supersedes a job of it."""


class JobLooks:
    """Looks at the jobs again and again. Threads may share one; those whose store has no order wait for one another.

    Args:
        clock: the time.
        kinds: of jobs, by which it is told what supersedes what, and what waits for what.

    """

    def __init__(self, clock: Clock, kinds: Kinds = KINDS) -> None:
        self._clock = clock
        self._kinds = kinds
        self._memory = DeadMemory(kinds)
        self._all_jobs = JobsView(clock, kinds)
        self._looking = threading.Lock()
        #: The jobs that went on at the last look, by id. Under `_looking`.
        self._opened: Mapping[str, Job] = {}

    def look(self, reader: LedgerReader) -> Look:
        """How the jobs stand now.

        Raises:
            StoreTrouble: the ledger cannot be asked.

        """
        now = self._clock.now()
        if reader.is_in_order:
            return LookAtKnown(self._memory.look(reader, now), self._kinds)
        with self._looking:
            heard = reader.heard_jobs(now)
            known = self._memory.look(reader, now, heard)
            self._opened = self._whole(reader, heard, {job.id for job in known.going_on})
            return LookAtRecent(known, self._kinds, tuple(self._opened.values()), self._all_jobs.look)

    def _whole(self, reader: LedgerReader, heard: Sequence[HeardJob], wanted: AbstractSet[str]) -> Mapping[str, Job]:
        """These of the open jobs with their attempts and progress."""
        found = (reader.as_said(each.said, self._opened.get(each.said.id)) for each in heard if each.said.id in wanted)
        return {job.id: job for job in found if job is not None}

    def forget(self) -> None:
        """Keep no more than what is known without all jobs, for as long as nobody asks for others."""
        self._all_jobs.forget()


@dataclass(frozen=True)
class LookAtKnown:
    """Over a ledger that has its jobs in their order."""

    known: KnownJobs
    kinds: Kinds

    @cached_property
    def dead(self) -> Sequence[DeadGroup]:
        return dead_letters.groups(self.known.dead)

    @cached_property
    def waits_for(self) -> Mapping[str, Job]:
        return waits_for(_newest_first(self.known.going_on), self.kinds)

    @cached_property
    def counts(self) -> Counts:
        return Counter(self.known.ended.counts) + counts_of(self.known.going_on)

    def going_on(self, reader: LedgerReader) -> Sequence[Job]:
        found = reader.listed(job.id for job in self.known.going_on)
        return _newest_first([job for job in found if not job.has_ended])

    def window(self, reader: LedgerReader, before: Place | None, most: int) -> Window:
        return reader.window(before, most)

    def is_current(self, reader: LedgerReader, job: Job) -> bool:
        return not any(other.age > job.age for other in reader.superseding(job, self.kinds))


@dataclass(frozen=True)
class LookAtRecent:
    """Over a ledger that can only list all of its jobs.

    Args:
        known: what is known without that.
        kinds: of jobs.
        opened: those that went on, as they are now.
        look_at_all: lists the others, for who reads on after the newest: once for this look.

    """

    known: KnownJobs
    kinds: Kinds
    opened: tuple[Job, ...]
    look_at_all: Callable[[LedgerReader], AllJobs]

    @cached_property
    def dead(self) -> Sequence[DeadGroup]:
        return dead_letters.groups(self.known.dead)

    @cached_property
    def waits_for(self) -> Mapping[str, Job]:
        return waits_for(_newest_first(self.opened), self.kinds)

    @cached_property
    def counts(self) -> Counts:
        return Counter(self.known.ended.counts) + counts_of(self.opened)

    def going_on(self, _: LedgerReader) -> Sequence[Job]:
        return _newest_first([job for job in self.opened if not job.has_ended])

    def window(self, reader: LedgerReader, before: Place | None, most: int) -> Window:
        floor = self._recent.floor
        if before is not None and floor is not None and before <= floor:
            return self._all(reader).window(before, most)
        found = [job for job in self._newest if before is None or job.place < before][:most]
        return Window(found, found[-1].place if len(found) == most else floor)

    def is_current(self, reader: LedgerReader, job: Job) -> bool:
        floor = self._recent.floor
        if floor is not None and job.place < floor:
            return job.id in self._all(reader).current
        return job.id in self._current

    @property
    def _recent(self) -> Recent:
        recent = self.known.ended.recent
        return Recent((), None) if recent is None else recent

    @cached_property
    def _newest(self) -> Sequence[Job]:
        """All jobs from the floor of the recent ones on."""
        floor = self._recent.floor
        return _newest_first([*self._recent.jobs, *(job for job in self.opened if floor is None or job.place >= floor)])

    @cached_property
    def _current(self) -> AbstractSet[str]:
        """Those of them that nothing supersedes: what could do that was posted later, and is among them."""
        return {job.id for job in dead_letters.current(self._newest, self.kinds)}

    def _all(self, reader: LedgerReader) -> AllJobs:
        found: AllJobs | None = self.__dict__.get("_listed")
        if found is None:
            found = self.__dict__["_listed"] = self.look_at_all(reader)
        return found


def listed(
    look: Look, reader: LedgerReader, fitting: JobFilter, limit: int | None, now: datetime
) -> tuple[Sequence[Job], int | None]:
    """So many of the newest jobs of the ledger that are of a kind, in a state, or not older than that, or all; and how
    many there are, None for more. Archived ones are not among them."""
    fits = None if fitting == JobFilter(since=fitting.since) else fitting.fits
    if fitting.states and fitting.states <= OPEN:
        found = page_of(look.going_on(reader), limit=limit, fits=fits, most=None)
    else:
        since = fitting.since
        window = partial(look.window, reader)
        found = page(window, EmptyArchive(), now, limit=limit, since=since, fits=fits, most=None)
    if fitting.since is not None:
        return found.jobs, None if found.rest else len(found.jobs)
    states = fitting.states or frozenset(JobState)
    counts = ((kind, state, count) for (kind, _, state), count in look.counts.items())
    fitting_all = (count for kind, state, count in counts if fitting.kind in {None, kind} and JobState(state) in states)
    return found.jobs, sum(fitting_all)


def _newest_first(jobs: Sequence[Job]) -> list[Job]:
    return sorted(jobs, key=lambda job: job.age, reverse=True)
