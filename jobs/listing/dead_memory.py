"""The dead letters without all jobs: as they were when that was last looked at, and what has changed since.

For who begins anew each time, as a check every few minutes does, and needs of the past only what failed and needs
somebody, and when each lane was last heard of. What it came to is one entry of the ledger's dict. Where that is not
there, or so old that changes since may be forgotten, all jobs are read once.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Self

from jobs.core.clock import isoformat, parse_moment
from jobs.ledger import dead_letters
from jobs.ledger.job import Job, JobState
from jobs.ledger.open_jobs import CHANGES_KEPT, HeardJob
from jobs.ledger.reader import LedgerReader
from jobs.store import keys
from jobs.store.protocols import DictLike, ReadableDict

LOOKED_WITHIN = CHANGES_KEPT * 3 / 4
"""A change may be removed when it is as old as `CHANGES_KEPT`, by another clock than ours."""

WRITTEN_WITHIN = LOOKED_WITHIN / 3
"""So old it may be while nothing changes: a check that then fails some times still finds it."""


@dataclass(frozen=True)
class LaneHeard:
    """The worker that a lane was last heard of, and when."""

    worker: str
    at: datetime


@dataclass(frozen=True)
class KnownJobs:
    """What a check needs to know of the jobs.

    Args:
        dead: the dead letters, newest first.
        going_on: those that have not ended, in no order. Of the attempts before the last one nothing is told.
        heard: who was last heard of in each lane.

    """

    dead: tuple[Job, ...]
    going_on: tuple[Job, ...]
    heard: Mapping[str, LaneHeard] = field(default_factory=dict)


@dataclass(frozen=True)
class _Memory:
    """What a look came to. `judged` are the jobs that were found to have failed within the time of the changes."""

    at: datetime
    dead: tuple[Job, ...]
    heard: Mapping[str, LaneHeard]
    judged: frozenset[str]

    def as_json(self) -> dict[str, Any]:
        return {
            "v": 1,
            "at": isoformat(self.at),
            "dead": [{"job": job.as_json(), "lane": job.lane} for job in self.dead],
            "heard": {lane: {"worker": each.worker, "at": isoformat(each.at)} for lane, each in self.heard.items()},
            "judged": sorted(self.judged),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        dead = (replace(Job.from_json(each["job"]), lane=str(each["lane"])) for each in document["dead"])
        heard = {lane: LaneHeard(each["worker"], parse_moment(each["at"])) for lane, each in document["heard"].items()}
        return cls(parse_moment(document["at"]), tuple(dead), heard, frozenset(document["judged"]))


def known_jobs(
    reader: LedgerReader, facts: ReadableDict, now: datetime, going_on: Sequence[HeardJob] | None = None
) -> KnownJobs:
    """What is known of the jobs now.

    Args:
        reader: asks the ledger.
        facts: the ledger's dict, where the last look is written down.
        now: the time.
        going_on: the jobs that have not ended, where somebody has just listed them.

    """
    return _look(reader, _remembered(facts, now), now, going_on)[0]


def look_and_remember(
    reader: LedgerReader, facts: DictLike, now: datetime, going_on: Sequence[HeardJob] | None = None
) -> KnownJobs:
    """The same, written down for the next look where there is news. Two at once each write what is right."""
    before = _remembered(facts, now)
    known, after = _look(reader, before, now, going_on)
    if before is None or now - before.at > WRITTEN_WITHIN or replace(after, at=before.at) != before:
        facts.put(keys.DEAD_LETTERS, after.as_json())
    return known


def _remembered(facts: ReadableDict, now: datetime) -> _Memory | None:
    found = facts.get(keys.DEAD_LETTERS)
    memory = None if found is None else _Memory.from_json(found)
    return memory if memory is not None and abs(now - memory.at) <= LOOKED_WITHIN else None


def _look(
    reader: LedgerReader, memory: _Memory | None, now: datetime, going_on: Sequence[HeardJob] | None
) -> tuple[KnownJobs, _Memory]:
    # The changes after the open jobs: who leaves these is in those.
    opened = reader.heard_jobs(now) if going_on is None else going_on
    changed = {id: change.job for id, change in reader.changes().items()}
    failed = [job for job in changed.values() if job is not None and job.state is JobState.FAILED]
    judged = frozenset(job.id for job in failed)
    # What superseded one that took so long may have been told of long ago.
    old = [job for job in failed if now - job.posted_at > LOOKED_WITHIN]
    if memory is None or any(job.id not in memory.judged for job in old):
        every: Sequence[Job] = reader.jobs()
        heard = _heard(every, {})
    else:
        remembered = (job for job in memory.dead if job.id not in changed)
        every = [*remembered, *filter(None, changed.values())]
        heard = _heard(filter(None, changed.values()), memory.heard)
    known = {job.id for job in every}
    running = [reader.as_heard(each) for each in opened if each.said.id not in changed]
    every = [*every, *(job for job in running if job.id not in known)]
    heard = _heard(running, heard)
    dead = tuple(dead_letters.dead(every))
    return KnownJobs(dead, tuple(running), heard), _Memory(now, dead, heard, judged)


def _heard(jobs: Iterable[Job], before: Mapping[str, LaneHeard]) -> dict[str, LaneHeard]:
    """When each lane was last heard of; of an attempt whose worker nobody has read the one before is named."""
    found = dict(before)
    for job in jobs:
        for attempt in job.attempts:
            at, known = attempt.ended_at or attempt.last_sign, found.get(job.lane)
            if known is None or at > known.at:
                found[job.lane] = LaneHeard(attempt.worker or (known.worker if known else ""), at)
    return found
