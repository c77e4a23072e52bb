"""Which line may begin and which gives way, whatever happens in whatever order, on a clock that a hand moves."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from app.gateway.auth.line_troubles import LineNotNow
from app.gateway.lines.line_gate import LOOK_SECONDS, RECENT_SECONDS, WAIT_SECONDS, LineGate, Turn
from jobs.testing.clock import HandClock
from tests.support.waiting import PATIENCE


@dataclass
class Tier:
    """What a tier has room for, as a test says it."""

    servers: int = 1
    asleep: bool = False
    people_held: int = 0
    gate: LineGate | None = None
    fit: bool = False
    loaded: set[str] = field(default_factory=set)

    def slots(self, parallel: int) -> int:
        return parallel * self.servers

    def sleeps(self) -> bool:
        return self.asleep

    def held(self) -> int:
        assert self.gate is not None
        return self.people_held + sum(turn.is_held for turn in self.gate.lines)

    def pushes_out(self, model: str, others: Sequence[str]) -> bool:
        return not self.fit and model not in self.loaded and bool(others)


def gate_of(tier: Tier, clock: HandClock | None = None) -> LineGate:
    tier.gate = LineGate("a10g", tier, clock or HandClock())
    return tier.gate


def turn(
    batch: str = "one",
    model: str = "m",
    *,
    parallel: int = 4,
    of_server: int = 4,
    may_wake: bool = False,
    cut: Callable[[], object] = lambda: None,
    is_answered: Callable[[], bool] = lambda: False,
) -> Turn:
    return Turn(batch, model, parallel, of_server, may_wake, cut, is_answered)


class Person:
    def __init__(self, gate: LineGate, clock: HandClock, model: str = "m", of_server: int = 4) -> None:
        self._gate, self._clock, self.model = gate, clock, model
        gate.people += 1
        gate.used[model] = clock.monotonic()
        if gate.lines:
            gate.person_came(model, of_server, of_server)

    def leaves(self) -> None:
        self._gate.people -= 1
        self._gate.used[self.model] = self._clock.monotonic()
        if self._gate.waiting:
            self._gate.look()


class AnyOrder(RuleBasedStateMachine):
    """People and lines come and go, servers too; time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.clock, self.tier = HandClock(), Tier()
        self.gate = gate_of(self.tier, self.clock)
        self.of_server = 4
        self.people: list[Person] = []
        self.turns: list[Turn] = []
        self.cut: list[Turn] = []
        self.number = 0
        self.last_seen = float("-inf")
        self.last_came: dict[str, list[Turn]] = {}
        self.began: list[Turn] = []

    @property
    def slots(self) -> int:
        return self.of_server * self.tier.servers

    def may_begin(self) -> int:
        """One slot is kept while people come, and none when nobody came for five minutes."""
        is_beside_people = bool(self.people) or self.clock.monotonic() - self.last_seen <= RECENT_SECONDS
        return max(1, self.slots - 1) if is_beside_people else self.slots

    @rule(batch=st.sampled_from("abc"))
    def line_comes(self, batch: str) -> None:
        before = len(self.gate.lines)
        made = turn(batch, of_server=self.of_server, parallel=self.of_server)
        made.cut = lambda: self.cut.append(made)
        self.turns.append(made)
        self.gate.come(made)
        assert len(self.gate.lines) <= max(before, self.may_begin() - self.gate.people)

    @precondition(lambda self: self.gate.lines)
    @rule(number=st.integers(0, 100))
    def line_ends(self, number: int) -> None:
        lines = list(self.gate.lines)
        self.gate.leave(lines[number % len(lines)])

    @precondition(lambda self: self.cut)
    @rule()
    def a_cut_line_has_gone(self) -> None:
        self.gate.leave(self.cut.pop())

    @rule()
    def person_comes(self) -> None:
        before, cut = list(self.gate.lines), len(self.cut)
        self.people.append(Person(self.gate, self.clock, of_server=self.of_server))
        self.last_seen = self.clock.monotonic()
        gone = [each for each in before if each not in self.gate.lines]
        assert len(self.cut) - cut == len(gone)  # each that gave way was told
        assert gone == before[len(before) - len(gone) :]  # and it was those that began last
        needed = max(0, self.gate.people + len(before) - self.slots)
        assert len(gone) == min(needed, len(before))  # and no more than had to
        assert not self.gate.lines or self.gate.people + len(self.gate.lines) <= self.slots  # so she has a slot

    @precondition(lambda self: self.people)
    @rule()
    def person_leaves(self) -> None:
        self.last_seen = self.clock.monotonic()
        self.people.pop().leaves()

    @rule(servers=st.integers(1, 3))
    def servers_come_or_go(self, servers: int) -> None:
        self.tier.servers = servers
        self.gate.look()

    @rule(seconds=st.floats(0, 400))
    def time_passes(self, seconds: float) -> None:
        self.clock.tick(seconds)
        self.gate.look()

    @rule(held=st.integers(0, 1))
    def person_is_held(self, held: int) -> None:
        self.tier.people_held = held
        before = dict(self.gate.lines)
        self.gate.look()
        assert not held or self.gate.lines == before  # while she waits for a load, no line begins

    @rule(asleep=st.booleans())
    def tier_sleeps_or_wakes(self, asleep: bool) -> None:
        self.tier.asleep = asleep
        before = dict(self.gate.lines)
        self.gate.look()
        assert not asleep or self.gate.lines == before

    @invariant()
    def what_is_counted_is_there(self) -> None:
        assert self.gate.people == len(self.people)
        assert all(self.gate.waiting.values())
        waiting = [each for batch in self.gate.waiting.values() for each in batch]
        assert not set(waiting) & set(self.gate.lines)
        assert all(each.began.is_set() == (each in self.gate.lines) for each in (*waiting, *self.gate.lines))

    @invariant()
    def nothing_waits_beside_a_free_slot(self) -> None:
        """No line waits where one could begin."""
        if self.gate.waiting and not self.tier.asleep and not self.tier.people_held:
            assert self.gate.people + len(self.gate.lines) >= self.may_begin()

    def teardown(self) -> None:
        """When nobody comes any more, each line has its turn, those of a batch in the order in which they came."""
        while self.people:
            self.people.pop().leaves()
        self.tier.asleep, self.tier.people_held = False, 0
        waited = {batch: list(lines) for batch, lines in self.gate.waiting.items()}
        ahead = sum(map(len, waited.values())) + len(self.gate.lines)
        self.gate.look()
        begun: list[Turn] = []
        for _ in range(ahead):
            for each in self.gate.lines:
                if each not in begun:
                    begun.append(each)
            if self.gate.lines:
                self.gate.leave(next(iter(self.gate.lines)))
        assert not self.gate.lines
        assert not self.gate.waiting
        for batch, lines in waited.items():
            assert [each for each in begun if each in lines] == lines, batch


