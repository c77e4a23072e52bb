"""The only writer of the queue and of a job's facts: post, claim, beat, end, sweep, cancel, retry, dismiss, retire.

Facts are keys written once; a job is the fold over them (`jobs.ledger.job`). So no compare-and-swap is needed: of
racing writers one wins, and the others see that they lost. The queue only carries ids: wiping it loses nothing, `sweep`
fills it again. `jobs.store.keys` lists the facts, `jobs.ledger.reader` reads them. Beside them an index tells which
jobs are open (`jobs.ledger.open_jobs`), so that no operation costs more because many have ended.

An id is `<line>-<generation>`: all jobs of one kind and subject form a line, and generation g+1 may be posted only when
g has ended. Two posters of the same subject thus race for the same key, which is what makes one live job of them (P2).
"""

import secrets
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from loguru import logger

from jobs.core.clock import Clock, isoformat
from jobs.core.errors import Fenced, Refused
from jobs.core.progress import Reading
from jobs.ledger import dead_letters
from jobs.ledger.attempts import Attempts, Claim
from jobs.ledger.job import VERSION, Ending, Job, JobFacts, JobState, Posted, fold
from jobs.ledger.job_queue import JobQueue
from jobs.ledger.kinds import KINDS, Kinds, kind_named
from jobs.ledger.open_jobs import JobChanges, OpenJob, OpenJobs
from jobs.ledger.reader import LedgerReader
from jobs.ledger.sweeper import Sweeper, Swept, waits_among
from jobs.store import keys
from jobs.store.patient_calls import Calls, Heard, PatientQueue, PatientShrinkingDict
from jobs.store.protocols import QueueLike, ShrinkingDict


