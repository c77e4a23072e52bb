"""Batch: have each line of a file answered once, and put the answers together."""

from jobs.batches.running.batch_run import BatchRun, result_of
from jobs.core.errors import Cancelled, NotFound
from jobs.tasks.context import Result, TaskContext
from jobs.worker.attempt import RunningAttempt


def batch(attempt: RunningAttempt, context: TaskContext) -> Result:
    """Bring a batch to its end, from where earlier attempts left it. However the batch ends, the job has done its work;
    but one that is cancelled is cancelled, when what is done can be read.

    Raises:
        NotFound: nothing is known of the batch.

    """
    batches = context.require_batches()
    found = batches.store.find(attempt.job.subject)
    if found is None:
        raise NotFound(f"nothing is known of batch {attempt.job.subject!r}", hint="post its file again")
    end = found.end or BatchRun(attempt, batches, found).run()
    if end.status == "cancelled":
        raise Cancelled(f"batch {attempt.job.subject!r} was cancelled")
    return result_of(end)
