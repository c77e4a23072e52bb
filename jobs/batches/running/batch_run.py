"""An attempt at a batch: its file is read through, it begins when it may, its lines are answered, and it ends.

    validating ── read through, estimated ──▶ in progress ── each line has a result ──▶ finalizing ──▶ completed
        │                                          │  ▲                                     ▲ │
        ▼ a line is wrong, or too dear             ▼  │ put off: it begins later             │ └──▶ failed, expired,
      failed                                  back in the queue      ended early, cancelled ─┘       cancelled

Whatever ends it early, what is done is kept and can be read. It may be killed at any instruction; the next attempt goes
on with the lines that have no result.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

from loguru import logger

from jobs.batches.batch_store import Batch
from jobs.batches.estimate import DollarLimit, too_dear
from jobs.batches.lines.assembly import CANCELLED, EXPIRED, Assembled, Undone, assemble
from jobs.batches.lines.line_check import Checked, LineRefusal, LineRules, checked_before, read_through
from jobs.batches.lines.line_index import Lines
from jobs.batches.lines.segments import Results, Segments, SegmentWriter, sequence_of
from jobs.batches.measuring import LineMeter
from jobs.batches.records import BatchEnd, BatchRecord, EndStatus, LineCounts, LineError
from jobs.batches.running.batch_context import BatchContext, ModelRoute
from jobs.batches.running.line_client import LineClient
from jobs.batches.running.line_order import by_model
from jobs.batches.running.lines_at_work import EndedEarly, LinesAtWork
from jobs.batches.running.result_keeper import ResultKeeper
from jobs.batches.running.run_state import RunState
from jobs.batches.running.shown_pass import ShownPass
from jobs.batches.speed import learn
from jobs.batches.start_rules import NotYet, StartNow
from jobs.core.errors import Cancelled, Fenced, Interrupted, PutOff, StoreTrouble, Trouble
from jobs.worker.attempt import RunningAttempt


class BatchRun:
    """Of one attempt. Its thread reads, waits and ends; its event loop, in the same thread, sends lines."""

    def __init__(self, attempt: RunningAttempt, context: BatchContext, batch: Batch) -> None:
        self._attempt = attempt
        self._context = context
        self._record: BatchRecord = batch.record
        self._state = RunState(context.store, attempt, batch.state, context.clock)
        self._pass = ShownPass(context.facts, batch.record, context.clock)
        self._interrupted: Interrupted | None = None

    def run(self) -> BatchEnd:
        """Bring the batch to its end; what is written down of that.

        Raises:
            Interrupted: it was fenced, handed back or put off.
            Trouble: something failed that another attempt may not meet.

        """
        try:
            checked = self._read_through()
        except Cancelled:
            return self._end("cancelled", None)
        if checked is None:
            return self._end("expired", None)
        self._state.note(counts=LineCounts(checked.lines))
        if not checked.is_good:
            return self._end("failed", None, errors=checked.errors)
        return self._run_lines(checked)

    # -- before the first line -----------------------------------------------------------------------------------------

    def _read_through(self) -> Checked | None:
        """What a read through its file finds; None when its time is over before that."""
        self._attempt.check()
        known = checked_before(self._context.storage, self._record.id)
        if known is None and self._is_over:
            return None
        self._state.enter("validating")
        rules = LineRules.of(
            self._record,
            knows=self._unknown_model,
            shape=lambda body: self._context.shape(self._record.endpoint, body),
            **({} if self._context.most_lines is None else {"most_lines": self._context.most_lines}),
        )
        return read_through(self._context.storage, self._record, rules, progress=lambda _: self._attempt.check())

    def _unknown_model(self, name: str) -> LineRefusal | None:
        try:
            self._context.route(name)
        except StoreTrouble:
            raise
        except Trouble as trouble:
            if trouble.can_retry:
                raise
            said = f"{trouble}; {trouble.hint}" if trouble.hint else str(trouble)
            return LineRefusal("model_not_found", said)
        return None

    @property
    def _is_over(self) -> bool:
        return self._context.clock.now() >= self._record.expires_at

    def _run_lines(self, checked: Checked) -> BatchEnd:
        context, record = self._context, self._record
        self._attempt.hold(to_finish=True)
        sequence = sequence_of(self._attempt.job.id, self._attempt.n)
        writer = Segments(context.storage, record.id, checked.lines).open(sequence, self._attempt.holder)
        lines = Lines(context.storage, record, [each.model for each in checked.models], checked.lines)
        self._state.note(counts=writer.results.counts)
        routes: dict[str, ModelRoute] = {}
        meter = LineMeter(context.clock, context.dollars_per_second, self._state.use_before)
        ended = self._ended_before(checked, writer.results, routes)
        if ended is None:
            try:
                ended = asyncio.run(self._answered(lines, writer, routes, meter))
            except Cancelled as cancelled:
                self._interrupted = cancelled
            finally:
                self._is_done_for_now(routes)
        elif ended.code == "cancelled":
            ended = None
        return self._finalize(lines, writer, ended, meter)

    def _ended_before(self, checked: Checked, results: Results, routes: dict[str, ModelRoute]) -> EndedEarly | None:
        """Why no line is to be sent, where none is. Finds out where the lines go.

        Raises:
            PutOff: not yet.

        """
        try:
            self._attempt.check()
        except Cancelled as cancelled:
            self._interrupted = cancelled
            return EndedEarly("cancelled", "cancelled", "")
        if self._is_over:
            return _expired()
        if results.counts.ended == results.lines:
            return None
        for each in checked.models:
            try:
                routes[each.model] = self._context.route(each.model)
            except StoreTrouble:
                raise
            except Trouble as trouble:
                if trouble.can_retry:
                    raise
                return EndedEarly("failed", "model_not_found", f"model {each.model!r} is not here any more: {trouble}")
        self._state.note(tiers=_tiers(routes))
        if self._state.now.estimate is None:
            estimate = self._context.estimate(self._record, checked)
            self._state.note(estimate=estimate)
            refusal = estimate and too_dear(self._record.max_dollars, estimate)
            if refusal is not None:
                return EndedEarly("failed", refusal.code, refusal.message)
        self._begin(routes)
        return None

    def _begin(self, routes: Mapping[str, ModelRoute]) -> None:
        """Have the lines sent from now on.

        Raises:
            PutOff: not yet.

        """
        decision = self._may_start(routes)
        self._state.note(note=decision.note)
        self._attempt.hold()
        self._pass.write(may_wake=bool(decision.wakes))
        self._state.enter("in_progress")

    def _may_start(self, routes: Mapping[str, ModelRoute]) -> StartNow:
        starts, estimate = self._context.starts, self._state.now.estimate
        if starts is None or estimate is None:
            return StartNow()
        decision = starts.may_start(self._record, estimate, _tiers(routes))
        if isinstance(decision, NotYet):
            self._state.note(note=decision.note, starts_at=decision.latest)
            self._state.enter("in_progress" if self._state.now.in_progress_at else "validating")
            raise PutOff(decision.note, decision.not_before)
        return decision

    def _is_done_for_now(self, routes: Mapping[str, ModelRoute]) -> None:
        """No line is sent any more by this attempt."""
        if self._context.starts is not None and not isinstance(self._why(), Fenced):
            self._context.starts.over(self._record, _tiers(routes))

    # -- while lines are sent ------------------------------------------------------------------------------------------

    async def _answered(
        self, lines: Lines, writer: SegmentWriter, routes: Mapping[str, ModelRoute], meter: LineMeter
    ) -> EndedEarly | None:
        """Have the lines answered; why not all were, where the batch ends for it.

        Raises:
            Interrupted: the attempt is to stop.

        """
        context, pace = self._context, self._context.pace
        groups = await asyncio.to_thread(by_model, lines, writer.is_done)
        if not groups:
            return None
        holder: list[LinesAtWork] = []
        keeper = ResultKeeper(
            writer, context.clock, pace.unkept.total_seconds(), lambda: holder[0].kept() if holder else None
        )
        async with LineClient(context.gateway, self._record, pace.answer.total_seconds()) as client:
            at_work = LinesAtWork(
                record=self._record,
                lines=lines,
                groups=groups,
                routes=routes,
                client=client,
                keeper=keeper,
                meter=meter,
                shown_pass=lambda: self._pass.shown,
                renew_pass=self._renew_pass,
                model_is_gone=self._is_gone,
                clock=context.clock,
                pace=pace,
                at_once=context.at_once,
            )
            holder.append(at_work)
            return await self._attended(at_work, keeper, meter, routes)

    async def _attended(
        self, at_work: LinesAtWork, keeper: ResultKeeper, meter: LineMeter, routes: Mapping[str, ModelRoute]
    ) -> EndedEarly | None:
        keeping = asyncio.create_task(keeper.run(), name="keep results")
        sending = asyncio.create_task(at_work.run(), name="send lines")
        watching = asyncio.create_task(self._watch(at_work, keeper, meter, routes), name="watch")
        stopped: BaseException | None = None
        try:
            done, _ = await asyncio.wait({keeping, sending, watching}, return_when=asyncio.FIRST_COMPLETED)
            stopped = next((error for task in done if (error := task.exception()) is not None), None)
            at_work.stop()
            if isinstance(stopped, Fenced):
                raise stopped
            await at_work.finish(self._patience(stopped, at_work.ended))
            keeper.finish(is_patient=stopped is None)
            await keeping
            at_work.check()
        finally:
            for task in (keeping, sending, watching):
                task.cancel()
            await at_work.finish(timedelta(0))
            await asyncio.gather(keeping, sending, watching, return_exceptions=True)
            self._state.note(counts=keeper.counts, use=meter.use())
        if stopped is not None:
            raise stopped
        return at_work.ended

    def _patience(self, stopped: BaseException | None, ended: EndedEarly | None) -> timedelta:
        """How long lines under way may take to end: as long as it takes where all were sent."""
        if ended is not None and ended.status == "expired":
            return timedelta(0)
        return self._context.pace.polite if stopped is not None or ended is not None else self._context.pace.answer

    async def _watch(
        self, at_work: LinesAtWork, keeper: ResultKeeper, meter: LineMeter, routes: Mapping[str, ModelRoute]
    ) -> None:
        """Look whether it is to stop, and tell how the batch stands.

        Raises:
            Interrupted: it is to stop.

        """
        context, pace = self._context, self._context.pace
        extra = self._state.now.estimate.extra_dollars if self._state.now.estimate else None
        limit = DollarLimit(self._record.max_dollars, extra or 0.0 if self._pass.may_wake else 0.0)
        say_at = context.clock.monotonic()
        while at_work.ended is None:
            await asyncio.sleep(pace.look.total_seconds())
            self._attempt.check()
            at_work.check()
            if self._is_over:
                at_work.end(_expired())
            use = meter.use()
            if limit(use):
                spent = limit.error(use)
                at_work.end(EndedEarly("failed", spent.code, spent.message))
            if context.clock.monotonic() >= say_at:
                say_at = context.clock.monotonic() + pace.say.total_seconds()
                note = str(keeper.trouble) if keeper.trouble is not None else at_work.note
                self._state.note(counts=keeper.counts, use=use, note=note)
                await asyncio.to_thread(self._say, meter)
                if at_work.turned_away():
                    await asyncio.to_thread(self._ask_again, routes)
                    at_work.try_anew()

    def _say(self, meter: LineMeter) -> None:
        try:
            self._pass.renew()
            meter.look(self._context.shared_times(self._record.id))
        except StoreTrouble as trouble:
            logger.warning("the pass is renewed later: {}", trouble)
        self._state.say()

    def _ask_again(self, routes: Mapping[str, ModelRoute]) -> None:
        """Its lines are turned away: a tier may have fallen asleep, so ask whether it may be woken.

        Raises:
            PutOff: it may not, for now.

        """
        decision = self._may_start(routes)
        if bool(decision.wakes) != self._pass.may_wake:
            self._pass.write(may_wake=bool(decision.wakes))

    def _renew_pass(self) -> None:
        self._attempt.hold()
        self._pass.anew()

    def _is_gone(self, model: str) -> bool:
        try:
            self._context.route(model)
        except Trouble as trouble:
            return not trouble.can_retry
        return False

    # -- the end -------------------------------------------------------------------------------------------------------

    def _why(self) -> Interrupted | None:
        """Why the attempt is to stop, if it is."""
        try:
            self._attempt.check()
        except Interrupted as why:
            return why
        return None

    def _finalize(self, lines: Lines, writer: SegmentWriter, ended: EndedEarly | None, meter: LineMeter) -> BatchEnd:
        """Put the results together, and write down how it ended."""
        is_cancelled = self._interrupted is not None
        self._state.enter("cancelling" if is_cancelled else "finalizing")
        status: EndStatus = "cancelled" if is_cancelled else ended.status if ended else "completed"
        undone = CANCELLED if is_cancelled else EXPIRED if status == "expired" else CANCELLED
        if ended is not None and status == "failed":
            undone = Undone(ended.code, ended.message)
        counts = writer.results.counts
        made = assemble(
            self._context.storage,
            self._record,
            lines,
            writer.results,
            writer.sequence,
            undone=undone,
            progress=lambda _: self._go_on(),
        )
        failed = counts.failed if status in {"completed", "cancelled"} else counts.total - counts.completed
        self._look_at_cost(meter)
        self._state.note(counts=LineCounts(counts.total, counts.completed, failed), use=meter.use())
        errors = (LineError(ended.code, ended.message),) if ended is not None and status == "failed" else ()
        end = self._end(status, made, errors=errors)
        with suppress(StoreTrouble):
            learn(self._context.facts, meter.speeds(), self._context.clock.now())
        return end

    def _look_at_cost(self, meter: LineMeter) -> None:
        """What it took is told as `cost` does, where that knows nearly all of it by now."""
        try:
            meter.look(self._context.shared_times(self._record.id), is_due=True)
        except StoreTrouble as trouble:
            logger.warning("what the batch took is told by the time of its lines: {}", trouble)

    def _go_on(self) -> None:
        """Raise where the attempt is to stop for anything but a cancel, which is what is being finished."""
        why = self._why()
        if why is not None and not isinstance(why, Cancelled):
            raise why

    def _end(self, status: EndStatus, made: Assembled | None, *, errors: Sequence[LineError] = ()) -> BatchEnd:
        self._attempt.hold(to_finish=True)
        now = self._context.clock.now()
        end = BatchEnd(
            status,
            now,
            self._state.now.with_status(status, now),
            tuple(errors),
            made.output.id if made and made.output else None,
            made.errors.id if made and made.errors else None,
        )
        written = self._context.store.end(self._record.id, end)
        with suppress(StoreTrouble):
            self._pass.end()
        return written


def _expired() -> EndedEarly:
    return EndedEarly("expired", "batch_expired", "the batch's time was over")


def _tiers(routes: Mapping[str, ModelRoute]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(route.tier for route in routes.values()))


def result_of(end: BatchEnd) -> dict[str, Any]:
    """What its job says it did."""
    return {
        "status": end.status,
        "completed": end.state.counts.completed,
        "failed": end.state.counts.failed,
        "total": end.state.counts.total,
        "prompt_tokens": end.state.use.prompt_tokens,
        "output_tokens": end.state.use.output_tokens,
        "output_file": end.output_file_id,
        "error_file": end.error_file_id,
    }
