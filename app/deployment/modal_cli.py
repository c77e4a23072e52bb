"""What `modal run -m app.jobs::NAME` does on the caller's machine: the commands over the deployment's ledger.

Posting sends the deployed worker. With nothing deployed, the worker runs in the app of this very command, for as long
as the command follows the job.
"""

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from app.deployment import status as reports
from app.deployment.spawn_worker import spawn_worker
from app.resources import APP, GATEWAY, PLAN_PRUNE, READ_FLEET, WEIGHTS_WORKER, deployment, ledger, queue
from jobs.access.audit import Audit
from jobs.access.audit_line import Act, AuditLine
from jobs.cli.interrupt import INTERRUPTED
from jobs.cli.job_commands import JobCommands, Preview, exit_code, who
from jobs.cli.output import say, screen_width, settle_streams, show
from jobs.cli.warnings_log import log_warnings
from jobs.core.clock import Clock, SystemClock, isoformat
from jobs.core.errors import BadRequest, Killed, Refused, Trouble
from jobs.core.model_name import ModelName
from jobs.core.sanitize import plain
from jobs.core.since import parse_since
from jobs.ledger.all_jobs import JobFilter
from jobs.ledger.job import Job
from jobs.ledger.kinds import KINDS, SERVERS_LANE, WEIGHTS_LANE, Kind, with_commands
from jobs.ledger.ledger import Ledger
from jobs.ledger.reader import LedgerReader
from jobs.listing.dead_memory import KnownJobs, known_jobs, of_last_night
from jobs.listing.looks import JobLooks, listed
from jobs.models.near_names import absent
from jobs.registry.allowlist import USUAL
from jobs.store import keys

if TYPE_CHECKING:
    import modal

    from app.fleet.schema import Fleet

DEPLOY = "hint: deploy it: `modal deploy -m app.deploy`"
DEPLOYED = "Pull again, or deploy: `modal deploy -m app.deploy`"

POLL_EVERY = timedelta(seconds=1)
"""A look is four calls across the network."""

CHECK_EVERY = timedelta(seconds=5)
"""How often a worker of our own is asked after: it may have died without a word in the ledger."""

IDLE = ("nothing is deployed that could work the queue; the job waits until it is", DEPLOY)


ENTRY_POINTS = frozenset(
    {
        *(*with_commands(KINDS), "retry", "jobs", "job", "cancel", "dismiss", "models"),
        *("night", "cost", "audit", "windows", "plan", "status", "batch", "batches"),
    }
)
"""What `app.jobs` has for `modal run`."""

_COMMAND = re.compile(r"`ollama-modal (\w+)(?: ([^-\s`][^\s`]*))?([^`]*)`")
_OF_ONE_MACHINE = re.compile(r" --(fleet|url|key)\b")


def worded(text: str) -> str:
    """The commands of `ollama-modal` in a text, as they are typed here; those of one machine alone stay."""

    def ours(command: re.Match[str]) -> str:
        verb, argument, options = command.groups()
        if verb not in ENTRY_POINTS or _OF_ONE_MACHINE.search(options):
            return command[0]
        named = f" {_option(verb, argument)} {argument}" if argument else ""
        return f"`modal run -m app.jobs::{verb}{named}{options.replace(' --class', ' --failure-class')}`"

    return _COMMAND.sub(ours, text)


def _option(verb: str, argument: str) -> str:
    """The option that is an argument there."""
    if verb in with_commands(KINDS):
        return "--model"
    is_file = verb == "batch" and (argument == "FILE" or "." in argument)
    return "--file" if is_file else "--id"


