"""The only writer of the queue and of a job's facts: post, claim, beat, end, sweep, cancel, retry, dismiss, retire.

Facts are keys written once; a job is the fold over them (`jobs.ledger.job`). So no compare-and-swap is needed: of
racing writers one wins, and the others see that they lost. The queue only carries ids: wiping it loses nothing, `sweep`
fills it again. `jobs.store.keys` lists the facts, `jobs.ledger.reader` reads them.

An id is `<line>-<generation>`: all jobs of one kind and subject form a line, and generation g+1 may be posted only when
g has ended. Two posters of the same subject thus race for the same key, which is what makes one live job of them (P2).
"""

import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from loguru import logger

from jobs.core.clock import Clock, isoformat, parse_moment
from jobs.core.errors import Fenced, Refused, StoreTrouble, Trouble
from jobs.core.progress import Reading
from jobs.ledger import dead_letters
from jobs.ledger.job import VERSION, Ending, Job, JobState, Posted
from jobs.ledger.job_queue import JobQueue
from jobs.ledger.kinds import KINDS, Kinds, kind_named
from jobs.ledger.reader import LedgerReader
from jobs.store import keys
from jobs.store.patient_calls import Calls, Heard, PatientDict, PatientQueue
from jobs.store.protocols import DictLike, QueueLike


@dataclass
class Claim:
    """One attempt, held under a lease, which its holder renews by beating."""

    job: Job
    n: int
    token: str
    lease: timedelta
    #: Both are written by `Ledger.beat`, in one thread at a time (`RunningAttempt` sees to it); any thread reads them.
    held_until: datetime
    held_for: float
    """The same by the clock's monotonic seconds, which nobody sets."""


@dataclass(frozen=True)
class Swept:
    """What a sweep did and saw.

    Args:
        enqueued: the ids that were put into the queue again.
        lost: those of which an attempt was given up.
        next_due: when it is worth sweeping next, if known.
        open_lanes: the lanes that have jobs which have not ended, and wait for no other job.

    """

    enqueued: tuple[str, ...]
    lost: tuple[str, ...]
    next_due: datetime | None
    open_lanes: frozenset[str]


