"""What `modal run -m app.jobs::NAME` does on the caller's machine: a desk over the deployment's ledger.

Posting sends the deployed worker. With nothing deployed, the worker runs in the app of this very command, for as long
as the command follows the job.
"""

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from app.deployment import status as reports
from app.deployment.spawn_worker import ring
from app.resources import APP, GATEWAY, WEIGHTS_WORKER, deployment, ledger, queue
from jobs.cli.job_commands import INTERRUPTED, JobCommands, exit_code, prune_request
from jobs.cli.output import log_warnings, put, put_json, put_lines, say, settle_streams
from jobs.core.clock import Clock, SystemClock, isoformat
from jobs.core.errors import BadRequest, Killed, Refused, Trouble
from jobs.core.sanitize import plain
from jobs.core.units import parse_span
from jobs.home.status import ModelsFound
from jobs.ledger.job import WEIGHTS_LANE, Job
from jobs.ledger.ledger import Ledger

if TYPE_CHECKING:
    import modal

    from app.scheduler.night_plan import Night
    from jobs.weights.prune_plan import PrunePlan

DEPLOY = "hint: deploy it: `modal deploy -m app.deploy`"
DEPLOYED = "Pull again, or deploy: `modal deploy -m app.deploy`"

LOOK_EVERY = timedelta(seconds=1)
"""A look is four calls across the network."""

CHECK_EVERY = timedelta(seconds=5)
"""How often a worker of our own is asked after: it may have died without a word in the ledger."""

IDLE = ("nothing is deployed that could work the queue; the job waits until it is", DEPLOY)

_OPTIONS = dict.fromkeys(("pull", "delete", "warm", "verify", "rollback"), "--model")


def worded(text: str) -> str:
    """The commands of `ollama-modal` in a text, as they are typed here."""

    def ours(found: re.Match[str]) -> str:
        verb, argument = found[1], found[2]
        option = f"{_OPTIONS.get(verb, '--id')} " if argument else ""
        return f"modal run -m app.jobs::{verb}" + (f" {option}{argument}" if argument else "")

    text = re.sub(r"(\bollama-modal retry --all) --class\b", r"\1 --failure-class", text)
    return re.sub(r"\bollama-modal (\w+)(?: ([^-\s`][^\s`]*))?", ours, text)


class WorkerLauncher:
    """Who works on what was posted."""

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
            ring(job.lane)
        elif self.follows and job.lane == WEIGHTS_LANE:
            say(f"nothing is deployed as {APP!r}; the worker runs in the app of this command, while you follow the job")
            self._call = deployment.start(self._own, WEIGHTS_WORKER)


