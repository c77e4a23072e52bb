"""All jobs of one reading, what fits among jobs, and what waits for which.

Pure. Whoever shows jobs to many asks the ledger once and chooses from this for each.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Self

from jobs.core.errors import BadRequest
from jobs.ledger import dead_letters
from jobs.ledger.job import Job, JobState, Place, generation_of
from jobs.ledger.kinds import KINDS, Kinds

OPEN = frozenset({JobState.QUEUED, JobState.RUNNING, JobState.WAITING})


@dataclass(frozen=True)
class JobFilter:
    """Which jobs fit.

    Args:
        kind: only these.
        subject: only those about it.
        since: only those posted then or later.
        begin: only those whose id begins so.
        text: only those in whose kind, subject or id each of its words occurs, in capitals or not.
        states: only those in one of them; in any when empty.
        failure_class: only those whose last attempt failed so.
        ids: only these, where not None.

    """

    kind: str | None = None
    subject: str | None = None
    since: datetime | None = None
    begin: str = ""
    text: str = ""
    states: frozenset[JobState] = frozenset()
    failure_class: str | None = None
    ids: frozenset[str] | None = None

    def fits(self, job: Job) -> bool:
        return (
            self.kind in {None, job.kind}
            and self.subject in {None, job.subject}
            and (self.since is None or job.posted_at >= self.since)
            and job.id.startswith(self.begin)
            and (not self.states or job.state in self.states)
            and self.failure_class in {None, _failure_class(job)}
            and (self.ids is None or job.id in self.ids)
            and self._has_text(job)
        )

    def of_any_state(self) -> "JobFilter":
        """The same, whatever became of the jobs."""
        return replace(self, states=frozenset(), failure_class=None, ids=None)

    def _has_text(self, job: Job) -> bool:
        about = f"{job.kind} {job.subject} {job.id}".casefold()
        return all(word in about for word in self.text.casefold().split())


@dataclass(frozen=True)
class Window:
    """Some of the jobs that a ledger has, one after the other in the list of all.

    Args:
        jobs: newest first.
        end: every job that stands from the beginning of the window up to here is among these, unless it is archived;
            None when there are no others.
        has_archived: archived ones stand among them, as far as the ledger knows.

    """

    jobs: Sequence[Job]
    end: Place | None
    has_archived: bool = False


@dataclass(frozen=True)
class AllJobs:
    """Threads may share one: nothing of it is ever changed.

    Args:
        jobs: newest first.
        current: the ids of those that nothing later supersedes.

    """

    jobs: tuple[Job, ...]
    current: AbstractSet[str]

    @classmethod
    def of(cls, jobs: Iterable[Job], kinds: Kinds = KINDS) -> Self:
        every = sorted(jobs, key=lambda job: job.age, reverse=True)
        return cls(tuple(every), frozenset(job.id for job in dead_letters.current(every, kinds)))

    def window(self, before: Place | None, most: int) -> Window:
        """So many of the jobs that come after this place in a list of all."""
        first = 0 if before is None else bisect_left(self.jobs, True, key=lambda job: job.place < before)
        found = self.jobs[first : first + most]
        return Window(found, found[-1].place if first + most < len(self.jobs) else None)


def cursor_of(job: Job) -> str:
    """Points at a job's place among all: a page that begins there begins with it, or with what comes after it."""
    return cursor_at(job.place)


def cursor_at(place: Place) -> str:
    return f"{place.posted}.{place.id}"


def before_cursor(cursor: str) -> Place:
    """The place that a list comes to right before it comes to where the cursor points.

    Raises:
        BadRequest: it is no cursor.

    """
    posted, _, id = cursor.partition(".")
    if not (posted.isascii() and posted.isdigit() and len(posted) < 15 and id):
        raise BadRequest(f"{cursor[:80]!r} is no cursor", hint="take `next` of the page before, or leave it out")
    return Place(int(posted), generation_of(id), f"{id}\0")  # the next one in the order of texts


def _failure_class(job: Job) -> str | None:
    if job.state is JobState.FAILED:
        return dead_letters.class_of(job)
    return job.attempts[-1].failure_class if job.attempts else None


def waits_for(jobs: Sequence[Job], kinds: Kinds) -> Mapping[str, Job]:
    """By the id of each that may not begin yet, the job about the same subject that has to end; newest first."""
    goes_on: dict[tuple[str, str], Job] = {}
    for job in jobs:
        if not job.has_ended:
            goes_on.setdefault((job.kind, job.subject), job)
    found: dict[str, Job] = {}
    for job in goes_on.values():
        if job.state is not JobState.RUNNING and job.kind in kinds:
            others = (goes_on.get((kind, job.subject)) for kind in kinds[job.kind].waits_for)
            if first := next(filter(None, others), None):
                found[job.id] = first
    return found
