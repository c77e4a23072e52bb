"""Which models a tier is woken for: first come first, and what is old counts for nothing."""

from datetime import timedelta
from typing import Any

from app.model_server.starting.wanted import AT_ONCE, COUNTS_FOR, MOST, want, wanted
from jobs.store import keys
from jobs.testing.clock import HandClock
from tests.support.stores import Store


def test_first_come_first(store: Store) -> None:
    """Several callers of a wake name several models, each once, in the order in which they came."""
    clock = HandClock()
    began = clock.now()
    for name in ("llama3.2:latest", "qwen3:latest", "llama3.2:latest"):
        clock.tick(1)
        want(store.facts, "a10g", name, clock.now(), since=began)

    assert list(map(str, wanted(store.facts, "a10g", clock.now()))) == ["llama3.2:latest", "qwen3:latest"]
    assert wanted(store.facts, "h100", clock.now()) == []


def test_a_new_wake_begins_anew(store: Store) -> None:
    """What an earlier wake was for does not stand before what this one is for; what came at once with it does."""
    clock = HandClock()
    want(store.facts, "a10g", "old:latest", clock.now(), since=clock.now())
    clock.tick(2 * AT_ONCE.total_seconds())
    want(store.facts, "a10g", "beside:latest", clock.now(), since=clock.now())
    clock.tick(1)
    want(store.facts, "a10g", "new:latest", clock.now(), since=clock.now())

    assert list(map(str, wanted(store.facts, "a10g", clock.now()))) == ["beside:latest", "new:latest"]


def test_what_is_old_or_odd_counts_for_nothing(store: Store) -> None:
    """A fact that nobody renewed is over after some minutes; names that are none, and forms of nobody's, are passed
    over."""
    clock = HandClock()
    want(store.facts, "a10g", "llama3.2:latest", clock.now(), since=clock.now())
    assert wanted(store.facts, "a10g", clock.now() + COUNTS_FOR + timedelta(seconds=1)) == []
    at = store.facts.get(keys.wanted("a10g"))["models"][0]["at"]
    odd = [{"model": "../x", "at": at}, {"model": "a"}, 7, {"model": "tiny", "at": at}]
    facts: list[Any] = [{"models": odd}, {"models": None}, [], "x"]
    for fact in facts:
        store.facts.put(keys.wanted("a10g"), fact)
        names = list(map(str, wanted(store.facts, "a10g", clock.now())))
        assert names == (["tiny:latest"] if fact == {"models": odd} else [])


def test_it_does_not_grow(store: Store) -> None:
    """However many models are asked for, so many are named at most."""
    now = HandClock().now()
    for number in range(2 * MOST):
        want(store.facts, "a10g", f"m{number}", now, since=now)

    assert len(store.facts.get(keys.wanted("a10g"))["models"]) == MOST
