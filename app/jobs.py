"""Pull and its siblings for `modal run -m app.jobs::NAME`, the weights worker, and the two schedules.

    modal run -m app.jobs::pull --model llama3.2        posts, sends a worker, follows to the end
    modal run -m app.jobs::pull --model llama3.2 --no-wait      prints the job's id at once

`modal run` builds whatever this file registers, so no GPU server is registered here; and it imports nothing that takes
long: each function imports what it works with.
"""

from functools import partial
from typing import TYPE_CHECKING, Any

import modal

from app.deployment.worker_timing import LONGEST, START
from app.fleet.file import Times
from app.resources import MODELS, PLAN_PRUNE, WEIGHTS_WORKER, app, cpu_image, deployment, weights

if TYPE_CHECKING:
    from app.scheduler.night_plan import Night
    from jobs.home.status import ModelsFound
    from jobs.weights.prune_plan import PrunePlan

_TIMES = Times.read()
_DAY = int(LONGEST.total_seconds())
_SHORT = 600


# What runs there


@app.function(
    image=cpu_image,
    volumes={MODELS: weights},
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
def plan_prune(request: "dict[str, Any]") -> "PrunePlan":
    """What a prune would do now."""
    from app.deployment.volume_queries import plan_prune  # noqa: PLC0415

    return plan_prune(request)


@app.function(image=cpu_image, volumes={MODELS: weights.with_mount_options(read_only=True)}, timeout=_SHORT)
def plan_night() -> "Night":
    """What the next night would do."""
    from app.deployment.volume_queries import plan_night  # noqa: PLC0415

    return plan_night()


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
    schedule=modal.Cron(_TIMES.nightly, timezone=_TIMES.timezone),
    max_containers=1,
    timeout=_SHORT,
)
def nightly() -> None:
    """Once a night: post what leads from what is to what should be."""
    from app.deployment.schedule_functions import nightly  # noqa: PLC0415

    nightly()


# What a person runs


@app.local_entrypoint()
def pull(
    model: str, *, wait: bool = True, way: str = "auto", rate_limit: str = "", attempts: int = 0, json: bool = False
) -> None:
    """Bring a model to the volume; a pull of it that is under way is shared."""
    from app.deployment.modal_cli import modal_commands  # noqa: PLC0415

    modal_commands(weights_worker, archived_jobs).pull(
        model, wait=wait, way=way, rate_limit=rate_limit, attempts=attempts, json=json
    )


@app.local_entrypoint()
def verify(model: str = "", wait: bool = True, attempts: int = 0, json: bool = False) -> None:
    """Hash every byte of a model, or of all, and fetch again what is damaged."""
    from app.deployment.modal_cli import modal_commands  # noqa: PLC0415

    modal_commands(weights_worker, archived_jobs).verify(model, wait=wait, attempts=attempts, json=json)


@app.local_entrypoint()
def delete(model: str, wait: bool = True, attempts: int = 0, json: bool = False) -> None:
    """Remove a model and the blobs that no other model needs."""
    from app.deployment.modal_cli import modal_commands  # noqa: PLC0415

    modal_commands(weights_worker, archived_jobs).delete(model, wait=wait, attempts=attempts, json=json)


@app.local_entrypoint()
def prune(
    *,
    dry_run: bool = False,
    unused_days: float = 0,
    empty_trash: bool = False,
    wait: bool = True,
    attempts: int = 0,
    json: bool = False,
) -> None:
    """Move to the trash what nobody needs, and delete what lay there for its grace."""
    from app.deployment.modal_cli import modal_commands  # noqa: PLC0415

    look = partial(deployment.answer, plan_prune, PLAN_PRUNE) if dry_run else None
    at = modal_commands(weights_worker, archived_jobs)
    at.prune(look, unused_days=unused_days, empty_trash=empty_trash, wait=wait, attempts=attempts, json=json)


@app.local_entrypoint()
def rollback(model: str, wait: bool = True, attempts: int = 0, json: bool = False) -> None:
    """Bring back the version of a model that was there before."""
    from app.deployment.modal_cli import modal_commands  # noqa: PLC0415

    modal_commands(weights_worker, archived_jobs).rollback(model, wait=wait, attempts=attempts, json=json)


