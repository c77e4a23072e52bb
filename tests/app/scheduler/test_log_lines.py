"""What the schedules say in the log: in words, and each trouble once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from loguru import logger

from app.fleet.schema import declared
from app.local.nightly_thread import NightlyThread
from app.scheduler import runs
from app.scheduler.steps import Ticked
from jobs.core.errors import ServerTrouble
from jobs.home.home import Stack, home_of
from jobs.testing.clock import HandClock
from tests.support.stores import LEASE, Store, claimed
from tests.support.waiting import until

FLEET = declared()


@contextmanager
def lines() -> Iterator[list[str]]:
    """What a terminal would show, from warnings and what happens up to errors."""
    written: list[str] = []
    sink = logger.add(lambda line: written.append(str(line).rstrip()), format="{level} {message}", level="INFO")
    try:
        yield written
    finally:
        logger.remove(sink)


def context(store: Store, send_worker: Callable[[str], object]) -> runs.ScheduleContext:
    return runs.ScheduleContext(store.ledger(), store.facts, FLEET, store.clock, send_worker)


def send(_: str) -> None:
    """Somebody comes."""


def refuse(lane: str) -> None:
    raise ServerTrouble(f"nobody can be sent to {lane}")


def test_a_tick_tells_what_it_did_in_words(store: Store) -> None:
    """No line shows how its values are written in the source."""
    ledger = store.ledger()
    lost = ledger.post("pull", "a:latest", {"model": "a"}, by="test").job.id
    claimed(ledger, lost)
    with lines() as told:
        runs.tick(context(store, send), lambda: None, lambda *_: None, lambda: None)
        store.clock.wait((LEASE * 2).total_seconds())
        runs.tick(context(store, send), lambda: None, lambda *_: None, lambda: None)
    ticks = [line for line in told if line.startswith("INFO tick: ")]
    assert ticks[0] == "INFO tick: nothing had to be done"
    assert ticks[1].startswith("INFO tick: ")
    assert f"a silent attempt of job {lost} is given up" in ticks[1]
    assert "(" not in "".join(ticks)
    assert (
        str(Ticked(("weights",), (), ("a10g/ta-1",)))
        == "a worker is sent to lane weights, server a10g/ta-1 went silent"
    )


def test_a_tick_tells_each_trouble_once(store: Store) -> None:
    """What a part within a part met is told by the innermost, and not again by those around it."""
    ledger = store.ledger()
    claimed(ledger, ledger.post("pull", "a:latest", {"model": "a"}, by="test").job.id)
    store.clock.wait((LEASE * 2).total_seconds())
    with lines() as told, pytest.raises(ServerTrouble):
        runs.tick(context(store, refuse), lambda: None, lambda *_: None, lambda: None)
    (line,) = [line for line in told if "nobody can be sent" in line]
    assert line.startswith("ERROR tick: sending a worker to lane weights failed, the rest goes on: ServerTrouble: ")


def test_a_night_on_one_machine_tells_its_trouble_once(tmp_path: Path) -> None:
    """The thread that runs it has the trace in the file alone."""
    clock = HandClock()
    home = home_of({"OLLAMA_MODAL_HOME": str(tmp_path)})
    home.prepare()
    why = "it is a service"
    stack = Stack(pid=1, started_at=clock.now(), simulated=True, servers=(), models=None, why_by_server=why)
    thread = NightlyThread(home, stack, FLEET, clock)
    with lines() as told:
        thread.start()
        until(lambda: any("failed" in line for line in told))
        thread.stop()
    assert len([line for line in told if why in line]) == 1
