"""The month's budget of the fleet stops what the fleet file says: what is under way ends, admins pass."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from app.fleet.file import read
from app.fleet.schema import Fleet, parse
from app.gateway.auth.fleet_budget import TRUSTED_FOR, FleetBudget, MonthBudget
from app.scheduler.wake_budget import Wakes
from jobs.access.keys.proofs import hash_of
from jobs.core.errors import StoreUnavailable
from jobs.store.sqlite import SqliteDict
from jobs.telemetry.container_time import Metered
from jobs.testing.clock import HandClock
from tests.support.dialects import OLLAMA, Dialect, each_dialect, whole_answer
from tests.support.failing_stores import MemoryDict, While
from tests.support.gateways import CLOCK, RunningGateway, gateway
from tests.support.scripted_server import Connection, HeardRequest, ScriptedServer
from tests.support.waiting import PATIENCE, until

BOB, ANN = "omk_of_bob", "omk_of_ann"
KEYS = f"bob {hash_of(BOB)} chat\nann {hash_of(ANN)} chat admin"


def fleet(on_budget: str, dollars: float = 5.0) -> Fleet:
    document = read()
    document["alerts"] |= {"monthly_budget_dollars": dollars, "on_budget": on_budget}
    return parse(document, "test")


def spend(facts: SqliteDict | MemoryDict, hours: float) -> None:
    """A container of a tier has served for so long, until just now."""
    now = CLOCK.now()
    seconds = {"cold": 0.0, "warming": 0.0, "serving": hours * 3600, "idle": 0.0}
    count = Metered("h100", "c", now - timedelta(seconds=1), now, seconds)  # type: ignore[arg-type]
    facts.put(count.key, count.as_json())


@contextmanager
def spent(folder: Path, server: ScriptedServer, on_budget: str, hours: float = 100) -> Iterator[RunningGateway]:
    """A gateway that knows what was spent."""
    facts = SqliteDict(folder / "gateway.sqlite")
    spend(facts, hours)
    facts.close()
    with gateway(folder, {"a10g": server.url}, keys=KEYS, fleet=fleet(on_budget)) as running:
        yield running


def ask(running: RunningGateway, key: str = BOB, dialect: Dialect = OLLAMA) -> httpx.Response:
    headers = {"x-api-key": key}
    return httpx.post(running.url + dialect.path, json=dict(dialect.body), headers=headers, timeout=PATIENCE)


@each_dialect
def test_it_refuses(tmp_path: Path, dialect: Dialect) -> None:
    """With `refuse`, requests to models are 429 in the caller's shape, which says until when; an admin's are answered,
    and lists are to all."""
    with ScriptedServer(whole_answer) as server, spent(tmp_path, server, "refuse") as running:
        refused, passed = ask(running, dialect=dialect), ask(running, ANN, dialect)
        listed = httpx.get(f"{running.url}/api/tags", headers={"x-api-key": BOB}, timeout=PATIENCE)

    assert (refused.status_code, passed.status_code, listed.status_code) == (429, 200, 200)
    assert "the month's budget of the fleet, $5, is spent: nothing is asked of its servers until" in refused.text
    assert int(refused.headers["retry-after"]) > 0
    assert refused.headers["x-should-retry"] == "false"
    assert len(server.asked) == 1


def test_it_wakes_nothing(tmp_path: Path) -> None:
    """With `no_wakes`, a tier that sleeps is not woken, but by an admin; one that is awake answers."""
    with ScriptedServer(whole_answer, asleep=2) as server, spent(tmp_path, server, "no_wakes") as running:
        refused = ask(running)
        heard = len(server.heard)
        admins, awake = ask(running, ANN), ask(running)

    assert refused.status_code == 429
    assert "tier 'a10g', which is asleep, is not woken until" in refused.text
    assert heard == 0
    assert (admins.status_code, awake.status_code) == (200, 200)


@pytest.mark.parametrize(("on_budget", "hours"), [("alert", 100), ("refuse", 0.1), ("no_wakes", 0.1)])
def test_else_it_stops_nothing(tmp_path: Path, on_budget: str, hours: float) -> None:
    """With `alert`, and before it is spent, all is as ever."""
    with (
        ScriptedServer(whole_answer, asleep=2) as server,
        spent(tmp_path, server, on_budget, hours) as running,
    ):
        assert ask(running).status_code == 200


def test_what_is_under_way_ends(tmp_path: Path) -> None:
    """An answer that has begun when the budget is spent goes on to its end."""
    begun, go_on = threading.Event(), threading.Event()

    def slow(heard: HeardRequest, line: Connection) -> None:
        begun.set()
        assert go_on.wait(PATIENCE)
        whole_answer(heard, line)

    with (
        ScriptedServer(slow) as server,
        gateway(tmp_path, {"a10g": server.url}, keys=KEYS, fleet=fleet("refuse")) as running,
        ThreadPoolExecutor(1) as caller,
    ):
        answer = caller.submit(ask, running)
        try:
            assert begun.wait(PATIENCE)
            spend(running.facts, 100)
            look(running)
            refused = ask(running)
        finally:
            go_on.set()
        assert answer.result(PATIENCE).status_code == 200

    assert refused.status_code == 429


def look(running: RunningGateway) -> None:
    """Have what is spent looked at, on the gateway's own loop."""
    fleet_budget = running.composed.admission._fleet
    assert fleet_budget is not None
    loop = running.server._server.servers[0].get_loop()
    asyncio.run_coroutine_threadsafe(fleet_budget.look(), loop).result(PATIENCE)


