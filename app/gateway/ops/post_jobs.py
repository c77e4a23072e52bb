"""Posts jobs for callers: who may, in whose name, and who is sent to work on them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request
from loguru import logger

from app.gateway.auth.keys import Caller
from app.gateway.ops.context import OpsContext
from app.gateway.ops.ledger_pool import LedgerPool
from app.logs import request_of_lines
from jobs.access.acts import act_of
from jobs.access.audit_line import Act
from jobs.access.keys.key_words import ADMIN, CHAT
from jobs.cli.job_commands import subject_of
from jobs.core.errors import Forbidden, NotFound, Refused, StoreTrouble, Trouble
from jobs.core.model_name import ModelName
from jobs.core.units import counted
from jobs.ledger import dead_letters
from jobs.ledger.job import Job, Posted
from jobs.ledger.kinds import ALL, JobRequest, kind_named
from jobs.ledger.ledger import Ledger
from jobs.ledger.reader import LedgerReader
from jobs.listing.dead_memory import known_jobs


def reader(request: Request) -> Caller:
    """Whoever may read."""
    caller: Caller = request.state.caller
    caller.need(CHAT, ADMIN)
    return caller


def changer(request: Request) -> Caller:
    """Whoever may change something. Who may not, and tried to, is written down."""
    caller: Caller = request.state.caller
    try:
        caller.need(ADMIN)
    except Forbidden as refusal:
        if (act := act_of(request.method, request.url.path)) is not None:
            request.app.state.audit.refused(
                who=caller.name, request=request_of_lines.get(), act=act, subject="", error=refusal
            )
        raise
    return caller


MayRead = Annotated[Caller, Depends(reader)]
MayChange = Annotated[Caller, Depends(changer)]


def sees_use(caller: Caller, key: str | None, model: str | None) -> bool:
    """Whether a caller is told of a use: of his own always, as an administrator of others' within his models."""
    return key == caller.name or (caller.may(ADMIN) and caller.may_name(model or ""))


AT_ONCE = 50
"""Jobs of a group that one request changes: on a platform each is some writes over the network."""


@dataclass(frozen=True)
class ChangedJobs:
    """What was done with a group of jobs.

    Args:
        changed: with how many it was done.
        left: how many are left for another time.
        refused: why not with the others, by their ids.

    """

    changed: int
    left: int
    refused: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        refused = [{"id": id, "error": why} for id, why in self.refused.items()]
        return {"changed": self.changed, "left": self.left, "refused": refused}


