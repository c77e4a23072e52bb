"""Prune batches: remove the files of batches, and the batches, that are no longer kept."""

from jobs.batches.files.prune_plan import plan
from jobs.tasks.context import Result, TaskContext
from jobs.worker.attempt import RunningAttempt


def prune_batches(attempt: RunningAttempt, context: TaskContext) -> Result:
    """Remove what is no longer kept; say of batches whose job ended without a word that they failed."""
    batches = context.require_batches()
    attempt.progress.begin("looking")
    attempt.hold()
    for batch in batches.store.all().values():
        attempt.check()
        batches.store.settle(batch)
    found = plan(batches.storage.stored(), batches.store.all(), context.clock.now(), keep=batches.keep)
    attempt.progress.begin("removing")
    batches.storage.follow(found, still_ours=attempt.hold)
    for id in found.batches:
        attempt.hold()
        batches.store.remove(id)
    return found.as_json()
