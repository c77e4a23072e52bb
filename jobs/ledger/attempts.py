"""Writes what becomes of a job's attempts: claims and ends, and with them the index and the pointer to the next job.

Facts first, hints after: whoever dies in between leaves a hint that is late, and nothing that is wrong.
"""

import secrets
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from loguru import logger

from jobs.core.clock import Clock, isoformat
from jobs.core.errors import Fenced, StoreTrouble
from jobs.core.progress import Reading
from jobs.ledger.job import VERSION, Ending, Job, JobFacts, JobState, after_end, fold
from jobs.ledger.job_queue import JobQueue
from jobs.ledger.kinds import KINDS, Kinds
from jobs.ledger.open_jobs import JobChanges, OpenJob, OpenJobs
from jobs.ledger.reader import LedgerReader
from jobs.store import keys
from jobs.store.protocols import DictLike, ShrinkingDict


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
    beats: int = 0
    cancel_asked: bool = False
    """As far as its beats have heard."""


class Attempts:
    """What both the holders of attempts and the sweeps write. Threads may share one."""

    def __init__(self, facts: ShrinkingDict, queue: JobQueue, clock: Clock, kinds: Kinds = KINDS) -> None:
        self._facts = facts
        self._queue = queue
        self._clock = clock
        self._kinds = kinds
        self._open = OpenJobs(facts, clock)
        self._changes = JobChanges(facts, clock)
        self._reader = LedgerReader(facts)

    def claim(self, facts: JobFacts, worker: str, lease: timedelta, token: str) -> Claim | None:
        """Claim the attempt after those that have ended by these facts; None when it is somebody's, or there is none.

        What was claimed under the same token before is the same claim, and no longer than it was.
        """
        id, n = str(facts.job["id"]), len(facts.claims) + 1
        began = self._clock.monotonic()
        fact: dict[str, Any] = {
            "v": VERSION,
            "at": isoformat(self._clock.now()),
            "worker": worker,
            "lease_seconds": lease.total_seconds(),
            "token": token,
        }
        if not self._facts.put(keys.claim(id, n), fact, skip_if_exists=True):
            fact = self._facts.get(keys.claim(id, n)) or {}
            if fact.get("token") != token or self._facts.get(keys.end(id, n)) is not None:
                return None
        if self._facts.get(keys.gone(id)) is not None:  # older than any removal, so the key was free for good reason
            return None
        claimed = fold(replace(facts, claims={**facts.claims, n: fact}))
        self._open.say(OpenJob.of(claimed))
        return self._held(claimed, token, lease, began)

    def claimed_before(self, job: Job, lease: timedelta, token: str) -> Claim | None:
        """The claim of a running job that was written under this token; None when it is somebody else's."""
        began = self._clock.monotonic()
        fact = self._facts.get(keys.claim(job.id, len(job.attempts))) or {}
        return self._held(job, token, lease, began) if fact.get("token") == token else None

    def _held(self, job: Job, token: str, lease: timedelta, began: float) -> Claim | None:
        """The claim, for what is left of its lease; None when nothing is."""
        held_until = job.attempts[-1].started_at + lease
        left = (held_until - self._clock.now()).total_seconds()
        if left <= 0:
            return None
        return Claim(job, len(job.attempts), token, lease, held_until, began + min(left, lease.total_seconds()))

    def still_held(self, claim: Claim) -> datetime:
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

    def end_held(self, claim: Claim, ending: Ending, reading: Reading, token: str | None = None) -> Job | None:
        """As `end`, of who holds the attempt.

        Raises:
            Fenced: its lease has run out.

        """
        self.still_held(claim)
        running = replace(claim.job, cancel_asked=claim.job.cancel_asked or claim.cancel_asked)
        return self.end(running, claim.n, ending, reading, token, holder=claim)

    def _has_lapsed(self, claim: Claim) -> bool:
        """Whether the lease may have run out by now, by either clock."""
        return self._clock.now() > claim.held_until or self._clock.monotonic() > claim.held_for

    def end(
        self,
        job: Job,
        n: int,
        ending: Ending,
        reading: Reading,
        token: str | None = None,
        *,
        puts: bool = True,
        holder: Claim | None = None,
    ) -> Job | None:
        """The job once its running attempt is ended by us; None when somebody else has ended it.

        What can be tried again at once is put into the queue, unless whoever asks sees to that. The key of an end is
        free again days after it was written. So who writes it looks for the mark of the archive, but a `holder` whose
        lease runs even now: nobody has ended his attempt, so nothing was archived.
        """
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
        if not self.write_once(keys.end(job.id, n), fact, token):
            return None
        if (holder is None or self._has_lapsed(holder)) and self._facts.get(keys.gone(job.id)) is not None:
            return None
        ended = after_end(job, fact)
        if ended.has_ended:
            self.close(ended)
            return ended
        self._say_open(ended, puts=puts)
        # Looked for last: of who ends it now, to go on later, and who asks to cancel it one hears of the other.
        waits = ended.not_before is not None and self.is_ended_by_worker(ended)
        if waits and self._facts.get(keys.cancel(job.id)) is not None:
            ended = replace(ended, cancel_asked=True)
            self._say_open(ended, puts=puts)
        return ended

    def _say_open(self, job: Job, *, puts: bool) -> None:
        now = self._clock.now()
        puts = puts and job.is_due(now)
        self._open.say(OpenJob.of(job, put_at=now if puts else None))
        if puts and not self._queue.put(job.id, job.lane):
            self._open.say(OpenJob.of(job))

    def say_as_read(self, job: Job, *, put_at: datetime | None = None) -> None:
        """Say that a job is open, as it was when it was read."""
        self._open.say(OpenJob.of(job, put_at=put_at))
        self.put_right(job)

    def put_right(self, job: Job) -> None:
        """Say how a job stands now, where it was just said how it stood when it was read, and it has gone on since.

        Whoever brought that on may have said it before: then his is overwritten, and a job that has ended is held to be
        running until its lease would be over, and what waits for it waits as long.
        """
        n, is_running = len(job.attempts), job.state is JobState.RUNNING
        news = [keys.end(job.id, n) if is_running else keys.claim(job.id, n + 1)]
        if not is_running and not job.cancel_asked:
            news.append(keys.cancel(job.id))  # then one that waits until later is due for who has to end it
        if all(self._facts.get(key) is None for key in news):
            return
        current = self._reader.find(job.id)
        if current is None or current.has_ended:
            self._open.remove(job.id)
        else:
            self.say_as_read(current)

    def end_cancelled(self, facts: JobFacts) -> Job | None:
        """End a job that nobody runs as cancelled; None when it is running, has ended, or was claimed just now, or a
        worker has to end it."""
        facts = replace(facts, cancel=facts.cancel or {})
        job = fold(facts)
        if job.state not in {JobState.QUEUED, JobState.WAITING} or self.is_ended_by_worker(job):
            return None
        claim = self.claim(facts, "cancel", timedelta(minutes=1), secrets.token_hex(8))
        return None if claim is None else self.end(claim.job, claim.n, Ending("cancelled"), job.progress)

    def is_ended_by_worker(self, job: Job) -> bool:
        """Whether a worker has something to finish before it is cancelled."""
        kind = self._kinds.get(job.kind)
        return kind is not None and kind.ended_by_worker

    def close(self, job: Job) -> None:
        """Point past a job that has ended, tell readers of it, and take it out of the index: last, so that who dies
        before that costs a look, and nobody misses the end."""
        line, _, generation = job.id.rpartition("-")
        self.point(job.kind, job.subject, line, int(generation) + 1)
        self._changes.say(job)
        self._open.remove(job.id)

    def drop(self, id: str) -> None:
        """Take a job out of the index that is not there; one that has come meanwhile goes back into it."""
        self._open.remove(id)
        job = self._reader.find(id)
        if job is not None and not job.has_ended:
            self.say_as_read(job)

    def point(self, kind: str, subject: str, line: str, generation: int) -> None:
        """Say where to look first. When that cannot be said, an old pointer is right as well."""
        try:
            point(self._facts, kind, subject, line, generation)
        except StoreTrouble as trouble:
            logger.warning("the pointer to the {} of {} stays where it was: {}", kind, subject, trouble)

    def write_once(self, key: str, fact: dict[str, Any], token: str | None = None) -> bool:
        """Write a fact that may be written once; true when it is ours, though the reply was lost on the way."""
        mine = token or secrets.token_hex(8)
        if self._facts.put(key, {"v": VERSION, **fact, "token": mine}, skip_if_exists=True):
            return True
        return bool((self._facts.get(key) or {}).get("token") == mine)


def point(facts: DictLike, kind: str, subject: str, line: str, generation: int) -> None:
    """Say at which generation of its line to look first for a job of this subject."""
    facts.put(keys.live(kind, subject), {"v": VERSION, "line": line, "generation": generation})
