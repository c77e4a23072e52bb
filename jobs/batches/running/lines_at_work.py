"""Has the lines of a batch answered: as many at once as their tiers take beside their people, and each until it has a
result, good or bad, or the batch ends before that.

At most `x-batch-room` + `BEYOND` lines of a tier are under way: so the gateway always has the next one there. After a
kill those are sent again, and those whose results were not kept yet (`result_keeper`).
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from jobs.batches.lines.line_answers import (
    Answer,
    Answered,
    BudgetIsSpent,
    GivenBack,
    ModelUnknown,
    PassRefused,
    TryAgain,
    Used,
    outcome_of,
)
from jobs.batches.lines.line_check import max_tokens_of, prompt_bytes_of
from jobs.batches.lines.line_index import InputLine, Lines
from jobs.batches.lines.line_texts import READ_AHEAD, LineTexts
from jobs.batches.lines.result_lines import answered, unanswered
from jobs.batches.lines.segments import Kind, Result
from jobs.batches.measuring import LineMeter, SentLine
from jobs.batches.records import BatchRecord
from jobs.batches.running.batch_context import Pace
from jobs.batches.running.line_client import GatewayLost, LineClient
from jobs.batches.running.line_order import LineOrder, Turn
from jobs.batches.running.result_keeper import ResultKeeper
from jobs.batches.running.run_parts import EndedEarly, Routes
from jobs.core.clock import Clock
from jobs.core.errors import Trouble

if TYPE_CHECKING:
    from array import array

BEYOND = 2
"""Lines under way beyond those that the tier takes now."""

UNKNOWN_ROOM = 1
"""Until the gateway has told."""

SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between two tries at a gateway that is not there."""


