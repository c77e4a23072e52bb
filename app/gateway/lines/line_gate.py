"""The lines of batches at one tier: they wait until nobody needs what they take, and give way when a person comes.

A person never waits for a line. As long as people come, one slot stays free for the next of them where there are
several; where there is one, a line begins only while nobody is answered. Where nobody came for minutes, lines take all
there is. When a person comes and no slot is left, the line that began last is cut: its request to the
server ends at once, and its batch sends it again later. Among lines, that batch is next which has the fewest in
flight, and of those the one that had no turn for longest; of one batch, the line that came first.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal, Protocol, get_args

from app.gateway.auth.line_troubles import LineCut, LineNotNow
from app.gateway.protocol.headers import Header
from jobs.batches.passes import ROOM, WAITED
from jobs.core.clock import Clock

WAIT_SECONDS = 20.0
"""So long a line waits for its turn, before it is sent back to its batch."""

LOOK_SECONDS = 0.5
"""Between two looks whether a line may begin, of what nothing tells here: a tier that woke, a person who is not held
any more. What ends here is looked at when it ends."""

RECENT_SECONDS = 300.0
"""So long a model counts as one that people use: as long as Ollama keeps it by itself."""

AT_ONCE, SOON = timedelta(seconds=1), timedelta(seconds=10)
"""When a line that is sent back may come again: one that was cut, and one whose tier sleeps or has no room."""


LineOutcome = Literal["answered", "failed", "client_gone", "cut", "not_now", "spent", "refused"]
"""
answered     by a server, well
failed       by a server, or refused for what it asks; its batch decides whether it is tried again
client_gone  its batch left before
cut          a person needed its place
not_now      sent back: no room for too long, or nobody may wake its tier
spent        a budget is
refused      its pass, or its key, ceased to be good
"""
OUTCOMES: tuple[LineOutcome, ...] = get_args(LineOutcome)


@dataclass(frozen=True)
class LineFigures:
    """How many lines are in flight, how many wait, and how the others ended."""

    in_flight: int
    waiting: int
    outcomes: Mapping[LineOutcome, int]


class TierRoom(Protocol):
    """What a tier has room for; see `tier_room`."""

    def slots(self, parallel: int) -> int:
        """How many requests all servers that are up answer at once, where each has so many contexts."""

    def sleeps(self) -> bool:
        """Whether a line would have to wake it."""

    def held(self) -> int:
        """How many requests wait for a start, or for a load, lines among them."""

    def pushes_out(self, model: str, others: Sequence[str]) -> bool:
        """Whether to load this model may push one of the others out of memory."""


@dataclass(eq=False)
class Turn:
    """One line at the gate.

    Args:
        batch: whose.
        model: as the server is asked for it.
        parallel: contexts that a server has for that model.
        of_server: contexts that it has for most models.
        may_wake: it may wake its tier.
        cut: ends it; called once, when it gives way.
        is_answered: whether its answer has begun, so that it is over in a moment, and not cut any more.

    """

    batch: str
    model: str
    parallel: int
    of_server: int
    may_wake: bool
    cut: Callable[[], object]
    is_answered: Callable[[], bool]
    began: asyncio.Event = field(default_factory=asyncio.Event)
    waited: float = 0.0
    """Seconds, until it began or was sent back."""
    is_held: bool = False
    """It waits for a start or a load."""
    shared_seconds: float = 0.0
    """Its part of the time of the tier's servers so far, in each second of which all that are answered share alike."""