class WorkerLauncher:
    """Sends a worker to a posted job: the deployed one, or one in this command's own app. Used by one thread."""

    def __init__(self, own: "modal.Function[..., Any, Any]", clock: Clock) -> None:
        self._own = own
        self._clock = clock
        self._check_at = 0.0
        self._deployed: bool | None = None
        self._call: modal.FunctionCall[Any] | None = None
        self.follows = True
        """Whether this command stays until the job has ended: only then can a worker run in its own app."""

    @property
    def deployed(self) -> bool:
        if self._deployed is None:
            self._deployed = deployment.has(WEIGHTS_WORKER)
        return self._deployed

    def followed(self, own: "modal.Function[..., Any, Any]", name: str, *arguments: Any) -> Any:
        """What follows from the fleet that is deployed; with nothing deployed, from the one of this checkout."""
        if not self.deployed:
            say(f"note: nothing is deployed as {APP!r}; this is by app/fleet.toml of this checkout")
            return deployment.answer(own, name, *arguments)
        say("note: this is by the fleet that is deployed; a change in app/fleet.toml counts once it is deployed")
        return deployment.ask(name, *arguments)

    def fleet(self) -> "Fleet":
        """The fleet that is deployed; where it cannot be had, and says so, that of this checkout."""
        from app.fleet.schema import declared, parse  # noqa: PLC0415 - takes long to import, and most pulls need none of it

        if not self.deployed:
            return declared()
        try:
            return parse(deployment.ask(READ_FLEET), "the fleet that is deployed")
        except Trouble as trouble:
            say(f"note: the fleet that is deployed cannot be read: {plain(trouble)}")
            say("note: this is by app/fleet.toml of this checkout instead")
            return declared()

    def tiers(self) -> tuple[str, ...]:
        """The tiers of the same fleet, none of whose other keys is looked at."""
        from app.fleet.file import read  # noqa: PLC0415 - as above

        if self.deployed:
            try:
                return tuple(deployment.ask(READ_FLEET)["tiers"])
            except Trouble as trouble:
                say(f"note: the fleet that is deployed cannot be read: {plain(trouble)}")
                say("note: its tiers are those of app/fleet.toml of this checkout instead")
        return tuple(read().get("tiers", ()))

    @property
    def ends_with_us(self) -> bool:
        return self._call is not None

    def is_worked(self) -> bool:
        """Whether somebody works the queue.

        Raises:
            Killed: it was to be a worker of this command's own, and that one could not start, or ended in an error.

        """
        if self._call is not None:
            self._check(self._call)
        try:
            return self.deployed or self.ends_with_us
        except Trouble as trouble:  # then nobody knows, and nobody is told that nothing is deployed
            self._deployed = True
            say(f"note: whether {APP!r} is deployed cannot be said now: {plain(trouble)}")
            return True

    def _check(self, call: "modal.FunctionCall[Any]") -> None:
        if self._clock.monotonic() < self._check_at:
            return
        self._check_at = self._clock.monotonic() + CHECK_EVERY.total_seconds()
        error = deployment.failure(call, WEIGHTS_WORKER)
        if error is not None:
            raise Killed(
                f"the worker of this command ended: {type(error).__name__}: {error}",
                hint=f"why is in its log above; the job stays in the queue, and what was fetched is kept. {DEPLOYED}",
            ) from error

    def send(self, job: Job) -> None:
        """Send a worker to a job that is posted. It stays posted when the platform lets nobody be sent."""
        if job.has_ended:
            return
        try:
            self._send(job)
        except Trouble as trouble:
            say(f"job {job.id} is posted, but no worker could be sent: {plain(trouble)}")
            say("hint: where it is deployed the next tick sends one; else pull again to send it")

    def _send(self, job: Job) -> None:
        if self.deployed:
            spawn_worker(job.lane)
        elif self.follows and job.lane == WEIGHTS_LANE and self._call is None:  # one works on all of them
            say(f"nothing is deployed as {APP!r}; the worker runs in the app of this command, while you follow the job")
            self._call = deployment.start(self._own, WEIGHTS_WORKER)


