"""What each kind of job does: pull, verify, delete, prune, rollback, warm.

A task takes its run and the workshop; it returns the result.
Tasks decide and order the steps; bytes move in `registry`, `ollama` and `weights`. Each one may be killed at any
instruction and simply runs again.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from loguru import logger

from jobs.core.clock import Clock, isoformat
from jobs.core.errors import (
    BadRequest,
    Cancelled,
    Corrupt,
    CpuFallback,
    DiskFull,
    NoRoom,
    NotEnoughRoom,
    NotFound,
    Refused,
    RoomComing,
    Unauthorized,
    Unsupported,
    os_trouble,
)
from jobs.core.model_name import ModelName
from jobs.core.units import human_bytes
from jobs.ledger.job import Job
from jobs.models.card import facts_of
from jobs.models.gguf import MemoryFacts
from jobs.models.placement import Tier, place
from jobs.ollama.client import OllamaClient
from jobs.registry import servable
from jobs.registry.client import Registry
from jobs.weights import prune_plan as pruning
from jobs.weights import trash_moves as trashing
from jobs.weights.checksum import verify as verify_places
from jobs.weights.directory import ModelsDirectory
from jobs.weights.manifest import Layer, Manifest
from jobs.weights.prune_plan import PrunePlan, Retention, WeightsUse
from jobs.weights.staging import Staging
from jobs.weights.survey import BlobState, Broken, Survey, SurveyedModel
from jobs.worker.attempt import RunningAttempt

WAYS = ("auto", "registry", "server")

WARM_KEEP_ALIVE = timedelta(minutes=30)
"""How long a warmed model stays loaded when nobody uses it; a server at zero containers forgets it anyway."""


AFTER_A_PRUNE = timedelta(minutes=1)
"""A pull that finds no room while a prune is at work looks again."""


@dataclass(frozen=True)
class TaskContext:
    """What tasks work with. Where the models directory is not ours, `weights` is None and pulls go through a server."""

    clock: Clock
    registry: Registry
    weights: ModelsDirectory | None = None
    servers: Mapping[str, OllamaClient] = field(default_factory=dict)
    tiers: Sequence[Tier] = ()
    retention: Retention = field(default_factory=Retention)
    around: Callable[[], WeightsUse] = WeightsUse
    """Who uses the weights, and who is at work on them; asked when a prune plans."""
    belongs: Callable[[ModelName], str | None] = lambda _: None
    """The tier that was declared for a model, whatever its size."""
    server_pulls: threading.Lock = field(default_factory=threading.Lock)
    """Held while a server pulls: two pulls that share a blob can crash it (ollama server/download.go:442)."""

    def server_for(
        self, model: str, size: int, tier: str | None, *, facts: MemoryFacts | None = None
    ) -> tuple[Tier, OllamaClient]:
        """The tier that is asked for, or the one that the memory which the model takes leads to."""
        known = [each for each in self.tiers if each.name in self.servers]
        if not known:
            raise Unsupported("no Ollama server is part of this stack", hint="start one: `ollama-modal up`")
        if tier is None:
            chosen = place(size, known, facts=facts).tier
        else:
            named = [each for each in known if each.name == tier]
            if not named:
                raise BadRequest(
                    f"there is no tier {tier!r} for {model!r}", hint=f"tiers are {', '.join(t.name for t in known)}"
                )
            chosen = named[0]
        return chosen, self.servers[chosen.name]

    def server_of(self, name: ModelName, asked: str | None) -> tuple[Tier, OllamaClient]:
        """Where a model goes: to the tier that is asked for, else the declared one, else by the memory it takes."""
        known = self.weights.find(name) if self.weights else None
        facts = facts_of(self.weights.layout, known.manifest) if self.weights and known else None
        return self.server_for(str(name), known.size if known else 0, asked or self._declared_for(name), facts=facts)

    def _declared_for(self, name: ModelName) -> str | None:
        """The declared tier, where it has a server; else the size decides."""
        tier = self.belongs(name)
        return tier if tier in self.servers else None


Result = dict[str, Any]


def perform(run: RunningAttempt, shop: TaskContext) -> Result:
    """Do what the run's job asks for."""
    return TASKS[run.job.kind](run, shop)


