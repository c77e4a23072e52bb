"""Gateways that let requests in by budgets, in any order of requests, ends, kills, clock jumps and failures of the
store: what passes never exceeds the budget, and in the end all of it can be used."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from app.gateway.auth.budgets import Budgets, Reservation
from app.gateway.auth.keys import Caller
from jobs.access.budgets import NOTHING, OWNED, BudgetSpent, Span, Taken, Tariff
from jobs.access.limits import Limits
from jobs.core.errors import DiskFailed, StoreUnavailable
from jobs.testing.clock import HandClock
from tests.support.failing_stores import MemoryDict
from tests.support.waiting import PATIENCE

CAP = 20
BOB = Caller("bob", frozenset({"chat"}), limits=Limits.parse({"requests": f"{CAP}/month", "tokens": "100000/day"}))
NOON = datetime(2026, 11, 10, 12, tzinfo=UTC)


class Prices:
    zone: tzinfo = UTC

    def tariff(self, _: Span) -> Tariff:
        return OWNED

    def refresh(self, _: Span) -> None: ...

    def before(self, _key: str, _span: Span) -> Taken:
        return NOTHING


@dataclass
class FlakyDict:
    """A dict whose next operations fail as the test says: before they did anything, or after."""

    facts: MemoryDict
    fails: list[str] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)
    meets: Callable[[], object] = tuple

    def _do(self, what: str, work: Callable[[], Any]) -> Any:
        self.asked[what] += 1
        self.meets()
        fails = self.fails.pop() if self.fails else ""
        if fails == "before":
            raise StoreUnavailable("it is away")
        done = work()
        if fails == "after":
            raise StoreUnavailable("no reply")
        return done

    def put(self, key: Any, value: Any, *, skip_if_exists: bool = False) -> bool:
        return bool(self._do("put", lambda: self.facts.put(key, value, skip_if_exists=skip_if_exists)))

    def get(self, key: Any, default: Any = None) -> Any:
        return self._do("get", lambda: self.facts.get(key, default))

    def pop(self, key: Any, default: Any = None) -> Any:
        return self._do("pop", lambda: self.facts.pop(key, default))

    def remove_all(self, keys: Any, /) -> int:
        return int(self._do("remove", lambda: self.facts.remove_all(keys)))

    def update(self, other: Mapping[Any, Any], /) -> None:
        self._do("update", lambda: self.facts.update(other))

    def keys(self, *prefixes: str) -> Any:
        return self._do("keys", lambda: self.facts.keys(*prefixes))

    def items(self, *prefixes: str) -> Any:
        return self._do("items", lambda: self.facts.items(*prefixes))


class World:
    """Two gateways on one store, and the requests under way at each."""

    def __init__(self) -> None:
        self.clock = HandClock(NOON)
        self.store = FlakyDict(MemoryDict())
        self.number = 0
        self.passed = 0
        self.killed = 0
        self.gateways = [self.born(), self.born()]
        self.under_way: list[list[Reservation]] = [[], []]

    def born(self) -> Budgets:
        self.number += 1
        return Budgets(self.store, self.clock, Prices(), f"g{self.number}")

    async def ask(self, at: int) -> None:
        try:
            reservation = await self.gateways[at].admit(BOB, "a10g", 10, self.clock.now())
        except (BudgetSpent, StoreUnavailable):
            return
        assert reservation is not None
        self.passed += 1
        self.under_way[at].append(reservation)

    def end(self, at: int) -> None:
        if self.under_way[at]:
            self.under_way[at].pop(0).settle(Taken(1, 20, {"a10g": 1.0}))

    async def replace(self, at: int, *, kill: bool) -> None:
        if kill:
            self.killed += 1
        else:
            while self.under_way[at]:
                self.end(at)
            await self.gateways[at].close()
        self.under_way[at] = []
        self.gateways[at] = self.born()

    async def do(self, what: str, at: int) -> None:
        match what:
            case "ask":
                await self.ask(at)
            case "three":
                await asyncio.gather(*(self.ask(at) for _ in range(3)))
            case "end":
                self.end(at)
            case "look":
                await self.gateways[at].look_after()
            case "minutes":
                self.clock.tick(200)
            case "kill" | "close":
                await self.replace(at, kill=what == "kill")
            case fails:
                self.store.fails.append(fails)


DO = st.sampled_from(["ask", "three", "end", "end", "look", "minutes", "kill", "close", "before", "after"])


@settings(deadline=None)
@given(st.lists(st.tuples(DO, st.integers(0, 1)), max_size=40))
def test_nothing_is_overdrawn_whatever_happens(steps: list[tuple[str, int]]) -> None:
    """No request too many passes; and once all is well again, what nobody holds or has spent is used to its end."""

    async def play() -> World:
        world = World()
        for what, at in steps:
            await world.do(what, at)
            assert world.passed <= CAP
        world.store.fails.clear()
        for _ in range(3):
            for at in range(2):
                await world.replace(at, kill=False)
        for _ in range(CAP + 1):
            await world.ask(0)
            world.end(0)
            world.clock.tick(3)
        assert world.passed <= CAP
        return world

    world = asyncio.run(play())
    if not world.killed and not {"before", "after"}.intersection(what for what, _ in steps):
        assert world.passed == CAP


def test_requests_inside_a_slice_ask_nothing() -> None:
    """A slice of a budget costs two trips, and a request inside it none; a key without budgets costs none."""

    async def play() -> list[int]:
        world = World()
        limited = Caller("bob", frozenset({"chat"}), limits=Limits.parse({"requests": "9000/day,9000/month"}))
        free = Caller("ann", frozenset({"chat"}))
        trips = []
        for caller in (limited, limited, limited, limited, free):
            world.store.asked.clear()
            await world.gateways[0].admit(caller, "a10g", 10, world.clock.now())
            trips.append(world.store.asked.total())
        return trips

    assert asyncio.run(play()) == [4, 0, 0, 0, 0]  # of a day's budget and of a month's


def test_to_tell_how_a_key_stands_costs_one_listing() -> None:
    """With what was taken since written down before: a write for each of its spans."""

    async def play() -> Counter[str]:
        world = World()
        for _ in range(3):
            await world.ask(0)
            world.end(0)
        world.store.asked.clear()
        told = await world.gateways[0].standings("bob", BOB.limits)
        assert [(each.budget.unit, each.used) for each in told] == [("requests", 3), ("tokens", 60)]
        return world.store.asked

    assert asyncio.run(play()) == {"put": 2, "items": 1}


def test_what_is_kept_does_not_grow() -> None:
    """A hundred bursts of requests leave as many entries as ten."""

    async def play(bursts: int) -> int:
        world = World()
        caller = Caller("bob", frozenset({"chat"}), limits=Limits.parse({"requests": "100000/month"}))
        for _ in range(bursts):
            for _ in range(3):
                reservation = await world.gateways[0].admit(caller, "a10g", 10, world.clock.now())
                assert reservation is not None
                reservation.settle(Taken(1))
            world.clock.tick(700)
            await world.gateways[0].look_after()
        return len(list(world.store.facts.keys()))

    ten, hundred = asyncio.run(play(10)), asyncio.run(play(100))
    assert hundred <= ten <= 6


def test_another_key_may_come_while_what_was_taken_is_written() -> None:
    """What a key took is written down however slow the store is, and whichever keys come meanwhile."""
    ann = Caller("ann", frozenset({"chat"}), limits=BOB.limits)

    async def play() -> World:
        world = World()
        await world.ask(0)
        world.end(0)
        writing = asyncio.create_task(world.gateways[0].look_after())
        await asyncio.sleep(0)
        await world.gateways[0].admit(ann, "a10g", 10, world.clock.now())
        await writing
        return world

    assert any("took/bob/" in key for key in asyncio.run(play()).store.facts.keys("took/"))


def test_a_gateway_that_ends_gives_all_back_at_once() -> None:
    """However slow each write is, none waits for another: what all keys have left is theirs again."""

    async def play() -> World:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(20))
        world = World()
        gateway = world.gateways[0]
        for number in range(20):
            caller = Caller(f"k{number}", frozenset({"chat"}), limits=Limits.parse({"requests": "20/month"}))
            reservation = await gateway.admit(caller, "a10g", 10, world.clock.now())
            assert reservation is not None
            reservation.settle(Taken(1))
        met = threading.Barrier(20)
        world.store.meets = lambda: met.wait(PATIENCE)
        gateway.ask_seconds = PATIENCE
        await gateway.close()
        return world

    facts = asyncio.run(play()).store.facts
    assert sum(told["ended"] for _, told in facts.items("took/")) == 20


def test_prices_that_cannot_be_read_keep_nobody_from_writing_down() -> None:
    """An archive that fails leaves the prices as they were known; what was taken is written down all the same."""

    class NoArchive(Prices):
        is_read = True

        def refresh(self, _: Span) -> None:
            if not self.is_read:
                raise DiskFailed("the archive cannot be read")

    async def play() -> bool:
        known, clock, facts = NoArchive(), HandClock(NOON), MemoryDict()
        gateway = Budgets(facts, clock, known, "g1")
        caller = Caller("bob", frozenset({"chat"}), limits=Limits.parse({"dollars": "5/month", "requests": "9/month"}))
        reservation = await gateway.admit(caller, "a10g", 10, clock.now())
        assert reservation is not None
        reservation.settle(Taken(1))
        known.is_read = False
        await gateway.look_after()
        clock.tick(200)
        await gateway.look_after()
        return all(told["ended"] for _, told in facts.items("took/"))

    assert asyncio.run(play())