class Ledger:
    """Threads may share one: what it remembers is behind a lock, and everything else is in the store.

    Each method raises `StoreTrouble` when the store fails for longer than a moment. What was to be written may be there
    even so: asked again in the same words, every one of them comes to the same.
    """

    def __init__(self, queue: QueueLike, facts: DictLike, clock: Clock, kinds: Kinds = KINDS) -> None:
        self._calls = Calls(clock)
        self._queue = JobQueue(PatientQueue(queue, self._calls), clock)
        self._facts = PatientDict(facts, self._calls)
        self.reader = LedgerReader(self._facts)
        self._clock = clock
        self._kinds = kinds
        self._remembering = threading.Lock()  # never held while the store is asked
        #: Ids of jobs known to have ended. Any thread that sweeps adds to it, under `_remembering`; it only saves work.
        self._ended: set[str] = set()

    def heard(self) -> Heard:
        """When the store last answered anything, whoever asked."""
        return self._calls.heard()

    # -- what people do ------------------------------------------------------------------------------------------------

    def post(
        self, kind: str, subject: str, request: Mapping[str, Any], *, by: str, attempts: int | None = None
    ) -> Posted:
        """Write a job down and enqueue it; with one of this kind and subject alive, answer with that one.

        Once this has returned, the job ends, whatever happens to the queue or to any worker (P1).

        Raises:
            BadRequest: there is no such kind.

        """
        spec = kind_named(kind, self._kinds)
        line, known = self._line(kind, subject)
        generation = known
        while True:
            id = f"{line}-{generation}"
            fact = {
                "id": id,
                "kind": kind,
                "subject": subject,
                "lane": spec.lane,
                "request": dict(request),
                "attempts_allowed": attempts or spec.attempts,
                "posted_by": by,
                "posted_at": isoformat(self._clock.now()),
            }
            is_ours = self._write_once(keys.job(id), fact)
            job = self.reader.find(id)
            if job is None or (job.has_ended and not is_ours):
                generation += 1  # of a line whose last jobs were retired, the ids are still taken
                continue
            if is_ours:
                if generation != known:
                    self._point(kind, subject, line, generation)
                self._queue.put(job)
            return Posted(job, attached=not is_ours)

    def cancel(self, id: str, *, by: str) -> Job:
        """Ask for the job to stop. One that nobody runs is cancelled at once, a running one at its holder's next beat.

        Cancelling an ended job changes nothing.
        """
        if not self.reader.get(id).has_ended:
            self._write_once(keys.cancel(id), {"by": by, "at": isoformat(self._clock.now())})
            self._end_cancelled(self.reader.get(id))
        return self.reader.get(id)

    def retry(self, id: str, *, by: str, anyway: bool = False) -> Posted:
        """Post an ended job again, exactly as it was posted.

        Raises:
            Refused: the job has not ended, or `again` refuses.

        """
        job = self.reader.get(id)
        if not job.has_ended:
            raise Refused(f"job {id!r} is {job.state}; only an ended job is retried", hint=f"follow it: job {id}")
        return self.again(job, by=by, anyway=anyway)

    def again(self, job: Job, *, by: str, anyway: bool = False) -> Posted:
        """Post what this job asked for, though the ledger may no longer have it.

        Raises:
            Refused: it takes weights away that something else changed since. With `anyway` it is posted all the same.

        """
        if not anyway and dead_letters.takes_away(job, self._kinds):  # only then are all jobs read
            dead_letters.need_current(job, self.reader.jobs(), self._kinds)
        return self.post(job.kind, job.subject, job.request, by=by, attempts=job.attempts_allowed)

    def dismiss(self, id: str, *, by: str) -> Job:
        """Say that nobody needs to hear any more of a job that failed for good. Once more changes nothing.

        Raises:
            Refused: it has not failed for good.

        """
        job = self.reader.get(id)
        if job.state is not JobState.FAILED:
            raise Refused(f"job {id!r} is {job.state}; only a job that failed for good is dismissed")
        self._write_once(keys.dismissed(id), {"by": by, "at": isoformat(self._clock.now())})
        return self.reader.get(id)

    # -- what workers do -----------------------------------------------------------------------------------------------

    def next_id(self, lane: str, timeout: timedelta) -> str | None:
        """Wait for the id of a job of this lane; None when none came. One that comes twice does no harm."""
        return self._queue.next_id(lane, timeout)

    def enqueue(self, id: str) -> None:
        """Put an id back that was taken from the queue by a worker that cannot work on it."""
        if (job := self.reader.find(id)) is not None:
            self._queue.put(job)

    def claim(self, id: str, *, worker: str, lease: timedelta, token: str | None = None) -> Claim | None:
        """Take the next attempt of a job for `lease`; None when it is not due, has ended, or went to somebody else.

        While it waits for another job about its subject (`Kind.waits_for`) it is not due.

        Args:
            id: the job.
            worker: who claims, for the record.
            lease: how long the attempt is ours without a beat.
            token: names the claim, for who may have to ask twice: what he claimed the first time is his.

        """
        began = self._clock.monotonic()
        job = self.reader.find(id)
        if job is None:
            return None
        if token is not None and job.state is JobState.RUNNING:
            return self._claimed_before(job, lease, token, began)
        if job.cancel_asked and self._end_cancelled(job):
            return None
        if not job.is_due(self._clock.now()):
            return None
        if self._has_to_wait(job):
            self._queue.forget({id})  # it is out of the queue now, and put in again by a sweep
            return None
        return self._claim(job, worker, lease, token)

    def beat(self, claim: Claim, reading: Reading) -> bool:
        """Renew the lease and tell the progress; true when somebody asked to cancel.

        Raises:
            Fenced: the lease ran out, or the attempt was ended by somebody else.

        """
        # The clock last: whoever slept so long that the end was written and removed again is late by now.
        is_ended = self._facts.get(keys.end(claim.job.id, claim.n)) is not None
        now, began = self._still_held(claim), self._clock.monotonic()
        if is_ended:
            raise Fenced(f"attempt {claim.n} of job {claim.job.id!r} was ended by somebody else")
        self._facts.put(
            keys.beat(claim.job.id, claim.n), {"v": VERSION, "at": isoformat(now), "progress": reading.as_json()}
        )
        claim.held_until, claim.held_for = now + claim.lease, began + claim.lease.total_seconds()
        return self._facts.get(keys.cancel(claim.job.id)) is not None

    def end(self, claim: Claim, ending: Ending, reading: Reading, *, token: str | None = None) -> Job:
        """End the attempt. Only the holder can, and only once.

        Args:
            claim: the attempt.
            ending: how it ends.
            reading: its last progress.
            token: names this ending, for who may have to ask twice: the same one again is the same ending.

        Raises:
            Fenced: the lease ran out, or somebody else ended the attempt first; nothing was changed.

        """
        self._still_held(claim)
        ours = self._end(claim.job.id, claim.n, ending, reading, token)
        job = self.reader.find(claim.job.id)
        if not ours or job is None:
            raise Fenced(f"attempt {claim.n} of job {claim.job.id!r} was ended by somebody else")
        if job.is_due(self._clock.now()):
            self._queue.put(job)
        return job

    def sweep(self, before_lost: Callable[[Job], None] = lambda _: None, *, no_worker_lives: bool = False) -> Swept:
        """Give up attempts whose lease ran out, put jobs that are due into the queue, finish cancellations.

        Safe to run any number of times at once.

        Args:
            before_lost: told of a job before its attempt is given up, to take away what its holder could still use.
            no_worker_lives: what is running is given up whatever its lease says; for who knows that its worker is dead.

        """
        now = self._clock.now()
        enqueued, lost, due = [], [], []
        lanes: set[str] = set()
        answers = True
        for job in self._open_jobs():
            current = job
            if job.state is JobState.RUNNING and (no_worker_lives or job.attempts[-1].is_lost(now)):
                try:
                    before_lost(job)
                except Trouble as trouble:  # he could still publish, so the attempt is his until a later sweep
                    logger.warning("a silent attempt of job {} is not given up yet: {}", job.id, trouble)
                    lanes.add(job.lane)
                    continue
                silent = now - job.attempts[-1].last_sign
                reason = f"worker {job.attempts[-1].worker} was not heard of for {silent.total_seconds():.0f} s"
                if self._end(job.id, len(job.attempts), Ending("lost", "killed", reason), job.progress):
                    lost.append(job.id)
                current = self.reader.find(job.id) or job
            if current.cancel_asked and self._end_cancelled(current):
                continue
            is_due = current.is_due(now)
            has_to_wait = is_due and self._has_to_wait(current)  # a sweep after the other job's end puts it in
            if not current.has_ended and not has_to_wait:
                lanes.add(current.lane)
            if is_due and not has_to_wait:
                # A queue that failed would fail for all of them, and each may take its time over it.
                answers, is_enqueued = self._queue.put_if_lost(current) if answers else (False, False)
                if is_enqueued:
                    enqueued.append(current.id)
            elif not is_due and current.not_before is not None:
                due.append(current.not_before)
        return Swept(tuple(enqueued), tuple(lost), min(due, default=None), frozenset(lanes))

    # -- what the archive does -----------------------------------------------------------------------------------------

    def retire(self, id: str) -> None:
        """List an ended job no longer: it is archived, and `jobs.ledger.expiry` may remove it.

        Raises:
            Refused: the job has not ended.

        """
        job = self.reader.find(id)
        if job is None:
            return
        if not job.has_ended:
            raise Refused(f"job {id!r} is {job.state}; only an ended job is retired")
        self._write_once(keys.gone(id), {"at": isoformat(self._clock.now())})

    # -- how -----------------------------------------------------------------------------------------------------------

    def _point(self, kind: str, subject: str, line: str, generation: int) -> None:
        try:
            point(self._facts, kind, subject, line, generation)
        except StoreTrouble as trouble:  # the job is posted, and an old pointer is right as well
            logger.warning("the pointer to the {} of {} stays where it was: {}", kind, subject, trouble)

    def _line(self, kind: str, subject: str) -> tuple[str, int]:
        key = keys.live(kind, subject)
        pointer = self._facts.get(key)
        if pointer is None:
            # Base 32 without look-alikes; 50 bits, so that two lines never meet.
            line = "".join(secrets.choice("abcdefghjkmnpqrstuvwxyz23456789") for _ in range(10))
            self._facts.put(key, {"v": VERSION, "line": line, "generation": 1}, skip_if_exists=True)
            pointer = self._facts.get(key)
        return pointer["line"], int(pointer["generation"])

    def _claim(self, job: Job, worker: str, lease: timedelta, token: str | None = None) -> Claim | None:
        n = len(job.attempts) + 1
        now, began = self._clock.now(), self._clock.monotonic()
        fact = {"at": isoformat(now), "worker": worker, "lease_seconds": lease.total_seconds()}
        mine = token or secrets.token_hex(8)
        if not self._write_once(keys.claim(job.id, n), fact, mine):
            return None
        claimed = self.reader.find(job.id)
        return None if claimed is None else Claim(claimed, n, mine, lease, now + lease, began + lease.total_seconds())

    def _claimed_before(self, job: Job, lease: timedelta, token: str, began: float) -> Claim | None:
        """The claim that was written under this token though nobody was told so; None when it is somebody else's."""
        n = len(job.attempts)
        fact = self._facts.get(keys.claim(job.id, n)) or {}
        if fact.get("token") != token:
            return None
        held_until = parse_moment(fact["at"]) + lease
        left = (held_until - self._clock.now()).total_seconds()
        if left <= 0:
            return None
        return Claim(job, n, token, lease, held_until, began + min(left, lease.total_seconds()))

    def _has_to_wait(self, job: Job) -> bool:
        """Whether a job about the same subject is alive that this one waits for."""
        kind = self._kinds.get(job.kind)
        others = (self.reader.latest(each, job.subject) for each in kind.waits_for) if kind else ()
        return any(other is not None and not other.has_ended for other in others)

    def _still_held(self, claim: Claim) -> datetime:
        """The time, when the lease still runs by it.

        A clock that was set, or a machine that slept, makes it late in a moment: then it is ours as long as it has run
        for less by the seconds that nobody sets, and nobody has ended the attempt.
        """
        now = self._clock.now()
        late = now - claim.held_until
        if late > timedelta(0) and (self._clock.monotonic() > claim.held_for or not self._still_in_store(claim)):
            raise Fenced(
                f"the lease of attempt {claim.n} of job {claim.job.id!r} ran out {late.total_seconds():.1f} s ago"
            )
        return now

    def _still_in_store(self, claim: Claim) -> bool:
        """Whether the store still has the claim, and neither its end nor the mark that it will be removed."""
        id, n = claim.job.id, claim.n
        fact = self._facts.get(keys.claim(id, n)) or {}
        is_over = self._facts.get(keys.end(id, n)) is not None or self._facts.get(keys.gone(id)) is not None
        return fact.get("token") == claim.token and not is_over

    def _end(self, id: str, n: int, ending: Ending, reading: Reading, token: str | None = None) -> bool:
        fact = {
            "at": isoformat(self._clock.now()),
            "outcome": ending.outcome,
            "class": ending.failure_class,
            "message": ending.message,
            "hint": ending.hint,
            "not_before": isoformat(ending.not_before) if ending.not_before else None,
            "result": dict(ending.result) if ending.result is not None else None,
            "progress": reading.as_json(),
        }
        return self._write_once(keys.end(id, n), fact, token)

    def _end_cancelled(self, job: Job) -> bool:
        """End a job that nobody runs as cancelled; false when it is running, has ended, or was claimed just now."""
        if job.state not in {JobState.QUEUED, JobState.WAITING}:
            return job.has_ended
        claim = self._claim(job, "cancel", timedelta(minutes=1))
        return claim is not None and self._end(job.id, claim.n, Ending("cancelled"), job.progress)

    def _open_jobs(self) -> list[Job]:
        """Jobs not known to have ended. Ended is for ever, so each ended job is read once and then remembered."""
        ids = set(self.reader.ids())
        with self._remembering:
            ids -= self._ended
        # Reading everything is one pass; reading a few by key is fewer bytes. The pass wins early.
        jobs = (
            [job for job in self.reader.jobs() if job.id in ids]
            if len(ids) > 50
            else [*filter(None, map(self.reader.find, ids))]
        )
        with self._remembering:
            self._ended.update(job.id for job in jobs if job.has_ended)
            self._queue.forget(self._ended)
        return [job for job in jobs if not job.has_ended]

    def _write_once(self, key: str, fact: dict[str, Any], token: str | None = None) -> bool:
        """Write a fact that may be written once; true when it is ours, though the reply was lost on the way."""
        mine = token or secrets.token_hex(8)
        if self._facts.put(key, {"v": VERSION, **fact, "token": mine}, skip_if_exists=True):
            return True
        return bool((self._facts.get(key) or {}).get("token") == mine)


def point(facts: DictLike, kind: str, subject: str, line: str, generation: int) -> None:
    """Say at which generation of its line to look first for a job of this subject."""
    facts.put(keys.live(kind, subject), {"v": VERSION, "line": line, "generation": generation})
