"""What a person does with jobs, over one ledger: post, follow, list, tell, cancel, retry, dismiss.

The command line of one machine and that of a deployment are both thin fronts of these, so that words and exit codes
are the same wherever the ledger is kept. It runs no job.
Exit codes: 0 done, 1 the work failed, 2 the call was wrong, 130 interrupted.
"""

import getpass
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from jobs.access.audit_line import Act, not_written
from jobs.batches.records import OVER
from jobs.cli.follow import POLL_EVERY, follow
from jobs.cli.interrupt import INTERRUPTED, Interruptible
from jobs.cli.output import complain, confirmed, put, put_json, put_table, say, show
from jobs.cli.terminal.table import GiveWay
from jobs.core.clock import Clock
from jobs.core.errors import BadRequest, NotFound, Refused, StoreTrouble, Trouble, Unauthorized
from jobs.core.model_name import ModelName
from jobs.core.sanitize import plain
from jobs.core.since import parse_since
from jobs.core.units import counted, local_time
from jobs.ledger import dead_letters
from jobs.ledger.all_jobs import JobFilter
from jobs.ledger.job import Job, JobState, Posted
from jobs.ledger.job_text import remedy, result_text, share, story, trouble
from jobs.ledger.kinds import ALL, JobRequest, Kind, kind_named

if TYPE_CHECKING:
    from jobs.home.status import ModelsFound

LISTED = 20
"""Jobs that fit on a screen."""


_JOBS_GIVE_WAY = (
    GiveWay("REMARK", 30),
    GiveWay("POSTED", lambda moment: moment[5:16]),
    GiveWay("REMARK", 12),
    GiveWay("MODEL", 24, "middle"),
    GiveWay("REMARK", "left out"),
    GiveWay("TRIES", "left out"),
    GiveWay("POSTED", lambda moment: moment[:5]),
    GiveWay("MODEL", 16, "middle"),
    GiveWay("POSTED", "left out"),
    GiveWay("DONE", "left out"),
    GiveWay("MODEL", 8, "middle"),
)
"""An id is typed again, and the kind, the model and the state say what it is; the rest is a `job ID` away."""

_PLAN_GIVES_WAY = (GiveWay("WHAT", 24, "middle"),)

_MODELS_GIVE_WAY = (
    GiveWay("MODIFIED", lambda moment: moment[:10]),
    GiveWay("FAMILY", "left out"),
    GiveWay("MODIFIED", "left out"),
    GiveWay("DIGEST", "left out"),
    GiveWay("QUANTISATION", "left out"),
    GiveWay("PARAMETERS", "left out"),
    GiveWay("NAME", 16, "middle"),
)
"""A name is typed again; `show NAME` tells the rest."""


class Preview(Protocol):
    """What would be done: a prune's plan, or a night's."""

    @property
    def notes(self) -> tuple[str, ...]: ...
    @property
    def summary(self) -> str: ...
    def rows(self) -> Iterable[tuple[str, str, str, str]]: ...
    def as_json(self) -> dict[str, Any]: ...


LONG_AGO = datetime.min.replace(tzinfo=UTC)


def nothing(_: Job) -> None:
    """Send no worker: those here wait at the queue."""


def no_archive(_: datetime) -> Iterable[Job]:
    """Nothing ever leaves the ledger."""
    return ()


def no_refusal(_: Kind, __: ModelName) -> Trouble | None:
    """Whoever keeps the jobs refuses by himself, or nobody does."""
    return None


class JobsReader(Protocol):
    """What the commands read of the jobs."""

    def get(self, id: str) -> Job: ...
    def ids(self, begin: str = "") -> list[str]: ...
    def select(
        self,
        *,
        kind: str | None = None,
        state: str | None = None,
        since: datetime | None = None,
        limit: int | None = None,
    ) -> tuple[list[Job], int | None]: ...
    def is_coming(self, subject: str) -> bool: ...


class Jobs(Protocol):
    """What the commands ask of the jobs: of a ledger at hand, or of a gateway that has one."""

    @property
    def reader(self) -> JobsReader: ...
    def post(
        self, kind: str, subject: str, request: Mapping[str, Any], *, by: str, attempts: int | None = None
    ) -> Posted: ...
    def retry(self, id: str, *, by: str, anyway: bool = False) -> Posted: ...
    def again(self, job: Job, *, by: str, anyway: bool = False) -> Posted: ...
    def cancel(self, id: str, *, by: str) -> Job: ...
    def dismiss(self, id: str, *, by: str) -> Job: ...


