"""The dead letters without all jobs: as they were when that was last looked at, and what has changed since.

For who begins anew each time, as a check every few minutes does, and needs of the past only what failed and needs
somebody, when each lane was last heard of, which jobs are the newest and how many there are. What it came to is one
entry of the ledger's dict. Where that is not there, or so old that changes since may be forgotten, all jobs are read
once.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Self

from jobs.core.clock import isoformat, parse_moment
from jobs.ledger import dead_letters
from jobs.ledger.job import BY_NIGHTLY, ENDED, Job, JobState
from jobs.ledger.kinds import KINDS, Kinds
from jobs.ledger.open_jobs import CHANGES_KEPT, HeardJob, JobChange
from jobs.ledger.reader import LedgerReader
from jobs.listing.recent_jobs import CLOCKS_DIFFER, NONE_ENDED, Ended, noted, read
from jobs.store import keys
from jobs.store.protocols import DictLike

LOOKED_WITHIN = CHANGES_KEPT * 3 / 4
"""A change may be removed when it is as old as `CHANGES_KEPT`, by another clock than ours."""

WRITTEN_WITHIN = LOOKED_WITHIN / 3
"""So old it may be while nothing changes: a check that then fails some times still finds it."""

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
        ended: how many have ended, and the newest of them.

    """

    dead: tuple[Job, ...]
    going_on: tuple[Job, ...]
    heard: Mapping[str, LaneHeard] = field(default_factory=dict)
    of_nights: tuple[Job, ...] = ()
    ended: Ended = NONE_ENDED

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
    ended: Ended

    def as_json(self) -> dict[str, Any]:
        return {
            "v": 1,
            "at": isoformat(self.at),
            "dead": list(map(noted, self.dead)),
            "heard": {lane: {"worker": each.worker, "at": isoformat(each.at)} for lane, each in self.heard.items()},
            "judged": sorted(self.judged),
            "of_nights": list(map(noted, self.of_nights)),
            "ended": self.ended.as_json(),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """
        Raises:
            KeyError: an older version wrote it, which remembers less.
        """
        dead, of_nights = (tuple(map(read, document[name])) for name in ("dead", "of_nights"))
        heard = {lane: LaneHeard(each["worker"], parse_moment(each["at"])) for lane, each in document["heard"].items()}
        judged, ended = frozenset(document["judged"]), Ended.from_json(document["ended"])
        return cls(parse_moment(document["at"]), dead, heard, judged, of_nights, ended)


class DeadMemory:
    """Looks again and again, by what it saw itself or what is written down, whichever is later.

    Args:
        kinds: of jobs, by which it is told what supersedes what.

    """

    def __init__(self, kinds: Kinds = KINDS) -> None:
        self._kinds = kinds
        #: What a look came to: any thread replaces it, and each is right by itself.
        self._last: _Memory | None = None

    def look(self, reader: LedgerReader, now: datetime, going_on: Sequence[HeardJob] | None = None) -> KnownJobs:
        """What is known of the jobs now; `going_on` are those that have not ended, where somebody has just listed them.

        Raises:
            StoreTrouble: the ledger cannot be asked.

        """
        known, self._last, _ = _look(reader, now, going_on, self._kinds, self._last)
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
    reader: LedgerReader,
    facts: DictLike,
    now: datetime,
    going_on: Sequence[HeardJob] | None = None,
    every: Sequence[Job] | None = None,
) -> KnownJobs:
    """The same, written down in the ledger's dict for the next look where there is news. Two at once each write what is
    right. By `every` job, where somebody has read all within the hour, it begins anew: what no change told is known
    again."""
    known, after, before = _look(reader, now, going_on, KINDS, every=every)
    if before is None or now - before.at > WRITTEN_WITHIN or replace(after, at=before.at) != before:
        facts.put(keys.DEAD_LETTERS, after.as_json())
    return known


def of_last_night(reader: LedgerReader, known: KnownJobs, posted: Iterable[str] = ()) -> list[Job]:
    """The jobs that the last nights posted: of one that waits for another try, the whole story.

    And of these ids, which the last night told of as `posted`, those that somebody else had posted before it.
    """
    going_on = {job.id: job for job in known.going_on}
    found = {job.id: job for job in known.of_nights}
    found |= {job.id: job for job in going_on.values() if job.posted_by == BY_NIGHTLY}
    recent = {} if known.ended.recent is None else {job.id: job for job in known.ended.recent.jobs}
    for id in posted:
        if id not in found and (job := recent.get(id) or going_on.get(id) or reader.find(id)) is not None:
            found[id] = job
    waiting = (job for job in found.values() if job.state is JobState.WAITING)
    return list((found | {job.id: reader.find(job.id) or job for job in waiting}).values())


