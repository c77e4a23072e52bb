"""Pull: bring a model, whole or not at all, by our own puller or through an Ollama server."""

from collections.abc import Sequence
from datetime import timedelta

from loguru import logger

from jobs.core import errors
from jobs.core.model_name import ModelName
from jobs.ledger.kinds import WAYS
from jobs.models.card import facts_of
from jobs.registry import servable
from jobs.registry.allowlist import USUAL
from jobs.tasks.context import Result, TaskContext
from jobs.weights import prune_plan, trash_moves
from jobs.weights.directory import ModelsDirectory
from jobs.weights.manifest import Layer, Manifest
from jobs.weights.staging import Staging, staging_subject
from jobs.weights.survey import BlobState, Survey
from jobs.worker.attempt import RunningAttempt

AFTER_A_PRUNE = timedelta(minutes=1)
"""A pull that finds no room while a prune is at work looks again."""


def pull(attempt: RunningAttempt, context: TaskContext) -> Result:
    """Bring a model, whole or not at all, the way that fits: our own puller, or a server's."""
    name = ModelName.parse(attempt.job.request["model"])
    way = attempt.job.request.get("way") or "auto"
    if way not in WAYS:
        raise errors.BadRequest(f"there is no way to pull called {way!r}", hint=f"ways are {', '.join(WAYS)}")
    context.registry.need(name)  # before a server is asked to pull it for us
    if way == "server":
        return _pull_by_server(attempt, context, name, "asked for")
    if context.weights is None:
        if way == "auto":
            return _pull_by_server(attempt, context, name, "the models directory is not ours")
        raise errors.Unsupported("the models directory is not ours to write", hint="pull with --way server")
    try:
        return _pull_by_registry(attempt, context, context.weights, name)
    except errors.Unauthorized as refused:
        # A server has a key of its own, which these registries may know; to any other it is as unknown as we are.
        if way == "registry" or not context.servers or name.host.lower() not in USUAL:
            raise
        logger.info("the registry wants a login; trying the server's own")
        return _pull_by_server_instead(attempt, context, name, refused)


def _pull_by_server_instead(
    attempt: RunningAttempt, context: TaskContext, name: ModelName, refused: errors.Unauthorized
) -> Result:
    """Pull through a server what the registry refused us; if that fails, why it refused us is told all the same.

    Raises:
        errors.Unauthorized: the server could not begin either.
        errors.NetworkTrouble: it could, and what ended it may pass.

    """
    try:
        return _pull_by_server(attempt, context, name, f"the registry refused us: {refused}")
    except errors.StoreTrouble:
        raise  # ours, and no word about the registry
    except errors.Trouble as trouble:
        if isinstance(trouble, errors.NetworkTrouble) and attempt.progress.read().completed:
            said = f"{trouble} (pulled by the server, since {refused})"
            raise type(trouble)(said, hint=trouble.hint, retry_after=trouble.retry_after) from trouble
        raise errors.Unauthorized(f"{refused}; nor could the server pull it: {trouble}", hint=refused.hint) from trouble


def _pull_by_registry(
    attempt: RunningAttempt, context: TaskContext, weights: ModelsDirectory, name: ModelName
) -> Result:
    attempt.progress.begin("asking for the manifest")
    manifest = context.registry.manifest(name, check=attempt.check)
    staging = weights.stage(staging_subject(attempt.job), attempt.holder, still_ours=attempt.check)
    try:
        trash_moves.take_back(weights, manifest.blobs, still_ours=attempt.hold)
        present = [layer for layer in manifest.blobs if weights.blob_state(layer) is BlobState.PRESENT]
        damages = weights.verify(present, progress=attempt.progress, check=attempt.check)
        damaged = {damage.digest for damage in damages}
        sound = {layer.digest for layer in present} - damaged
        wanted = [layer for layer in manifest.blobs if layer.digest not in sound]
        missing = sum(layer.size for layer in wanted)
        _require_room(attempt, context, weights, max(0, missing - staging.bytes_held()))
        total = sum(layer.size for layer in manifest.blobs)
        attempt.progress.begin("pulling", total=total, completed=total - missing)
        moved, began_at = attempt.progress.moved_bytes, context.clock.monotonic()
        _need_servable(attempt, context, manifest, wanted=wanted, staging=staging)
        attempt.progress.begin("pulling", total=total, completed=total - missing)
        fetch_to_staging(attempt, context, name, wanted, staging)
        fetched, took = attempt.progress.moved_bytes - moved, context.clock.monotonic() - began_at
        attempt.progress.begin("publishing")
        for layer in wanted:
            if layer.digest in damaged:
                weights.replace_blob(layer, staging, still_ours=attempt.hold)
        weights.publish(name, manifest, staging, still_ours=attempt.hold)
    except errors.Cancelled:
        staging.discard()
        raise
    facts = facts_of(weights.layout, manifest)
    return {
        "model": str(name),
        "digest": manifest.digest,
        "size": manifest.size,
        "facts": facts and facts.as_json(),
        "way": "registry",
        "fetched_bytes": fetched,
        "fetch_seconds": round(took, 3),
        "resumed_bytes": max(0, missing - fetched),
        "reused_bytes": total - missing,
    }


