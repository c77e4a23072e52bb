"""Verify: hash what is published, and fetch what is damaged again, alone."""

from collections.abc import Sequence

from loguru import logger

from jobs.core.errors import Corrupt, NotFound
from jobs.core.model_name import ModelName
from jobs.tasks.context import Result, TaskContext
from jobs.tasks.pull import fetch_to_staging
from jobs.weights.directory import ModelsDirectory
from jobs.weights.manifest import Layer
from jobs.weights.staging import staging_subject
from jobs.weights.survey import Broken, SurveyedModel
from jobs.worker.attempt import RunningAttempt


def verify(attempt: RunningAttempt, context: TaskContext) -> Result:
    """Hash every blob of one model, or of all, and fetch the damaged ones again, alone; also of models not whole."""
    weights = context.require_weights()
    asked = attempt.job.request.get("model")
    models = _models_called(weights, ModelName.parse(asked)) if asked else weights.known()
    manifests = {each.name: each.manifest for each in models if each.manifest is not None}
    owners = {layer.digest: (name, layer) for name, manifest in manifests.items() for layer in manifest.blobs}
    layers = [layer for _, layer in owners.values()]
    damages = weights.verify(layers, progress=attempt.progress, check=attempt.check)
    for damage in damages:
        logger.warning("a blob of {} is damaged: {}", owners[damage.digest][0], damage)
    if damages:
        _mend(attempt, context, weights, [owners[damage.digest] for damage in damages])
    return {
        "models": [str(name) for name in manifests],
        "blobs": len(layers),
        "bytes": sum(layer.size for layer in layers),
        "mended": [{"digest": damage.digest, "damage": damage.kind} for damage in damages],
        "torn": [str(each.name) for each in models if each.manifest is None],
    }


def _models_called(weights: ModelsDirectory, name: ModelName) -> list[SurveyedModel | Broken]:
    known = weights.known(name)
    if not known:
        raise NotFound(f"there is no model {str(name)!r} here", hint=f"pull it: `ollama-modal pull {name}`")
    if all(each.manifest is None for each in known):
        raise Corrupt(f"the manifest of {str(name)!r} is torn", hint=f"bring it anew: `ollama-modal pull {name}`")
    return known


def _mend(
    attempt: RunningAttempt, context: TaskContext, weights: ModelsDirectory, damaged: Sequence[tuple[ModelName, Layer]]
) -> None:
    staging = weights.stage(staging_subject(attempt.job), attempt.holder, still_ours=attempt.check)
    attempt.progress.begin("mending", total=sum(layer.size for _, layer in damaged), completed=0)
    for name, layer in damaged:
        try:
            fetch_to_staging(attempt, context, name, [layer], staging)
        except NotFound as gone:
            raise Corrupt(
                f"blob {layer.digest} of {str(name)!r} is damaged, and the registry no longer has it",
                hint=f"bring the newest: `ollama-modal pull {name}`",
            ) from gone
        weights.replace_blob(layer, staging, still_ours=attempt.hold)
    staging.discard()