def _remembered(beside: Mapping[str, Any], now: datetime, own: _Memory | None) -> _Memory | None:
    """The last look, if what has changed since is still told of."""
    noted, forgotten = beside.get(keys.DEAD_LETTERS), beside.get(keys.CHANGES_FORGOTTEN)
    stored = None
    if noted is not None and (own is None or parse_moment(noted["at"]) > own.at):
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
    *,
    every: Sequence[Job] | None = None,
) -> tuple[KnownJobs, _Memory, _Memory | None]:
    # The changes after the open jobs: who leaves these is in those.
    opened = reader.heard_jobs(now) if going_on is None else going_on
    told, beside = reader.changes_beside(keys.DEAD_LETTERS, keys.CHANGES_FORGOTTEN)
    memory = None if every is not None else _remembered(beside, now, own)
    seen = _Seen(reader, kinds, now, opened, told)
    if memory is not None and seen.is_enough(memory):
        return *seen.after(memory), memory
    if every is None:
        every = reader.jobs()
        seen = replace(seen, told=reader.changes())  # then, so that what became of them meanwhile is told
    return *seen.after_all(every), None


@dataclass(frozen=True)
class _Seen:
    """What a look has read: the jobs that are said to be open, and then what has changed."""

    reader: LedgerReader
    kinds: Kinds
    now: datetime
    opened: Sequence[HeardJob]
    told: Mapping[str, JobChange]

    @cached_property
    def changed(self) -> Mapping[str, Job | None]:
        return {id: change.job for id, change in self.told.items()}

    @cached_property
    def ended(self) -> Sequence[Job]:
        """Those of the changed jobs that the ledger still lists."""
        return list(filter(None, self.changed.values()))

    @cached_property
    def failed(self) -> Sequence[Job]:
        return [job for job in self.ended if job.state is JobState.FAILED]

    @cached_property
    def running(self) -> tuple[Job, ...]:
        return tuple(self.reader.as_heard(each) for each in self.opened if each.said.id not in self.changed)

    def is_enough(self, memory: _Memory) -> bool:
        """Whether this tells how the jobs stand, for who had that look before, with a few reads more."""
        is_cheap = self.reader.is_in_order or len(self._to_judge(memory)) <= ASKED_ABOUT
        return is_cheap and memory.ended.can_follow(self.told.values())

    def _to_judge(self, memory: _Memory) -> list[Job]:
        """Those that took so long that what supersedes them may have been told of long ago."""
        return [job for job in self.failed if self.now - job.posted_at > LOOKED_WITHIN and job.id not in memory.judged]

    def after(self, memory: _Memory) -> tuple[KnownJobs, _Memory]:
        superseded = {job.id for job in self._to_judge(memory) if _is_superseded(self.reader, job, self.kinds)}
        superseded |= {job.id for job in self.failed if job.id in memory.judged} - {job.id for job in memory.dead}
        every = [*(job for job in memory.dead if job.id not in self.changed), *self.ended, *self.running]
        dead = (job for job in dead_letters.dead(every, self.kinds) if job.id not in superseded)
        heard = _heard(self.running, _heard(self.ended, memory.heard))
        return self._known(dead, heard, [*memory.of_nights, *self.ended], memory.ended.after(self.told, memory.at))

    def after_all(self, jobs: Iterable[Job]) -> tuple[KnownJobs, _Memory]:
        """By all jobs, as they were before the changes were read."""
        every = [*(job for job in jobs if job.id not in self.changed), *self.ended]
        ids = {job.id for job in every}
        dead = dead_letters.dead([*every, *(job for job in self.running if job.id not in ids)], self.kinds)
        has_ended = [job for job in every if job.has_ended]
        ended = Ended.of(has_ended, self.told.values(), keeps_recent=not self.reader.is_in_order)
        return self._known(dead, _heard(self.running, _heard(every, {})), has_ended, ended)

    def _known(
        self, dead: Iterable[Job], heard: Mapping[str, LaneHeard], of_nights: Iterable[Job], ended: Ended
    ) -> tuple[KnownJobs, _Memory]:
        known = KnownJobs(tuple(dead), self.running, heard, _of_nights(of_nights), ended)
        judged = frozenset(job.id for job in self.failed)
        return known, _Memory(self.now, known.dead, heard, judged, known.of_nights, ended)


def _is_superseded(reader: LedgerReader, job: Job, kinds: Kinds) -> bool:
    return any(other.age > job.age for other in reader.superseding(job, kinds))


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
