"""When a server may leave that batches woke, and what it costs to know."""

from datetime import timedelta
from typing import Any

from jobs.batches.woken_tiers import LOOKED_FOR, LeaveWatch, WokenTier
from jobs.testing.clock import HandClock
from tests.support.stores import NoFacts, Store

SECOND = timedelta(seconds=1)


class Counted(NoFacts):
    """How often it was asked."""

    def __init__(self) -> None:
        self.gets = 0

    def get(self, key: Any, default: Any = None) -> Any:
        self.gets += 1
        return default


def test_the_ledger_is_asked_only_while_it_is_quiet() -> None:
    """Not while requests come one after the other, nor once it has been idle for long: something else keeps it then."""
    clock, facts = HandClock(), Counted()
    watch = LeaveWatch(facts, "a10g", clock.now(), clock)
    for served in range(10):
        watch.is_told(served, in_flight=1)
        clock.tick(30)
    assert facts.gets == 0

    for _ in range(100):
        watch.is_told(9, in_flight=0)
        clock.tick(30)
    assert facts.gets == LOOKED_FOR / timedelta(seconds=30)


def test_it_is_told_once_its_batches_are_over(store: Store) -> None:
    """Also at the very look that sees the last line's answer, where nothing is in flight any more."""
    clock = HandClock()
    woken_at = clock.now()
    clock.tick(5)
    watch = LeaveWatch(store.facts, "a10g", clock.now(), clock)
    clock.tick(60)
    WokenTier(woken_at).say(store.facts, "a10g")
    assert not watch.is_told(5, in_flight=0)
    WokenTier(woken_at, clock.now()).say(store.facts, "a10g")

    assert watch.is_told(6, in_flight=0)
    assert not watch.is_told(7, in_flight=1)
    assert watch.is_told(7, in_flight=1)  # a connection that carries nothing may stay open
    assert not watch.is_wanted()


def test_what_it_declined_it_is_not_told_again(store: Store) -> None:
    """A server that stayed for somebody stays until other batches are over."""
    clock = HandClock()
    watch = LeaveWatch(store.facts, "a10g", clock.now(), clock)
    WokenTier(clock.now(), clock.now() + SECOND).say(store.facts, "a10g")
    assert watch.is_told(0, in_flight=0)

    watch.decline()

    assert not watch.is_told(0, in_flight=0)
    WokenTier(clock.now(), clock.now() + 2 * SECOND).say(store.facts, "a10g")
    assert watch.is_told(0, in_flight=0)
