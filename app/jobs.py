"""Pull and its siblings for `modal run -m app.jobs::NAME`, the weights worker, and the two schedules.

    modal run -m app.jobs::pull --model llama3.2        posts, sends a worker, follows to the end
    modal run -m app.jobs::pull --model llama3.2 --no-wait      prints the job's id at once

pull, verify, delete, prune, rollback and warm are made from `jobs.ledger.kinds`; the other commands stand below.
`modal run` builds whatever this file registers, so no GPU server is registered here; and it imports nothing that takes
long: each function imports what it works with.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from app.file_start import refuse

if __name__ == "jobs":
    refuse(sys.argv)

import modal

from app.deploy_refusals import refusals_told
from app.deployment.worker_timing import LONGEST, START
from app.fleet.file import Times
from app.resources import MODELS, PLAN_NIGHT, WEIGHTS_WORKER, app, cpu_image, deployment, hf_token, weights
from jobs.batches.records import is_batch_id
from jobs.cli.signature import parameter, with_signature
from jobs.ledger.kinds import KINDS, Kind, Kinds, with_commands

if TYPE_CHECKING:
    from app.deployment.modal_cli import ModalCommands
    from app.scheduler.night_plan import Night
    from jobs.core.model_name import ModelName
    from jobs.home.status import ModelsFound
    from jobs.weights.prune_plan import PrunePlan

with refusals_told():
    _TIMES = Times.read()
_DAY = int(LONGEST.total_seconds())
_SHORT = 600


# What runs there


@app.function(
    image=cpu_image,
    volumes={MODELS: weights},
    secrets=hf_token,
    cpu=2,
    memory=2048,
    max_containers=1,
    startup_timeout=int(START.total_seconds()),
    timeout=_DAY,
)
def weights_worker() -> None:
    """Pull, verify, delete, prune: the only container that writes the volume, several jobs side by side in it."""
    from app.deployment.weights_worker import run  # noqa: PLC0415

    if not run():
        deployment.start(weights_worker, WEIGHTS_WORKER)


@app.function(image=cpu_image, volumes={MODELS: weights.with_mount_options(read_only=True)}, timeout=_SHORT)
def list_models() -> "ModelsFound":
    """What is on the volume."""
    from app.deployment.volume_queries import list_models  # noqa: PLC0415

    return list_models()


@app.function(image=cpu_image, volumes={MODELS: weights.with_mount_options(read_only=True)}, timeout=_SHORT)
def names_here(with_trash: bool) -> "list[ModelName]":
    """The names of what is on the volume, whole or not, and of what is in its trash."""
    from app.deployment.volume_queries import names_here  # noqa: PLC0415

    return names_here(with_trash=with_trash)


@app.function(image=cpu_image, volumes={MODELS: weights.with_mount_options(read_only=True)}, timeout=_SHORT)
def plan_prune(request: "dict[str, Any]") -> "PrunePlan":
    """What a prune would do now."""
    from app.deployment.volume_queries import plan_prune  # noqa: PLC0415

    return plan_prune(request)


@app.function(
    image=cpu_image, volumes={MODELS: weights.with_mount_options(read_only=True)}, secrets=hf_token, timeout=_SHORT
)
def plan_night() -> "Night":
    """What the next night would do."""
    from app.deployment.volume_queries import plan_night  # noqa: PLC0415

    return plan_night()


@app.function(image=cpu_image, timeout=_SHORT)
def read_fleet() -> "dict[str, Any]":
    """The fleet file that is deployed."""
    from app.fleet.file import read  # noqa: PLC0415

    return read()


@app.function(image=cpu_image, volumes={MODELS: weights.with_mount_options(read_only=True)}, timeout=_SHORT)
def archived_jobs(since: str) -> "list[dict[str, Any]]":
    """The archived jobs that were posted since then."""
    from app.deployment.volume_queries import archived_jobs  # noqa: PLC0415

    return archived_jobs(since)


@app.function(image=cpu_image, volumes={MODELS: weights.with_mount_options(read_only=True)}, timeout=_SHORT)
def archived_usage() -> "dict[str, Any]":
    """What the archive knows of containers and usage."""
    from app.deployment.volume_queries import archived_usage  # noqa: PLC0415

    return archived_usage()


@app.function(image=cpu_image, volumes={MODELS: weights.with_mount_options(read_only=True)}, timeout=_SHORT)
def archived_audit(query: "dict[str, Any]") -> "list[dict[str, Any]]":
    """The lines of who did what that have left the ledger."""
    from app.deployment.volume_queries import archived_audit  # noqa: PLC0415

    return archived_audit(query)


@app.function(
    image=cpu_image, schedule=modal.Cron(_TIMES.tick, timezone=_TIMES.timezone), max_containers=1, timeout=_SHORT
)
def tick() -> None:
    """Every few minutes: sweep, send workers to due jobs, mark servers that went silent."""
    from app.deployment.schedule_functions import tick  # noqa: PLC0415

    tick()


@app.function(
    image=cpu_image,
    volumes={MODELS: weights.with_mount_options(read_only=True)},
    secrets=hf_token,
    schedule=modal.Cron(_TIMES.nightly, timezone=_TIMES.timezone),
    max_containers=1,
    timeout=_SHORT,
)
def nightly() -> None:
    """Once a night: post what leads from what is to what should be."""
    from app.deployment.schedule_functions import nightly  # noqa: PLC0415

    nightly()


# What a person runs


def _commands() -> "ModalCommands":
    from app.deployment.modal_cli import modal_commands  # noqa: PLC0415

    return modal_commands(
        weights_worker, archived_jobs, plan_prune, partial(deployment.answer, names_here, "names_here")
    )


_past_usage = partial(deployment.answer, archived_usage, "archived_usage")


def job_entry_points(
    to: modal.App, commands: "Callable[[], ModalCommands]" = _commands, kinds: Kinds = KINDS
) -> dict[str, Any]:
    """An entry point for each kind of job, by name, made from its record; `modal run` reads its signature."""
    return {
        kind.name: to.local_entrypoint(name=kind.name)(_entry_point(kind, commands))
        for kind in with_commands(kinds).values()
    }


def _entry_point(kind: Kind, commands: "Callable[[], ModalCommands]") -> Callable[..., None]:
    def post(**given: Any) -> None:
        commands().post(kind, **given)

    model = {"one": [parameter("model", str)], "one or all": [parameter("model", str, "")], "all": []}[kind.model]
    dry_run = [parameter("dry_run", bool, False)] if kind.has_dry_run else []
    own = [parameter(each.name, each.typed_as, each.default or each.typed_as()) for each in kind.parameters]
    of_all = [parameter("wait", bool, True), parameter("attempts", int, 0), parameter("json", bool, False)]
    return with_signature(post, kind.name, kind.help, [*model, *dry_run, *own, *of_all])


globals().update(job_entry_points(app))  # pull, verify, delete, prune, rollback, warm: `modal run` finds them by name


@app.local_entrypoint()
def retry(
    id: str = "",
    all: bool = False,  # noqa: A002 - the name is the option
    failure_class: str = "",
    *,
    yes: bool = False,
    anyway: bool = False,
    wait: bool = True,
    json: bool = False,
) -> None:
    """Post an ended job again, exactly as it was posted; or with `--all` every one that failed, of a class or not.

    On a terminal `--all` asks first, unless `--yes`. A delete or rollback is posted after those weights were changed
    only with `--anyway`.
    """
    chosen: dict[str, Any] = {"every": all, "failure_class": failure_class or None, "yes": yes, "anyway": anyway}
    _commands().run(lambda commands: commands.retry(id, **chosen, wait=wait, json=json), follows=wait and not all)


@app.local_entrypoint()
def jobs(
    *, state: str = "", kind: str = "", since: str = "", limit: int = 20, dead: bool = False, json: bool = False
) -> None:
    """List the jobs, newest first; with `--since 90d` the archived ones among them, with `--dead` what failed."""
    chosen: dict[str, Any] = {"state": state or None, "kind": kind or None, "since": since or None}
    _commands().run(lambda commands: commands.list_jobs(**chosen, limit=limit, dead=dead, json=json))


@app.local_entrypoint()
def job(id: str, follow: bool = False, json: bool = False) -> None:
    """Tell a job's story."""
    _commands().run(lambda commands: commands.show_job(id, follow=follow, json=json))