def _need_servable(
    attempt: RunningAttempt, context: TaskContext, manifest: Manifest, *, wanted: Sequence[Layer], staging: Staging
) -> None:
    """Fetch the few small files first, and refuse what no server could load before a byte of its weights comes."""
    name, layout = ModelName.parse(attempt.job.request["model"]), context.require_weights().layout
    digests = {layer.digest for layer in wanted}
    if coming := [layer for layer in servable.small_files(manifest) if layer.digest in digests]:
        fetch_to_staging(attempt, context, name, coming, staging)

    def content(layer: Layer) -> bytes:
        path = staging.path(layer.digest) if layer.digest in digests else layout.blob(layer.digest)
        try:
            return path.read_bytes()
        except FileNotFoundError as error:
            staging.hold()
            raise errors.Corrupt(
                f"blob {layer.digest} went while it was read", hint="trying again fetches it"
            ) from error
        except OSError as error:
            raise errors.os_trouble(error, doing=f"reading {layer.digest}") from error

    try:
        servable.need_small_files(manifest, str(name), content)
    except errors.Refused:  # nobody goes on from there
        staging.discard()
        raise


def _require_room(attempt: RunningAttempt, context: TaskContext, weights: ModelsDirectory, missing: int) -> None:
    """Refuse what cannot fit, and say what a prune could free.

    While a prune is at work that is not known yet. An attempt before this one had room, so somebody else has taken it
    since: that may pass, too.
    """

    def could_go(survey: Survey) -> str:
        plan = prune_plan.plan(survey, context.weights_use(), context.retention, context.clock.now())
        return prune_plan.could_go(survey, plan)

    try:
        weights.room_for(missing, context.retention.quota_bytes, could_go=could_go)
    except errors.NoRoom as trouble:
        if context.weights_use().is_pruned:
            said = f"{trouble}; a prune is at work, which may make some"
            raise errors.RoomComing(said, hint=trouble.hint, retry_after=AFTER_A_PRUNE) from trouble
        if isinstance(trouble, errors.NotEnoughRoom) and attempt.n > 1:
            raise errors.DiskFull(str(trouble), hint=trouble.hint) from trouble
        raise


def fetch_to_staging(
    attempt: RunningAttempt, context: TaskContext, name: ModelName, layers: Sequence[Layer], staging: Staging
) -> None:
    """Fetch these blobs from the model's registry into the staging folder, at the rate that the job allows."""
    context.registry.fetch_all(
        name,
        layers,
        lambda layer: staging.path(layer.digest),
        progress=attempt.progress,
        check=attempt.check,
        limit=attempt.job.request.get("rate_limit"),
        verified=lambda layer: staging.settle(layer.digest),
    )


def _pull_by_server(attempt: RunningAttempt, context: TaskContext, name: ModelName, why: str) -> Result:
    tier, server = context.choose_server(str(name), 0, attempt.job.request.get("tier"))
    attempt.progress.begin("waiting for another pull of the server")
    while not context.server_pull_lock.acquire(blocking=False):
        attempt.sleep(0.2)
    try:
        attempt.progress.begin("asking the server to pull")
        is_plain = context.registry.is_plain(name)
        server.pull(str(name), progress=attempt.progress, check=attempt.check, insecure=is_plain)
    finally:
        context.server_pull_lock.release()
    listed = next((each for each in server.tags() if name.is_called(each.name)), None)
    if listed is None:
        raise errors.NotFound(f"the server pulled {str(name)!r}, but does not list it", hint="look at the server's log")
    return {
        "model": str(name),
        "digest": listed.digest,
        "size": listed.size,
        "way": "server",
        "why": why,
        "tier": tier.name,
    }
