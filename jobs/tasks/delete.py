"""Delete: remove a model, its manifest first, then the blobs that nobody else references."""

from jobs.core.errors import NotFound
from jobs.core.model_name import ModelName
from jobs.tasks.context import Result, TaskContext
from jobs.weights.removal import remove
from jobs.worker.attempt import RunningAttempt


def delete(attempt: RunningAttempt, context: TaskContext) -> Result:
    """Remove a model: its manifest first, then the blobs that nobody else references."""
    name = ModelName.parse(attempt.job.request["model"])
    try:
        return _deleted(attempt, context, name)
    except NotFound:
        if attempt.n == 1:
            raise
        # An attempt that died after its first step leaves nothing to be found, which is what was asked for. Others may
        # not have been told.
        if context.weights is not None:
            with context.weights.exclusive(attempt.hold):
                context.weights.persist()
        note = "an earlier attempt had removed it, and may have left blobs that no model needs"
        way = "server" if context.weights is None else "directory"
        return {"model": str(name), "way": way, "freed_bytes": 0, "blobs": 0, "note": note}


def _deleted(attempt: RunningAttempt, context: TaskContext, name: ModelName) -> Result:
    if context.weights is None:
        _, server = context.choose_server(str(name), 0, None)
        attempt.hold()
        server.delete(str(name))
        return {"model": str(name), "way": "server"}
    removed = remove(context.weights, name, still_ours=attempt.hold)
    return {
        "model": str(name),
        "way": "directory",
        "freed_bytes": removed.freed_bytes,
        "blobs": len(removed.deleted),
        "note": removed.note,
    }