class Ledger:
    """Threads may share one: it remembers nothing, everything is in the store.

    Each method raises `StoreTrouble` when the store fails for longer than a moment. What was to be written may be there
    even so: asked again in the same words, every one of them comes to the same.
    """

    def __init__(self, queue: QueueLike, facts: ShrinkingDict, clock: Clock, kinds: Kinds = KINDS) -> None:
        self._calls = Calls(clock)
        self._queue = JobQueue(PatientQueue(queue, self._calls))
        self._facts = PatientShrinkingDict(facts, self._calls)
        self._open = OpenJobs(self._facts, clock)
        self._changes = JobChanges(self._facts, clock)
        self.reader = LedgerReader(self._facts)
        self._attempts = Attempts(self._facts, self._queue, clock, kinds)
        self._sweeper = Sweeper(self._facts, self._queue, self._attempts, clock, kinds)
        self._clock = clock
        self._kinds = kinds

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
        line, known = self._line(kind, subject, self._facts.get(keys.live(kind, subject)))
        generation = known
        while True:
            id = f"{line}-{generation}"
            fact = self._fact(id, kind, subject, request, by=by, attempts=attempts or spec.attempts)
            job = None
            if not self._open.announce(fact):  # somebody else is about to post it, or has, or it is said too long
                job = self.reader.find(id)
            is_ours = job is None and self._attempts.write_once(keys.job(id), fact)
            if is_ours:
                if generation != known:
                    self._attempts.point(kind, subject, line, generation)
                return Posted(self._posted(fact), attached=False)
            job = job or self.reader.find(id)
            if job is None or job.has_ended:
                self._attempts.drop(id)
                generation += 1  # of a line whose last jobs were retired, the ids are still taken
                continue
            return Posted(job, attached=True)

    def post_all(
        self, wanted: Sequence[tuple[str, str, Mapping[str, Any]]], *, by: str, attempts: int | None = None
    ) -> list[Posted]:
        """Post several jobs, each by its kind, subject and request, as `post` does. One that is new costs a round trip,
        two where its subject had none before; any other as much as by itself.

        What is said of a job before it is posted may here be said of one that somebody else has posted just now: then
        it is late, and put right as such.

        Raises:
            BadRequest: there is no such kind.

        """
        specs = [kind_named(kind, self._kinds) for kind, _, _ in wanted]
        pointers = dict(self._facts.items(keys.LIVE))
        known = {entry.id for entry in self._open.all().jobs}
        new: dict[tuple[str, str], dict[str, Any]] = {}
        for spec, (kind, subject, request) in zip(specs, wanted, strict=True):
            line, generation = self._line(kind, subject, pointers.get(keys.live(kind, subject)))
            if (kind, subject) not in new and (id := f"{line}-{generation}") not in known:
                new[kind, subject] = self._fact(id, kind, subject, request, by=by, attempts=attempts or spec.attempts)
        self._open.say_all(OpenJob(fact, is_posted=False) for fact in new.values())
        ours = {
            about: OpenJob(fact) for about, fact in new.items() if self._attempts.write_once(keys.job(fact["id"]), fact)
        }
        self._put_all(list(ours.values()))
        posted = []
        for kind, subject, request in wanted:
            entry = ours.pop((kind, subject), None)
            if entry is None:
                posted.append(self.post(kind, subject, request, by=by, attempts=attempts))
            else:
                posted.append(Posted(fold(JobFacts(job=entry.fact)), attached=False))
        return posted

    def _put_all(self, entries: Sequence[OpenJob]) -> None:
        """Have the ids of these jobs, which were written down just now, in the queue."""
        now = self._clock.now()
        self._open.say_all(replace(entry, put_at=now) for entry in entries)
        lanes: dict[str, list[OpenJob]] = defaultdict(list)
        for entry in entries:
            lanes[entry.lane].append(entry)
        for lane, waiting in lanes.items():
            if not self._queue.put_many([entry.id for entry in waiting], lane):
                self._open.say_all(waiting)

    def _posted(self, fact: Mapping[str, Any]) -> Job:
        """The job that was written down just now, with its id in the queue."""
        self._enqueued(OpenJob(fact))
        return fold(JobFacts(job=fact))

    def _enqueued(self, entry: OpenJob) -> None:
        self._open.say_put(entry, self._clock.now())
        if not self._queue.put(entry.id, entry.lane):
            self._open.say_put(entry, None)

    def cancel(self, id: str, *, by: str) -> Job:
        """Ask for the job to stop. One that nobody runs is cancelled at once, a running one at its holder's next beat.

        Where a worker has something to finish before (`Kind.ended_by_worker`), one that nobody runs is due from now on,
        and in the queue. Cancelling an ended job changes nothing.
        """
        facts = self.reader.facts(id)
        while facts is None:
            self.reader.get(id)  # which tells that there is none, unless it was posted just now
            facts = self.reader.facts(id)
        job = fold(facts)
        if job.has_ended:
            return job
        self._attempts.write_once(keys.cancel(id), {"by": by, "at": isoformat(self._clock.now())})
        if self._attempts.is_ended_by_worker(job):
            return self._left_to_worker(id)
        if job.state is JobState.RUNNING:
            asked = replace(job, cancel_asked=True)
            self._attempts.say_as_read(asked)  # for those who look at it; its holder asks for the fact
            return asked
        ended = self._attempts.end_cancelled(facts)
        return ended or self.reader.get(id)

    def _left_to_worker(self, id: str) -> Job:
        """A job once whoever runs it, or is to claim it, can know that somebody has asked to cancel it.

        It is read after that was written: its holder may have ended the attempt meanwhile, not knowing of it, to go on
        hours later. Who ends one looks for it after that was written, so that one of the two sees the other.
        """
        job = self.reader.get(id)
        if job.has_ended:
            return job
        if job.state is JobState.RUNNING:
            self._attempts.say_as_read(job)
        else:
            self._enqueued(OpenJob.of(job))
        return job

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
        if not anyway and dead_letters.takes_away(job, self._kinds):
            is_listed = self._facts.get(keys.job(job.id)) is not None and self._facts.get(keys.gone(job.id)) is None
            later = list(self.reader.superseding(job, self._kinds)) if is_listed else []
            dead_letters.need_current(job, later, is_listed=is_listed)
        return self.post(job.kind, job.subject, job.request, by=by, attempts=job.attempts_allowed)

    def dismiss(self, id: str, *, by: str) -> Job:
        """Say that nobody needs to hear any more of a job that failed for good. Once more changes nothing.

        Raises:
            Refused: it has not failed for good.

        """
        job = self.reader.get(id)
        if job.state is not JobState.FAILED:
            raise Refused(f"job {id!r} is {job.state}; only a job that failed for good is dismissed")
        self._attempts.write_once(keys.dismissed(id), {"by": by, "at": isoformat(self._clock.now())})
        dismissed = self.reader.get(id)
        if self._facts.get(keys.gone(id)) is None:  # what is listed no more stays so, however long that is told
            self._changes.say(dismissed)
        return dismissed

    # -- what workers do -----------------------------------------------------------------------------------------------

    def next_id(self, lane: str, timeout: timedelta) -> str | None:
        """Wait for the id of a job of this lane; None when none came. One that comes twice does no harm."""
        return self._queue.next_id(lane, timeout)

    def has_queued(self, lane: str) -> bool:
        """Whether an id waits in this lane, as far as can be known now."""
        return bool(self._queue.length(lane))

    def enqueue(self, id: str) -> None:
        """Put an id back that was taken from the queue by a worker that cannot work on it."""
        if (job := self.reader.find(id)) is not None:
            self._queue.put(id, job.lane)

    def claim(
        self, id: str, *, worker: str, lease: timedelta, token: str | None = None, early: bool = False
    ) -> Claim | None:
        """Take the next attempt of a job for `lease`; None when it is not due, has ended, or went to somebody else.

        While it waits for another job about its subject (`Kind.waits_for`) it is not due.

        Args:
            id: the job.
            worker: who claims, for the record.
            lease: how long the attempt is ours without a beat.
            token: names the claim, for who may have to ask twice: what he claimed the first time is his.
            early: also when it waits until later.

        """
        mine = token or secrets.token_hex(8)
        entry = self._open.find(id)
        facts = None if entry is None else self._facts_as_said(entry, early=early)
        if entry is None or facts is None:  # the index does not know, or not enough
            facts = self.reader.facts(id)
            if facts is None:
                return None
            entry = self._claimable(facts, early=early)
        if entry is None:
            return self._claimed_before(id, lease, mine)
        if self._has_to_wait(entry):
            self._open.say_put(entry, None)  # it is out of the queue now, and put in again by a sweep
            return None
        claim = self._attempts.claim(facts, worker, lease, mine)
        return claim or self._claimed_before(id, lease, mine)

    def _claimable(self, facts: JobFacts, *, early: bool) -> OpenJob | None:
        """What is to be said of a job that is due; None when nobody can claim it."""
        job = fold(facts)
        if job.cancel_asked and self._attempts.end_cancelled(facts):
            return None
        is_due = job.is_due(self._clock.now()) or (early and job.state is JobState.WAITING)
        return OpenJob.of(job) if is_due else None

    def _claimed_before(self, id: str, lease: timedelta, token: str) -> Claim | None:
        """The claim that was written under this token though nobody was told so. What is said of the job is put right:
        it was late, or somebody else was quicker."""
        job = self.reader.find(id)
        if job is None or job.has_ended:
            self._attempts.drop(id)
            return None
        self._attempts.say_as_read(job)
        return self._attempts.claimed_before(job, lease, token) if job.state is JobState.RUNNING else None

    def _facts_as_said(self, entry: OpenJob, *, early: bool) -> JobFacts | None:
        """The facts of a job as far as they are needed to claim it, when what is said of it lets that be tried.

        What is said may be late. Then the claim is taken already, or the job is retired, and both are seen after it.
        """
        if (
            not entry.is_posted
            or not (entry.is_due(self._clock.now()) or (early and entry.running is None))
            or self._facts.get(keys.cancel(entry.id)) is not None
        ):
            return None
        facts = JobFacts(job=entry.fact)
        for n in range(1, entry.ended + 1):
            claim, end = self._facts.get(keys.claim(entry.id, n)), self._facts.get(keys.end(entry.id, n))
            if claim is None or end is None:
                return None
            facts.claims[n], facts.ends[n] = claim, end
        return facts

    def beat(self, claim: Claim, reading: Reading, *, before_publishing: bool = False) -> bool:
        """Renew the lease and tell the progress; true when somebody asked to cancel.

        Every beat reads one of two things, the next the other: whether somebody asked to cancel, or ended the attempt.
        So either is heard within two beats. Before anything that others can see, both are asked.

        Raises:
            Fenced: the lease ran out, or the attempt was ended by somebody else.

        """
        id, n = claim.job.id, claim.n
        asks_for_cancel = before_publishing or claim.beats % 2 == 0
        asks_for_end = before_publishing or not asks_for_cancel
        # The clock last: whoever slept so long that the end was written and removed again is late by now.
        is_ended = asks_for_end and self._facts.get(keys.end(id, n)) is not None
        now, began = self._attempts.still_held(claim), self._clock.monotonic()
        if is_ended:
            raise Fenced(f"attempt {n} of job {id!r} was ended by somebody else")
        self._facts.put(keys.beat(id, n), {"v": VERSION, "at": isoformat(now), "progress": reading.as_json()})
        claim.held_until, claim.held_for = now + claim.lease, began + claim.lease.total_seconds()
        claim.beats += 1
        if asks_for_cancel and self._facts.get(keys.cancel(id)) is not None:
            claim.cancel_asked = True
        return claim.cancel_asked

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
        job = self._attempts.end_held(claim, ending, reading, token)
        if job is None:
            raise Fenced(f"attempt {claim.n} of job {claim.job.id!r} was ended by somebody else")
        return job

    def sweep(
        self,
        before_lost: Callable[[Job], None] = lambda _: None,
        *,
        no_worker_lives: bool | Collection[str] = False,
        now: datetime | None = None,
    ) -> Swept:
        """Give up attempts whose lease ran out, put jobs that are due into the queue, finish cancellations.

        Safe to run any number of times at once.

        Args:
            before_lost: told of a job before its attempt is given up, to take away what its holder could still use.
            no_worker_lives: what is running, or what is so in these lanes, is given up whatever its lease says; for who
                knows that its worker is dead.
            now: the moment by which leases are judged, from whoever has made sure of the clock that told it; else it is
                asked for here.

        """
        listed = self._open.all()
        if not listed.is_complete:  # a ledger of an older version, or one that was not swept for long
            self.index_missing()
            listed = self._open.all()
        return self._sweeper.sweep(listed, before_lost, no_worker_lives=no_worker_lives, now=now)

    # -- what the archive does -----------------------------------------------------------------------------------------

    def retire(self, *jobs: Job) -> None:
        """List these jobs no longer: they are archived, and `jobs.ledger.expiry` may remove them.

        Raises:
            Refused: one of them has not ended; none of them is retired.

        """
        for job in jobs:
            if not job.has_ended:
                raise Refused(f"job {job.id!r} is {job.state}; only an ended job is retired")
        mark = {"v": VERSION, "at": isoformat(self._clock.now())}
        self._facts.update({keys.gone(job.id): mark for job in jobs})
        self._changes.say_retired(jobs)

    def index_all(self, jobs: Iterable[Job]) -> int:
        """Compare the index of open jobs with all jobs, and bring in those that it lacks; how many those were."""
        missing = self._open.add_missing(jobs)
        for job in missing:
            self._attempts.put_right(job)
        if missing:
            logger.info("{} open jobs were not in the index of the open ones", len(missing))
        return len(missing)

    def index_missing(self) -> int:
        """The same with as few jobs as the store lets be read: where it has them in their order, those that were posted
        since this was done last, and that it knows no end of."""
        return self.index_all(self.reader.unended(self._open.compared_at()))

    def keep_open(self, jobs: Iterable[Job]) -> None:
        """Read by its keys what those of these jobs consist of that have been open for days, so that a platform's dict
        does not forget it.
        """
        for job in jobs:
            if not job.has_ended and self._clock.now() - job.posted_at >= keys.LASTS:
                self._open.find(job.id)
                self.reader.find(job.id)

    # -- how -----------------------------------------------------------------------------------------------------------

    def _fact(
        self, id: str, kind: str, subject: str, request: Mapping[str, Any], *, by: str, attempts: int
    ) -> dict[str, Any]:
        """A request, as it is written down."""
        return {
            "id": id,
            "kind": kind,
            "subject": subject,
            "lane": self._kinds[kind].lane,
            "request": dict(request),
            "attempts_allowed": attempts,
            "posted_by": by,
            "posted_at": isoformat(self._clock.now()),
        }

    def _line(self, kind: str, subject: str, pointer: Mapping[str, Any] | None) -> tuple[str, int]:
        """The line of a subject, and the generation to look for first; by its pointer, where it has one."""
        if pointer is None:
            key = keys.live(kind, subject)
            # Base 32 without look-alikes; 50 bits, so that two lines never meet.
            line = "".join(secrets.choice("abcdefghjkmnpqrstuvwxyz23456789") for _ in range(10))
            if self._facts.put(key, {"v": VERSION, "line": line, "generation": 1}, skip_if_exists=True):
                return line, 1
            pointer = self._facts.get(key)
        return pointer["line"], int(pointer["generation"])

    def _has_to_wait(self, entry: OpenJob) -> bool:
        """Whether a job about the same subject is alive that this one waits for."""
        kind = self._kinds.get(entry.kind)
        if kind is None or not kind.waits_for:
            return False
        others = (each for each in self._open.all().jobs if waits_among(entry, [each], self._kinds))
        return any((job := self.reader.find(each.id)) is not None and not job.has_ended for each in others)