@dataclass(frozen=True)
class ModalCommands:
    """The commands about jobs for an entry point of `modal run`, which ends the process when it was not all well.

    Args:
        commands: about the jobs of the deployment.
        launcher: sends a worker to what is posted.
        preview: what a prune that is asked for in these words would do.

    """

    commands: JobCommands
    launcher: WorkerLauncher
    preview: Callable[[dict[str, Any]], Preview]

    def post(
        self, kind: Kind, *, wait: bool, attempts: int, json: bool, model: str = "", dry_run: bool = False, **typed: Any
    ) -> None:
        """Post a job of this kind. An option that is empty, or 0, was left out: `modal run` knows no other way.

        Several models stand in one option, with commas between: no name has one.
        """

        def post(commands: JobCommands) -> int:
            given = {name: value or None for name, value in typed.items()}
            if dry_run:
                request = kind.request(None, kind.read(given)).request
                return commands.show_preview(self.preview(request), json=json)
            if kind.lane == SERVERS_LANE and not self.launcher.deployed:
                raise Refused("no server is deployed that could load a model", hint=DEPLOY.removeprefix("hint: "))
            models = [name for each in model.split(",") if (name := each.strip())]
            return commands.post(kind, models, wait=wait, attempts=attempts or None, json=json, **given)

        self.run(post, follows=wait)

    def run(self, work: Callable[[JobCommands], int], *, follows: bool = True) -> None:
        """Do the work of an entry point, and exit with the code that it returns.

        Args:
            work: what it does.
            follows: whether it stays until the job has ended.

        """
        self.launcher.follows = follows
        settle_streams()
        log_warnings()
        code = exit_code(lambda: work(self.commands), worded)
        if code == INTERRUPTED and self.launcher.ends_with_us:
            say("but its worker ends with this command: pull again to go on from the bytes that are there, or deploy")
        if code:
            sys.exit(code)


def show_cost(
    commands: JobCommands, *, launcher: WorkerLauncher, past: Callable[[], Mapping[str, Any]], since: str, json: bool
) -> int:
    from app.accounting.modal_prices import priced  # noqa: PLC0415
    from app.accounting.spending import estimate  # noqa: PLC0415 - takes long to import, and a pull needs none of it

    now = commands.now
    began = parse_since(since, "--since", now)
    cost = estimate(
        {**past(), **dict(ledger.items(*keys.SORTS["usage"]))}, priced(launcher.fleet(), now.date()), began, now
    )
    show(cost.as_json(), cost.lines(screen_width()), json=json)
    return 0


def show_windows(commands: JobCommands, *, past: Callable[[], Mapping[str, Any]], json: bool) -> int:
    from app.accounting.modal_prices import priced  # noqa: PLC0415
    from app.accounting.window_cost import offers  # noqa: PLC0415
    from app.fleet.schema import declared  # noqa: PLC0415 - takes long to import, and a pull needs none of it

    say("note: these are the windows of app/fleet.toml of this checkout; they open once it is deployed")
    fleet = priced(declared(), commands.now.date())
    windows = offers(fleet, {**past(), **dict(ledger.items(*keys.SORTS["usage"]))}, commands.clock.now())
    show([each.as_json() for each in windows], (line for each in windows for line in each.lines()), json=json)
    if not windows:
        say("fleet.toml declares no windows")
    return 0


def show_audit_lines(
    commands: JobCommands,
    past: Callable[[dict[str, Any]], list[dict[str, Any]]],
    *,
    since: str,
    who: str,
    act: str,
    limit: int,
    json: bool,
) -> int:
    """List who did what; the archive is asked only where some of it may be there."""
    from jobs.archive.audited import AuditQuery, need_act, page  # noqa: PLC0415 - a pull needs none of it
    from jobs.cli.audit_list import show_audit  # noqa: PLC0415

    if limit < 0:
        raise BadRequest(f"--limit {limit} makes no sense", hint="at least 1, or 0 for all")
    need_act(act)
    query = AuditQuery(parse_since(since, "--since", commands.clock.now()), who, act, limit=limit or None)
    found = page(ledger, lambda asked: map(AuditLine.from_json, past(asked.as_json())), query, commands.clock.now())
    return show_audit(found.lines, commands.now, more=found.next is not None, json=json)


def _known(commands: JobCommands, posted: Iterable[str] = ()) -> tuple[KnownJobs, list[Job]]:
    """What is known of the jobs without reading all of them, and those of the last night, which told of these ids."""
    reader = LedgerReader.of(ledger, commands.clock)
    known = known_jobs(reader, commands.clock.now())
    return known, of_last_night(reader, known, posted)