# -- pull --------------------------------------------------------------------------------------------------------------


def pull(run: RunningAttempt, shop: TaskContext) -> Result:
    """Bring a model, whole or not at all, the way that fits: our own puller, or a server's."""
    name = ModelName.parse(run.job.request["model"])
    way = run.job.request.get("way") or "auto"
    if way not in WAYS:
        raise BadRequest(f"there is no way to pull called {way!r}", hint=f"ways are {', '.join(WAYS)}")
    shop.registry.need(name)  # before a server is asked to pull it for us
    if way == "server" or (way == "auto" and shop.weights is None):
        return _pull_by_server(run, shop, name, "asked for" if way == "server" else "the models directory is not ours")
    if shop.weights is None:
        raise Unsupported("the models directory is not ours to write", hint="pull with --way server")
    try:
        return _pull_by_registry(run, shop, shop.weights, name)
    except Unauthorized as refused:
        if way == "registry" or not shop.servers:
            raise
        logger.info("the registry wants a login; trying the server's own")
        return _pull_by_server(run, shop, name, f"the registry refused us: {refused}")


def _pull_by_registry(run: RunningAttempt, shop: TaskContext, weights: ModelsDirectory, name: ModelName) -> Result:
    run.progress.begin("asking for the manifest")
    manifest = shop.registry.manifest(name, check=run.check)
    staging = weights.stage(staging_subject(run.job), run.holder, still_ours=run.check)
    try:
        trashing.take_back(weights, manifest.blobs, still_ours=run.hold)
        here = [layer for layer in manifest.blobs if weights.blob_state(layer) is BlobState.PRESENT]
        damaged = {damage.digest for damage in weights.verify(here, progress=run.progress, check=run.check)}
        sound = {layer.digest for layer in here} - damaged
        wanted = [layer for layer in manifest.blobs if layer.digest not in sound]
        missing = sum(layer.size for layer in wanted)
        _require_room(run, shop, weights, max(0, missing - staging.bytes_held()))
        total = sum(layer.size for layer in manifest.blobs)
        run.progress.begin("pulling", total=total, completed=total - missing)
        _need_servable(run, shop, manifest, wanted, staging)
        run.progress.begin("pulling", total=total, completed=total - missing)
        _fetch(run, shop, name, wanted, staging)
        run.progress.begin("publishing")
        for layer in wanted:
            if layer.digest in damaged:
                weights.replace_blob(layer, staging, still_ours=run.hold)
        weights.publish(name, manifest, staging, still_ours=run.hold)
    except Cancelled:
        staging.discard()
        raise
    facts = facts_of(weights.layout, manifest)
    return {
        "model": str(name),
        "digest": manifest.digest,
        "size": manifest.size,
        "facts": facts and facts.as_json(),
        "way": "registry",
        "fetched_bytes": missing,
        "reused_bytes": total - missing,
    }


def _need_servable(
    run: RunningAttempt, shop: TaskContext, manifest: Manifest, wanted: Sequence[Layer], staging: Staging
) -> None:
    """Fetch the few small files first, and refuse what no server could load before a byte of its weights comes."""
    name = ModelName.parse(run.job.request["model"])
    digests = {layer.digest for layer in wanted}
    small = servable.small_files(manifest)
    if coming := [layer for layer in small if layer.digest in digests]:
        _fetch(run, shop, name, coming, staging)

    def content(layer: Layer) -> bytes:
        return _small_blob(shop, layer, staging.path(layer.digest) if layer.digest in digests else None, staging)

    try:
        servable.need_small_files(manifest, str(name), content)
    except Refused:  # nobody goes on from there
        staging.discard()
        raise


