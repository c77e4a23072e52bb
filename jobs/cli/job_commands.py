"""What a person does with jobs, over one ledger: post, follow, list, tell, cancel, retry.

The command line of one machine and that of a deployment are both thin fronts of a desk, so that
words and exit codes are the same wherever the ledger is kept. It runs no job.
Exit codes: 0 done, 1 the work failed, 2 the call was wrong, 130 interrupted.
"""

import getpass
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from jobs.cli.follow import LOOK_EVERY, follow
from jobs.cli.output import complain, put, put_json, put_table, say
from jobs.core.clock import Clock
from jobs.core.errors import BadRequest, NotFound, Refused, StoreTrouble, Trouble, Unauthorized
from jobs.core.model_name import ModelName
from jobs.core.sanitize import plain
from jobs.core.units import parse_bytes, parse_span
from jobs.ledger.dead_letters import dead, lines, of_class
from jobs.ledger.job import KINDS, Job, JobState
from jobs.ledger.job_text import moment, remedy, result, share, story, trouble
from jobs.ledger.ledger import Posted

if TYPE_CHECKING:
    from jobs.home.status import ModelsFound

WAYS = ("auto", "registry", "server")
INTERRUPTED = 130
LISTED = 20
"""Jobs that fit on a screen."""

MOST_DAYS = 3650


class Outlook(Protocol):
    """What would be done: a prune's plan, or a night's."""

    @property
    def notes(self) -> tuple[str, ...]: ...
    @property
    def summary(self) -> str: ...
    def rows(self) -> Iterable[tuple[str, str, str, str]]: ...
    def as_json(self) -> dict[str, Any]: ...


def prune_request(unused_days: float | None, empty_trash: bool) -> dict[str, Any]:
    """How a prune is asked for, dry or real.

    Raises:
        BadRequest: so many days make no sense.

    """
    if unused_days is not None and not 0 < unused_days <= MOST_DAYS:
        raise BadRequest(f"--unused-days {unused_days:g} makes no sense", hint=f"more than 0, at most {MOST_DAYS}")
    return {"unused_days": unused_days, "empty_trash": empty_trash or None}


LONG_AGO = datetime.min.replace(tzinfo=UTC)


def nothing(_: Job) -> None:
    """Nobody has to be told."""


def no_archive(_: datetime) -> Iterable[Job]:
    """Nothing ever leaves the ledger."""
    return ()


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
    ) -> tuple[list[Job], int]: ...


class Jobs(Protocol):
    """What the commands ask of the jobs: of a ledger at hand, or of a gateway that has one."""

    @property
    def reader(self) -> JobsReader: ...
    def post(
        self, kind: str, subject: str, request: Mapping[str, Any], *, by: str, attempts: int | None = None
    ) -> Posted: ...
    def retry(self, id: str, *, by: str) -> Posted: ...
    def again(self, job: Job, *, by: str) -> Posted: ...
    def cancel(self, id: str, *, by: str) -> Job: ...


