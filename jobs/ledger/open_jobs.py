"""The index of the jobs that are open, and what has become of others lately; nothing grows by what ended long ago.

An entry is written before the post and removed after the end. It is a hint, not a fact: whoever dies between a fact and
its entry leaves the entry as it was. So nothing is decided by it that facts do not decide again: it may say of a job
that it is open, or where it stands, when that has passed; a claim or a sweep that finds otherwise puts it right. What
it lacks, as it does the jobs of an older version, `Ledger.index_all` brings in.

Who leaves the index is told of among the changes, for an hour: so whoever knew all jobs within the hour knows them
again by two listings, of the open ones and of the changes.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Self

from jobs.core.clock import Clock, isoformat, parse_moment
from jobs.ledger.job import Job, JobState
from jobs.store import keys
from jobs.store.protocols import DictLike, ShrinkingDict

ORPHAN_AFTER = timedelta(hours=1)
"""A post that was announced so long ago and has not come was broken off."""

CHANGES_KEPT = timedelta(hours=1)
"""So long, at least, it can be told what has become of a job."""


@dataclass(frozen=True)
class Running:
    """The attempt that was claimed last, by whom, and when it will be late if nothing is heard of it."""

    n: int
    at: datetime
    lease: timedelta
    worker: str = ""


@dataclass(frozen=True)
class OpenJob:
    """What is said of an open job.

    Args:
        fact: its request, as the ledger keeps it.
        is_posted: its request is in the ledger; else somebody was about to write it.
        ended: so many attempts have ended, and it went on after each.
        running: the attempt after those, if it was claimed.
        not_before: until when it waits, if it does.
        put_at: when its id was last put into the queue for the attempt that is due; None when it is not there.
        cancel_asked: somebody asked for it to stop, and whoever runs it, or is to claim it, has to hear of it.

    """

    fact: Mapping[str, Any]
    is_posted: bool = True
    ended: int = 0
    running: Running | None = None
    not_before: datetime | None = None
    put_at: datetime | None = None
    cancel_asked: bool = False

    @property
    def id(self) -> str:
        return str(self.fact["id"])

    @property
    def kind(self) -> str:
        return str(self.fact["kind"])

    @property
    def subject(self) -> str:
        return str(self.fact["subject"])

    @property
    def lane(self) -> str:
        return str(self.fact["lane"])

    @property
    def posted_at(self) -> datetime:
        return parse_moment(self.fact["posted_at"])

    @classmethod
    def of(cls, job: Job, *, put_at: datetime | None = None) -> Self:
        """What is to be said of a job that has not ended."""
        is_running = job.state is JobState.RUNNING
        last = job.attempts[-1] if is_running else None
        return cls(
            fact={
                "id": job.id,
                "kind": job.kind,
                "subject": job.subject,
                "lane": job.lane,
                "request": dict(job.request),
                "attempts_allowed": job.attempts_allowed,
                "posted_by": job.posted_by,
                "posted_at": isoformat(job.posted_at),
            },
            ended=len(job.attempts) - is_running,
            running=Running(last.n, last.started_at, last.lease, last.worker) if last else None,
            not_before=job.not_before,
            put_at=None if is_running else put_at,
            cancel_asked=job.cancel_asked,
        )

    def as_json(self) -> dict[str, Any]:
        running = self.running
        return {
            "v": 1,
            "job": dict(self.fact),
            "posted": self.is_posted,
            "ended": self.ended,
            "running": running
            and {
                "n": running.n,
                "at": isoformat(running.at),
                "lease_seconds": running.lease.total_seconds(),
                "worker": running.worker,
            },
            "not_before": isoformat(self.not_before) if self.not_before else None,
            "put_at": isoformat(self.put_at) if self.put_at else None,
            "cancel_asked": self.cancel_asked,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        running, not_before, put_at = (document.get(name) for name in ("running", "not_before", "put_at"))
        return cls(
            fact=document["job"],
            is_posted=bool(document.get("posted", True)),
            ended=int(document.get("ended", 0)),
            running=running
            and Running(
                int(running["n"]),
                parse_moment(running["at"]),
                timedelta(seconds=float(running["lease_seconds"])),
                str(running.get("worker", "")),
            ),
            not_before=parse_moment(not_before) if not_before else None,
            put_at=parse_moment(put_at) if put_at else None,
            cancel_asked=bool(document.get("cancel_asked")),
        )

    def is_like(self, job: Job) -> bool:
        """Whether the same is said of it as the job tells, but for its progress and its place in the queue."""
        return replace(self, put_at=None) == OpenJob.of(job)

    def is_due(self, now: datetime) -> bool:
        return self.running is None and (self.not_before is None or self.not_before <= now)


@dataclass(frozen=True)
class HeardJob:
    """An open job, and when its last attempt was heard of, or ended; None where nobody has looked, or there is none."""

    said: OpenJob
    heard_at: datetime | None = None


@dataclass(frozen=True)
class Listed:
    """All entries, and whether every job that was open when they were last compared with all jobs has one."""

    jobs: tuple[OpenJob, ...]
    is_complete: bool


class OpenJobs:
    """The entries, as they are in the store. Any thread may use it: it remembers nothing."""

    def __init__(self, facts: ShrinkingDict, clock: Clock) -> None:
        self._facts = facts
        self._clock = clock

    def all(self) -> Listed:
        entries = dict(self._facts.items(keys.OPEN, keys.OPEN_COMPLETE))
        is_complete = entries.pop(keys.OPEN_COMPLETE, None) is not None
        return Listed(tuple(OpenJob.from_json(value) for value in entries.values()), is_complete)

    def compared_at(self) -> datetime | None:
        """When all jobs were last compared with those that are said to be open."""
        done = self._facts.get(keys.OPEN_COMPLETE)
        return None if done is None else parse_moment(done["at"])

    def find(self, id: str) -> OpenJob | None:
        entry = self._facts.get(keys.open(id))
        return OpenJob.from_json(entry) if entry is not None else None

    def announce(self, fact: Mapping[str, Any]) -> bool:
        """Say that a job is about to be posted; false when something is said of it already."""
        entry = OpenJob(fact, is_posted=False)
        return self._facts.put(keys.open(entry.id), entry.as_json(), skip_if_exists=True)

    def say(self, job: OpenJob) -> None:
        self._facts.put(keys.open(job.id), job.as_json())

    def say_all(self, jobs: Iterable[OpenJob]) -> None:
        """Say it of several by one round trip."""
        if entries := {keys.open(job.id): job.as_json() for job in jobs}:
            self._facts.update(entries)

    def say_put(self, job: OpenJob, at: datetime | None) -> None:
        """Say when its id was last put into the queue; or that it is not there."""
        self.say(replace(job, put_at=at))

    def remove(self, id: str) -> None:
        """Say nothing more of a job that has ended, or was never posted."""
        self._facts.pop(keys.open(id), None)

    def add_missing(self, jobs: Iterable[Job]) -> list[Job]:
        """Have an entry for each of these that had not ended when it was read; those that lacked one."""
        known = {entry.id for entry in self.all().jobs}
        missing = [job for job in jobs if not job.has_ended and job.id not in known]
        for job in missing:
            self._facts.put(keys.open(job.id), OpenJob.of(job).as_json(), skip_if_exists=True)
        self._facts.put(keys.OPEN_COMPLETE, {"v": 1, "at": isoformat(self._clock.now())})
        return missing


@dataclass(frozen=True)
class JobChange:
    """How a job stands since it ended, was dismissed or retired, as that is written down under its id."""

    id: str
    document: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Tells it from others. A job that is dismissed had ended before, and is retired after that."""
        return f"-{self.id}" if self.is_retirement else self.id

    @property
    def is_retirement(self) -> bool:
        """Whether it is listed no more; nothing takes that back."""
        return self.document["job"] is None

    @property
    def retired_with(self) -> Sequence[str]:
        """The ids of others that were retired in the same step, and have no entry of their own."""
        found: Sequence[str] = self.document.get("with", ())
        return found

    @property
    def retired(self) -> Mapping[tuple[str, str, str], int] | None:
        """How many were retired in the same step of a kind, about a subject, in a state; None where an older version
        did that, which does not say."""
        if not self.is_retirement:
            return {}
        told = self.document.get("retired")
        return None if told is None else {(kind, subject, state): int(n) for kind, subject, state, n in told}

    @property
    def job(self) -> Job | None:
        """None when it is retired."""
        job = self.document["job"]
        return None if job is None else replace(Job.from_json(job), lane=str(self.document["lane"]))