def _small_blob(shop: TaskContext, layer: Layer, staged: Path | None, staging: Staging) -> bytes:
    """What is staged or published of it."""
    try:
        return (staged or _own_weights(shop).layout.blob(layer.digest)).read_bytes()
    except FileNotFoundError as error:
        staging.hold()
        raise Corrupt(f"blob {layer.digest} went while it was read", hint="trying again fetches it") from error
    except OSError as error:
        raise os_trouble(error, doing=f"reading {layer.digest}") from error


def _require_room(run: RunningAttempt, shop: TaskContext, weights: ModelsDirectory, missing: int) -> None:
    """Refuse what cannot fit, and say what a prune could free.

    While a prune is at work that is not known yet. An attempt before this one had room, so somebody else has taken it
    since: that may pass, too.
    """

    def could_go(survey: Survey) -> str:
        return pruning.could_go(survey, pruning.plan(survey, shop.around(), shop.retention, shop.clock.now()))

    try:
        weights.room_for(missing, shop.retention.quota_bytes, could_go=could_go)
    except NoRoom as trouble:
        if shop.around().is_pruned:
            said = f"{trouble}; a prune is at work, which may make some"
            raise RoomComing(said, hint=trouble.hint, retry_after=AFTER_A_PRUNE) from trouble
        if isinstance(trouble, NotEnoughRoom) and run.n > 1:
            raise DiskFull(str(trouble), hint=trouble.hint) from trouble
        raise


def staging_subject(job: Job) -> str:
    """Under which name the bytes of a job are staged: the same for every attempt and for a retry."""
    return f"{job.kind} {job.subject}"


def _fetch(run: RunningAttempt, shop: TaskContext, name: ModelName, layers: Sequence[Layer], staging: Staging) -> None:
    shop.registry.fetch_all(
        name,
        layers,
        lambda layer: staging.path(layer.digest),
        progress=run.progress,
        check=run.check,
        limit=run.job.request.get("rate_limit"),
        verified=lambda layer: staging.settle(layer.digest),
    )


def _pull_by_server(run: RunningAttempt, shop: TaskContext, name: ModelName, why: str) -> Result:
    tier, server = shop.server_for(str(name), 0, run.job.request.get("tier"))
    run.progress.begin("waiting for another pull of the server")
    while not shop.server_pulls.acquire(blocking=False):
        run.sleep(0.2)
    try:
        run.progress.begin("asking the server to pull")
        server.pull(str(name), progress=run.progress, check=run.check)
    finally:
        shop.server_pulls.release()
    shown = next((each for each in server.tags() if name.is_called(each.name)), None)
    if shown is None:
        raise NotFound(f"the server pulled {str(name)!r}, but does not list it", hint="look at the server's log")
    return {
        "model": str(name),
        "digest": shown.digest,
        "size": shown.size,
        "way": "server",
        "why": why,
        "tier": tier.name,
    }


# -- verify ------------------------------------------------------------------------------------------------------------


def verify(run: RunningAttempt, shop: TaskContext) -> Result:
    """Hash every blob of one model, or of all, and fetch the damaged ones again, alone; also of models not whole."""
    weights = _own_weights(shop)
    asked = run.job.request.get("model")
    models = _known(weights, ModelName.parse(asked)) if asked else weights.named()
    manifests = {each.name: each.manifest for each in models if each.manifest is not None}
    owners = {layer.digest: (name, layer) for name, manifest in manifests.items() for layer in manifest.blobs}
    layers = [layer for _, layer in owners.values()]
    damages = weights.verify(layers, progress=run.progress, check=run.check)
    for damage in damages:
        logger.warning("a blob of {} is damaged: {}", owners[damage.digest][0], damage)
    if damages:
        _mend(run, shop, weights, [owners[damage.digest] for damage in damages])
    return {
        "models": [str(name) for name in manifests],
        "blobs": len(layers),
        "bytes": sum(layer.size for layer in layers),
        "mended": [{"digest": damage.digest, "damage": damage.kind} for damage in damages],
        "torn": [str(each.name) for each in models if each.manifest is None],
    }


