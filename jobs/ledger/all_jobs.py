"""All jobs of one reading, and what only all of them together tell: what is superseded, what waits for which, how many.

Pure. Whoever shows jobs to many asks the ledger once and chooses from this for each.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Self

from jobs.core.errors import BadRequest
from jobs.ledger import dead_letters
from jobs.ledger.dead_letters import DeadGroup
from jobs.ledger.job import Job, JobState, generation_of
from jobs.ledger.kinds import KINDS, Kinds

OPEN = frozenset({JobState.QUEUED, JobState.RUNNING, JobState.WAITING})

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


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
class Page:
    """A part of a list of jobs, newest first.

    Args:
        jobs: those of this page.
        total: how many are in the list.
        older: how many come after the last of these.
        next: the cursor of the page that comes after this one; None when nothing does.

    """

    jobs: Sequence[Job]
    total: int
    older: int
    next: str | None


@dataclass(frozen=True)
class AllJobs:
    """Threads may share one: nothing of it is ever changed.

    Args:
        jobs: newest first.
        current: the ids of those that nothing later supersedes.
        dead: the dead letters in groups, the largest first.
        waits_for: by the id of a job that may not begin yet, the job about the same subject that has to end first.
        counts: how many there are by kind and state.

    """

    jobs: tuple[Job, ...]
    current: AbstractSet[str]
    dead: tuple[DeadGroup, ...]
    waits_for: Mapping[str, Job]
    counts: Mapping[tuple[str, str], int]

    @classmethod
    def of(cls, jobs: Iterable[Job], kinds: Kinds = KINDS) -> Self:
        every = sorted(jobs, key=lambda job: job.age, reverse=True)
        current = dead_letters.current(every, kinds)
        return cls(
            jobs=tuple(every),
            current=frozenset(job.id for job in current),
            dead=dead_letters.groups(job for job in current if dead_letters.is_dead(job)),
            waits_for=waits_for(every, kinds),
            counts=Counter((job.kind, str(job.state)) for job in every),
        )


def page(jobs: Sequence[Job], limit: int | None, cursor: str | None = None) -> Page:
    """So many of these, which are the newest first, from the newest on or from where a cursor points.

    A cursor stays where it is when newer jobs come, and when the job that it was made of is gone.

    Raises:
        BadRequest: it is no cursor.

    """
    begin = 0
    if cursor is not None:
        at = _place(cursor)
        begin = next((index for index, job in enumerate(jobs) if _place_of(job) <= at), len(jobs))
    rest = jobs[begin:]
    shown = rest if limit is None else rest[:limit]
    older = len(rest) - len(shown)
    return Page(shown, len(jobs), older, cursor_of(rest[len(shown)]) if older else None)


def cursor_of(job: Job) -> str:
    """Points at a job's place among all: a page that begins there begins with it."""
    return f"{_place_of(job)[0]}.{job.id}"


def _place(cursor: str) -> tuple[int, int, str]:
    milliseconds, _, id = cursor.partition(".")
    if not (milliseconds.isascii() and milliseconds.isdigit() and len(milliseconds) < 15 and id):
        raise BadRequest(f"{cursor[:80]!r} is no cursor", hint="take `next` of the page before, or leave it out")
    return int(milliseconds), generation_of(id), id


def _place_of(job: Job) -> tuple[int, int, str]:
    return (job.posted_at - _EPOCH) // timedelta(milliseconds=1), generation_of(job.id), job.id


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
