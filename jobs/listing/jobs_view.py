"""All jobs of a ledger, remembered for whoever reads on after the newest, again and again.

They are all read once. From then on a look is two listings, of the jobs that are open and of what has become of others
within the hour, and one read for each job that runs; what has changed is brought in, and costs as much as has changed.
Who has not looked for so long that changes may be forgotten reads all of them again.
"""

import threading
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from jobs.core.clock import Clock
from jobs.ledger import dead_letters
from jobs.ledger.all_jobs import AllJobs
from jobs.ledger.job import Job
from jobs.ledger.kinds import KINDS, Kinds
from jobs.ledger.open_jobs import CHANGES_KEPT, JobChange
from jobs.ledger.reader import LedgerReader

LOOKED_WITHIN = CHANGES_KEPT * 3 / 4
"""A change may be removed when it is as old as `CHANGES_KEPT`, by another clock than ours."""

READ_AGAIN = timedelta(hours=6)
"""So often all are read even so: what a process of an older version did is told by no change."""

Age = tuple[datetime, int, str]
Key = TypeVar("Key")


class JobsView:
    """Threads may share one; they wait for one another.

    Args:
        clock: the time.
        kinds: of jobs, by which it is told what supersedes what.

    """

    def __init__(self, clock: Clock, kinds: Kinds = KINDS) -> None:
        self._clock = clock
        self._kinds = kinds
        #: Held from before the ledger is asked until what it told is brought in.
        self._looking = threading.Lock()
        #: What is known; when a look began that learnt everything, and when all were read. Under `_looking`.
        self._known: _Known | None = None
        self._looked_at = self._read_at = 0.0

    def look(self, reader: LedgerReader) -> AllJobs:
        """All jobs as they are; the same object as the last time while nothing has changed.

        Raises:
            StoreTrouble: the ledger cannot be asked. What was known stays, for the next look.

        """
        with self._looking:
            now = self._clock.monotonic()
            known = self._known
            if known is None or self._is_outdated(now):
                self._known = None  # let go before the others come
                known = _Known(self._kinds, reader.jobs())
                self._known, self._read_at = known, now
            else:
                known.follow(reader)
            self._looked_at = now
            return known.all_jobs()

    def forget(self) -> None:
        """Remember nothing, for as long as nobody looks."""
        with self._looking:
            self._known = None

    def _is_outdated(self, now: float) -> bool:
        return now - self._looked_at > LOOKED_WITHIN.total_seconds() or now - self._read_at > READ_AGAIN.total_seconds()


@dataclass(frozen=True)
class _Superseding:
    """Which job is the last of its kind and subject, and which was the last to change a subject's weights."""

    last: Mapping[tuple[str, str], Age]
    changed: Mapping[str, Age]

    def is_current(self, job: Job) -> bool:
        age = job.age
        return self.last.get((job.kind, job.subject)) == age and self.changed.get(job.subject, age) <= age


@dataclass(frozen=True)
class _CurrentIds(AbstractSet[str]):
    """The ids of the jobs that nothing later supersedes, found out for each that is asked about."""

    jobs: Mapping[str, Job]
    superseding: _Superseding

    def __contains__(self, id: object) -> bool:
        job = self.jobs.get(id) if isinstance(id, str) else None
        return job is not None and self.superseding.is_current(job)

    def __iter__(self) -> Iterator[str]:
        return (id for id in self.jobs if id in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class _Known:
    """All jobs, and what only all of them together tell. To change one costs the same, however many there are."""

    def __init__(self, kinds: Kinds, jobs: Iterable[Job]) -> None:
        self._kinds = kinds
        self._jobs: dict[str, Job] = {}
        #: Oldest first, each at the same place in both.
        self._ages: list[Age] = []
        self._in_order: list[Job] = []
        self._open: set[str] = set()
        self._last: dict[tuple[str, str], Age] = {}
        self._changed: dict[str, Age] = {}
        self._told: Mapping[str, JobChange] = {}
        self._shown: AllJobs | None = None
        for job in sorted(jobs, key=lambda job: job.age):
            self._put(job)

    # -- what has changed ----------------------------------------------------------------------------------------------

    def follow(self, reader: LedgerReader) -> None:
        """Bring in what has changed since. When that is broken off, it is brought in the next time."""
        opened, changes = reader.said_open(), reader.changes()  # in this order: who leaves the one is in the other
        for id, change in changes.items():
            if self._told.get(id) != change:
                self._set(id, change.job)
        for id, said in opened.items():
            if id not in changes:
                self._set(id, reader.as_said(said, self._jobs.get(id)))
        for id in self._open - opened.keys() - changes.keys():  # of an older version, or its worker died at its end
            self._set(id, reader.find(id))
        self._told = changes

    def _set(self, id: str, job: Job | None) -> None:
        if job is None:
            self._remove(id)
        else:
            self._put(job)

    def _put(self, job: Job) -> None:
        before = self._jobs.get(job.id)
        if before is job or before == job:
            return
        age, place = job.age, bisect_left(self._ages, job.age)
        if before is None:
            self._ages.insert(place, age)
            self._in_order.insert(place, job)
        else:
            self._in_order[place] = job
        self._jobs[job.id] = job
        if job.has_ended:
            self._open.discard(job.id)
        else:
            self._open.add(job.id)
        self._supersede(job)
        self._shown = None

    def _remove(self, id: str) -> None:
        job = self._jobs.pop(id, None)
        if job is None:
            return
        place = bisect_left(self._ages, job.age)
        del self._ages[place], self._in_order[place]
        self._open.discard(id)
        self._shown = None
        superseded = {job.subject, *dead_letters.changed(job, self._kinds)}
        if self._last.get((job.kind, job.subject)) == job.age or any(
            self._changed.get(each) == job.age for each in superseded
        ):
            self._last, self._changed = {}, {}
            for each in self._in_order:
                self._supersede(each)

    def _supersede(self, job: Job) -> None:
        age = job.age
        _advance(self._last, (job.kind, job.subject), age)
        for subject in dead_letters.changed(job, self._kinds):
            _advance(self._changed, subject, age)

    # -- what is shown -------------------------------------------------------------------------------------------------

    def all_jobs(self) -> AllJobs:
        if self._shown is None:
            self._shown = self._made()
        return self._shown

    def _made(self) -> AllJobs:
        jobs = self._in_order.copy()
        jobs.reverse()
        superseding = _Superseding(self._last.copy(), self._changed.copy())
        return AllJobs(tuple(jobs), _CurrentIds(self._jobs.copy(), superseding))


def _advance(ages: dict[Key, Age], key: Key, age: Age) -> None:
    ages[key] = max(age, ages.get(key, age))