@app.local_entrypoint()
def cancel(id: str, json: bool = False) -> None:
    """Ask a job to stop; or a batch, and what is done of it stays."""
    at = _commands()
    if is_batch_id(id):
        from app.deployment.batches import commands as of_batches  # noqa: PLC0415

        at.run(lambda commands: of_batches.cancel(at, commands, id, json=json))
    else:
        at.run(lambda commands: commands.cancel(id, json=json))


@app.local_entrypoint()
def batch(
    *,
    file: str = "",
    id: str = "",
    endpoint: str = "",
    model: str = "",
    prompt: str = "",
    system: str = "",
    by: str = "",
    start: str = "",
    max_dollars: float = 0.0,
    out: str = "",
    dry_run: bool = False,
    pull: bool = False,
    results: bool = False,
    follow: bool = False,
    wait: bool = True,
    yes: bool = False,
    json: bool = False,
) -> None:
    """Post a file of prompts as one batch (`--file`), and follow it; or tell of one, or write its results (`--id`).

    Each line is checked, and it is told what it takes, before one runs. Ctrl-C leaves it running.
    """
    from app.deployment.batches import commands as of_batches  # noqa: PLC0415

    typed: dict[str, Any] = {"endpoint": endpoint, "model": model, "prompt": prompt, "system": system, "by": by}
    typed |= {"start": start, "max_dollars": max_dollars, "out": out, "dry_run": dry_run, "pull": pull}
    typed |= {"results": results, "follow": follow, "wait": wait, "yes": yes, "json": json}
    at = _commands()
    at.run(lambda commands: of_batches.batch(at, commands, file=file, id=id, **typed), follows=wait)


