"""Which task does the jobs of each kind.

A task takes the attempt and the context, and returns the result. Tasks decide and order the steps; bytes move in
`registry`, `ollama` and `weights`.
"""

from jobs.tasks.batch import batch
from jobs.tasks.context import Result, Task, TaskContext
from jobs.tasks.delete import delete
from jobs.tasks.prune import prune
from jobs.tasks.prune_batches import prune_batches
from jobs.tasks.pull import pull
from jobs.tasks.rollback import rollback
from jobs.tasks.verify import verify
from jobs.tasks.warm import warm
from jobs.worker.attempt import RunningAttempt

TASKS: dict[str, Task] = {
    "pull": pull,
    "verify": verify,
    "delete": delete,
    "prune": prune,
    "rollback": rollback,
    "warm": warm,
    "batch": batch,
    "prune_batches": prune_batches,
}


def perform(attempt: RunningAttempt, context: TaskContext) -> Result:
    """Do what the attempt's job asks for."""
    return TASKS[attempt.job.kind](attempt, context)
