"""The dead letters without all jobs: as they were when that was last looked at, and what has changed since.

For who begins anew each time, as a check every few minutes does, and needs of the past only what failed and needs
somebody, and when each lane was last heard of. What it came to is one entry of the ledger's dict. Where that is not
there, or so old that changes since may be forgotten, all jobs are read once.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Self

from jobs.core.clock import isoformat, parse_moment
from jobs.ledger import dead_letters
from jobs.ledger.job import BY_NIGHTLY, ENDED, Job, JobState
from jobs.ledger.kinds import KINDS, Kinds
from jobs.ledger.open_jobs import CHANGES_KEPT, HeardJob
from jobs.ledger.reader import LedgerReader
from jobs.listing.superseding import is_current
from jobs.store import keys
from jobs.store.protocols import DictLike

LOOKED_WITHIN = CHANGES_KEPT * 3 / 4
"""A change may be removed when it is as old as `CHANGES_KEPT`, by another clock than ours."""

WRITTEN_WITHIN = LOOKED_WITHIN / 3
"""So old it may be while nothing changes: a check that then fails some times still finds it."""

CLOCKS_DIFFER = timedelta(minutes=15)
"""By no more, or a look that was written down is not taken."""

ASKED_ABOUT = 3
"""Of more jobs it is found out by a listing of all whether others supersede them: of each that takes a dozen reads."""

NIGHTS_KEPT = timedelta(days=2)
"""Before the newest job of a night: a night that broke off, and the one before."""


@dataclass(frozen=True)
class LaneHeard:
    """The worker that a lane was last heard of, and when."""

    worker: str
    at: datetime


@dataclass(frozen=True)
class KnownJobs:
    """What is known of the jobs without reading all of them.

    Args:
        dead: the dead letters, newest first.
        going_on: those that have not ended, in no order. Of the attempts before the last one nothing is told.
        heard: who was last heard of in each lane.
        of_nights: those that nights posted and that have ended, of the last nights.

    """

    dead: tuple[Job, ...]
    going_on: tuple[Job, ...]
    heard: Mapping[str, LaneHeard] = field(default_factory=dict)
    of_nights: tuple[Job, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """How many jobs are in each state in which somebody waits or has to do something: those that have not ended,
        and of the failed ones the dead letters."""
        found = Counter(job.state for job in self.going_on)
        going_on = {str(state): found[state] for state in JobState if state not in ENDED}
        return {**going_on, str(JobState.FAILED): len(self.dead)}


@dataclass(frozen=True)
class _Memory:
    """What a look came to. `judged` are the jobs that were found to have failed within the time of the changes."""

    at: datetime
    dead: tuple[Job, ...]
    heard: Mapping[str, LaneHeard]
    judged: frozenset[str]
    of_nights: tuple[Job, ...]

    def as_json(self) -> dict[str, Any]:
        return {
            "v": 1,
            "at": isoformat(self.at),
            "dead": list(map(_noted, self.dead)),
            "heard": {lane: {"worker": each.worker, "at": isoformat(each.at)} for lane, each in self.heard.items()},
            "judged": sorted(self.judged),
            "of_nights": list(map(_noted, self.of_nights)),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """
        Raises:
            KeyError: an older version wrote it, which remembers less.
        """
        dead, of_nights = (tuple(map(_read, document[name])) for name in ("dead", "of_nights"))
        heard = {lane: LaneHeard(each["worker"], parse_moment(each["at"])) for lane, each in document["heard"].items()}
        return cls(parse_moment(document["at"]), dead, heard, frozenset(document["judged"]), of_nights)


def _noted(job: Job) -> dict[str, Any]:
    return {"job": job.as_json(), "lane": job.lane}


def _read(noted: Mapping[str, Any]) -> Job:
    return replace(Job.from_json(noted["job"]), lane=str(noted["lane"]))


class DeadMemory:
    """Looks again and again, by what it saw itself or what is written down, whichever is later.

    Args:
        kinds: of jobs, by which it is told what supersedes what.

    """

    def __init__(self, kinds: Kinds = KINDS) -> None:
        self._kinds = kinds
        #: What a look came to: any thread replaces it, and each is right by itself.
        self._last: _Memory | None = None

    def look(self, reader: LedgerReader, now: datetime) -> KnownJobs:
        """What is known of the jobs now.

        Raises:
            StoreTrouble: the ledger cannot be asked.

        """
        known, _, self._last = _look(reader, now, None, self._kinds, self._last)
        return known


def known_jobs(
    reader: LedgerReader, now: datetime, going_on: Sequence[HeardJob] | None = None, kinds: Kinds = KINDS
) -> KnownJobs:
    """What is known of the jobs now.

    Args:
        reader: asks the ledger.
        now: the time.
        going_on: the jobs that have not ended, where somebody has just listed them.
        kinds: of jobs.

    """
    return _look(reader, now, going_on, kinds)[0]


def look_and_remember(
    reader: LedgerReader, facts: DictLike, now: datetime, going_on: Sequence[HeardJob] | None = None
) -> KnownJobs:
    """The same, written down in the ledger's dict for the next look where there is news. Two at once each write what is
    right."""
    known, before, after = _look(reader, now, going_on, KINDS)
    if before is None or now - before.at > WRITTEN_WITHIN or replace(after, at=before.at) != before:
        facts.put(keys.DEAD_LETTERS, after.as_json())
    return known


def of_last_night(reader: LedgerReader, known: KnownJobs) -> list[Job]:
    """The jobs that the last nights posted: of one that waits for another try, the whole story."""
    going_on = [job for job in known.going_on if job.posted_by == BY_NIGHTLY]
    waiting = {job.id: reader.find(job.id) or job for job in going_on if job.state is JobState.WAITING}
    every = (*known.of_nights, *(waiting.get(job.id, job) for job in going_on))
    return list({job.id: job for job in every}.values())


def _remembered(beside: Mapping[str, Any], now: datetime, own: _Memory | None) -> _Memory | None:
    """The last look, if what has changed since is still told of."""
    noted, forgotten = beside.get(keys.DEAD_LETTERS), beside.get(keys.CHANGES_FORGOTTEN)
    stored = None
    if noted is not None:
        with suppress(KeyError):
            stored = _Memory.from_json(noted)
    good = [each for each in (stored, own) if each is not None and _is_good(each, forgotten, now)]
    return max(good, key=lambda each: each.at, default=None)


def _is_good(memory: _Memory, forgotten: Mapping[str, Any] | None, now: datetime) -> bool:
    if abs(now - memory.at) <= LOOKED_WITHIN:
        return True
    return forgotten is not None and parse_moment(forgotten["at"]) + CLOCKS_DIFFER < memory.at <= now


def _look(
    reader: LedgerReader,
    now: datetime,
    going_on: Sequence[HeardJob] | None,
    kinds: Kinds,
    own: _Memory | None = None,
) -> tuple[KnownJobs, _Memory | None, _Memory]:
    # The changes after the open jobs: who leaves these is in those.
    opened = reader.heard_jobs(now) if going_on is None else going_on
    told, beside = reader.changes_beside(keys.DEAD_LETTERS, keys.CHANGES_FORGOTTEN)
    memory = _remembered(beside, now, own)
    changed = {id: change.job for id, change in told.items()}
    ended = list(filter(None, changed.values()))
    failed = [job for job in ended if job.state is JobState.FAILED]
    superseded: set[str] = set()
    judged = memory.judged if memory else frozenset()
    old = [job for job in failed if now - job.posted_at > LOOKED_WITHIN and job.id not in judged]
    if memory is None or (len(old) > ASKED_ABOUT and not reader.is_in_order):
        every: Sequence[Job] = reader.jobs()
        of_nights, heard = [job for job in every if job.has_ended], _heard(every, {})
    else:
        # What superseded one that took so long may have been told of long ago.
        superseded = {job.id for job in old if not is_current(reader, job, kinds)}
        superseded |= {job.id for job in failed if job.id in judged} - {job.id for job in memory.dead}
        every = [*(job for job in memory.dead if job.id not in changed), *ended]
        of_nights, heard = [*memory.of_nights, *ended], _heard(ended, memory.heard)
    known = {job.id for job in every}
    running = [reader.as_heard(each) for each in opened if each.said.id not in changed]
    every = [*every, *(job for job in running if job.id not in known)]
    heard = _heard(running, heard)
    dead = tuple(job for job in dead_letters.dead(every, kinds) if job.id not in superseded)
    after = _Memory(now, dead, heard, frozenset(job.id for job in failed), _of_nights(of_nights))
    return KnownJobs(dead, tuple(running), heard, after.of_nights), memory, after


def _of_nights(ended: Iterable[Job]) -> tuple[Job, ...]:
    posted = {job.id: job for job in ended if job.posted_by == BY_NIGHTLY}
    newest = max((job.posted_at for job in posted.values()), default=None)
    recent = (job for job in posted.values() if newest and newest - job.posted_at <= NIGHTS_KEPT)
    return tuple(sorted(recent, key=lambda job: job.age, reverse=True))


def _heard(jobs: Iterable[Job], before: Mapping[str, LaneHeard]) -> dict[str, LaneHeard]:
    """When each lane was last heard of; of an attempt whose worker nobody has read the one before is named."""
    found = dict(before)
    for job in jobs:
        for attempt in job.attempts:
            at, known = attempt.ended_at or attempt.last_sign, found.get(job.lane)
            if known is None or at > known.at:
                found[job.lane] = LaneHeard(attempt.worker or (known.worker if known else ""), at)
    return found
