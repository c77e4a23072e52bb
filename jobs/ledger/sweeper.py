"""A sweep: gives up silent attempts, finishes cancellations, and has in the queue what somebody could take up.

It looks at the jobs that are open, in one listing of the index, and asks for more only where an entry says that
something may be wrong: so it costs the same however many jobs wait, and however many have ended.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import itemgetter

from loguru import logger

from jobs.core.clock import Clock, parse_moment
from jobs.core.errors import Trouble
from jobs.ledger.attempts import Attempts
from jobs.ledger.job import Ending, Job, JobState, fold
from jobs.ledger.job_queue import JobQueue
from jobs.ledger.kinds import Kinds
from jobs.ledger.open_jobs import ORPHAN_AFTER, HeardJob, Listed, OpenJob, OpenJobs
from jobs.ledger.reader import LedgerReader
from jobs.store import keys
from jobs.store.protocols import ShrinkingDict

AGAIN = timedelta(minutes=1)
"""Whoever takes an id from the queue has claimed its job by then, or is dead."""

BeforeLost = Callable[[Job], None]
"""Told of a job before its attempt is given up, to take away what its holder could still use."""


@dataclass(frozen=True)
class Swept:
    """What a sweep did and saw.

    Args:
        enqueued: the ids that were put into the queue again.
        lost: those of which an attempt was given up.
        next_due: when it is worth sweeping next, if known.
        open_lanes: the lanes that have jobs which have not ended, and wait for no other job.
        due_lanes: those of them that have a job which somebody could take up now, put into the queue by us or before.
        going_on: the jobs that have not ended.
        running_lanes: the lanes that have a job which somebody runs, or ran until he died.

    """

    enqueued: tuple[str, ...]
    lost: tuple[str, ...]
    next_due: datetime | None
    open_lanes: frozenset[str]
    due_lanes: frozenset[str] = frozenset()
    going_on: tuple[HeardJob, ...] = ()
    running_lanes: frozenset[str] = frozenset()


def waits_among(entry: OpenJob, others: Iterable[OpenJob], kinds: Kinds) -> bool:
    """Whether one of the others is about the same subject, and of a kind that this job waits for."""
    kind = kinds.get(entry.kind)
    if kind is None or not kind.waits_for:
        return False
    return any(each.subject == entry.subject and each.kind in kind.waits_for and each.is_posted for each in others)


class Sweeper:
    """Any thread may use it: it remembers nothing.

    Args:
        facts: where the jobs are.
        queue: of their ids.
        attempts: writes their ends.
        clock: the time.
        kinds: which job waits for which.

    """

    def __init__(self, facts: ShrinkingDict, queue: JobQueue, attempts: Attempts, clock: Clock, kinds: Kinds) -> None:
        self._facts = facts
        self._queue = queue
        self._attempts = attempts
        self._clock = clock
        self._kinds = kinds
        self._open = OpenJobs(facts, clock)
        self._reader = LedgerReader(facts)

    def sweep(
        self,
        listed: Listed,
        before_lost: BeforeLost,
        *,
        no_worker_lives: bool | Collection[str],
        now: datetime | None = None,
    ) -> Swept:
        """Look at the jobs that are listed, and do what is to be done about them."""
        now = now or self._clock.now()
        lost: list[str] = []
        going_on: list[OpenJob] = []
        beats: dict[str, datetime] = {}
        for entry in listed.jobs:
            current: OpenJob | None = entry
            is_dead = no_worker_lives if isinstance(no_worker_lives, bool) else entry.lane in no_worker_lives
            if is_dead or not entry.is_posted or self._may_be_late(entry, now, beats):
                current, was_lost = self._looked_at(entry, now, before_lost, no_worker_lives=is_dead)
                lost += [entry.id] if was_lost else []
            if current is not None:
                going_on.append(current)
        subjects: dict[str, list[OpenJob]] = defaultdict(list)
        for entry in going_on:
            subjects[entry.subject].append(entry)
        workable = [
            entry for entry in going_on if entry.running or not waits_among(entry, subjects[entry.subject], self._kinds)
        ]
        due: dict[str, list[OpenJob]] = defaultdict(list)
        for entry in workable:
            if entry.is_due(now):
                due[entry.lane].append(entry)
        later = [entry.not_before for entry in going_on if entry.running is None and not entry.is_due(now)]
        return Swept(
            tuple(id for lane, jobs in due.items() for id in self._put_lacking(lane, jobs, now)),
            tuple(lost),
            min(filter(None, later), default=None),
            frozenset(entry.lane for entry in workable),
            frozenset(due),
            tuple(HeardJob(entry, beats.get(entry.id)) for entry in going_on if entry.is_posted),
            frozenset(entry.lane for entry in going_on if entry.running),
        )

    def _may_be_late(self, entry: OpenJob, now: datetime, beats: dict[str, datetime]) -> bool:
        """Whether nothing was heard of a running attempt for as long as its lease; `beats` gets what was heard."""
        running = entry.running
        if running is None or now <= running.at + running.lease:
            return False
        beat = self._facts.get(keys.beat(entry.id, running.n))
        if beat is None:
            return True
        beats[entry.id] = parse_moment(beat["at"])
        return now > beats[entry.id] + running.lease

    def _looked_at(
        self, entry: OpenJob, now: datetime, before_lost: BeforeLost = lambda _: None, *, no_worker_lives: bool = False
    ) -> tuple[OpenJob | None, bool]:
        """How a job stands by its facts, its entry put right, and whether an attempt of it was given up.

        None when it has ended, or was never posted. A cancellation that was broken off is finished.
        """
        job = self._reader.find(entry.id)
        if job is None:
            if entry.is_posted or now - entry.posted_at > ORPHAN_AFTER:
                self._attempts.drop(entry.id)
            return None, False
        was_lost = False
        if job.state is JobState.RUNNING and (no_worker_lives or job.attempts[-1].is_lost(now)):
            try:
                before_lost(job)
            except Trouble as trouble:  # he could still publish, so the attempt is his until a later sweep
                logger.warning("a silent attempt of job {} is not given up yet: {}", job.id, trouble)
                return OpenJob.of(job), False
            was_lost = self._given_up(job, now)
        return self._as_it_stands(entry), was_lost

    def _given_up(self, job: Job, now: datetime) -> bool:
        last = job.attempts[-1]
        reason = f"worker {last.worker} was not heard of for {(now - last.last_sign).total_seconds():.0f} s"
        return self._attempts.end(job, last.n, Ending("lost", "killed", reason), job.progress, puts=False) is not None

    def _as_it_stands(self, entry: OpenJob) -> OpenJob | None:
        facts = self._reader.facts(entry.id)
        if facts is None:
            return None
        job = fold(facts)
        if job.has_ended:
            self._attempts.close(job)
            return None
        if job.cancel_asked and self._attempts.end_cancelled(facts):
            return None
        current = OpenJob.of(job, put_at=entry.put_at if entry.ended == len(job.attempts) else None)
        if current != entry:
            self._attempts.say_as_read(job, put_at=current.put_at)
        return current

    def _put_lacking(self, lane: str, due: list[OpenJob], now: datetime) -> list[str]:
        """Put those in that are not in the queue, and of the others as many as it lacks: those put in longest ago."""
        length = self._queue.length(lane)
        if length is None:
            return []
        absent = sorted((each for each in due if each.put_at is None), key=lambda each: each.posted_at)
        put_in = [(each.put_at, each) for each in due if each.put_at is not None]
        lacking = [each for _, each in sorted(put_in, key=itemgetter(0))[: max(0, len(put_in) - length)]]
        enqueued = []
        for entry in (*absent, *lacking):
            if length and entry.put_at is not None and now - entry.put_at < AGAIN:
                continue  # somebody has taken it out to claim it, most likely
            self._open.say_put(entry, now)
            # Looked for after that: whoever claimed it by then may have said so before us.
            if self._facts.get(keys.claim(entry.id, entry.ended + 1)) is not None:
                self._looked_at(entry, now)
            elif self._queue.put(entry.id, lane):
                enqueued.append(entry.id)
            else:
                self._open.say_put(entry, entry.put_at)
                break  # what fails for one would fail for all of them, and each may take its time over it
        return enqueued