def _mend(
    run: RunningAttempt, shop: TaskContext, weights: ModelsDirectory, damaged: Sequence[tuple[ModelName, Layer]]
) -> None:
    staging = weights.stage(staging_subject(run.job), run.holder, still_ours=run.check)
    run.progress.begin("mending", total=sum(layer.size for _, layer in damaged), completed=0)
    for name, layer in damaged:
        try:
            _fetch(run, shop, name, [layer], staging)
        except NotFound as gone:
            raise Corrupt(
                f"blob {layer.digest} of {str(name)!r} is damaged, and the registry no longer has it",
                hint=f"bring the newest: `ollama-modal pull {name}`",
            ) from gone
        weights.replace_blob(layer, staging, still_ours=run.hold)
    staging.discard()


# -- delete ------------------------------------------------------------------------------------------------------------


def delete(run: RunningAttempt, shop: TaskContext) -> Result:
    """Remove a model: its manifest first, then the blobs that nobody else references."""
    name = ModelName.parse(run.job.request["model"])
    try:
        return _deleted(run, shop, name)
    except NotFound:
        if run.n == 1:
            raise
        # An attempt that died after its first step leaves nothing to be found, which is what was asked for. Others may
        # not have been told.
        if shop.weights is not None:
            with shop.weights.exclusive(run.hold):
                shop.weights.persist()
        note = "an earlier attempt had removed it, and may have left blobs that no model needs"
        way = "server" if shop.weights is None else "directory"
        return {"model": str(name), "way": way, "freed_bytes": 0, "blobs": 0, "note": note}


def _deleted(run: RunningAttempt, shop: TaskContext, name: ModelName) -> Result:
    if shop.weights is None:
        _, server = shop.server_for(str(name), 0, None)
        run.hold()
        server.delete(str(name))
        return {"model": str(name), "way": "server"}
    removed = shop.weights.remove(name, still_ours=run.hold)
    return {
        "model": str(name),
        "way": "directory",
        "freed_bytes": removed.freed_bytes,
        "blobs": len(removed.deleted),
        "note": removed.note,
    }


# -- prune and rollback ------------------------------------------------------------------------------------------------


def prune(run: RunningAttempt, shop: TaskContext) -> Result:
    """Follow the plan of now: delete from the trash what is due, then move to it what retention wants to go."""
    weights = _own_weights(shop)
    run.progress.begin("looking")
    trashing.require_models_directory(weights.layout)
    # What an earlier attempt threw has its grace before it: --empty-trash meant what lay there when the job began.
    began = run.job.attempts[0].started_at if run.n > 1 else None
    plan = planned(weights.survey(), shop.around(), shop.retention, shop.clock.now(), run.job.request, began=began)
    trashing.follow(weights, plan, still_ours=run.hold, tell=run.progress.begin)
    return plan.as_json()


def planned(
    survey: Survey,
    around: WeightsUse,
    retention: Retention,
    now: datetime,
    request: Mapping[str, Any],
    *,
    began: datetime | None = None,
) -> PrunePlan:
    """What a prune that is asked for in these words would do: the dry one and the real one ask here.

    One that `began` earlier and goes on empties the trash of what lay there by then.
    """
    days = request.get("unused_days")
    asked = retention if days is None else replace(retention, unused=timedelta(days=days))
    empty_trash = bool(request.get("empty_trash", False))
    return pruning.plan(survey, around, asked, now, empty_trash=empty_trash, began=began)