AnyOrder.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAnyOrder = AnyOrder.TestCase


@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.integers(1, 8))
def test_batches_share_the_turns(sizes: list[int], of_server: int) -> None:
    """Of batches that have lines waiting, none has two turns more than another; none starves."""
    gate = gate_of(Tier())
    for number, size in enumerate(sizes):
        for _ in range(size):
            gate.come(turn(str(number), of_server=of_server, parallel=of_server))
    had = dict.fromkeys(map(str, range(len(sizes))), 0)
    seen: set[Turn] = set()
    while gate.lines:
        for each in set(gate.lines) - seen:
            seen.add(each)
            had[each.batch] += 1
        if len(gate.waiting) > 1:
            in_flight = [sum(each.batch == batch for each in gate.lines) for batch in gate.waiting]
            assert max(in_flight) - min(in_flight) <= of_server
        gate.leave(next(iter(gate.lines)))
    assert list(had.values()) == sizes


def test_a_late_batch_has_the_next_turn() -> None:
    """A batch that comes when another has all slots has the next one that is free, however many wait before it."""
    gate = gate_of(Tier())
    first = [turn("one") for _ in range(20)]
    for each in first:
        gate.come(each)
    late = turn("two")
    gate.come(late)
    gate.leave(first[0])
    assert late in gate.lines


def test_room_is_shared_among_batches_that_want_it() -> None:
    """A batch is told how many lines it has room for: all that are left, its share beside others, never none."""
    gate = gate_of(Tier(servers=4))
    assert gate.room("one", 4) == 16  # nobody came lately
    gate.used["m"] = 0.0
    assert gate.room("one", 4) == 15
    for _ in range(20):
        gate.come(turn("one"))
    assert gate.room("one", 4) == 15
    assert gate.room("two", 4) == 8
    gate.come(turn("two"))
    assert gate.room("one", 4) == 14  # the other wants one
    assert gate.room("two", 4) == 8
    gate.people = 15
    assert gate.room("one", 4) == gate.room("two", 4) == 1