def test_in_doubt_it_is_closed(tmp_path: Path) -> None:
    """While what is spent was never learnt, it is closed, and says that nobody could be asked; then it opens."""
    away = While(lambda doing: doing == "items", StoreUnavailable("it is away"))
    away.begin()
    with (
        ScriptedServer(whole_answer) as server,
        gateway(tmp_path, {"a10g": server.url}, keys=KEYS, fleet=fleet("refuse"), meet=away) as running,
    ):
        refused, passed = ask(running), ask(running, ANN)
        away.end()
        assert until(lambda: ask(running).status_code == 200, "it to be open")

    assert (refused.status_code, passed.status_code) == (503, 200)
    assert "whether the month's budget of the fleet is spent cannot be told" in refused.text
    assert "nothing says that it is spent" in refused.text


def test_a_look_that_does_not_end_leaves_it_open_for_ten_minutes() -> None:
    """What was seen last counts for a stated time, also while the store hangs and the next look never ends."""
    clock = HandClock()
    answered = threading.Event()
    looks = iter((True, False))

    def spent() -> float:
        if not next(looks):
            assert answered.wait(PATIENCE)
        return 1.0

    async def play() -> list[bool]:
        budget = FleetBudget(MonthBudget(5.0, "refuse", spent, lambda now: now), clock)
        await budget.look()
        told = [budget.is_open]
        hung = asyncio.create_task(budget.look())
        await asyncio.sleep(0)
        for seconds in (TRUSTED_FOR.total_seconds(), 1):
            clock.tick(seconds)
            told.append(budget.is_open)
        answered.set()
        await hung
        return [*told, budget.is_open]

    assert asyncio.run(play()) == [True, True, False, True]


@pytest.mark.parametrize(("on_budget", "woken"), [("alert", True), ("no_wakes", False), ("refuse", False)])
def test_nights_and_windows_wake_nothing_either(on_budget: str, woken: bool) -> None:
    """Where the month's budget stops wakes, our own are stopped as well, and none of the day's is used up."""
    facts = MemoryDict()
    spend(facts, 100)

    wakes = Wakes(facts, fleet(on_budget))

    assert wakes.take("a10g", "why", CLOCK.now()) is woken
    assert wakes.used("a10g", CLOCK.now()) == woken
    assert not wakes.is_used_up("a10g", CLOCK.now())