def rollback(run: RunningAttempt, shop: TaskContext) -> Result:
    """Publish the version of a model that was there before, whole or not at all; the one that is there is thrown.

    Which version that is, is decided once for a job: every later attempt finishes that, or finds it done.
    """
    weights = _own_weights(shop)
    name = ModelName.parse(run.job.request["model"])
    run.progress.begin("looking")
    decision = trashing.decided(weights, run.job.id)
    if decision is not None and trashing.is_done(weights, decision):
        run.progress.begin("publishing")
        trashing.finish(weights, decision, still_ours=run.hold)
        return _rolled_back(name, decision.digest, decision.left, decision.thrown_at)
    folder = trashing.thrown(weights, name) if decision is None else trashing.folder_of(weights, decision)
    damages = verify_places(trashing.places(weights, folder), progress=run.progress, check=run.check)
    if damages:
        raise Corrupt(
            f"the earlier {str(name)!r} cannot come back: {damages[0]}",
            hint=f"bring the newest: `ollama-modal pull {name}`",
        )
    run.progress.begin("publishing")
    left = trashing.restore(weights, folder, still_ours=run.hold, job=run.job.id)
    return _rolled_back(name, folder.manifest.digest if folder.manifest else "", left, folder.thrown_at)


def _rolled_back(name: ModelName, digest: str, left: str | None, thrown_at: datetime | None) -> Result:
    return {"model": str(name), "digest": digest, "left": left, "thrown_at": thrown_at and isoformat(thrown_at)}


# -- warm --------------------------------------------------------------------------------------------------------------


def warm(run: RunningAttempt, shop: TaskContext) -> Result:
    """Load a model, ask for one token, and tell how long it took and where it runs."""
    name = ModelName.parse(run.job.request["model"])
    tier, server = shop.server_of(name, run.job.request.get("tier"))
    run.progress.begin(f"loading on {tier.name}")
    started = shop.clock.monotonic()
    server.load(str(name), keep_alive=WARM_KEEP_ALIVE, check=run.check)
    load_seconds = shop.clock.monotonic() - started
    run.progress.begin(f"asking {tier.name} for a token")
    *_, last = server.generate(str(name), "Hi", options={"num_predict": 1}, keep_alive=WARM_KEEP_ALIVE, check=run.check)
    resident = server.running(str(name))
    on_gpu = resident is not None and resident.is_on_gpu
    if tier.gpu_promised and not on_gpu:
        size, in_vram = (resident.size, resident.size_vram) if resident else (0, 0)
        raise CpuFallback(
            f"tier {tier.name!r} promises a GPU, but {human_bytes(in_vram)} of {human_bytes(size)} of {str(name)!r}"
            " are in its memory",
            hint="look at the server's log for the GPU it found; a bigger tier may be needed",
        )
    return {
        "model": str(name),
        "tier": tier.name,
        "load_seconds": round(load_seconds, 3),
        "first_token_seconds": last.usage.total.total_seconds(),
        "tokens_per_second": last.usage.tokens_per_second,
        "size": resident.size if resident else None,
        "size_vram": resident.size_vram if resident else None,
        "on_gpu": on_gpu,
    }


def _own_weights(shop: TaskContext) -> ModelsDirectory:
    if shop.weights is None:
        raise Unsupported(
            "the models directory is not ours to read", hint="start `up` with --models DIR and a directory you own"
        )
    return shop.weights


def _known(weights: ModelsDirectory, name: ModelName) -> list[SurveyedModel | Broken]:
    known = weights.named(name)
    if not known:
        raise NotFound(f"there is no model {str(name)!r} here", hint=f"pull it: `ollama-modal pull {name}`")
    if all(each.manifest is None for each in known):
        raise Corrupt(f"the manifest of {str(name)!r} is torn", hint=f"bring it anew: `ollama-modal pull {name}`")
    return known


TASKS: dict[str, Callable[[RunningAttempt, TaskContext], Result]] = {
    "pull": pull,
    "verify": verify,
    "delete": delete,
    "prune": prune,
    "rollback": rollback,
    "warm": warm,
}