def test_a_line_of_a_model_that_is_answered_one_at_a_time() -> None:
    """Where a model has one context, a line of it goes only while nobody is answered, and gives way to a person of the
    same model though other slots are free."""
    clock, tier = HandClock(), Tier()
    gate, cut = gate_of(tier, clock), list[str]()
    single = turn(parallel=1, cut=lambda: cut.append("single"))
    person = Person(gate, clock)
    gate.come(single)
    assert single not in gate.lines
    person.leaves()
    assert single in gate.lines
    gate.people += 1
    gate.person_came("other", 4, 4)
    assert not cut
    gate.people += 1
    gate.person_came("m", 1, 4)
    assert cut == ["single"]


def test_what_people_use_is_not_pushed_out() -> None:
    """A line whose model would push out one that a person used waits until nobody has for a while; lines of that
    model, and of one that is in memory, go before it."""
    clock, tier = HandClock(), Tier()
    gate = gate_of(tier, clock)
    Person(gate, clock, "theirs").leaves()
    other, same, there = turn("a", "other"), turn("b", "theirs"), turn("c", "there")
    tier.loaded = {"there"}
    for each in (other, same, there):
        gate.come(each)
    assert list(gate.lines) == [same, there]
    clock.tick(RECENT_SECONDS + 1)
    gate.look()
    assert other in gate.lines


def test_a_person_who_waits_for_a_load_is_not_behind_lines_of_another_model() -> None:
    """Her model's load may wait until what is in memory is idle, so lines of other models are cut, unless all fit."""
    clock, tier = HandClock(), Tier(fit=True)
    gate, cut = gate_of(tier, clock), list[str]()
    for model in ("m", "hers"):
        gate.come(turn(model=model, cut=lambda model=model: cut.append(model)))  # type: ignore[misc]
    gate.person_waits("hers")
    assert not cut
    tier.fit = False
    gate.person_waits("hers")
    assert cut == ["m"]


def test_an_answer_that_has_begun_is_not_cut() -> None:
    """A line whose answer is on its way to its batch is over in a moment: the one before it gives way."""
    clock, tier = HandClock(), Tier()
    gate, cut = gate_of(tier, clock), list[str]()
    gate.come(turn(cut=lambda: cut.append("first")))
    gate.come(turn(cut=lambda: cut.append("second"), is_answered=lambda: True))
    gate.people = 3
    gate.person_came("m", 4, 4)
    assert cut == ["first"]


async def came(gate: LineGate, one: Turn) -> "asyncio.Task[None]":
    task = asyncio.create_task(gate.take_turn(one))
    await asyncio.sleep(0)
    return task


def test_a_line_is_sent_back_when_there_was_no_room_for_long() -> None:
    """It waits so long and no longer, and is told when to come again; then it is in nobody's way."""

    async def trial() -> None:
        clock, tier = HandClock(), Tier()
        gate = gate_of(tier, clock)
        gate.people = 4
        one = turn()
        task = await came(gate, one)
        clock.tick(WAIT_SECONDS - 1)
        await asyncio.wait({task}, timeout=2 * LOOK_SECONDS)
        assert not task.done()
        clock.tick(1)
        await asyncio.wait({task}, timeout=PATIENCE)
        refusal = task.exception()
        assert isinstance(refusal, LineNotNow)
        assert refusal.retry_after
        assert not gate.waiting
        assert one.waited == WAIT_SECONDS

    asyncio.run(trial())


def test_a_line_begins_when_the_tier_woke() -> None:
    """What nothing tells the gate of, it finds when it looks again."""

    async def trial() -> None:
        tier = Tier(people_held=1)
        gate = gate_of(tier)
        task = await came(gate, turn())
        assert not task.done()
        tier.people_held = 0
        await asyncio.wait_for(task, PATIENCE)

    asyncio.run(trial())


@pytest.mark.parametrize("may_wake", [True, False])
def test_who_may_wake_a_tier(may_wake: bool) -> None:
    """A line that may not wake its tier is sent back at once, and those behind it that may do not wait for it."""

    async def trial() -> None:
        gate = gate_of(Tier(asleep=True))
        task = await came(gate, turn(may_wake=may_wake))
        await asyncio.wait({task}, timeout=PATIENCE)
        assert isinstance(task.exception(), LineNotNow) is not may_wake
        assert len(gate.lines) == may_wake

    asyncio.run(trial())


def test_a_line_that_leaves_while_it_waits_leaves_no_trace() -> None:
    """Its batch may hang up at any moment."""

    async def trial() -> None:
        gate = gate_of(Tier())
        gate.people = 4
        task = await came(gate, turn())
        task.cancel()
        await asyncio.wait({task})
        assert not gate.waiting
        assert not gate.lines

    asyncio.run(trial())