@dataclass(frozen=True)
class JobCommands:
    """The commands about jobs, each of which returns the code to exit with.

    Args:
        ledger: where the jobs stand: a ledger, or a gateway that has one.
        clock: the reader's.
        is_worked: whether anybody works the queue.
        idle: what is said when nobody does, and what to do about it.
        log: where the workers' log is.
        posted: told of each job that was posted or joined, so that somebody may be sent to work on it.
        archived: the jobs that have left the ledger, of those posted since a moment.
        archived_begin: those whose id begins so; where left out, all of them are looked at.
        listed: so many of the newest jobs that fit, archived ones among them, and how many there are in all, None for
            more than these; where left out, the ledger is asked, and `archived` where the list has a beginning.
        dead: the dead letters, where these can be had without all jobs.
        worded: turns the commands of `ollama-modal` in a text into those of this place.
        defaults: of parameters that are left out, by name.
        poll_every: how often a job that is followed is read.
        refusal: why a job of a kind about a model would come to nothing; None when it may come to something.
        refuses_itself: whoever keeps the jobs refuses such a one as it is posted; it is asked first only of several.
        confirmed: whether the person who asked says yes to a question.
        acts: has it written down that the person does something, of a kind and to something; not where the gateway
            that it is asked of does.

    """

    ledger: Jobs
    clock: Clock
    is_worked: Callable[[], bool]
    idle: tuple[str, str]
    log: str
    posted: Callable[[Job], None] = nothing
    archived: Callable[[datetime], Iterable[Job]] = no_archive
    archived_begin: Callable[[str], Iterable[Job]] | None = None
    listed: Callable[[JobFilter, int | None], tuple[Sequence[Job], int | None]] | None = None
    dead: Callable[[], Sequence[Job]] | None = None
    worded: Callable[[str], str] = str
    defaults: Callable[[], Mapping[str, Any]] = dict
    poll_every: timedelta = POLL_EVERY
    refusal: Callable[[Kind, ModelName], Trouble | None] = no_refusal
    refuses_itself: bool = False
    confirmed: Callable[[str], bool] = confirmed
    acts: Callable[[str, str], AbstractContextManager[Act]] = not_written

    @property
    def reader(self) -> JobsReader:
        return self.ledger.reader

    @property
    def now(self) -> datetime:
        """In the zone of the person who reads."""
        return self.clock.now().astimezone()

    # -- posting -------------------------------------------------------------------------------------------------------

    def post(
        self, kind: Kind, models: Sequence[str] = (), *, wait: bool, attempts: int | None, json: bool, **typed: Any
    ) -> int:
        """Post a job of this kind about each of these models, or share those that are under way; about all for none.

        With the parameters that a person typed. A name that makes no sense posts nothing, whichever of them it is.
        """
        jobs = self._posted(kind, models, attempts=attempts, typed=typed)
        return self._see_through(jobs, wait, json, is_list=len(models) > 1)

    def bring(self, kind: Kind, model: str) -> int:
        """Post a job of this kind about a model, or share one that is under way, and follow it; all in talk."""
        ended = self._followed([job.id for job in self._posted(kind, [model], attempts=None, typed={})])
        return INTERRUPTED if ended is None else max(self._conclude(job, json=True) for job in ended)

    def _posted(
        self, kind: Kind, models: Sequence[str], *, attempts: int | None, typed: Mapping[str, Any]
    ) -> list[Job]:
        if attempts is not None and attempts < 1:
            raise BadRequest(f"--attempts {attempts} makes no sense", hint="at least 1")
        parameters, defaults = kind.read(typed), self.defaults()
        requests: dict[str, JobRequest] = {}
        for model in models or (None,):
            request = kind.request(model, parameters, defaults)
            requests.setdefault(request.subject, request)  # what is named twice is one
        if len(requests) > 1 or not self.refuses_itself:
            for request in requests.values():
                self._need_sense(kind, request.subject)
        jobs = []
        for request in requests.values():
            with self.acts(kind.name, request.subject) as act:
                posted = self.ledger.post(*request, by=who(), attempts=attempts)
                act.posted(posted.job.id, attached=posted.attached)
            without = kind.without_effect(request.request, posted.job.request)
            if posted.attached and without:
                say(f"note: it goes on as it was first asked for; {', '.join(without)} has no effect now")
            jobs.append(self._announced(posted))
        return jobs

    def _need_sense(self, kind: Kind, subject: str) -> None:
        """Insist that a job can come to something: a typo is no failed job, and no alarm."""
        refusal = None if subject == ALL else self.refusal(kind, ModelName.parse(subject))
        if refusal is None:
            return
        if kind.needs == "nothing" or not self.reader.is_coming(subject):
            raise refusal

    def retry(
        self,
        id: str = "",
        *,
        wait: bool,
        every: bool = False,
        failure_class: str | None = None,
        yes: bool = False,
        anyway: bool = False,
        json: bool,
    ) -> int:
        """Post an ended job again, exactly as it was posted; or every one that failed for good, of a class or not.

        What takes weights away is posted by its id alone; after something else changed those weights, only `anyway`.
        """
        if bool(id) == every:
            raise BadRequest("name one job, or say --all", hint="`ollama-modal jobs --dead` shows what has failed")
        if every:
            if anyway:
                raise BadRequest("--anyway goes with the id of one job", hint="`ollama-modal retry ID --anyway`")
            return self._retry_all(failure_class, yes=yes, json=json)
        if failure_class is not None:
            raise BadRequest("--class goes with --all", hint="`ollama-modal retry --all --class network`")
        job = self.find(id)
        with self.acts("retry", subject_of(job)) as act:
            again = self.ledger.again if job.has_ended else None
            retry = again(job, by=who(), anyway=anyway) if again else self.ledger.retry(id, by=who())
            act.posted(retry.job.id, attached=retry.attached)
        return self._see_through([self._announced(retry)], wait, json, is_list=False)

    def _retry_all(self, failure_class: str | None, *, yes: bool, json: bool) -> int:
        """Nobody is followed."""
        failed = dead_letters.of_class(self._dead(), failure_class)
        chosen = [job for job in failed if not dead_letters.takes_away(job)]
        for job in failed:
            if job in chosen:
                say(f"to post again: {job.kind} {job.subject}")
            else:
                alone = self.worded(f"`ollama-modal retry {job.id}`")
                say(f"left out, because it takes weights away: {job.kind} {job.subject}; by itself: {alone}")
        if chosen and not yes and not self.confirmed(f"post {len(chosen):,} again?"):
            say("nothing was posted")
            return 1
        again: list[Job] = []
        if chosen:
            with self.acts("retry", f"all: {failure_class or 'any class'}, {counted(len(chosen), 'job')}"):
                again = [self.ledger.again(job, by=who()).job for job in chosen]
        for job in again:
            self.posted(job)
        show([job.as_json() for job in again], [job.id for job in again], json=json)
        say(f"posted {len(again):,} again" if again else "no such job has failed; there is nothing to retry")
        if again:
            self._warn_if_idle()
        return 0

    def _announced(self, posted: Posted) -> Job:
        """The job, once it is said that it is posted, and a worker is sent."""
        job = posted.job
        if posted.attached:
            say(f"following the {job.kind} of {job.subject} that is already under way, job {job.id}")
        else:
            say(f"posted job {job.id}: {job.kind} {job.subject}")
        self.posted(job)
        return job

    def _see_through(self, jobs: Sequence[Job], wait: bool, json: bool, *, is_list: bool) -> int:
        """Follow the jobs that were posted, or say how to; 1 if one of them failed."""
        if wait:
            ended = self._followed([job.id for job in jobs])
            if ended is None:
                return INTERRUPTED
            if json:
                put_json([job.as_json() for job in ended] if is_list else ended[0].as_json())
            return max(self._conclude(job, json) for job in ended)
        documents = [job.as_json() for job in jobs]
        show(documents if is_list else documents[0], [job.id for job in jobs], json=json)
        self._warn_if_idle()
        return 0

    def _warn_if_idle(self) -> None:
        if not self.is_worked():
            for line in self.idle:
                say(line)

    def _followed(self, ids: Sequence[str]) -> list[Job] | None:
        """The jobs once they have ended; None when whoever followed them left."""
        try:
            with Interruptible():
                return follow(
                    ids,
                    self.reader.get,
                    clock=self.clock,
                    is_worked=self.is_worked,
                    idle=self.idle,
                    every=self.poll_every,
                    worded=self.worded,
                )
        except KeyboardInterrupt:
            say()
            for id in ids:
                say(f"job {id} goes on without you")
            id = ids[0] if len(ids) == 1 else "ID"
            again = f"follow it again: `ollama-modal job {id} --follow`; or end it: `ollama-modal cancel {id}`"
            say(f"hint: {self.worded(again)}")
            return None

    def _conclude(self, job: Job, json: bool) -> int:
        """Say how the job ended; the exit code for it."""
        match job.state:
            case JobState.SUCCEEDED:
                if not json:
                    put(f"{job.kind} done: {result_text(job)}")
                return 0
            case JobState.CANCELLED:
                say(f"cancelled: {job.kind} of {job.subject}, job {job.id}")
            case _:
                last = job.attempts[-1]
                say(f"error: the {job.kind} of {job.subject} failed: {trouble(last)}")
                if last.hint:
                    say(f"hint: {self.worded(plain(last.hint))}")
                say(f"hint: {self.worded(plain(remedy(job)))}")
                say(f"hint: {self.worded(f'the whole story: `ollama-modal job {job.id}`')}; the log: {self.log}")
        return 1

    # -- about jobs ----------------------------------------------------------------------------------------------------

    def list_jobs(
        self,
        *,
        state: str | None = None,
        kind: str | None = None,
        since: str | None = None,
        limit: int = LISTED,
        dead: bool = False,
        json: bool,
    ) -> int:
        """List the newest jobs of a state and a kind; or `dead` ones with what to do about them, whatever they are."""
        if limit < 0:
            raise BadRequest(f"--limit {limit} makes no sense", hint="at least 1, or 0 for all")
        began = parse_since(since, "--since", self.clock.now()) if since is not None else None
        if dead:
            return self._list_dead(began, json=json)
        if state is not None and state not in set(JobState):
            raise BadRequest(f"there is no state {state!r}", hint=f"states are {', '.join(JobState)}")
        if kind is not None:
            kind_named(kind)
        jobs, count = self._chosen(state, kind, limit or None, began)
        if json:
            put_json([job.as_json() for job in jobs])
        elif jobs:
            head = ("JOB", "KIND", "MODEL", "STATE", "DONE", "TRIES", "POSTED", "REMARK")
            put_table(head, [self._row(job) for job in jobs], _JOBS_GIVE_WAY)
        else:
            say("no jobs" if (state, kind, since) == (None, None, None) else "no such jobs")
        if count is None:
            say("there are more; --limit 0 lists all")
        elif count > len(jobs):
            say(f"{count - len(jobs):,} more; --limit 0 lists all")
        return 0

    def _list_dead(self, began: datetime | None, *, json: bool) -> int:
        """The jobs that failed for good, by the class of their failure, with the likely remedy."""
        jobs = dead_letters.dead(self.since(began)) if began else self._dead()
        show([job.as_json() for job in jobs], map(self.worded, dead_letters.lines(jobs, self.now)), json=json)
        if not jobs:
            say("no job has failed for good")
        return 0

    def _dead(self) -> list[Job]:
        """The jobs that failed for good, as far as the ledger has them, the newest first."""
        return dead_letters.dead(self.reader.select()[0]) if self.dead is None else list(self.dead())

    def _chosen(
        self, state: str | None, kind: str | None, limit: int | None, began: datetime | None
    ) -> tuple[Sequence[Job], int | None]:
        """The newest jobs of that state and kind, and how many there are in all; None for more than these."""
        if self.listed is not None:
            states = frozenset({JobState(state)} if state else ())
            return self.listed(JobFilter(kind, since=began, states=states), limit)
        if began is None:
            return self.reader.select(state=state, kind=kind, limit=limit)
        jobs = [job for job in self.since(began) if state in {None, job.state} and kind in {None, job.kind}]
        return jobs[:limit], len(jobs)

    def since(self, began: datetime) -> list[Job]:
        """The jobs that were posted since then, newest first, whether they are in the ledger or archived."""
        jobs = {job.id: job for job in self.archived(began)}
        jobs |= {job.id: job for job in self.reader.select(since=began)[0]}
        return sorted(jobs.values(), key=lambda job: job.posted_at, reverse=True)

    def _row(self, job: Job) -> tuple[object, ...]:
        last = job.attempts[-1] if job.attempts else None
        remark = trouble(last) if last is not None and last.failure_class else ""
        tries = f"{len(job.attempts)}/{job.attempts_allowed}"
        short = remark if len(remark) <= 60 else f"{remark[:59]}…"
        return (job.id, job.kind, job.subject, job.state, share(job), tries, local_time(job.posted_at, self.now), short)

    def show_job(self, id: str, *, follow: bool, json: bool) -> int:
        """Tell a job's story, at its end when it is followed."""
        job = self.find(id)
        if follow and not job.has_ended:
            ended = self._followed([job.id])
            if ended is None:
                return INTERRUPTED
            job = ended[0]
        show(job.as_json(), map(self.worded, story(job, self.now)), json=json)
        return 1 if follow and job.state is not JobState.SUCCEEDED else 0

    def cancel(self, id: str, *, json: bool) -> int:
        before = self.find(id)
        job = before
        if not before.has_ended:
            with self.acts("cancel", subject_of(before)) as act:
                act.about(subject_of(before), job=before.id)
                job = self.ledger.cancel(before.id, by=who())
        if json:
            put_json(job.as_json())
        if before.has_ended and before.state is not JobState.CANCELLED:
            say(f"error: job {job.id} has already {job.state}; there is nothing left to cancel")
            return 1
        if job.has_ended:
            say(f"job {job.id} is cancelled")
        else:
            say(f"job {job.id} is asked to stop; its worker notices within seconds")
        return 0

    def dismiss(self, id: str, *, json: bool) -> int:
        """Hear no more of a job that failed for good."""
        found = self.find(id)
        with self.acts("dismiss", subject_of(found)) as act:
            act.about(subject_of(found), job=found.id)
            job = self.ledger.dismiss(found.id, by=who())
        if json:
            put_json(job.as_json())
        say(f"job {job.id} is dismissed: the {job.kind} of {job.subject} is nobody's trouble any more")
        return 0

    def find(self, text: str) -> Job:
        """The job of this id, or the only one whose id begins so, archived ones among them.

        Raises:
            NotFound: there is none.
            BadRequest: there are several, or nothing was named.

        """
        if not text:
            raise BadRequest("the job's id is empty", hint="`ollama-modal jobs` lists them")
        try:
            return self.reader.get(text)
        except NotFound:
            ids = sorted(self.reader.ids(text))
            old = {} if ids else {job.id: job for job in self._archived_begin(text)}
            if not ids and not old:
                raise
        if text in old:
            return old[text]
        ids = ids or sorted(old)
        if len(ids) > 1:
            shown = ", ".join(ids[:4]) + (f" and {len(ids) - 4} more" if len(ids) > 4 else "")
            raise BadRequest(f"{len(ids)} jobs begin with {text!r}", hint=f"say more of it: {shown}")
        return old.get(ids[0]) or self.reader.get(ids[0])

    def _archived_begin(self, text: str) -> Iterable[Job]:
        if self.archived_begin is not None:
            return self.archived_begin(text)
        return (job for job in self.archived(LONG_AGO) if job.id.startswith(text))

    # -- what is there -------------------------------------------------------------------------------------------------

    def show_preview(self, preview: Preview, *, json: bool) -> int:
        """Show what would be done."""
        if json:
            put_json(preview.as_json())
            return 0
        rows = list(preview.rows())
        if rows:
            put_table(
                ("DO", "WHAT", "SIZE", "WHY"), [tuple(map(plain, row)) for row in rows], _PLAN_GIVES_WAY, folds=True
            )
        for note in preview.notes:
            say(f"note: {self.worded(plain(note))}")
        say(preview.summary)
        return 0

    def list_models(self, models: "ModelsFound", *, json: bool) -> int:
        """Show what a models directory holds."""
        if json:
            put_json([each.as_json() for each in models.models])
        elif models.models:
            head = ("NAME", "SIZE", "DIGEST", "MODIFIED", "FAMILY", "PARAMETERS", "QUANTISATION")
            put_table(head, [each.row(self.now) for each in models.models], _MODELS_GIVE_WAY)
        else:
            say(f"no models in {models.where}")
        if not json:
            for alias in models.patterns:
                say(f"{alias.text} is {alias.target}")
        for line in models.complaints:
            say(self.worded(line))
        return 0


