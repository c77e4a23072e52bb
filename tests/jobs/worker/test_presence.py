"""Promises about who is at work in a lane: nobody is sent for too many, and no job is left to nobody."""

from datetime import timedelta

import pytest

from jobs.core.errors import StoreUnavailable
from jobs.worker.presence import STAYS, WorkerPresence, is_at_work
from tests.support.failing_stores import TroubledDict, While
from tests.support.stores import Store


def test_a_worker_at_work_is_known(store: Store) -> None:
    """While it works, whoever posts a job knows, and sends for no other; before, and once it leaves, for one."""
    seen: list[bool] = []
    presence = WorkerPresence(store.facts, "weights", store.clock)

    def note() -> bool:
        seen.append(is_at_work(store.facts, "weights", store.clock.now()))
        return False

    note()
    presence.work(note, note)
    assert seen == [False, True, False]
    assert not is_at_work(store.facts, "servers", store.clock.now())


def test_what_comes_while_it_leaves_is_worked_on(store: Store) -> None:
    """A job that came before the worker said that it leaves is taken up by that worker."""
    ledger, runs = store.ledger(), []
    presence = WorkerPresence(store.facts, "weights", store.clock)

    def run() -> None:
        runs.append(ledger.next_id("weights", timedelta(0)))
        if len(runs) == 1:
            ledger.post("pull", "late:latest", {"model": "late"}, by="test")

    presence.work(run, lambda: ledger.has_queued("weights"))
    assert (len(runs), ledger.has_queued("weights")) == (2, False)


def test_a_killed_worker_is_missed_soon(store: Store) -> None:
    """A worker that says nothing any more counts as gone after half a minute."""
    presence = WorkerPresence(store.facts, "weights", store.clock)

    def killed() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        presence.work(killed, lambda: False)
    assert is_at_work(store.facts, "weights", store.clock.now())
    store.clock.wait(STAYS.total_seconds() + 1)
    assert not is_at_work(store.facts, "weights", store.clock.now())


def test_a_store_that_fails_keeps_nobody_from_work(store: Store) -> None:
    """The work is done though nobody could be told of it."""
    away = While(trouble=StoreUnavailable("the store is away"))
    away.begin()
    ran: list[bool] = []
    presence = WorkerPresence(TroubledDict(store.facts, away), "weights", store.clock)
    presence.work(lambda: ran.append(True), lambda: False)
    assert ran == [True]
