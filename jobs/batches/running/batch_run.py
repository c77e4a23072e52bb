"""An attempt at a batch: its file is read through, it begins when it may, its lines are answered, and it ends.

    validating ── read through, estimated ──▶ in progress ── each line has a result ──▶ finalizing ──▶ completed
        │                                          │  ▲                                     ▲ │
        ▼ a line is wrong, or too dear             ▼  │ put off: it begins later            │ └──▶ failed, expired,
      failed                                  back in the queue      ended early, cancelled ┘        cancelled

Whatever ends it early, what is done is kept and can be read. It may be killed at any instruction; the next attempt goes
on with the lines that have no result.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from loguru import logger

from jobs.batches.batch_store import Batch
from jobs.batches.lines.assembly import CANCELLED as NOT_RUN
from jobs.batches.lines.assembly import EXPIRED as TOO_LATE
from jobs.batches.lines.assembly import Assembled, Undone, assemble
from jobs.batches.lines.line_check import Checked, LineRules, checked_before, read_through
from jobs.batches.lines.line_index import Lines
from jobs.batches.lines.segments import Segments, SegmentWriter, sequence_of
from jobs.batches.lines.unrun_lines import assemble_unrun
from jobs.batches.measuring import LineMeter
from jobs.batches.records import BatchEnd, EndStatus, LineCounts, LineError
from jobs.batches.running.batch_context import BatchContext
from jobs.batches.running.beginning import Beginning
from jobs.batches.running.run_parts import EXPIRED, EndedEarly, Routes, RunParts
from jobs.batches.running.run_state import RunState
from jobs.batches.running.sending import Sending
from jobs.batches.running.shown_pass import ShownPass
from jobs.batches.speed import learn
from jobs.core.errors import Cancelled, Fenced, HandedBack, NotFound, StoreTrouble, Trouble
from jobs.core.units import counted
from jobs.worker.attempt import RunningAttempt

_CANCELLED = EndedEarly("cancelled", "batch_cancelled", "the batch was cancelled")


class BatchRun:
    """Of one attempt. Its thread reads, waits and ends; its event loop, in the same thread, sends lines."""

    def __init__(self, attempt: RunningAttempt, context: BatchContext, batch: Batch) -> None:
        self._parts = RunParts(
            attempt,
            context,
            batch.record,
            RunState(context.store, attempt, batch.state, context.clock),
            ShownPass(context.facts, batch.record, context.clock),
        )
        self._beginning = Beginning(self._parts)

    def run(self) -> BatchEnd:
        """Bring the batch to its end; what is written down of that.

        Raises:
            Interrupted: it was fenced, handed back or put off.
            Trouble: something failed that another attempt may not meet. It is told until that begins.

        """
        try:
            return self._run()
        except Trouble as trouble:
            if not isinstance(self._parts.why_stopped(), Fenced):
                self._parts.state.note(note=str(trouble))
                self._parts.state.say()
            raise

    def _run(self) -> BatchEnd:
        try:
            checked = self._read_through()
        except Cancelled:
            return self._end_unrun("cancelled", NOT_RUN)
        if checked is None:
            return self._end_unrun("expired", TOO_LATE)
        self._parts.state.note(counts=LineCounts(checked.lines))
        if not checked.is_good:
            return self._end_unrun("failed", _not_run_for(checked), checked.errors)
        return self._run_lines(checked)

    def _read_through(self) -> Checked | None:
        """What a read through its file finds; None when its time is over before that."""
        parts, context = self._parts, self._parts.context
        parts.attempt.check()
        if parts.is_over and checked_before(context.storage, parts.record.id) is None:
            return None
        parts.state.enter("validating")
        most = {} if context.most_lines is None else {"most_lines": context.most_lines}
        rules = LineRules.of(
            parts.record,
            knows=self._beginning.unknown_model,
            shape=lambda body: context.shape(parts.record.endpoint, body),
            **most,
        )
        return read_through(context.storage, parts.record, rules, progress=lambda _: parts.attempt.check())

    def _run_lines(self, checked: Checked) -> BatchEnd:
        parts, context = self._parts, self._parts.context
        parts.attempt.hold(to_finish=True)
        sequence = sequence_of(parts.attempt.job.id, parts.attempt.n)
        segments = Segments(context.storage, parts.record.id, checked.lines)
        writer = segments.open(sequence, parts.attempt.holder)
        lines = Lines(context.storage, parts.record, [each.model for each in checked.models], checked.lines)
        parts.state.note(counts=writer.results.counts)
        meter = LineMeter(context.clock, context.dollars_per_second, parts.state.use_before)
        try:
            ended = self._answered(checked, lines, writer, meter)
        except Cancelled:
            ended = _CANCELLED
        return self._finalize(lines, writer, ended, meter)

    def _answered(self, checked: Checked, lines: Lines, writer: SegmentWriter, meter: LineMeter) -> EndedEarly | None:
        """Have the lines answered that have no result; why not all were."""
        parts = self._parts
        parts.attempt.check()
        if parts.is_over:
            return EXPIRED
        if writer.results.counts.ended == writer.results.lines:
            return None
        routes = self._beginning.routes(checked)
        if isinstance(routes, EndedEarly):
            return routes
        if (refused := self._beginning.too_dear(checked)) is not None:
            return refused
        self._beginning.begin(routes)
        try:
            sending = Sending(parts, self._beginning, lines=lines, writer=writer, routes=routes, meter=meter)
            return asyncio.run(sending.all())
        finally:
            self._leave(routes)

    def _leave(self, routes: Routes) -> None:
        if not isinstance(self._parts.why_stopped(), Fenced | HandedBack):
            self._beginning.over(routes)

    def _finalize(self, lines: Lines, writer: SegmentWriter, ended: EndedEarly | None, meter: LineMeter) -> BatchEnd:
        """Put the results together, and write down how it ended."""
        parts, counts = self._parts, writer.results.counts
        status: EndStatus = "completed" if ended is None else ended.status
        parts.state.note(counts=counts, note="")
        parts.state.enter("cancelling" if ended is _CANCELLED else "finalizing")
        made = assemble(
            parts.context.storage,
            parts.record,
            lines,
            writer.results,
            writer.sequence,
            undone=_undone(ended),
            progress=lambda _: self._go_on(),
        )
        if status == "failed":  # of one that expired, those that were not run are counted apart, as of a cancelled one
            counts = LineCounts(counts.total, counts.completed, counts.total - counts.completed)
        self._look_at_cost(meter)
        parts.state.note(counts=counts, use=meter.use())
        errors = (LineError(ended.code, ended.message),) if ended is not None and status == "failed" else ()
        end = self._end(status, made, errors=errors)
        with suppress(StoreTrouble):
            learn(parts.context.facts, meter.speeds(), parts.context.clock.now())
        return end

    def _end_unrun(self, status: EndStatus, undone: Undone, errors: Sequence[LineError] = ()) -> BatchEnd:
        """It ends before any line was sent; where its clients look for a result of each, each has one."""
        parts, made = self._parts, None
        if parts.record.dialect == "anthropic":
            parts.attempt.hold(to_finish=True)
            wrong = {each.line: Undone("invalid_request", each.message) for each in errors if each.line is not None}
            with suppress(NotFound):  # of a file that is gone nobody knows the lines any more
                made = assemble_unrun(
                    parts.context.storage,
                    parts.record,
                    sequence_of(parts.attempt.job.id, parts.attempt.n),
                    undone=undone,
                    wrong=wrong,
                    progress=lambda _: self._go_on(),
                )
                parts.state.note(counts=made.counts)
        return self._end(status, made, errors=errors)

    def _look_at_cost(self, meter: LineMeter) -> None:
        """What it took is told as `cost` does, where gateways have written down nearly all of it by now."""
        try:
            meter.look(self._parts.context.shared_times(self._parts.record.id), is_due=True)
        except StoreTrouble as trouble:
            logger.warning("what the batch took is told by the time of its lines: {}", trouble)

    def _go_on(self) -> None:
        """Raise where the attempt is to stop for anything but a cancel, which is what is being finished."""
        why = self._parts.why_stopped()
        if why is not None and not isinstance(why, Cancelled):
            raise why

    def _end(self, status: EndStatus, made: Assembled | None, *, errors: Sequence[LineError] = ()) -> BatchEnd:
        parts = self._parts
        parts.attempt.hold(to_finish=True)
        now = parts.context.clock.now()
        end = BatchEnd(
            status,
            now,
            parts.state.now.with_status(status, now),
            tuple(errors),
            made.output.id if made and made.output else None,
            made.errors.id if made and made.errors else None,
        )
        written = parts.context.store.end(parts.record.id, end)
        with suppress(StoreTrouble):
            parts.shown.end()
        return written


def _not_run_for(checked: Checked) -> Undone:
    """What is said of lines with which nothing is wrong, where something is with others."""
    first = checked.errors[0]
    where = f"; first, of line {first.line:,}" if first.line is not None else ""
    said = f"it was not run: {counted(checked.error_count, 'error')} in its batch{where}: {first.message}"
    return Undone("invalid_request", said)


def _undone(ended: EndedEarly | None) -> Undone:
    """What is said of the lines that have no result."""
    if ended is None or ended is _CANCELLED:
        return NOT_RUN
    return TOO_LATE if ended is EXPIRED else Undone(ended.code, ended.message)


def result_of(end: BatchEnd) -> dict[str, Any]:
    """What its job says it did."""
    return {
        "status": end.status,
        "completed": end.state.counts.completed,
        "failed": end.state.counts.failed,
        "total": end.state.counts.total,
        "prompt_tokens": end.state.use.prompt_tokens,
        "output_tokens": end.state.use.output_tokens,
        "gpu_seconds": round(end.state.use.gpu_seconds, 3),
        "dollars": end.state.use.dollars if end.state.use.dollars is None else round(end.state.use.dollars, 6),
        "output_file": end.output_file_id,
        "error_file": end.error_file_id,
    }