class JobChanges:
    """What has become of jobs that are not open. Any thread may use it: it remembers nothing.

    Written after the facts, by whoever wrote them: who dies in between has told of nothing, and a reader that knew the
    job as an open one asks for it. Only of a dismissal nobody hears then, until all jobs are read again.
    """

    def __init__(self, facts: DictLike, clock: Clock) -> None:
        self._facts = facts
        self._clock = clock

    def say(self, job: Job) -> None:
        self._facts.put(keys.changed(job.id), self._said({"job": job.as_json(), "lane": job.lane}))

    def say_retired(self, jobs: Sequence[Job]) -> None:
        """One entry for all of them: a home that an older version filled retires a hundred thousand within minutes, and
        who looks at the changes reads each entry. It has a key of its own, so that who dismisses one of them meanwhile
        takes nothing of it back.
        """
        if not jobs:
            return
        first, *others = (job.id for job in jobs)
        counts = Counter((job.kind, job.subject, str(job.state)) for job in jobs)
        retired = [[*about, count] for about, count in sorted(counts.items())]
        self._facts.put(keys.changed(f"-{first}"), self._said({"job": None, "with": others, "retired": retired}))

    def _said(self, what: Mapping[str, Any]) -> dict[str, Any]:
        return {"v": 1, "at": isoformat(self._clock.now()), **what}