@dataclass(frozen=True)
class JobCommands:
    """Jobs, and how the place around them is called.

    Args:
        ledger: where the jobs stand: a ledger, or a gateway that has one.
        clock: the reader's.
        is_worked: whether anybody works the queue.
        idle: what is said when nobody does, and what to do about it.
        log: where the workers' log is.
        posted: told of each job that was posted or joined, so that somebody may be sent to work on it.
        archived: the jobs that have left the ledger, of those posted since a moment.
        worded: turns the commands of `ollama-modal` in a text into those of this place.
        rate_limit: bytes per second for a pull that names none.
        look_every: how often a job that is followed is looked at.

    """

    ledger: Jobs
    clock: Clock
    is_worked: Callable[[], bool]
    idle: tuple[str, str]
    log: str
    posted: Callable[[Job], None] = nothing
    archived: Callable[[datetime], Iterable[Job]] = no_archive
    worded: Callable[[str], str] = str
    rate_limit: int | None = None
    look_every: timedelta = LOOK_EVERY

    @property
    def reader(self) -> JobsReader:
        return self.ledger.reader

    @property
    def now(self) -> datetime:
        """In the zone of the person who reads."""
        return self.clock.now().astimezone()

    # -- posting -------------------------------------------------------------------------------------------------------

    def pull(
        self, model: str, *, wait: bool, way: str, rate_limit: str | None, attempts: int | None, json: bool
    ) -> int:
        name = ModelName.parse(model)
        if way not in WAYS:
            raise BadRequest(f"there is no way to pull called {way!r}", hint=f"ways are {', '.join(WAYS)}")
        limit = parse_bytes(rate_limit, "--rate-limit") if rate_limit is not None else self.rate_limit
        request = {"model": model, "way": way, "rate_limit": limit}
        return self._see_through(self._post("pull", str(name.folded()), request, attempts), wait, json)

    def verify(self, model: str | None, *, wait: bool, attempts: int | None, json: bool) -> int:
        subject = str(ModelName.parse(model).folded()) if model is not None else "*"
        return self._see_through(self._post("verify", subject, {"model": model}, attempts), wait, json)

    def warm(self, model: str, *, tier: str | None, wait: bool, attempts: int | None, json: bool) -> int:
        request = {"model": model, "tier": tier}
        return self._see_through(
            self._post("warm", str(ModelName.parse(model).folded()), request, attempts), wait, json
        )

    def delete(self, model: str, *, wait: bool, attempts: int | None, json: bool) -> int:
        name = ModelName.parse(model)
        return self._see_through(self._post("delete", str(name.folded()), {"model": model}, attempts), wait, json)

    def prune(self, request: Mapping[str, Any], *, wait: bool, attempts: int | None, json: bool) -> int:
        """Post a prune; `prune_request` words it."""
        return self._see_through(self._post("prune", "*", request, attempts), wait, json)

    def rollback(self, model: str, *, wait: bool, attempts: int | None, json: bool) -> int:
        name = ModelName.parse(model)
        return self._see_through(self._post("rollback", str(name.folded()), {"model": model}, attempts), wait, json)

    def retry(self, id: str, *, wait: bool, json: bool) -> int:
        job = self.named(id)
        posted = self.ledger.again(job, by=who()) if job.has_ended else self.ledger.retry(job.id, by=who())
        return self._see_through(posted, wait, json)

    def retry_all(self, failure_class: str | None, *, json: bool) -> int:
        """Post every dead letter of a class again, exactly as it was posted; nobody is followed."""
        again = [self.ledger.again(job, by=who()).job for job in of_class(self.reader.select()[0], failure_class)]
        for job in again:
            self.posted(job)
        if json:
            put_json([job.as_json() for job in again])
        else:
            for job in again:
                put(job.id)
        say(f"posted {len(again):,} again" if again else "no such job has failed; there is nothing to retry")
        if again and not self.is_worked():
            for line in self.idle:
                say(line)
        return 0

    def _post(self, kind: str, subject: str, request: Mapping[str, Any], attempts: int | None) -> Posted:
        posted = self.ledger.post(kind, subject, request, by=who(), attempts=attempts)
        first = posted.job.request
        unheard = [
            key
            for key in ("way", "rate_limit", "tier", "unused_days", "empty_trash")
            if request.get(key) not in {None, "auto", first.get(key)}
        ]
        if posted.attached and unheard:
            names = ", --".join(unheard).replace("_", "-")
            say(f"note: it goes on as it was first asked for; --{names} has no effect now")
        return posted

    def _see_through(self, posted: Posted, wait: bool, json: bool) -> int:
        """Follow the job that was posted, or say how to."""
        job = posted.job
        if posted.attached:
            say(f"following the {job.kind} of {job.subject} that is already under way, job {job.id}")
        else:
            say(f"posted job {job.id}: {job.kind} {job.subject}")
        self.posted(job)
        if wait:
            ended = self._followed(job.id)
            return INTERRUPTED if ended is None else self._conclude(ended, json)
        if json:
            put_json(job.as_json())
        else:
            put(job.id)
        if not self.is_worked():
            for line in self.idle:
                say(line)
        return 0

    def _followed(self, id: str) -> Job | None:
        """The job once it has ended; None when whoever followed it left."""
        try:
            return follow(
                lambda: self.reader.get(id),
                clock=self.clock,
                is_worked=self.is_worked,
                idle=self.idle,
                every=self.look_every,
            )
        except KeyboardInterrupt:
            say()
            say(f"job {id} goes on without you")
            again = f"follow it again: `ollama-modal job {id} --follow`; or end it: `ollama-modal cancel {id}`"
            say(f"hint: {self.worded(again)}")
            return None

    def _conclude(self, job: Job, json: bool) -> int:
        """Say how the job ended; the exit code for it."""
        if json:
            put_json(job.as_json())
        match job.state:
            case JobState.SUCCEEDED:
                if not json:
                    put(f"{job.kind} done: {result(job)}")
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

    def browse(self, *, state: str | None, kind: str | None, limit: int, json: bool, since: str | None = None) -> int:
        if state is not None and state not in set(JobState):
            raise BadRequest(f"there is no state {state!r}", hint=f"states are {', '.join(JobState)}")
        if kind is not None and kind not in KINDS:
            raise BadRequest(f"there is no kind of job {kind!r}", hint=f"kinds are {', '.join(KINDS)}")
        jobs, count = self._chosen(state, kind, limit or None, since)
        if json:
            put_json([job.as_json() for job in jobs])
        elif jobs:
            head = ("JOB", "KIND", "MODEL", "STATE", "DONE", "TRIES", "POSTED", "REMARK")
            put_table(head, [self._row(job) for job in jobs])
        else:
            say("no jobs" if (state, kind, since) == (None, None, None) else "no such jobs")
        if count > len(jobs):
            say(f"{count - len(jobs):,} more; --limit 0 lists all")
        return 0

    def dead(self, *, since: str | None, json: bool) -> int:
        """Show the jobs that failed for good, by the class of their failure, with the likely remedy."""
        jobs = self.since(self.clock.now() - parse_span(since, "--since")) if since else self.reader.select()[0]
        found = dead(jobs)
        if json:
            put_json([job.as_json() for job in found])
        for line in () if json else lines(found, self.now):
            put(self.worded(line))
        if not found:
            say("no job has failed for good")
        return 0

    def _chosen(
        self, state: str | None, kind: str | None, limit: int | None, since: str | None
    ) -> tuple[list[Job], int]:
        """The newest jobs of that state and kind, and how many there are in all."""
        if since is None:
            return self.reader.select(state=state, kind=kind, limit=limit)
        jobs = self.since(self.clock.now() - parse_span(since, "--since"))
        found = [job for job in jobs if state in {None, job.state} and kind in {None, job.kind}]
        return found[:limit], len(found)

    def since(self, began: datetime) -> list[Job]:
        """The jobs that were posted since then, newest first, whether they are in the ledger or archived."""
        found = {job.id: job for job in self.archived(began)}
        found |= {job.id: job for job in self.reader.select(since=began)[0]}
        return sorted(found.values(), key=lambda job: job.posted_at, reverse=True)

    def _row(self, job: Job) -> tuple[object, ...]:
        last = job.attempts[-1] if job.attempts else None
        remark = trouble(last) if last is not None and last.failure_class else ""
        tries = f"{len(job.attempts)}/{job.attempts_allowed}"
        short = remark if len(remark) <= 60 else f"{remark[:59]}…"
        return (job.id, job.kind, job.subject, job.state, share(job), tries, moment(job.posted_at, self.now), short)

    def tell(self, id: str, *, follow: bool, json: bool) -> int:
        job = self.named(id)
        if follow and not job.has_ended:
            ended = self._followed(job.id)
            if ended is None:
                return INTERRUPTED
            job = ended
        if json:
            put_json(job.as_json())
        else:
            for line in story(job, self.now):
                put(self.worded(line))
        return 1 if follow and job.state is not JobState.SUCCEEDED else 0

    def cancel(self, id: str, *, json: bool) -> int:
        found = self.named(id)
        job = found if found.has_ended else self.ledger.cancel(found.id, by=who())
        if json:
            put_json(job.as_json())
        if found.has_ended and found.state is not JobState.CANCELLED:
            say(f"error: job {job.id} has already {job.state}; there is nothing left to cancel")
            return 1
        if job.has_ended:
            say(f"job {job.id} is cancelled")
        else:
            say(f"job {job.id} is asked to stop; its worker notices within seconds")
        return 0

    def named(self, text: str) -> Job:
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
            found = sorted(self.reader.ids(text))
            old = {} if found else {job.id: job for job in self.archived(LONG_AGO) if job.id.startswith(text)}
            if not found and not old:
                raise
        if text in old:
            return old[text]
        found = found or sorted(old)
        if len(found) > 1:
            shown = ", ".join(found[:4]) + (f" and {len(found) - 4} more" if len(found) > 4 else "")
            raise BadRequest(f"{len(found)} jobs begin with {text!r}", hint=f"say more of it: {shown}")
        return old.get(found[0]) or self.reader.get(found[0])

    # -- what is there -------------------------------------------------------------------------------------------------

    def outlook(self, found: Outlook, *, json: bool) -> int:
        """Show what would be done."""
        if json:
            put_json(found.as_json())
            return 0
        rows = list(found.rows())
        if rows:
            put_table(("DO", "WHAT", "SIZE", "WHY"), [tuple(map(plain, row)) for row in rows])
        for note in found.notes:
            say(f"note: {self.worded(plain(note))}")
        say(found.summary)
        return 0

    def models(self, found: "ModelsFound", *, json: bool) -> int:
        """Show what was found in a models directory."""
        if json:
            put_json([each.as_json() for each in found.models])
        elif found.models:
            head = ("NAME", "SIZE", "DIGEST", "MODIFIED", "FAMILY", "PARAMETERS", "QUANTISATION")
            put_table(head, [each.row(self.now) for each in found.models])
        else:
            say(f"no models in {found.where}")
        for line in found.complaints:
            say(self.worded(line))
        return 0


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