class LineGate:
    """Belongs to one event loop, but for `figures`.

    Args:
        tier: named in what lines are told.
        room: what the tier has room for.
        clock: the time.

    """

    def __init__(self, tier: str, room: TierRoom, clock: Clock) -> None:
        self._tier = tier
        self._room = room
        self._clock = clock
        self.people = 0
        """Requests of people that are admitted here and have not ended. Whoever brings one counts it, up and down."""
        self.used: dict[str, float] = {}
        """When a person used a model last, by the name the server has for it. Whoever brings her writes it."""
        #: The lines in flight, in the order in which they began.
        self.lines: dict[Turn, None] = {}
        #: Those that wait, by batch; none of them is empty.
        self.waiting: dict[str, deque[Turn]] = {}
        #: How many turns were given, and to which batch the last of its own was.
        self._turns = 0
        self._last_turn: dict[str, int] = {}
        #: When the time of the servers was shared among the lines in flight last.
        self._shared_at = clock.monotonic()
        #: How lines ended, by outcome. Counted by the event loop; a scrape copies it.
        self.outcomes: dict[LineOutcome, int] = dict.fromkeys(OUTCOMES, 0)  # a zero that is there can be alerted on

    # People

    def person_came(self, model: str, parallel: int, of_server: int) -> None:
        """A person who is counted already: make room for her, where none is left."""
        slots = self._room.slots(of_server)
        while self.people + len(self.lines) > slots and self._cut_last(lambda _: True):
            pass
        if parallel < of_server:  # of that model, a server answers fewer at once
            left = self._room.slots(parallel) - 1
            while sum(turn.model == model for turn in self.lines) > left and self._cut_last(
                lambda turn: turn.model == model
            ):
                pass

    def person_waits(self, model: str) -> None:
        """A person waits for a model to be loaded: lines that keep another one in its place in memory are cut."""
        others = {turn.model for turn in self.lines if turn.model != model}
        if others and self._room.pushes_out(model, sorted(others)):
            while self._cut_last(lambda turn: turn.model != model):
                pass

    def look(self) -> None:
        """Let lines begin that may now."""
        if not self.waiting or self._room.held() > sum(each.is_held for each in self.lines):
            return  # a person waits for a start, or for a load
        sleeps, recent, out = self._room.sleeps(), self._recent(), dict[str, bool]()
        while self.waiting:
            order = sorted(self.waiting, key=self._standing)
            firsts = (self._first(batch, recent, out, sleeps=sleeps) for batch in order)
            turn = next((turn for turn in firsts if turn is not None), None)
            if turn is None or not self._has_slot(turn):
                return
            self._begin(turn)

    # Lines

    async def take_turn(self, turn: Turn) -> None:
        """Wait until the line may begin; `leave` when it has ended.

        Raises:
            LineNotNow: its tier sleeps and it may not wake it, or there was no room for too long.

        """
        came = self._clock.monotonic()
        self.come(turn)
        try:
            await self._wait(turn, came + WAIT_SECONDS)
        except BaseException:
            self.leave(turn)
            raise
        finally:
            turn.waited = self._clock.monotonic() - came

    async def _wait(self, turn: Turn, until: float) -> None:
        while not turn.began.is_set():
            self.insist_on_waking(turn)
            left = until - self._clock.monotonic()
            if left <= 0:
                raise LineNotNow(
                    f"tier {self._tier!r} has no room for lines of batches beside its people",
                    hint="it is nothing that is wrong with the line",
                    retry_after=AT_ONCE,
                )
            try:
                async with asyncio.timeout(min(left, LOOK_SECONDS)):
                    await turn.began.wait()
            except TimeoutError:
                self.look()

    def insist_on_waking(self, turn: Turn) -> None:
        """Send a line back that would wake its tier and may not.

        Raises:
            LineNotNow: it would.

        """
        if not turn.may_wake and self._room.sleeps():
            raise LineNotNow(
                f"tier {self._tier!r} is asleep, and this batch may not wake it now",
                hint="its batch begins when it is awake, or when it may wake it",
                retry_after=SOON,
            )

    def come(self, turn: Turn) -> None:
        """A line has come; it begins now or later."""
        self.waiting.setdefault(turn.batch, deque()).append(turn)
        self.look()

    def leave(self, turn: Turn) -> None:
        """A line has ended, or waits no longer."""
        if turn in self.lines:
            self.share()
            del self.lines[turn]
        elif (waiting := self.waiting.get(turn.batch)) is not None and turn in waiting:
            waiting.remove(turn)
            if not waiting:
                del self.waiting[turn.batch]
        if not self.waiting and not self.lines:
            self._last_turn.clear()
        self.look()

    def room(self, batch: str, of_server: int) -> int:
        """How many lines of this batch the tier takes at once now, at least one: that one waits for its turn here."""
        slots = self._room.slots(of_server)
        free = self._for_all(slots) - self.people
        wanted = dict.fromkeys((turn.batch for turn in self.lines), 0) | dict.fromkeys(self.waiting, 0) | {batch: 0}
        for turn in self.lines:
            wanted[turn.batch] += 1
        for other, waiting in self.waiting.items():
            wanted[other] += len(waiting)
        of_others = sum(count for other, count in wanted.items() if other != batch)
        return max(1, -(-free // len(wanted)), free - of_others)

    def told(self, turn: Turn, more: Callable[[], Sequence[Header]] | None) -> Callable[[], list[Header]]:
        """Makes what the head of a line's answer tells beside what others' heads tell."""

        def headers() -> list[Header]:
            room = self.room(turn.batch, turn.of_server)
            own = (ROOM.encode(), b"%d" % room), (WAITED.encode(), b"%.3f" % turn.waited)
            return [*(more() if more is not None else ()), *own]

        return headers

    def hold(self, turn: Turn, *, is_held: bool) -> None:
        """A line begins to wait for a start or a load, or has waited."""
        self.share()
        turn.is_held = is_held

    def share(self) -> None:
        """Add the time since the last call to what lines in flight have had of the servers. Called before any of them
        begins, waits for a start, or ends; that people came or left between is seen at the next call."""
        now = self._clock.monotonic()
        passed, self._shared_at = now - self._shared_at, now
        working = [turn for turn in self.lines if not turn.is_held]
        if passed <= 0 or not working:
            return
        held = self._room.held() - (len(self.lines) - len(working))
        together = len(working) + max(0, self.people - max(0, held))
        part = passed * min(self._room.slots(1), together) / together
        for turn in working:
            turn.shared_seconds += part

    def figures(self) -> LineFigures:
        """How it is with the lines now. In any thread."""
        waiting = sum(len(each) for each in list(self.waiting.values()))
        return LineFigures(len(self.lines), waiting, self.outcomes.copy())

    # Who is next

    def _standing(self, batch: str) -> tuple[int, int]:
        in_flight = sum(turn.batch == batch for turn in self.lines)
        return in_flight, self._last_turn.get(batch, 0)

    def _first(self, batch: str, recent: Sequence[str], out: dict[str, bool], *, sleeps: bool) -> Turn | None:
        """The first line of a batch that may be next. One that would wake its tier and may not, or would push out what
        people use, is in no other's way.

        Args:
            batch: which.
            recent: the models that people used lately.
            out: whether a model pushes one of them out, as far as that was worked out.
            sleeps: whether the tier does.

        """
        for turn in self.waiting[batch]:
            if sleeps and not turn.may_wake:
                continue
            if recent and turn.model not in out:
                others = [model for model in recent if model != turn.model]
                out[turn.model] = bool(others) and self._room.pushes_out(turn.model, others)
            if not out.get(turn.model):
                return turn
        return None

    def _has_slot(self, turn: Turn) -> bool:
        slots = min(self._room.slots(turn.parallel), self._room.slots(turn.of_server))
        return self.people + len(self.lines) < self._for_all(slots)

    def _for_all(self, slots: int) -> int:
        """How many of the slots lines may take together with those people who are here: beside people, not the last."""
        return slots - 1 if slots > 1 and (self.people or self._recent()) else slots

    def _recent(self) -> list[str]:
        """The models that people used lately; as long as somebody is there, all that were used since nobody was."""
        since = self._clock.monotonic() - RECENT_SECONDS
        for model in [model for model, at in self.used.items() if at < since and not self.people]:
            del self.used[model]
        return list(self.used)

    def _begin(self, turn: Turn) -> None:
        waiting = self.waiting[turn.batch]
        waiting.remove(turn)
        if not waiting:
            del self.waiting[turn.batch]
        self._turns += 1
        self._last_turn[turn.batch] = self._turns
        self.share()
        self.lines[turn] = None
        turn.began.set()

    def _cut_last(self, is_meant: Callable[[Turn], bool]) -> bool:
        """Cut the one that began last, of those that are meant and whose answer has not begun; false where none is."""
        for turn in reversed(self.lines):
            if is_meant(turn) and not turn.is_answered():
                self.share()
                del self.lines[turn]
                turn.cut()
                return True
        return False


def cut_for_a_person(tier: str) -> LineCut:
    """Why a line was cut."""
    return LineCut(
        f"a person needed the place of this line on tier {tier!r}",
        hint="it is nothing that is wrong with the line",
        retry_after=AT_ONCE,
    )
