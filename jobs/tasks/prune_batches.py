"""Prune batches: remove the files of batches, and the batches, that are no longer kept."""

from jobs.batches.batch_store import Batch
from jobs.batches.files.files_due import looked_through
from jobs.batches.files.prune_plan import plan
from jobs.batches.lines.assembly import Assembled, Undone, assemble
from jobs.batches.lines.line_check import checked_before
from jobs.batches.lines.line_index import Lines
from jobs.batches.lines.segments import Segments
from jobs.batches.running.batch_context import BatchContext
from jobs.core.errors import NotFound
from jobs.tasks.context import Result, TaskContext
from jobs.worker.attempt import RunningAttempt


def prune_batches(attempt: RunningAttempt, context: TaskContext) -> Result:
    """Remove what is no longer kept. First have batches end whose job ended without a word, with what is done."""
    batches = context.require_batches()
    attempt.progress.begin("looking")
    attempt.hold()
    for batch in batches.store.all().values():
        attempt.check()
        if batch.broke is not None:
            _settle(batches, batch, attempt)
    found = plan(batches.storage.stored(), batches.store.all(), context.clock.now(), keep=batches.keep)
    attempt.progress.begin("removing")
    batches.storage.follow(found, still_ours=attempt.hold)
    for id in found.batches:
        attempt.hold()
        batches.store.remove(id)
    looked_through(batches.facts, batches.storage.stored(), context.clock.now(), batches.keep)
    return found.as_json()


def _settle(batches: BatchContext, batch: Batch, attempt: RunningAttempt) -> None:
    made = _put_together(batches, batch, attempt)
    attempt.hold()
    batches.store.settle(
        batch, made.output.id if made.output else None, made.errors.id if made.errors else None, counts=made.counts
    )


def _put_together(batches: BatchContext, batch: Batch, attempt: RunningAttempt) -> Assembled:
    """The files of what attempts have left, as far as they got."""
    storage, record = batches.storage, batch.record
    checked = checked_before(storage, record.id)
    if checked is None or not checked.is_good or batch.broke is None:
        return Assembled(None, None)
    writer = Segments(storage, record.id, checked.lines).open_next(f"{attempt.job.id}/{attempt.n}")
    lines = Lines(storage, record, [each.model for each in checked.models], checked.lines)
    undone = Undone(batch.broke.code, batch.broke.message)
    try:
        return assemble(
            storage,
            record,
            lines,
            writer.results,
            writer.sequence,
            undone=undone,
            progress=lambda _: attempt.check(),
        )
    except NotFound:  # somebody removed the file of its lines, so that those without a result have no id
        return Assembled(None, None)