@dataclass(frozen=True)
class Poster:
    """All of it raises Forbidden when the key may not use the model; of a pull, Unlisted when its registry is not."""

    ops_context: OpsContext
    ledger_pool: LedgerPool

    async def post(
        self, caller: Caller, kind: str, model: str | None, attempts: int | None = None, **parameters: Any
    ) -> Posted:
        """Post a job about a model, or about all of them; one that is under way is shared.

        Raises:
            NotFound: it needs a model that is neither here nor being pulled.

        """
        with self._may_refuse(caller, kind, model or ALL):
            request = self._request(caller, kind, model, parameters)

        def post(ledger: Ledger) -> Posted:
            with self._may_refuse(caller, kind, request.subject):
                self._need_here(caller, ledger, request)
            with self._act(caller, kind, request.subject) as act:
                posted = ledger.post(*request, by=caller.name, attempts=attempts)
                act.posted(posted.job.id, attached=posted.attached)
            return self._send_worker(posted)

        return await self.ledger_pool.do(post)

    async def check(self, caller: Caller, kind: str, model: str | None, **parameters: Any) -> None:
        """Raise what `post` would, and post nothing."""
        request = self._request(caller, kind, model, parameters)
        await self.ledger_pool.do(lambda ledger: self._need_here(caller, ledger, request))

    def _request(self, caller: Caller, kind: str, model: str | None, parameters: Mapping[str, Any]) -> JobRequest:
        name = None if model is None else ModelName.parse(model)
        caller.need_model(name)
        self._need_registry(kind, name)
        defaults = {"rate_limit": self.ops_context.rate_limit}
        return kind_named(kind, self.ops_context.kinds).request(model, parameters, defaults)

    def _need_here(self, caller: Caller, ledger: Ledger, request: JobRequest) -> None:
        kind = kind_named(request.kind, self.ops_context.kinds)
        if kind.needs == "nothing" or request.subject == ALL:
            return
        absent = self.ops_context.absent(kind, ModelName.parse(request.request["model"]), caller.may_use)
        if absent is not None and not ledger.reader.is_coming(request.subject):
            raise absent

    async def retry(self, caller: Caller, id: str, *, anyway: bool = False) -> Posted:
        """Post an ended job again, archived or not.

        Raises:
            Refused: it takes weights away that something else changed since, and it is not to be done `anyway`.

        """

        def retry(ledger: Ledger) -> Posted:
            with self._may_refuse(caller, "retry", id):
                job = find_job(ledger.reader, self.ops_context, caller, id)
                self._need_registry(job.kind, model_of(job))
            with self._act(caller, "retry", subject_of(job)) as act:
                if job.has_ended:
                    posted = ledger.again(job, by=caller.name, anyway=anyway)
                else:
                    posted = ledger.retry(id, by=caller.name)
                act.posted(posted.job.id, attached=posted.attached)
            return self._send_worker(posted)

        return await self.ledger_pool.do(retry)

    async def cancel(self, caller: Caller, id: str) -> Job:
        """Ask a job to stop; one that has ended, archived or not, stays as it is."""

        def cancel(ledger: Ledger) -> Job:
            with self._may_refuse(caller, "cancel", id):
                job = find_job(ledger.reader, self.ops_context, caller, id)
            with self._act(caller, "cancel", subject_of(job)) as act:
                act.about(subject_of(job), job=id)
                return job if job.has_ended else ledger.cancel(id, by=caller.name)

        return await self.ledger_pool.do(cancel)

    async def dismiss(self, caller: Caller, id: str) -> Job:
        """Hear no more of a job that failed for good."""

        def dismiss(ledger: Ledger) -> Job:
            with self._may_refuse(caller, "dismiss", id):
                job = find_job(ledger.reader, self.ops_context, caller, id)
            with self._act(caller, "dismiss", subject_of(job)) as act:
                act.about(subject_of(job), job=id)
                return ledger.dismiss(id, by=caller.name)

        return await self.ledger_pool.do(dismiss)

    async def retry_group(self, caller: Caller, kind: str, failure_class: str) -> ChangedJobs:
        """Post the dead letters of a kind and class again, `AT_ONCE` at a time.

        Raises:
            Refused: jobs of this kind take weights away, and are posted again one by one.

        """
        with self._may_refuse(caller, "retry", f"all: {kind} {failure_class}"):
            if kind_named(kind, self.ops_context.kinds).takes_away:
                raise Refused(
                    f"a {kind} takes weights away, so it is never posted again among others",
                    hint="one by one: `ollama-modal jobs --dead`, then `ollama-modal retry ID`",
                )

        def again(ledger: Ledger, job: Job) -> None:
            self._need_registry(job.kind, model_of(job))
            self._send_worker(ledger.again(job, by=caller.name))

        return await self._change_group(caller, "retry", kind, failure_class, again)

    async def dismiss_group(self, caller: Caller, kind: str, failure_class: str) -> ChangedJobs:
        """Hear no more of the dead letters of a kind and class, `AT_ONCE` at a time."""
        with self._may_refuse(caller, "dismiss", f"all: {kind} {failure_class}"):
            kind_named(kind, self.ops_context.kinds)
        return await self._change_group(
            caller, "dismiss", kind, failure_class, lambda ledger, job: ledger.dismiss(job.id, by=caller.name)
        )

    async def _change_group(
        self, caller: Caller, act: str, kind: str, failure_class: str, change: Callable[[Ledger, Job], object]
    ) -> ChangedJobs:
        """Change as many as a request has time for. What was changed is no dead letter any more."""
        kinds = self.ops_context.kinds

        def change_some(ledger: Ledger) -> ChangedJobs:
            dead = known_jobs(ledger.reader, self.ops_context.clock.now(), kinds=kinds).dead
            jobs = [job for job in dead if (job.kind, dead_letters.class_of(job)) == (kind, failure_class)]
            jobs = [job for job in jobs if not caller.models or caller.may_see(model_of(job))]
            of_group = f"all: {kind} {failure_class}"
            with self._act(caller, act, of_group) as doing:
                done = _change_some(ledger, jobs, change)
                doing.about(f"{of_group}, {counted(done.changed, 'job')}")
            return done

        return await self.ledger_pool.do(change_some)

    def _act(self, caller: Caller, act: str, subject: str) -> AbstractContextManager[Act]:
        """Do something for a caller, by the request that is answered, and write it down."""
        request = request_of_lines.get()
        return self.ops_context.audit.act(who=caller.name, request=request, act=act, subject=subject)

    @contextmanager
    def _may_refuse(self, caller: Caller, act: str, subject: str) -> Iterator[None]:
        """See whether it may be done: a refusal is written down, and costs nobody a trip."""
        try:
            yield
        except StoreTrouble:  # nothing was refused, and nothing could be written
            raise
        except Trouble as refusal:
            self.ops_context.audit.refused(
                who=caller.name, request=request_of_lines.get(), act=act, subject=subject, error=refusal
            )
            raise

    def _need_registry(self, kind: str, name: ModelName | None) -> None:
        if kind == "pull" and name is not None:
            self.ops_context.registries.need(name)

    def _send_worker(self, posted: Posted) -> Posted:
        """One that cannot be sent now loses nothing: the next sweep sends again."""
        job = posted.job
        logger.info("job {} {}: {} {}", job.id, "joined" if posted.attached else "posted", job.kind, job.subject)
        if not job.has_ended:
            try:
                self.ops_context.send_worker(job.lane)
            except Exception as error:  # noqa: BLE001 - the job is posted, whatever the platform says now
                logger.warning("lane {} could not be sent a worker: {}: {}", job.lane, type(error).__name__, error)
        return posted


def _change_some(ledger: Ledger, jobs: Sequence[Job], change: Callable[[Ledger, Job], object]) -> ChangedJobs:
    changed = 0
    refused: dict[str, str] = {}
    for tried, job in enumerate(jobs):
        if changed == AT_ONCE or len(refused) == AT_ONCE:
            return ChangedJobs(changed, len(jobs) - tried, refused)
        try:
            change(ledger, job)
            changed += 1
        except Refused as no:
            refused[job.id] = str(no)
    return ChangedJobs(changed, 0, refused)


def model_of(job: Job) -> ModelName | None:
    """The model that a job is about; None when it is about all of them."""
    return model_about(job.subject)


def model_about(subject: str) -> ModelName | None:
    """The model that a subject is; None when it is all of them."""
    return None if subject == ALL else ModelName.parse(subject)


def find_job(ledger: LedgerReader, ops_context: OpsContext, caller: Caller, id: str) -> Job:
    """The job of this id, archived ones among them.

    Raises:
        NotFound: there is none.
        Forbidden: it is about a model that the key may not use.

    """
    try:
        job = ledger.get(id)
    except NotFound:
        old = ops_context.archive.find(id)
        if old is None:
            raise
        job = old
    caller.need_model(model_of(job))
    return job
