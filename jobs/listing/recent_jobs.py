"""What a look leaves of the jobs that have ended, and how the next one goes on from it: the newest of them, and how
many there are. Pure.

So whoever shows jobs reads what has changed since, and not all of them to find the newest and to count.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Self

from jobs.ledger.job import Job, Place
from jobs.ledger.open_jobs import JobChange

RECENT = 100
"""So many of the newest are kept. Pages that begin with the newest job are made of these; who reads on has all jobs
listed once. An entry with as many is some hundred kilobytes at most."""

CLOCKS_DIFFER = timedelta(minutes=15)
"""By no more, or a look that was written down is not taken."""

Counts = Mapping[tuple[str, str, str], int]
"""How many jobs there are of a kind, about a subject, in a state."""


def counts_of(jobs: Iterable[Job]) -> Counter[tuple[str, str, str]]:
    return Counter((job.kind, job.subject, str(job.state)) for job in jobs)


def noted(job: Job) -> dict[str, Any]:
    return {"job": job.as_json(), "lane": job.lane}


def read(noted: Mapping[str, Any]) -> Job:
    return replace(Job.from_json(noted["job"]), lane=str(noted["lane"]))


@dataclass(frozen=True)
class Recent:
    """The newest jobs that have ended.

    Args:
        jobs: newest first.
        floor: all that have ended and were posted from this place on are among them; where None, all that have ended.

    """

    jobs: tuple[Job, ...]
    floor: Place | None

    @classmethod
    def of(cls, ended: Iterable[Job], floor: Place | None = None) -> Self:
        jobs = sorted((job for job in ended if floor is None or job.place >= floor), key=lambda job: job.place)
        jobs.reverse()
        return cls(tuple(jobs[:RECENT]), jobs[RECENT - 1].place if len(jobs) > RECENT else floor)

    def after(self, changed: Mapping[str, Job | None]) -> Self:
        """The same once these have ended or were dismissed, or, where None, were archived."""
        if not changed:
            return self
        stay = (job for job in self.jobs if job.id not in changed)
        return self.of([*stay, *filter(None, changed.values())], self.floor)

    @property
    def has_few(self) -> bool:
        """Whether so many were archived that it is worth finding others."""
        return self.floor is not None and len(self.jobs) < RECENT // 2


@dataclass(frozen=True)
class Ended:
    """The jobs of the ledger that have ended, as far as a look knows them.

    Args:
        counts: how many there are.
        recent: the newest; None where the ledger has them in their order anyway.
        counted: the changes that are told of and are counted.

    """

    counts: Counts
    recent: Recent | None = None
    counted: frozenset[str] = frozenset()

    @classmethod
    def of(cls, jobs: Iterable[Job], changes: Iterable[JobChange], *, keeps_recent: bool) -> Self:
        """By all jobs that have ended, as they were after these changes."""
        ended = list(jobs)
        recent = Recent.of(ended) if keeps_recent else None
        return cls(counts_of(ended), recent, frozenset(change.name for change in changes))

    def can_follow(self, changes: Iterable[JobChange]) -> bool:
        """Whether these changes tell all that is needed: an older version does not tell what it has archived."""
        if self.recent is not None and self.recent.has_few:
            return False
        return all(change.retired is not None or change.name in self.counted for change in changes)

    def after(self, changed: Mapping[str, JobChange], at: datetime) -> Self:
        """The same after these changes, the jobs of which it had counted at that time as far as they had ended."""
        by_name = {change.name: change for change in changed.values()}
        counts = Counter(self.counts)
        for name, change in by_name.items():
            if name in self.counted:
                continue
            job = change.job
            if job is None:
                counts.subtract(change.retired or {})
            elif not job.dismissed or (job.ended_at is not None and job.ended_at > at - CLOCKS_DIFFER):
                counts.update(counts_of([job]))
        return replace(
            self,
            counts={about: count for about, count in counts.items() if count > 0},
            recent=self.recent and self.recent.after({id: change.job for id, change in changed.items()}),
            counted=frozenset(by_name),
        )

    def as_json(self) -> dict[str, Any]:
        recent = self.recent
        return {
            "counts": [[*about, count] for about, count in sorted(self.counts.items())],
            "recent": recent and {"jobs": list(map(noted, recent.jobs)), "floor": recent.floor and [*recent.floor]},
            "counted": sorted(self.counted),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        recent = document["recent"]
        floor = recent and recent["floor"]
        return cls(
            {(kind, subject, state): int(count) for kind, subject, state, count in document["counts"]},
            recent and Recent(tuple(map(read, recent["jobs"])), Place(*floor) if floor else None),
            frozenset(document["counted"]),
        )


NONE_ENDED = Ended({})
"""As far as is known."""
