"""Reads the jobs of a ledger: each is the fold over its facts. It writes nothing, and asks no queue."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import islice, takewhile
from typing import Any, Self

from jobs.core.clock import Clock, isoformat, parse_moment
from jobs.core.errors import NotFound
from jobs.ledger.all_jobs import Window
from jobs.ledger.dead_letters import changed
from jobs.ledger.job import (
    ENDED,
    Attempt,
    IllegalMove,
    Job,
    JobFacts,
    JobState,
    Place,
    after_beat,
    fold,
    generation_of,
    milliseconds,
    moment_at,
)
from jobs.ledger.kinds import ALL, Kinds
from jobs.ledger.open_jobs import HeardJob, JobChange, OpenJob
from jobs.store import keys
from jobs.store.in_order import Moment, in_order
from jobs.store.patient_calls import Calls, PatientReads
from jobs.store.protocols import ReadableDict

IN_TIME = 1_000
"""Entries that are looked up by their time in one step."""

CLOCKS_DIFFER = timedelta(hours=1)
"""By no more, on one machine."""

MARKS_AT_ONCE = 400
"""SQLite takes five hundred ranges."""

TOGETHER = 40
"""Jobs that are read in one step: SQLite takes some hundred ranges in a statement, and each job is seven."""


class LedgerReader:
    """It remembers nothing, so threads may share one. Each method raises `StoreTrouble` when the store fails."""

    def __init__(self, facts: ReadableDict) -> None:
        self._facts = facts

    @classmethod
    def of(cls, facts: ReadableDict, clock: Clock) -> Self:
        """One by itself, for whoever only reads; a store that fails for a moment is asked again."""
        return cls(PatientReads(facts, Calls(clock)))

    def get(self, id: str) -> Job:
        """The job as its facts stand now.

        Raises:
            NotFound: the ledger has no such job, or no longer.

        """
        job = self.find(id)
        if job is None:
            raise NotFound(f"there is no job {id!r}", hint="`ollama-modal jobs` lists them")
        return job

    def find(self, id: str) -> Job | None:
        """The job, or None when there is none, or none any more."""
        read = self._read(id)
        return None if read is None else read[1]

    def look(self, job: Job) -> Job:
        """The job as it is, for whoever knows how it was a moment ago: while it stands as it did, this is two reads.

        Raises:
            NotFound: the ledger has it no longer.

        """
        said = self._facts.get(keys.open(job.id))
        if said is None or job.has_ended or not OpenJob.from_json(said).is_like(job):
            return self.get(job.id)
        return self._as_heard(job)

    def as_said(self, said: OpenJob, known: Job | None) -> Job | None:
        """A job that is said to be open, for who `known` it a moment ago: nothing is read of one that waits, and of one
        that runs as it did, or for the first time, its beat. None when there is none."""
        if known is not None and not known.has_ended and said.is_like(known):
            return self._as_heard(known)
        if not said.is_posted or said.ended or said.cancel_asked:
            return self.find(said.id)
        facts, running = JobFacts(job=said.fact), said.running
        if running is not None:
            seconds = running.lease.total_seconds()
            facts.claims[1] = {"at": isoformat(running.at), "worker": running.worker, "lease_seconds": seconds}
        return self._as_heard(fold(facts))

    def _as_heard(self, job: Job) -> Job:
        if job.state is not JobState.RUNNING:
            return job
        beat = self._facts.get(keys.beat(job.id, len(job.attempts)))
        return job if beat is None else after_beat(job, beat)

    def facts(self, id: str) -> JobFacts | None:
        """What its job is the fold of, or None when there is none, or none any more."""
        read = self._read(id)
        return None if read is None else read[0]

    def _read(self, id: str) -> tuple[JobFacts, Job] | None:
        """The facts, and the job that they tell of."""
        request = self._facts.get(keys.job(id))
        if request is None:
            return None
        facts = self._facts_of(id, request)
        # Half removed, an ended job looks like one that goes on. The mark is older than any removal, and read last.
        job = fold(facts)
        if not job.has_ended and self._facts.get(keys.gone(id)) is not None:
            return None
        return facts, job

    def latest(self, kind: str, subject: str) -> Job | None:
        """The newest job of this kind about this subject; None when there is none, or none any more."""
        pointer = self._facts.get(keys.live(kind, subject))
        if pointer is None:
            return None
        line, first, newest = pointer["line"], int(pointer["generation"]), None
        generation = first  # the newest one, an older one, or the one to be posted next
        while (job := self.find(f"{line}-{generation}")) is not None:
            newest, generation = job, generation + 1
        return newest or (self.find(f"{line}-{first - 1}") if first > 1 else None)

    def superseding(self, job: Job, kinds: Kinds) -> Iterator[Job]:
        """The later jobs of the ledger that are of its kind and subject, or changed the weights that it is about.

        Asked of the lines that such a job may be in: a read or two of each, and more of each job that is found.
        """
        changing = [name for name, kind in kinds.items() if kind.changes_weights]
        for kind in dict.fromkeys((job.kind, *changing)):
            yield from (other for other in self._later(kind, job.subject, job) if other.id != job.id)
        if job.subject != ALL:  # one that is about all models changes those that it tells of, as a prune does
            for kind in changing:
                yield from (each for each in self._later(kind, ALL, job) if job.subject in changed(each, kinds))

    def _later(self, kind: str, subject: str, job: Job) -> Iterator[Job]:
        """The jobs of a line that were posted after a job, or in the same moment; the newest first."""
        pointer = self._facts.get(keys.live(kind, subject))
        if pointer is None:
            return
        line, generation = pointer["line"], int(pointer["generation"])
        while self._facts.get(keys.job(f"{line}-{generation}")) is not None:  # it may point to an older one
            generation += 1
        while generation > 1:
            generation -= 1
            request = self._facts.get(keys.job(f"{line}-{generation}"))
            if request is None or (parse_moment(request["posted_at"]), generation) < job.age[:2]:
                return
            if (found := self.find(request["id"])) is not None:
                yield found

    def ids(self, begin: str = "") -> list[str]:
        """The ids of all jobs, or of those whose id begins so, in no order."""
        known = list(self._facts.keys(keys.job(begin), keys.gone(begin)))
        gone = {key.removeprefix(keys.GONE) for key in known if key.startswith(keys.GONE)}
        ids = (key.removeprefix(keys.JOB) for key in known if key.startswith(keys.JOB))
        return [id for id in ids if id not in gone]

    def jobs(self, newest: int | None = None) -> list[Job]:
        """All jobs, newest first; or so many of the newest, for which a long ledger costs little."""
        return [self._folded(id, facts) for id, facts in self._by_age()[:newest]]

    def _by_age(self) -> list[tuple[str, JobFacts]]:
        """The facts of each job, newest first."""
        return sorted(_gathered(self._facts.items(*keys.OF_JOBS)).items(), key=_age, reverse=True)

    @property
    def is_in_order(self) -> bool:
        """Whether a `window` costs what it shows, and not a listing of all jobs."""
        return in_order(self._facts) is not None

    def newest_first(self) -> Iterator[Job]:
        """All jobs, newest first. Where the store has them in that order, little more is read than is taken."""
        before: Place | None = None
        while True:
            window = self.window(before, AT_ONCE)
            yield from window.jobs
            if window.end is None:
                return
            before = window.end

    def window(self, before: Place | None, most: int) -> Window:
        """Some of the jobs that come after this place in a list of all, the newest first: `most` or fewer, those among
        them that are archived left out; where the store has no order all that do."""
        order = in_order(self._facts)
        if order is None:
            every = self.jobs()
            return Window([job for job in every if before is None or job.place < before], None)
        # The store's order of what was posted in one moment is another one, so a moment is read whole.
        at = "9999" if before is None else isoformat(moment_at(before.posted))
        requests = order.posted_before(at, f"{keys.JOB}~", most)
        end: Place | None = None
        if len(requests) == most:
            newest, oldest = (parse_moment(requests[at][1]["posted_at"]) for at in (0, -1))
            if newest == oldest:
                return self.window(before, 2 * most)
            end = Place(milliseconds(oldest) + 1, -1, "")
        places = {key.removeprefix(keys.JOB): (key, request) for key, request in requests}
        wanted = {id: entry for id, entry in places.items() if _stands(id, entry[1], before, end)}
        gathered: dict[str, JobFacts] = {}
        ids = list(wanted)
        for some in (ids[first : first + AT_ONCE] for first in range(0, len(ids), AT_ONCE)):
            about = (begin + id for id in some for begin in OF_ONE)
            gathered |= _gathered([*(wanted[id] for id in some), *self._facts.items(*about)])
        jobs = [self._folded(id, facts) for id, facts in sorted(gathered.items(), key=_age, reverse=True)]
        return Window(jobs, end, len(jobs) < len(wanted))

    def count(self) -> int:
        """How many jobs there are."""
        order = in_order(self._facts)
        if order is None:
            return len(self.ids())
        return order.count_posted() - len(list(self._facts.keys(keys.GONE)))

    def said_open(self) -> dict[str, OpenJob]:
        """What is said of the jobs that are open, by id: a hint, which may be a moment late."""
        found = (OpenJob.from_json(value) for _, value in self._facts.items(keys.OPEN))
        return {each.id: each for each in found}

    def heard_jobs(self, now: datetime) -> list[HeardJob]:
        """The same jobs; of those whose attempt would be late by now, when it was heard of: a read each."""
        return [HeardJob(said, self._last_beat(said, now)) for said in self.said_open().values() if said.is_posted]

    def _last_beat(self, said: OpenJob, now: datetime) -> datetime | None:
        running = said.running
        if running is None or now <= running.at + running.lease:
            return None
        beat = self._facts.get(keys.beat(said.id, running.n))
        return None if beat is None else parse_moment(beat["at"])

    def as_heard(self, heard: HeardJob) -> Job:
        """An open job as it is said to be. Of its attempts the last one is told; where that has ended, not its worker.

        Nothing is read, but of an attempt that was given up when that was.
        """
        said, job = heard.said, fold(JobFacts(job=heard.said.fact))
        if said.running is not None:
            last = said.running
            attempt = Attempt(last.n, last.at, last.worker, last.lease, max(last.at, heard.heard_at or last.at))
            return replace(job, state=JobState.RUNNING, attempts=(attempt,), cancel_asked=said.cancel_asked)
        if not said.ended:
            return job
        ended_at = said.not_before
        if ended_at is None and (end := self._facts.get(keys.end(said.id, said.ended))) is not None:
            ended_at = parse_moment(end["at"])
        at = ended_at or said.posted_at
        attempt = Attempt(said.ended, at, "", timedelta(0), at, at, "retry", not_before=said.not_before)
        return replace(job, state=JobState.WAITING, attempts=(attempt,))

    def changes(self) -> dict[str, JobChange]:
        """What has become of jobs that are not open any more, by id, of the last hour at least.

        Read after `said_open`: what is in neither was open for longer than that has been told, or was never there.
        """
        return self._changes_in(dict(self._facts.items(keys.CHANGED)))

    def changes_beside(self, *others: str) -> tuple[dict[str, JobChange], dict[str, Any]]:
        """The same, and those of these other entries of their sort that are there, in one listing."""
        entries = dict(self._facts.items(keys.CHANGED, *others))
        beside = {key: entries.pop(key) for key in others if key in entries}
        return self._changes_in(entries), beside

    def _changes_in(self, entries: Mapping[str, Any]) -> dict[str, JobChange]:
        told = [JobChange(key.removeprefix(keys.CHANGED).removeprefix("-"), value) for key, value in entries.items()]
        changes = {each.id: each for each in told if not each.is_retirement}
        for each in told:
            if each.is_retirement:  # whatever else is told of them, when it may be
                changes |= dict.fromkeys((each.id, *each.retired_with), each)
        return changes

    def ended(self, *, until: datetime, since: datetime | None = None) -> Iterator[Job]:
        """The jobs that ended then and are listed, those first that ended first.

        Where the store finds entries by their time nothing else is read, and what is not taken costs nothing; elsewhere
        all jobs are.
        """
        order, at = in_order(self._facts), Moment(isoformat(since) if since else "")
        while order is not None:
            ends = order.by_time(keys.END, at, isoformat(until), IN_TIME)
            ids = [end.key.removeprefix(keys.END).rpartition("/") for end in ends]
            jobs = {job.id: job for job in self.listed(self._not_retired(id for id, _, _ in ids))}
            for id, _, n in ids:
                job = jobs.get(id)
                if job is not None and job.has_ended and len(job.attempts) == int(n):
                    yield job
            if len(ends) < IN_TIME:
                return
            at = ends[-1]
        found = ((job.ended_at, job) for job in self.jobs() if job.ended_at is not None)
        known = [(ended_at, job) for ended_at, job in found if ended_at <= until and (not since or ended_at > since)]
        yield from (job for _, job in sorted(known, key=lambda entry: (entry[0], entry[1].age)))

    def _not_retired(self, ids: Iterable[str]) -> list[str]:
        """Those without the mark of the archive: an hour after many were archived their facts are all there still."""
        wanted = list(dict.fromkeys(ids))
        marks = {
            mark
            for first in range(0, len(wanted), MARKS_AT_ONCE)
            for mark in self._facts.keys(*map(keys.gone, wanted[first : first + MARKS_AT_ONCE]))
        }
        return [id for id in wanted if keys.gone(id) not in marks]

    def unended(self, since: datetime | None) -> list[Job]:
        """Jobs of which some may not have ended, all of those among them that were posted since then, or a while
        before. Where the store has no order, all jobs."""
        order = in_order(self._facts)
        if order is None:
            return self.jobs()
        return self.listed(order.unended(isoformat(since - CLOCKS_DIFFER) if since else ""))

    def listed(self, ids: Iterable[str]) -> list[Job]:
        """The jobs of these ids that are there, and not archived; all facts of one are read in one step."""
        wanted = list(dict.fromkeys(ids))
        found: list[Job] = []
        for first in range(0, len(wanted), TOGETHER):
            some = wanted[first : first + TOGETHER]
            prefixes = [prefix for id in some for prefix in _facts_of_job(id)]
            entries = self._facts.items(*prefixes)
            # What begins as the job with the number 1 may be that with the number 10.
            gathered = _gathered((key, value) for key, value in entries if key.split("/")[1] in some)
            found += (self._folded(id, facts) for id, facts in sorted(gathered.items(), key=_age, reverse=True))
        return found

    def select(
        self,
        *,
        kind: str | None = None,
        state: str | None = None,
        subject: str | None = None,
        since: datetime | None = None,
        begin: str = "",
        before: str | None = None,
        limit: int | None = None,
        archived: Iterable[Job] = (),
    ) -> tuple[list[Job], int | None]:
        """The newest jobs that fit, and how many fit in all: None for more than these, where nobody has counted them.

        Args:
            kind: only these.
            state: only those in it.
            subject: only those about it.
            since: only those posted then or later.
            begin: only those whose id begins so.
            before: only those that come after the job of this id in such a list, to read on where one ended.
            limit: so many at most.
            archived: jobs that have left the ledger and are to be chosen from as well.

        """
        if limit is not None and not (subject or begin or before or archived):
            return self._newest(limit, kind, state, since)
        jobs = self.jobs()
        if archived:
            every = {job.id: job for job in (*archived, *jobs)}
            jobs = sorted(every.values(), key=lambda job: job.age, reverse=True)
        if before is not None:
            known = [job.id for job in jobs]
            jobs = jobs[known.index(before) + 1 :] if before in known else []
        jobs = [
            job
            for job in jobs
            if kind in {None, job.kind}
            and state in {None, job.state}
            and subject in {None, job.subject}
            and (since is None or job.posted_at >= since)
            and job.id.startswith(begin)
        ]
        return jobs[:limit], len(jobs)

    def _newest(
        self, limit: int, kind: str | None, state: str | None, since: datetime | None
    ) -> tuple[list[Job], int | None]:
        """Of those that are open only these are read, of others those that are newer than the last one that fits."""
        if state is not None and JobState(state) not in ENDED:
            opened = (self.find(id) for id in self.said_open())
            jobs: Iterable[Job] = sorted(filter(None, opened), key=lambda job: job.age, reverse=True)
        elif (kind or state or since) is None and in_order(self._facts) is None:
            every = self._by_age()  # which a listing of the newest tells as well
            return [self._folded(id, facts) for id, facts in every[:limit]], len(every)
        else:
            jobs = self.newest_first()
        if since is not None:
            jobs = takewhile(lambda job: job.posted_at >= since, jobs)
        fitting = (job for job in jobs if kind in {None, job.kind} and state in {None, job.state})
        found = list(islice(fitting, limit + 1))
        if len(found) <= limit:
            return found, len(found)
        return found[:limit], self.count() if (kind or state or since) is None else None

    def is_coming(self, subject: str) -> bool:
        """Whether a pull of this model is under way."""
        pull = self.latest("pull", subject)
        return pull is not None and not pull.has_ended

    def _folded(self, id: str, facts: JobFacts) -> Job:
        try:
            return fold(facts)
        except IllegalMove:
            # A pass over all entries is no snapshot on Modal: it may see claim 2 and have missed end 1. Reading by key,
            # in the order in which facts are written, cannot.
            return self.get(id)

    def _facts_of(self, id: str, request: Mapping[str, Any]) -> JobFacts:
        facts = JobFacts(job=request, cancel=self._facts.get(keys.cancel(id)))
        n = 1
        while (claim := self._facts.get(keys.claim(id, n))) is not None:
            facts.claims[n] = claim
            if (end := self._facts.get(keys.end(id, n))) is None:
                break
            facts.ends[n] = end
            n += 1
        last = len(facts.claims)
        if last not in facts.ends and last and (beat := self._facts.get(keys.beat(id, last))) is not None:
            facts.beats[last] = beat
        if last in facts.ends and facts.ends[last]["outcome"] in {"failed", "lost"}:
            facts.dismissed = self._facts.get(keys.dismissed(id))
        return facts


OF_ONE = (keys.CLAIM, keys.BEAT, keys.END, keys.CANCEL, keys.DISMISSED, keys.GONE)
"""What there may be of a job beside its request."""

AT_ONCE = 50
"""Jobs that are read together, in one listing; SQLite takes five hundred ranges."""


def _gathered(entries: Iterable[tuple[str, Any]]) -> dict[str, JobFacts]:
    """The facts of each job that is not retired, by its id."""
    gathered: dict[str, JobFacts] = {}
    gone: set[str] = set()
    rest: dict[str, list[tuple[str, str, Any]]] = defaultdict(list)
    for key, value in entries:
        word, slash, about = key.partition("/")
        match word + slash:
            case keys.JOB:
                gathered[about] = JobFacts(job=value)
            case keys.GONE:
                gone.add(about)
            case keys.CLAIM | keys.BEAT | keys.END | keys.CANCEL | keys.DISMISSED as prefix:
                id, _, n = about.partition("/")
                rest[id].append((prefix, n, value))
    there = {id: facts for id, facts in gathered.items() if id not in gone}
    for id, facts in there.items():
        for prefix, n, value in rest.get(id, ()):
            if prefix == keys.CANCEL:
                facts.cancel = value
            elif prefix == keys.DISMISSED:
                facts.dismissed = value
            else:
                {keys.CLAIM: facts.claims, keys.BEAT: facts.beats, keys.END: facts.ends}[prefix][int(n)] = value
    return there


def _stands(id: str, request: Mapping[str, Any], before: Place | None, end: Place | None) -> bool:
    place = Place.of(milliseconds(parse_moment(request["posted_at"])), id)
    return (before is None or place < before) and (end is None or place >= end)


def _age(entry: tuple[str, JobFacts]) -> tuple[datetime, int, str]:
    """As `Job.age`, of a job that is not folded yet."""
    id, facts = entry
    return parse_moment(facts.job["posted_at"]), generation_of(id), id


def _facts_of_job(id: str) -> tuple[str, ...]:
    """How all facts of one job begin; so may those of another one whose id begins as this one does."""
    parts = (keys.claim(id, ""), keys.beat(id, ""), keys.end(id, ""))
    return (keys.job(id), *parts, keys.cancel(id), keys.gone(id), keys.dismissed(id))