@app.local_entrypoint()
def batches(limit: int = 20, json: bool = False) -> None:
    """List the batches, newest first: how far each is, what it took, and what it waits for."""
    from app.deployment.batches import commands as of_batches  # noqa: PLC0415

    at = _commands()
    at.run(lambda commands: of_batches.batches(at, commands, limit=limit, json=json))


@app.local_entrypoint()
def dismiss(id: str, json: bool = False) -> None:
    """Hear no more of a job that failed for good."""
    _commands().run(lambda commands: commands.dismiss(id, json=json))


@app.local_entrypoint()
def models(json: bool = False) -> None:
    """List the models that are whole, and complain about those that are not. Wakes no GPU."""
    _commands().run(lambda commands: commands.list_models(deployment.answer(list_models, "list_models"), json=json))


@app.local_entrypoint()
def night(json: bool = False) -> None:
    """Tell what the last night did: its jobs and how they ended, what it moved, what it left alone."""
    from app.deployment.modal_cli import show_night  # noqa: PLC0415

    _commands().run(partial(show_night, json=json))


@app.local_entrypoint()
def cost(since: str = "7d", json: bool = False) -> None:
    """Tell what the servers have cost, about, and what for."""
    from app.deployment.modal_cli import show_cost  # noqa: PLC0415

    at = _commands()
    at.run(partial(show_cost, launcher=at.launcher, past=_past_usage, since=since, json=json))


@app.local_entrypoint()
def audit(since: str = "7d", who: str = "", act: str = "", limit: int = 50, json: bool = False) -> None:
    """List who did what, newest first: by which request or command, to what, with what outcome."""
    from app.deployment.modal_cli import show_audit_lines  # noqa: PLC0415

    past = partial(deployment.answer, archived_audit, "archived_audit")
    asked: dict[str, Any] = {"since": since, "who": who, "act": act, "limit": limit}
    _commands().run(partial(show_audit_lines, past=past, **asked, json=json))


@app.local_entrypoint()
def windows(json: bool = False) -> None:
    """Tell what the declared windows cost in a month, and from how many cold starts on they pay."""
    from app.deployment.modal_cli import show_windows  # noqa: PLC0415

    _commands().run(partial(show_windows, past=_past_usage, json=json))


@app.local_entrypoint()
def plan(json: bool = False) -> None:
    """Tell what the next night would do, and why: by the fleet that is deployed. Posts nothing, wakes no GPU."""
    at = _commands()
    at.run(lambda commands: commands.show_preview(at.launcher.followed(plan_night, PLAN_NIGHT), json=json))


@app.local_entrypoint()
def status(json: bool = False) -> None:
    """Tell what is deployed, what the servers reported last, and what is in the queue. Asks no server."""
    from app.deployment.modal_cli import show_status  # noqa: PLC0415

    at = _commands()
    at.run(partial(show_status, launcher=at.launcher, json=json))