@app.local_entrypoint()
def warm(model: str, tier: str = "", wait: bool = True, attempts: int = 0, json: bool = False) -> None:
    """Load a model on its server and ask it for a token. This wakes a GPU."""
    from app.deployment.modal_cli import modal_commands  # noqa: PLC0415

    modal_commands(weights_worker, archived_jobs).warm(model, tier=tier, wait=wait, attempts=attempts, json=json)


@app.local_entrypoint()
def retry(
    id: str = "",
    all: bool = False,  # noqa: A002 - the name is the option
    failure_class: str = "",
    wait: bool = True,
    json: bool = False,
) -> None:
    """Post an ended job again, exactly as it was posted; or with `--all` every one that failed, of a class or not."""
    from app.deployment.modal_cli import modal_commands  # noqa: PLC0415

    modal_commands(weights_worker, archived_jobs).retry(
        id, every=all, failure_class=failure_class, wait=wait, json=json
    )


@app.local_entrypoint()
def jobs(
    *, state: str = "", kind: str = "", since: str = "", limit: int = 20, dead: bool = False, json: bool = False
) -> None:
    """List the jobs, newest first; with `--since 90d` the archived ones among them, with `--dead` what failed."""
    from app.deployment.modal_cli import modal_commands  # noqa: PLC0415

    at = modal_commands(weights_worker, archived_jobs)
    if dead:
        at.dead(since=since, json=json)
    else:
        at.jobs(state=state, kind=kind, since=since, limit=limit, json=json)


@app.local_entrypoint()
def job(id: str, follow: bool = False, json: bool = False) -> None:
    """Tell a job's story."""
    from app.deployment.modal_cli import modal_commands  # noqa: PLC0415

    modal_commands(weights_worker, archived_jobs).job(id, follow=follow, json=json)


@app.local_entrypoint()
def cancel(id: str, json: bool = False) -> None:
    """Ask a job to stop."""
    from app.deployment.modal_cli import modal_commands  # noqa: PLC0415

    modal_commands(weights_worker, archived_jobs).cancel(id, json=json)


@app.local_entrypoint()
def models(json: bool = False) -> None:
    """List the models that are whole, and complain about those that are not. Wakes no GPU."""
    from app.deployment.modal_cli import modal_commands  # noqa: PLC0415

    modal_commands(weights_worker, archived_jobs).models(
        partial(deployment.answer, list_models, "list_models"), json=json
    )


@app.local_entrypoint()
def night(json: bool = False) -> None:
    """Tell what the last night did: its jobs and how they ended, what it moved, what it left alone."""
    from app.deployment.modal_cli import modal_commands  # noqa: PLC0415

    modal_commands(weights_worker, archived_jobs).night(json=json)


@app.local_entrypoint()
def cost(since: str = "7d", json: bool = False) -> None:
    """Tell what the servers have cost, about, and what for."""
    from app.deployment.modal_cli import modal_commands  # noqa: PLC0415

    modal_commands(weights_worker, archived_jobs).cost(
        partial(deployment.answer, archived_usage, "archived_usage"), since=since, json=json
    )


@app.local_entrypoint()
def windows(json: bool = False) -> None:
    """Tell what the declared windows cost in a month, and from how many cold starts on they pay."""
    from app.deployment.modal_cli import modal_commands  # noqa: PLC0415

    modal_commands(weights_worker, archived_jobs).windows(
        partial(deployment.answer, archived_usage, "archived_usage"), json=json
    )


@app.local_entrypoint()
def plan(json: bool = False) -> None:
    """Tell what the next night would do, and why. Posts nothing, wakes no GPU."""
    from app.deployment.modal_cli import modal_commands  # noqa: PLC0415

    modal_commands(weights_worker, archived_jobs).plan(partial(deployment.answer, plan_night, "plan_night"), json=json)


@app.local_entrypoint()
def status(json: bool = False) -> None:
    """Tell what is deployed, what the servers reported last, and what is in the queue. Asks no server."""
    from app.deployment.modal_cli import modal_commands  # noqa: PLC0415

    modal_commands(weights_worker, archived_jobs).status(json=json)
