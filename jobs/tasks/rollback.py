"""Rollback: publish the version of a model that was there before, from the trash."""

from datetime import datetime

from jobs.core.clock import isoformat
from jobs.core.errors import Corrupt
from jobs.core.model_name import ModelName
from jobs.tasks.context import Result, TaskContext
from jobs.weights import restore, trash
from jobs.weights.checksum import verify
from jobs.worker.attempt import RunningAttempt


def rollback(attempt: RunningAttempt, context: TaskContext) -> Result:
    """Publish the version of a model that was there before, whole or not at all; the one that is there is thrown.

    Which version that is, is decided once for a job: every later attempt finishes that, or finds it done.
    """
    weights = context.require_weights()
    name = ModelName.parse(attempt.job.request["model"])
    attempt.progress.begin("looking")
    decision = trash.decided(weights.layout, attempt.job.id)
    if decision is not None and restore.is_done(weights, decision):
        attempt.progress.begin("publishing")
        restore.finish(weights, decision, still_ours=attempt.hold)
        return _result(name, decision.digest, decision.left, decision.thrown_at)
    folder = restore.newest_thrown(weights, name) if decision is None else restore.folder_of(weights, decision)
    damages = verify(restore.blob_paths(weights, folder), progress=attempt.progress, check=attempt.check)
    if damages:
        raise Corrupt(
            f"the earlier {str(name)!r} cannot come back: {damages[0]}",
            hint=f"bring the newest: `ollama-modal pull {name}`",
        )
    attempt.progress.begin("publishing")
    left = restore.restore(weights, folder, still_ours=attempt.hold, job=attempt.job.id)
    return _result(name, folder.manifest.digest if folder.manifest else "", left, folder.thrown_at)


def _result(name: ModelName, digest: str, left: str | None, thrown_at: datetime | None) -> Result:
    return {"model": str(name), "digest": digest, "left": left, "thrown_at": thrown_at and isoformat(thrown_at)}
