"""The part of an attempt that sends lines: it keeps results, looks whether it is to stop, and tells how it stands."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING

from loguru import logger

from jobs.batches.estimate import DollarLimit
from jobs.batches.lines.line_index import Lines
from jobs.batches.lines.result_lines import unanswered
from jobs.batches.lines.segments import Result, SegmentWriter
from jobs.batches.measuring import LineMeter
from jobs.batches.running.beginning import Beginning
from jobs.batches.running.crash_marks import FIRST, CrashMarks
from jobs.batches.running.line_client import LineClient
from jobs.batches.running.line_order import by_model, only
from jobs.batches.running.lines_at_work import LinesAtWork
from jobs.batches.running.result_keeper import ResultKeeper
from jobs.batches.running.run_parts import EXPIRED, EndedEarly, Routes, RunParts
from jobs.core.errors import Fenced, StoreTrouble

if TYPE_CHECKING:
    from array import array


class Sending:
    """Belongs to one event loop.

    Args:
        parts: of the attempt.
        beginning: asks whether lines may be sent.
        lines: of the batch.
        writer: of results.
        routes: where lines go.
        meter: measures what they take.

    """

    def __init__(
        self,
        parts: RunParts,
        beginning: Beginning,
        *,
        lines: Lines,
        writer: SegmentWriter,
        routes: Routes,
        meter: LineMeter,
    ) -> None:
        self._parts = parts
        self._beginning = beginning
        self._lines = lines
        self._writer = writer
        self._routes = routes
        self._meter = meter
        self._begun_note = parts.state.now.note

    async def all(self) -> EndedEarly | None:
        """Have all lines answered; why not all were, where the batch ends for it.

        Raises:
            Interrupted: the attempt is to stop.
            Trouble: results cannot be kept, or lines not be read.

        """
        parts, writer = self._parts, self._writer
        storage, id = parts.context.storage, parts.record.id
        marks = await asyncio.to_thread(CrashMarks, storage, id, parts.attempt.job, writer.is_done)
        if (killer := marks.killer) is not None:
            await asyncio.to_thread(self._give_up, *killer)
        gateway, answer = parts.context.gateway, parts.context.pace.answer
        async with LineClient(gateway, parts.record, answer.total_seconds()) as client:
            groups = await asyncio.to_thread(by_model, self._lines, writer.is_done)
            suspects = only(groups, set(marks.suspects))
            if suspects:
                logger.warning("{} lines were under way when workers died; each goes by itself", len(marks.suspects))
                ended = await self._answered(client, suspects, marks, at_once=lambda: 1)
                if ended is not None:
                    return ended
                groups = await asyncio.to_thread(by_model, self._lines, writer.is_done)
            if not groups:
                return None
            await asyncio.to_thread(marks.write_first, _first(groups))
            with parts.context.at_once.shared():
                return await self._answered(client, groups, None, at_once=parts.context.at_once.of_each)

    def _give_up(self, line: int, deaths: int) -> None:
        record = self._parts.record
        ((_, custom_id),) = self._lines.custom_ids(line, 1)
        why = f"the worker died each of the last {deaths} times that it sent this line"
        logger.error("line {} of {} is given up: {}", line, record.id, why)
        document = unanswered(record.dialect, record.id, line, custom_id, code="line_kills_worker", message=why)
        self._writer.append(Result(line, "e", 0.0, 0, 0, document))
        self._writer.flush()

    async def _answered(
        self,
        client: LineClient,
        groups: Mapping[str, "array[int]"],
        marks: CrashMarks | None,
        *,
        at_once: Callable[[], int],
    ) -> EndedEarly | None:
        """Have these lines answered. With marks, each is written down before it goes."""
        parts = self._parts
        unkept = parts.context.pace.unkept.total_seconds()
        keeper = ResultKeeper(self._writer, parts.context.clock, unkept)
        at_work = LinesAtWork(
            record=parts.record,
            lines=self._lines,
            groups=groups,
            routes=self._routes,
            client=client,
            keeper=keeper,
            meter=self._meter,
            shown_pass=lambda: parts.shown.shown,
            renew_pass=self._renew_pass,
            model_is_gone=self._beginning.is_gone,
            before=marks.write_alone if marks is not None else None,
            clock=parts.context.clock,
            pace=parts.context.pace,
            at_once=at_once,
        )
        keeper.on_kept(at_work.look)
        return await self._attended(at_work, keeper)

    async def _attended(self, at_work: LinesAtWork, keeper: ResultKeeper) -> EndedEarly | None:
        keeping = asyncio.create_task(keeper.run(), name="keep results")
        sending = asyncio.create_task(at_work.run(), name="send lines")
        watching = asyncio.create_task(self._watch(at_work, keeper), name="watch")
        tasks = {keeping, sending, watching}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            stopped = next((error for task in done if (error := task.exception()) is not None), None)
            at_work.stop()
            if isinstance(stopped, Fenced):
                raise stopped
            await at_work.finish(self._patience(stopped, at_work.ended))
            keeper.finish(is_patient=stopped is None)
            await keeping
            at_work.check()
        finally:
            for task in tasks:
                task.cancel()
            await at_work.finish(timedelta(0))
            await asyncio.gather(*tasks, return_exceptions=True)
            self._parts.state.note(counts=keeper.counts, use=self._meter.use())
        if stopped is not None:
            raise stopped
        return at_work.ended

    def _patience(self, stopped: BaseException | None, ended: EndedEarly | None) -> timedelta:
        """How long lines under way may take to end: as long as it takes where all were sent."""
        pace = self._parts.context.pace
        if ended is EXPIRED:
            return timedelta(0)
        return pace.polite if stopped is not None or ended is not None else pace.answer

    async def _watch(self, at_work: LinesAtWork, keeper: ResultKeeper) -> None:
        """Look whether it is to stop, and tell how the batch stands.

        Raises:
            Interrupted: it is to stop.

        """
        parts, pace, clock = self._parts, self._parts.context.pace, self._parts.context.clock
        limit, say_at = self._limit(), clock.monotonic()
        while at_work.ended is None:
            await asyncio.sleep(pace.look.total_seconds())
            parts.attempt.check()
            at_work.check()
            use = self._meter.use()
            if parts.is_over:
                at_work.end(EXPIRED)
            elif limit(use):
                spent = limit.error(use)
                at_work.end(EndedEarly("failed", spent.code, spent.message))
            elif clock.monotonic() >= say_at:
                say_at = clock.monotonic() + pace.say.total_seconds()
                note = str(keeper.trouble) if keeper.trouble is not None else at_work.note or self._begun_note
                parts.state.note(counts=keeper.counts, use=use, note=note)
                await asyncio.to_thread(self._say)
                if at_work.turned_away():
                    await asyncio.to_thread(self._beginning.ask_again, self._routes)
                    at_work.try_anew()

    def _limit(self) -> DollarLimit:
        estimate = self._parts.state.now.estimate
        extra = estimate.extra_dollars if estimate is not None and self._parts.shown.may_wake else None
        return DollarLimit(self._parts.record.max_dollars, extra or 0.0)

    def _say(self) -> None:
        try:
            self._parts.shown.renew()
            self._meter.look(self._parts.context.shared_times(self._parts.record.id))
        except StoreTrouble as trouble:
            logger.warning("the pass is renewed later: {}", trouble)
        self._parts.state.say()

    def _renew_pass(self) -> None:
        self._parts.attempt.hold()
        self._parts.shown.anew()


def _first(groups: Mapping[str, "array[int]"]) -> list[int]:
    """Lines that go first, of each model."""
    return [line for numbers in groups.values() for line in numbers[:FIRST]]