class Cancelling(Protocol):
    """Batches that can be asked to end."""

    def get(self, id: str) -> Mapping[str, Any]: ...
    def cancel(self, id: str) -> Mapping[str, Any]: ...


def cancel_batch(batches: Cancelling, id: str, *, json: bool) -> int:
    """Ask a batch to end."""
    before = batches.get(id)
    has_ended = before["status"] in OVER
    batch = before if has_ended else batches.cancel(id)
    if json:
        put_json(batch)
    if has_ended and before["status"] != "cancelled":
        say(f"error: batch {id} has already {before['status']}; there is nothing left to cancel")
        return 1
    is_over = batch["status"] == "cancelled"
    say(f"batch {id} is cancelled" if is_over else f"batch {id} is asked to end; what is done of it stays")
    return 0


def subject_of(job: Job) -> str:
    """What is done to a job, as the line of that says it."""
    return f"{job.kind} {job.subject}"


def who() -> str:
    """Who is asking, for the record."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that has no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def exit_code(work: Callable[[], int], worded: Callable[[str], str] = str) -> int:
    """Do the work of a command; what went wrong becomes words and a code."""
    try:
        return work()
    except StoreTrouble as error:  # also one that is refused: nothing was wrong with the call
        complain(error, worded)
        return 1
    except (Refused, NotFound, Unauthorized) as error:
        complain(error, worded)
        return 2
    except Trouble as error:
        complain(error, worded)
        return 1
