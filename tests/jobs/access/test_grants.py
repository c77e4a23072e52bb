"""No budget is given out twice: gateways that race, die, and lose replies at every step of the store."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.access import grants as store
from jobs.access.budgets import (
    NOTHING,
    OWNED,
    Grants,
    Span,
    Taken,
    Tariff,
    Took,
    committed,
    read,
    span_of,
    standings,
    used,
)
from jobs.access.grants import Ask, GrantStore, View
from jobs.access.limits import Limits
from jobs.core.errors import StoreUnavailable, StoreUnusable
from jobs.store import keys
from jobs.testing.clock import HandClock
from tests.support.failing_stores import MemoryDict, TroubledDict
from tests.support.interleaving import Actor, TurnDict

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
MONTH = span_of("month", NOW, UTC)
CAP = 12


@dataclass
class Scene:
    """What all gateways share: prices, and what the usage tells of before."""

    zone: tzinfo = UTC
    prices: Tariff = OWNED
    earlier: Taken = NOTHING

    def tariff(self, _: Span) -> Tariff:
        return self.prices

    def refresh(self, _: Span) -> None: ...

    def before(self, _key: str, _span: Span) -> Taken:
        return self.earlier


@dataclass
class Account:
    """A gateway that lets requests in, each as soon as it may."""

    grants: GrantStore
    name: str
    passed: int = 0
    span: Span = MONTH
    cap: int = CAP

    def ask(self, least: int = 1) -> View:
        asked = Ask({"requests": self.cap}, {"requests": least}, {"requests": 4}, Taken(requests=self.passed), {})
        return self.grants.grant("bob", self.span, self.name, asked)

    def use_up(self, most: int = 1000, *, ends: bool = True) -> None:
        """Let in what can be, then tell what it was."""
        granted = 0.0
        while self.passed < most:
            if self.passed >= granted:
                view = self.ask()
                if view.spent:
                    break
                granted = view.granted["requests"]
            self.passed += 1
        if ends:
            self.tell(is_ended=True)

    def tell(self, *, is_ended: bool = False) -> None:
        self.grants.settle("bob", self.span, self.name, Took(Taken(requests=self.passed), is_ended))


def accounts(facts: Any, count: int, scene: Scene | None = None, clock: HandClock | None = None) -> list[Account]:
    known = scene or Scene()
    return [Account(GrantStore(facts, clock or HandClock(NOW), known), f"g{number}") for number in range(count)]


def now(facts: MemoryDict) -> tuple[Grants, Mapping[str, Took]]:
    return read(dict(facts.items()), "bob", MONTH.name)


STEPS = st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["step", "step", "step", "lost", "kill"])), max_size=60)


@given(STEPS)
def test_racing_gateways_never_give_out_more(steps: list[tuple[int, str]]) -> None:
    """Whatever order three gateways move in, whichever dies or hears nothing at whichever step: no more passes than
    the budget has, and what those told who ended orderly is what passed there."""
    facts = MemoryDict()
    gateways = accounts(TurnDict(facts), 3)
    actors = [Actor(each.name, each.use_up) for each in gateways]
    killed = set()
    for number, what in steps:
        if what == "kill":
            actors[number].kill()
            killed.add(number)
        else:
            actors[number].step(loses_reply=what == "lost")
        assert sum(each.passed for each in gateways) <= CAP
    for actor in actors:
        while not actor.done:
            actor.step()
        assert actor.failure is None

    passed = sum(each.passed for each in gateways)
    grants, tooks = now(facts)
    assert passed <= committed(grants, tooks, OWNED, "requests") <= CAP
    if not killed:
        assert passed == CAP
        assert used(grants, tooks).requests == CAP


@pytest.mark.parametrize("step", range(1, 12))
def test_what_a_killed_gateway_had_is_closed(step: int) -> None:
    """After a kill at each step, a second gateway finds what is free, and no request too many."""
    facts = MemoryDict()
    first, second = accounts(TurnDict(facts), 2)
    actor = Actor("first", lambda: first.use_up(5))
    for _ in range(step):
        actor.step()
    actor.kill()
    other = Account(GrantStore(facts, HandClock(NOW), Scene()), second.name)

    other.use_up()

    assert first.passed + other.passed <= CAP
    assert other.passed >= CAP - 5 - 4  # what it had taken, and a slice


@pytest.mark.parametrize("fails_after", [False, True])
def test_a_write_without_a_reply_is_found_again(fails_after: bool) -> None:
    """A grant whose write failed, or was made and not heard of, is what its account has at the next look."""
    facts, fails = MemoryDict(), [True]

    class Deaf(TroubledDict):
        def put(self, key: Any, value: Any, *, skip_if_exists: bool = False) -> bool:
            if fails.pop() if fails else False:
                if fails_after:
                    facts.put(key, value, skip_if_exists=skip_if_exists)
                raise StoreUnavailable("no answer")
            return facts.put(key, value, skip_if_exists=skip_if_exists)

    (account,) = accounts(Deaf(facts, lambda _: None), 1)
    with pytest.raises(StoreUnavailable):
        account.ask()

    account.use_up()

    assert account.passed == CAP
    assert committed(*now(facts), OWNED, "requests") == CAP


def test_a_write_that_took_long_is_looked_at_again() -> None:
    """A version that was written long after its look may follow one that is gone: nothing is granted by it unless it
    is found to be the newest."""
    facts, clock = MemoryDict(), HandClock(NOW)
    (slow,) = accounts(
        TroubledDict(facts, lambda doing: clock.tick(90) if doing.startswith("put") else None), 1, clock=clock
    )

    view = slow.ask()

    assert view.granted == now(facts)[0].open["g0"]
    assert now(facts)[0].n == 1


def test_the_rest_of_an_ended_account_is_handed_on() -> None:
    """What an account that ended had not spent, others get; what one holds that goes on, they do not."""
    facts = MemoryDict()
    first, second, third = accounts(facts, 3)
    first.use_up(1, ends=False)
    second.use_up(1, ends=False)
    held = now(facts)[0].open["g1"]["requests"]
    first.tell(is_ended=True)

    third.use_up()

    assert third.passed == CAP - 1 - held


def test_what_came_before_counts() -> None:
    """A budget that is set in the middle of its month begins with what the usage knows of it; so does one whose grants
    were lost."""
    facts = MemoryDict()
    (account,) = accounts(facts, 1, Scene(earlier=Taken(requests=10)))

    account.use_up()

    assert account.passed == 2
    for key in list(facts.keys()):
        facts.pop(key)
    (again,) = accounts(facts, 1, Scene(earlier=Taken(requests=12)))
    assert again.ask().spent == ("requests",)


def test_a_version_that_cannot_be_read_grants_nothing() -> None:
    """In doubt it is closed."""
    facts = MemoryDict()
    (account,) = accounts(facts, 1)
    account.ask()
    facts.put(keys.grant("bob", MONTH.name, 2), {"v": 9})

    with pytest.raises(StoreUnusable, match="version 2 of what is granted"):
        account.ask()


def test_budgets_follow_their_prices() -> None:
    """Dollars are priced when they are asked for: what `cost` learns later of the same seconds counts."""
    facts, scene = MemoryDict(), Scene(prices=Tariff({"a10g": 0.01}, {"a10g": 0.02}))
    gateway = GrantStore(facts, HandClock(NOW), scene)
    took = Taken(1, 100, {"a10g": 100.0})

    def asked() -> View:
        return gateway.grant("bob", MONTH, "g0", Ask({"dollars": 3.0}, {}, {}, took, {}))

    assert not asked().spent
    gateway.settle("bob", MONTH, "g0", Took(took))
    scene.prices = Tariff({"a10g": 0.03})
    assert asked().spent == ("dollars",)
    limits = Limits.parse({"dollars": "3/month"})
    (told,) = standings("bob", limits, dict(facts.items()), scene, NOW)
    assert told.used == pytest.approx(3.0)
    assert told.left == pytest.approx(0.0)


def test_starts_count_where_they_are_charged() -> None:
    """Starts that a key caused, and the idle time after, are told apart, and in its dollars if they are charged."""
    took = Taken(1, 0, {"a10g": 10.0}, {"a10g": 4.0}, {"a10g": 4.0}, {"a10g": 60.0})
    free, charged = (Tariff({"a10g": 0.5}, {"a10g": 1.0}, charges_cold=charges) for charges in (False, True))

    assert free.caused(took) == (4.0, 60.0)
    assert free.amount(took, "dollars") == 5.0
    assert charged.amount(took, "dollars") == 69.0
    assert free.amount(took, "gpu_seconds") == 6.0
    assert Tariff(without_gpu=frozenset({"a10g"})).amount(took, "gpu_seconds") == 0.0


@given(st.integers(0, 10 * 365 * 86400).map(lambda seconds: NOW + timedelta(seconds=seconds)), st.timezones())
def test_spans_follow_one_another(moment: datetime, zone: tzinfo) -> None:
    """Each moment lies in its day and its month, in which nothing else begins; the next begins where one ends."""
    for period in ("day", "month"):
        span = span_of(period, moment, zone)
        assert span.holds(moment)
        assert span_of(period, span.ends, zone).began == span.ends
        assert span_of(period, span.ends - timedelta(seconds=1), zone).name == span.name


def test_what_says_nothing_any_more_is_removed() -> None:
    """Versions go an hour after the next one, what is over some days after its end; what counts is read by its key."""
    facts, clock = MemoryDict(), HandClock(NOW)
    first, second = accounts(facts, 2, clock=clock)
    first.use_up(3)
    second.use_up(6, ends=False)
    second.tell()
    assert now(facts)[0].n > 2

    clock.tick(2 * 3600)
    before = committed(*now(facts), OWNED, "requests")
    store.tidy_all(facts, clock.now())

    newest = now(facts)[0].n
    assert set(facts.keys()) == {keys.grant("bob", "2026-11", newest), keys.took("bob", "2026-11", "g1")}
    assert committed(*now(facts), OWNED, "requests") == before
    read_by_key: list[str] = []
    clock.tick(4 * 86400)
    store.keep(TroubledDict(facts, read_by_key.append), clock.now())
    assert sorted(read_by_key) == ["get grant/bob/2026-11/" + str(newest), "get took/bob/2026-11/g1", "items"]
    clock.tick(10 * 86400)
    store.tidy_all(facts, clock.now())
    assert list(facts.keys()) == []


@given(
    st.builds(
        Taken,
        st.integers(0, 9),
        st.integers(0, 9),
        *[st.dictionaries(st.sampled_from(["a", "b"]), st.integers(1, 9).map(float))] * 4,
    )
)
def test_what_was_taken_survives_its_words(taken: Taken) -> None:
    """What an account took is read as it was written, and adds up."""
    assert Taken.from_json(taken.as_json()) == taken
    assert (taken + NOTHING) == taken
    assert (taken + taken).requests == 2 * taken.requests