def show_night(commands: JobCommands, *, json: bool) -> int:
    from jobs.telemetry.nightly_report import (  # noqa: PLC0415 - a pull needs none of it
        OF_NIGHTS,
        ids_of_night,
        lines,
        report,
    )

    entries = dict(ledger.items(*OF_NIGHTS))
    _, of_night = _known(commands, ids_of_night(entries))
    night = report(entries, of_night)
    show(night, map(worded, lines(night, commands.now, screen_width())), json=json)
    return 0


def show_status(commands: JobCommands, launcher: WorkerLauncher, *, json: bool) -> int:
    from jobs.telemetry.nightly_report import ids_of_night  # noqa: PLC0415 - as above

    url = deployment.url(GATEWAY) if launcher.deployed else None
    known, of_night = _known(commands, ids_of_night(ledger))
    status = reports.status(
        ledger,
        commands.now,
        launcher.tiers(),
        deployed=launcher.deployed,
        known=known,
        of_night=of_night,
        gateway=url,
    )
    show(status.as_json(), status.lines(), json=json)
    return 0


def list_jobs_of(
    reader: LedgerReader,
    clock: Clock,
    archived: Callable[[datetime], Iterable[Job]],
    fitting: JobFilter,
    limit: int | None,
) -> tuple[Sequence[Job], int | None]:
    """The newest jobs that fit. Only with a beginning archived ones are among them: that starts a container."""
    now = clock.now()
    found = listed(JobLooks(clock).look(reader), reader, fitting, None if fitting.since else limit, now)
    if fitting.since is None:
        return found
    known = {job.id: job for job in (*filter(fitting.fits, archived(fitting.since)), *found[0])}
    jobs = sorted(known.values(), key=lambda job: job.age, reverse=True)
    return jobs[:limit], len(jobs)


def modal_commands(
    own: "modal.Function[..., Any, Any]",
    archived_jobs: "modal.Function[..., Any, Any]",
    plan_prune: "modal.Function[..., Any, Any]",
    names_here: Callable[[bool], Sequence[ModelName]],
) -> ModalCommands:
    """The commands of this process.

    Args:
        own: the weights worker of its own app.
        archived_jobs: reads the archive.
        plan_prune: tells what a prune that is asked for in these words would do.
        names_here: the models on the volume, whole or not, and if so asked those in the trash. It starts a container,
            so it is asked only about a model that the ledger does not know.

    """
    clock = SystemClock()
    launcher = WorkerLauncher(own, clock)

    def refusal(kind: Kind, name: ModelName) -> Trouble | None:
        if kind.name == "pull" and name.host.lower() not in USUAL:
            return launcher.fleet().may_pull_from().refusal(name)
        known = ledger.get(keys.WEIGHTS_MODELS) if kind.needs != "nothing" else None
        if known is None or str(name.folded()) in known:
            return None
        try:
            return absent(name, names_here(kind.needs == "model or trash"))
        except Trouble:  # an older deployment has no such Function; the job that is posted will say so
            return None

    written = Audit(ledger, clock)

    def acts(act: str, subject: str) -> AbstractContextManager[Act]:
        return written.act(who=who(), request=f"modal run ::{act}", act=act, subject=subject)

    jobs = Ledger(queue, ledger, clock)

    def archived(since: datetime) -> Iterable[Job]:
        return map(Job.from_json, deployment.answer(archived_jobs, "archived_jobs", isoformat(since)))

    commands = JobCommands(
        jobs,
        clock,
        is_worked=launcher.is_worked,
        idle=IDLE,
        log=f"`modal app logs {APP}`, or above where nothing is deployed",
        poll_every=POLL_EVERY,
        posted=launcher.send,
        archived=archived,
        listed=partial(list_jobs_of, jobs.reader, clock, archived),
        dead=lambda: known_jobs(jobs.reader, clock.now()).dead,
        worded=worded,
        refusal=refusal,
        acts=acts,
    )
    return ModalCommands(commands, launcher, partial(launcher.followed, plan_prune, PLAN_PRUNE))