@dataclass(frozen=True)
class ModalCommands:
    """The commands. Each ends the process when it was not all well."""

    commands: JobCommands
    launcher: WorkerLauncher

    def pull(self, model: str, *, wait: bool, way: str, rate_limit: str, attempts: int, json: bool) -> None:
        self.launcher.follows = wait
        self._do(
            lambda: self.commands.pull(
                model, wait=wait, way=way, rate_limit=rate_limit or None, attempts=attempts or None, json=json
            )
        )

    def verify(self, model: str, *, wait: bool, attempts: int, json: bool) -> None:
        self.launcher.follows = wait
        self._do(lambda: self.commands.verify(model or None, wait=wait, attempts=attempts or None, json=json))

    def delete(self, model: str, *, wait: bool, attempts: int, json: bool) -> None:
        self.launcher.follows = wait
        self._do(lambda: self.commands.delete(model, wait=wait, attempts=attempts or None, json=json))

    def prune(
        self,
        look: "Callable[[dict[str, Any]], PrunePlan] | None",
        *,
        unused_days: float,
        empty_trash: bool,
        wait: bool,
        attempts: int,
        json: bool,
    ) -> None:
        """`look` only looks: with it nothing is posted."""
        self.launcher.follows = wait

        def prune() -> int:
            request = prune_request(unused_days or None, empty_trash)
            if look is not None:
                return self.commands.outlook(look(request), json=json)
            return self.commands.prune(request, wait=wait, attempts=attempts or None, json=json)

        self._do(prune)

    def rollback(self, model: str, *, wait: bool, attempts: int, json: bool) -> None:
        self.launcher.follows = wait
        self._do(lambda: self.commands.rollback(model, wait=wait, attempts=attempts or None, json=json))

    def warm(self, model: str, *, tier: str, wait: bool, attempts: int, json: bool) -> None:
        def warm() -> int:
            if not self.launcher.deployed:
                raise Refused("no server is deployed that could load a model", hint=DEPLOY.removeprefix("hint: "))
            return self.commands.warm(model, tier=tier or None, wait=wait, attempts=attempts or None, json=json)

        self._do(warm)

    def retry(self, id: str, *, every: bool, failure_class: str, wait: bool, json: bool) -> None:
        def retry() -> int:
            if bool(id) == every:
                raise BadRequest("name one job, or say --all", hint="`ollama-modal jobs --dead` shows what has failed")
            if every:
                return self.commands.retry_all(failure_class or None, json=json)
            return self.commands.retry(id, wait=wait, json=json)

        self.launcher.follows = wait and not every
        self._do(retry)

    def cost(self, past: Callable[[], Mapping[str, Any]], *, since: str, json: bool) -> None:
        from app.accounting.modal_prices import priced  # noqa: PLC0415
        from app.accounting.spending import estimate  # noqa: PLC0415
        from app.fleet.schema import declared  # noqa: PLC0415 - takes long to import, and a pull needs none of it

        def cost() -> int:
            began = self.commands.now - parse_span(since, "--since")
            fleet = priced(declared(), self.commands.now.date())
            found = estimate({**past(), **dict(ledger.items())}, fleet, began, self.commands.now)
            if json:
                put_json(found.as_json())
            else:
                put_lines(found.lines())
            return 0

        self._do(cost)

    def windows(self, past: Callable[[], Mapping[str, Any]], *, json: bool) -> None:
        from app.accounting.modal_prices import priced  # noqa: PLC0415
        from app.accounting.window_cost import offers  # noqa: PLC0415
        from app.fleet.schema import declared  # noqa: PLC0415 - takes long to import, and a pull needs none of it

        def windows() -> int:
            fleet = priced(declared(), self.commands.now.date())
            found = offers(fleet, {**past(), **dict(ledger.items())}, self.commands.clock.now())
            if json:
                put_json([each.as_json() for each in found])
            else:
                put_lines(line for each in found for line in each.lines())
            if not found:
                say("fleet.toml declares no windows")
            return 0

        self._do(windows)

    def night(self, *, json: bool) -> None:
        from jobs.telemetry.nightly_report import lines, report  # noqa: PLC0415 - a pull needs none of it

        def night() -> int:
            found = report(dict(ledger.items()), self.commands.reader.select()[0])
            if json:
                put_json(found)
            else:
                put_lines(map(worded, lines(found, self.commands.now)))
            return 0

        self._do(night)

    def dead(self, *, since: str, json: bool) -> None:
        self._do(lambda: self.commands.dead(since=since or None, json=json))

    def jobs(self, *, state: str, kind: str, since: str, limit: int, json: bool) -> None:
        self._do(
            lambda: self.commands.browse(
                state=state or None, kind=kind or None, since=since or None, limit=limit, json=json
            )
        )

    def job(self, id: str, *, follow: bool, json: bool) -> None:
        self._do(lambda: self.commands.tell(id, follow=follow, json=json))

    def cancel(self, id: str, *, json: bool) -> None:
        self._do(lambda: self.commands.cancel(id, json=json))

    def models(self, look: Callable[[], ModelsFound], *, json: bool) -> None:
        self._do(lambda: self.commands.models(look(), json=json))

    def plan(self, look: "Callable[[], Night]", *, json: bool) -> None:
        self._do(lambda: self.commands.outlook(look(), json=json))

    def status(self, *, json: bool) -> None:
        def status() -> int:
            jobs = self.commands.reader.select()[0]
            deployed = self.launcher.deployed
            url = deployment.url(GATEWAY) if deployed else None
            found = reports.status(ledger, self.commands.now, deployed=deployed, gateway=url, jobs=jobs)
            if json:
                put_json(found.as_json())
            else:
                for line in found.lines():
                    put(line)
            return 0

        self._do(status)

    def _do(self, work: Callable[[], int]) -> None:
        settle_streams()
        log_warnings()
        code = exit_code(work, worded)
        if code == INTERRUPTED and self.launcher.ends_with_us:
            say("but its worker ends with this command: pull again to go on from the bytes that are there, or deploy")
        if code:
            sys.exit(code)


def modal_commands(
    own: "modal.Function[..., Any, Any]", archived_jobs: "modal.Function[..., Any, Any]"
) -> ModalCommands:
    """The counter of this command.

    Args:
        own: the weights worker of its own app.
        archived_jobs: reads the archive.

    """
    clock = SystemClock()
    launcher = WorkerLauncher(own, clock)
    commands = JobCommands(
        Ledger(queue, ledger, clock),
        clock,
        is_worked=launcher.is_worked,
        idle=IDLE,
        log=f"`modal app logs {APP}`, or above where nothing is deployed",
        look_every=LOOK_EVERY,
        posted=launcher.send,
        archived=lambda since: map(Job.from_json, deployment.answer(archived_jobs, "archived_jobs", isoformat(since))),
        worded=worded,
    )
    return ModalCommands(commands, launcher)