@dataclass
class _Tier:
    """What is known of a tier. Belongs to the event loop.

    Args:
        name: its name.
        order: which of its lines goes next.
        texts: reads them.

    """

    name: str
    order: LineOrder
    texts: LineTexts
    room: int = UNKNOWN_ROOM
    under_way: int = 0
    paused_until: float = 0.0
    turned_away_since: float | None = None
    """Since when every line was sent back; None while lines are answered."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True)
class _UnderWay:
    """A line on its way."""

    tier: _Tier
    turn: Turn
    line: InputLine
    sent: SentLine

    def again(self, at: float) -> None:
        """Have it go again, not before this time; no try is counted."""
        self.tier.order.again(self.turn, at)


class _Gateway:
    """Whether it is there. Belongs to the event loop."""

    def __init__(self) -> None:
        self.there = asyncio.Event()
        self.there.set()
        self.pause = 0.0

    def is_lost(self) -> None:
        """Let lines wait for a while that grows until it answers."""
        if self.there.is_set():
            self.there.clear()
            self.pause = min(LONGEST_PAUSE, 2 * self.pause or SHORTEST_PAUSE)
            asyncio.get_running_loop().call_later(self.pause, self.there.set)


class LinesAtWork:
    """Belongs to one event loop.

    Args:
        record: the batch.
        lines: its lines.
        groups: the numbers of those that have no result, by model.
        routes: where each of the models goes.
        client: sends them.
        keeper: keeps results.
        meter: measures what they take.
        shown_pass: what lines show the gateway now.
        renew_pass: makes another one, which may wait for the store. Raises `Interrupted` where the batch is not ours.
        model_is_gone: whether a model that the gateway does not know is not here any more. It may wait for the disk.
        before: called before each line is sent, in a thread; None where nothing is to be done then.
        clock: the time.
        pace: how often a line is tried, and when again.
        at_once: how many lines may be under way now.

    """

    def __init__(
        self,
        *,
        record: BatchRecord,
        lines: Lines,
        groups: Mapping[str, "array[int]"],
        routes: Routes,
        client: LineClient,
        keeper: ResultKeeper,
        meter: LineMeter,
        shown_pass: Callable[[], str],
        renew_pass: Callable[[], None],
        model_is_gone: Callable[[str], bool],
        before: Callable[[int], None] | None,
        clock: Clock,
        pace: Pace,
        at_once: Callable[[], int],
    ) -> None:
        self._record = record
        self._routes = routes
        self._client = client
        self._keeper = keeper
        self._meter = meter
        self._shown_pass = shown_pass
        self._renew_pass = renew_pass
        self._model_is_gone = model_is_gone
        self._before = before
        self._clock = clock
        self._pace = pace
        self._at_once = at_once
        of_tier: dict[str, list[array[int]]] = defaultdict(list)
        for model, numbers in groups.items():
            of_tier[routes[model].tier].append(numbers)
        self._tiers = [_Tier(name, LineOrder(each), LineTexts(lines)) for name, each in of_tier.items()]
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._bug: BaseException | None = None
        self._renewing: asyncio.Lock = asyncio.Lock()
        self._is_renewed = False
        self._gateway = _Gateway()
        self.ended: EndedEarly | None = None
        """Why no more lines are sent, where the batch ends for it."""
        self.note = ""
        """What holds lines up now."""

    # -- what whoever runs the batch does ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Send lines until all have a result, or `stop` was called, or the batch ended early; then those under way are
        still there, for `finish` or `drop`."""
        feeding = [asyncio.create_task(self._feed(tier)) for tier in self._tiers]
        try:
            await asyncio.gather(*feeding)
        finally:
            for task in feeding:
                task.cancel()

    def stop(self) -> None:
        """Send no more lines."""
        self._stopping = True
        self._gateway.there.set()
        for tier in self._tiers:
            tier.changed.set()

    def end(self, ended: EndedEarly) -> None:
        """Send no more lines, since the batch ends."""
        if self.ended is None:
            self.ended = ended
        self.stop()

    async def finish(self, within: timedelta) -> None:
        """Let the lines that are under way end, as far as they do within this time; drop the others."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=within.total_seconds())
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def is_stopping(self) -> bool:
        return self._stopping

    @property
    def left(self) -> int:
        """Lines without a result."""
        return sum(tier.order.left for tier in self._tiers)

    @property
    def under_way(self) -> int:
        return len(self._tasks)

    def turned_away(self) -> list[str]:
        """The tiers that have sent every line back for so long that it is worth asking why."""
        before = self._clock.monotonic() - self._pace.turned_away.total_seconds()
        return [
            tier.name for tier in self._tiers if tier.turned_away_since is not None and tier.turned_away_since <= before
        ]

    def try_anew(self) -> None:
        """Send lines again to the tiers that sent them back."""
        for tier in self._tiers:
            tier.turned_away_since, tier.paused_until = None, 0.0
            tier.changed.set()

    def look(self) -> None:
        """Results were kept, so there is room for others."""
        for tier in self._tiers:
            tier.changed.set()

    # -- one tier ------------------------------------------------------------------------------------------------------

    async def _feed(self, tier: _Tier) -> None:
        order = tier.order
        while order.left and not self._stopping:
            tier.changed.clear()
            now = self._clock.monotonic()
            turn = None
            if now >= tier.paused_until and self._has_room(tier):
                turn = order.next(now)
            if turn is None:
                await self._wait(tier, now)
                continue
            tier.under_way += 1
            try:
                line = await tier.texts.line(turn.line, order.following(turn.line, READ_AHEAD))
                await self._gateway.there.wait()
                if self._before is not None:
                    await asyncio.to_thread(self._before, turn.line)
            except BaseException:
                tier.under_way -= 1
                raise
            if self.is_stopping:
                tier.under_way -= 1
                return
            task = asyncio.create_task(self._one(tier, turn, line))
            self._tasks.add(task)
            task.add_done_callback(self._left)

    def _has_room(self, tier: _Tier) -> bool:
        if self._keeper.is_full or len(self._tasks) >= self._at_once():
            return False
        return tier.under_way < tier.room + BEYOND

    async def _wait(self, tier: _Tier, now: float) -> None:
        """Until something changes, or a line that waits goes."""
        at = [each for each in (tier.order.due, tier.paused_until) if each is not None and each > now]
        try:
            async with asyncio.timeout(min(at) - now if at else None):
                await tier.changed.wait()
        except TimeoutError:
            return

    def _left(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (bug := task.exception()) is not None:
            self._bug = bug
            self.stop()

    def check(self) -> None:
        """Raise what a line met that nobody foresaw."""
        if self._bug is not None:
            raise self._bug

    # -- one line ------------------------------------------------------------------------------------------------------

    async def _one(self, tier: _Tier, turn: Turn, line: InputLine) -> None:
        route = self._routes[line.model]
        try:
            with self._meter.line(route.tier, route.model) as sent:
                await self._send(_UnderWay(tier, turn, line, sent))
        finally:
            tier.under_way -= 1
            tier.changed.set()

    async def _send(self, of: _UnderWay) -> None:
        shown = self._shown_pass()
        try:
            answer = await self._client.send(of.line, shown, n=of.turn.tries + 1)
        except GatewayLost as lost:
            self._gateway.is_lost()
            self.note = f"the gateway is not there: {lost}"
            of.again(0.0)
            return
        except Trouble as trouble:
            self._gateway_answers()
            self._failed(of, TryAgain(str(trouble)), None)
            return
        self._gateway_answers()
        of.sent.waited = answer.waited
        if (room := answer.room) is not None:
            of.tier.room = room
        outcome = outcome_of(answer)
        if isinstance(outcome, GivenBack):
            self._given_back(of, outcome)
            return
        of.tier.turned_away_since = None
        self._is_renewed = self._is_renewed and isinstance(outcome, PassRefused)
        match outcome:
            case Answered():
                self._answered(of, answer, outcome)
            case TryAgain():
                self._failed(of, outcome, answer)
            case PassRefused():
                of.again(0.0)
                await self._refused(shown, outcome)
            case BudgetIsSpent():
                of.again(0.0)
                self.end(EndedEarly("failed", "budget_spent", f"a budget is spent: {outcome.why}"))
            case ModelUnknown():
                await self._unknown(of, answer, outcome)

    def _gateway_answers(self) -> None:
        self._gateway.pause, self.note = 0.0, ""

    def _answered(self, of: _UnderWay, answer: Answer, outcome: Answered) -> None:
        now, used = self._clock.monotonic(), outcome.used
        if outcome.is_good:
            of.sent.answered(
                now,
                prompt_bytes=prompt_bytes_of(of.line.body),
                prompt_tokens=used.prompt_tokens,
                output_tokens=used.output_tokens,
                max_tokens=max_tokens_of(of.line.body, self._record.endpoint),
            )
        document = self._document(of.line, answer)
        self._keep(of, document, is_good=outcome.is_good, seconds=now - of.sent.began, used=used)

    def _document(self, line: InputLine, answer: Answer) -> bytes:
        return answered(
            self._record.dialect,
            self._record.id,
            line.number,
            line.custom_id,
            status=answer.status,
            request_id=answer.headers.get("x-request-id", ""),
            body=answer.body,
        )

    def _keep(self, of: _UnderWay, document: bytes, *, is_good: bool, seconds: float, used: Used) -> None:
        kind: Kind = "o" if is_good else "e"
        self._keeper.keep(Result(of.line.number, kind, seconds, used.prompt_tokens, used.output_tokens, document))
        of.tier.order.left -= 1

    def _failed(self, of: _UnderWay, outcome: TryAgain, answer: Answer | None) -> None:
        line, tries = of.line, of.turn.tries + 1
        if tries < self._pace.tries:
            wait = self._pace.backoff.delay(tries, _spread(line.number, tries))
            if outcome.after is not None:
                wait = max(wait, outcome.after)
            of.tier.order.again(Turn(line.number, tries), self._clock.monotonic() + wait.total_seconds())
            return
        record = self._record
        if answer is not None and answer.status >= 400:
            document = self._document(line, answer)
        else:
            code, message = "request_failed", f"in {tries} tries: {outcome.why}"
            document = unanswered(record.dialect, record.id, line.number, line.custom_id, code=code, message=message)
        self._keep(of, document, is_good=False, seconds=0.0, used=Used())

    def _given_back(self, of: _UnderWay, outcome: GivenBack) -> None:
        now, tier = self._clock.monotonic(), of.tier
        at = now + outcome.after.total_seconds()
        of.again(at)
        if outcome.for_all:
            if tier.turned_away_since is None:
                tier.turned_away_since = now
            tier.paused_until = at
            self.note = f"tier {tier.name}: {outcome.why}" if tier.name else outcome.why

    async def _refused(self, shown: str, outcome: PassRefused) -> None:
        async with self._renewing:
            if shown != self._shown_pass() or self._stopping:
                return
            if self._is_renewed:
                why = f"the gateway refuses its lines: {outcome.why}"
                self.end(EndedEarly("failed", "key_revoked", why))
                return
            await asyncio.to_thread(self._renew_pass)
            self._is_renewed = True

    async def _unknown(self, of: _UnderWay, answer: Answer, outcome: ModelUnknown) -> None:
        if await asyncio.to_thread(self._model_is_gone, of.line.model):
            of.again(0.0)
            why = f"model {of.line.model!r} is not here any more: {outcome.why}"
            self.end(EndedEarly("failed", "model_not_found", why))
        else:
            self._answered(of, answer, Answered(is_good=False))


def _spread(line: int, tries: int) -> float:
    """Between 0 and 1, so that lines that failed together do not come again together."""
    return (line * 0.618034 + tries * 0.382) % 1.0
