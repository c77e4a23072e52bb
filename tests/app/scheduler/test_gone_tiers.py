"""What becomes of a tier that the fleet file declares no more: it is told as it was, and its keys end."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app.accounting.spending import archived_usage, estimate, month_dollars
from app.fleet.file import read
from app.fleet.schema import Fleet, declared, parse
from app.gateway.auth.keys import Caller
from app.gateway.dashboard.daily import Days
from app.model_server.report import Report
from app.model_server.starting.wanted import want
from app.scheduler import runs
from app.scheduler.alert_check import check, keep, turns
from app.scheduler.wake_budget import Wakes
from jobs.archive.archive import archive_at, archive_facts, archived_turns
from jobs.listing.dead_memory import look_and_remember
from jobs.store import keys
from jobs.telemetry.cold_starts import ColdStart, cold_starts
from jobs.telemetry.container_time import Meter, Metered, say_warming
from jobs.telemetry.usage import UsageRecorder, Use
from tests.support.stores import Store

ANYONE = Caller("root", frozenset({"chat", "admin"}))


def fleet_of(*names: str, window: str = "") -> Fleet:
    """A fleet with these tiers, alike but for their names, and with a window of one that is open at any time."""
    document = read()
    document["tiers"] = dict.fromkeys(names, document["tiers"]["h100"])
    document["models"] = []
    if window:
        document["windows"] = [{"tier": window, "start": "0 * * * *", "hours": 24, "models": ["llama3.2"]}]
    return parse(document, "fleet.toml")


BEFORE = fleet_of("big", "small", window="big")
AFTER = fleet_of("small")


def ticked(store: Store, fleet: Fleet, kept: list[tuple[str, int]] | None = None) -> None:
    context = runs.ScheduleContext(store.ledger(), store.facts, fleet, store.clock, lambda _: None)
    runs.tick(context, lambda: None, lambda *pair: kept.append(pair) if kept is not None else None, lambda: None)


def checked(store: Store, fleet: Fleet, *, rented: bool = True) -> list[str]:
    """What is wrong, and who is well."""
    now = store.clock.now()
    jobs = look_and_remember(store.ledger().reader, store.facts, now)
    return [case.incident.key for case in check(jobs, store.facts, fleet, now, rented=rented).open]


def reported(store: Store, state: str, tier: str = "big", why: str = "") -> None:
    report = Report(tier, "ta-1", state, store.clock.now(), why=why, started_at=store.clock.now())
    store.facts.put(report.key, report.as_json())


def history(store: Store, tier: str = "big") -> list[str]:
    return [turn.health.state for turn in turns(dict(store.facts.items()), tier)]


def days(store: Store, fleet: Fleet, past: dict[str, Any]) -> dict[str, dict[str, str]]:
    """How each tier was on each day of month."""
    told = Days(store.clock, fleet).as_json(ANYONE, None, {**past, **dict(store.facts.items())})
    found: dict[str, dict[str, str]] = {}
    for row in told["health"]:
        found.setdefault(row["tier"], {})[row["day"][-2:]] = row["state"]
    return found


def test_its_window_ends_with_it(store: Store) -> None:
    """A tier that goes while its window is open is kept up no more; declared again, its window opens anew."""
    kept: list[tuple[str, int]] = []
    ticked(store, BEFORE, kept)
    assert (kept, store.facts.get(keys.window("big"))) == ([("big", 1)], True)

    ticked(store, AFTER, kept)
    assert (kept, store.facts.get(keys.window("big"))) == ([("big", 1)], False)
    ticked(store, AFTER, kept)
    store.clock.wait(86_400)
    ticked(store, BEFORE, kept)
    assert kept == [("big", 1)] * 2


def test_its_incident_passes(store: Store) -> None:
    """What was wrong with it is wrong no more, and nobody is told of its wakes."""
    reported(store, "failed", why="ollama ended by itself with 1")
    wakes = Wakes(store.facts, BEFORE)
    while wakes.take("big", str(store.clock.now()), store.clock.now()):
        store.clock.wait(60)
    assert checked(store, BEFORE) == ["tier/big", "wakes/big"]

    store.clock.wait(900)

    assert checked(store, AFTER) == []


@pytest.mark.parametrize("rented", [True, False])
def test_its_history_has_an_end(store: Store, *, rented: bool) -> None:
    """From when it is gone on, no day is told of it, however it was last; when it comes back its history goes on."""
    reported(store, "failed", why="it died")
    checked(store, BEFORE, rented=rented)
    store.clock.wait(2 * 86_400)
    checked(store, AFTER, rented=rented)
    checked(store, AFTER, rented=rented)
    assert history(store) == ["lost", "gone"]
    store.clock.wait(2 * 86_400)
    assert list(days(store, AFTER, {})["big"].values()) == ["lost"] * 2

    checked(store, BEFORE, rented=rented)
    assert history(store) == ["lost", "gone", "asleep"]
    assert list(days(store, BEFORE, {})["big"].values()) == ["lost", "lost", "well"]


def test_its_keys_end(store: Store, tmp_path: Path) -> None:
    """Nothing of it stays in the ledger's dict but that no window is open; all of it can be told from the archive, and
    one that comes back later begins a history beside the old one."""
    archive = archive_at(tmp_path)
    ticked(store, BEFORE)
    reported(store, "ended")
    Meter(store.facts, store.clock, "big", "ta-1", 4.84).note("serving")
    say_warming(store.facts, "big", store.clock.now())
    want(store.facts, "big", "llama3.2:latest", store.clock.now(), since=store.clock.now())
    cold = ColdStart("big", "ta-1", 1, "start", store.clock.now(), seconds={"engine": 2.0})
    store.facts.put(cold.key, cold.as_json())
    checked(store, BEFORE)
    store.clock.wait(3600)
    ticked(store, AFTER)
    assert history(store) == ["asleep", "gone"]
    assert len([key for key in store.facts.keys() if "/big" in key]) == 9  # noqa: SIM118 - a store is no dict

    store.clock.wait(6 * 86_400)
    ticked(store, AFTER)
    keep(store.facts, store.clock.now())
    archive_facts(store.facts, archive, store.clock.now(), lambda: None)

    assert [key for key in store.facts.keys() if "/big" in key] == [keys.window("big")]  # noqa: SIM118
    past = {**archived_usage(archive), **archived_turns(archive)}
    assert [each.tier for each in cold_starts(past, store.clock.now() - timedelta(days=30))] == ["big"]
    first = days(store, AFTER, past)["big"]
    reported(store, "failed")
    checked(store, BEFORE)
    store.clock.wait(60)
    assert days(store, BEFORE, past)["big"] == {**first, f"{store.clock.now():%d}": "lost"}
    archive_facts(store.facts, archive, store.clock.now() + timedelta(days=6), lambda: None)
    assert {keys.health("big", 1), keys.health("big", 2)} == {key.rpartition("/")[0] for key in archived_turns(archive)}
    assert history(store) == ["lost"]


def test_what_it_cost_is_still_told(store: Store) -> None:
    """Its containers noted their price, so the estimate and the month's budget are the same with and without it."""
    meter = Meter(store.facts, store.clock, "big", "ta-1", BEFORE.dollars_per_hour("big"))
    usage = UsageRecorder(store.facts, store.clock, "gateway")
    usage.add(Use(store.clock.now(), "llama3.2:latest", "alice", "big", "success", 1, 2, 0.1, 3.0))
    usage.flush()
    store.clock.wait(3600)
    meter.note("serving")
    now, entries = store.clock.now(), dict(store.facts.items())
    since = now - timedelta(days=1)

    told, before = estimate(entries, AFTER, since, now), estimate(entries, BEFORE, since, now)

    assert told.as_json() == before.as_json()
    assert told.dollars == pytest.approx(BEFORE.dollars_per_hour("big"))
    assert [(use.tier, use.model, use.requests) for use in told.uses] == [("big", "llama3.2:latest", 1)]
    assert month_dollars(entries, AFTER, now) == month_dollars(entries, BEFORE, now)


def test_what_nobody_knows_the_price_of_is_told(store: Store) -> None:
    """An older version's containers noted none: their hours are told, and that they are not in the sum."""
    now = store.clock.now()
    seconds: Any = {"cold": 0.0, "warming": 0.0, "serving": 3600.0, "idle": 0.0}
    meter = Metered("big", "ta-1", now - timedelta(hours=1), now, seconds)
    document = meter.as_json()
    del document["dollars_per_hour"]

    told = estimate({meter.key: document}, declared(), now - timedelta(days=1), now)

    assert "no price is known any more of big: what that cost is not in the sum" in list(told.lines())
    assert told.dollars == 0
