"""The watch of every tick: what it finds wrong, what it writes down, and the wakes it does not allow."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from app.deployment import status as reports
from app.fleet.file import read
from app.fleet.schedule import night_began
from app.fleet.schema import Fleet, declared, parse
from app.local.nightly_thread import NightlyThread
from app.model_server.report import Report
from app.scheduler.alert_check import AlertsChecked, check, turns
from app.scheduler.steps import keep_windows
from app.scheduler.wake_budget import Wakes, opening
from jobs.core.clock import isoformat
from jobs.core.progress import Reading
from jobs.home.home import Stack, home_of
from jobs.ledger.attempts import Claim
from jobs.ledger.job import Ending
from jobs.listing.dead_memory import KnownJobs, look_and_remember
from jobs.store import keys
from jobs.telemetry.container_time import Metered
from jobs.telemetry.incidents import cases
from jobs.testing.clock import HandClock
from tests.support.models_directory import put, sample, weights_at
from tests.support.stores import Store
from tests.support.webhooks import webhook_server

FLEET = declared()


def fleet_with(**tables: Any) -> Fleet:
    document = read()
    for name, table in tables.items():
        document[name] = {**document[name], **table} if isinstance(table, dict) else table
    return parse(document, "test")


def looked(store: Store, fleet: Fleet = FLEET, *, rented: bool = True) -> AlertsChecked:
    now = store.clock.now()
    return check(look_and_remember(store.ledger().reader, store.facts, now), store.facts, fleet, now, rented=rented)


def wrong(store: Store, fleet: Fleet = FLEET) -> dict[str, str]:
    """What is open, by key."""
    return {case.incident.key: case.incident.message for case in looked(store, fleet).open}


def said(store: Store, state: str, container: str = "ta-1", why: str = "") -> None:
    report = Report("a10g", container, state, store.clock.now(), why=why)
    store.facts.put(report.key, report.as_json())


def ended(store: Store, subject: str, ending: Ending) -> None:
    ledger = store.ledger()
    id = ledger.post("pull", subject, {"model": subject}, by="test").job.id
    claim = ledger.claim(id, worker="w", lease=timedelta(minutes=1))
    assert claim is not None
    ledger.end(claim, ending, Reading())


# What is wrong


def test_nothing_is_wrong_with_nothing(store: Store) -> None:
    """A deployment in which nothing has happened yet has no incidents, no history, and nothing to tell."""
    assert looked(store) == AlertsChecked(looked(store).health, (), has_news=False)
    assert {health.state for health in looked(store).health} == {"asleep"}
    assert {*store.facts.keys()} == {keys.DEAD_LETTERS, keys.NIGHTS_SINCE}


def test_a_dead_job_is_an_incident(store: Store) -> None:
    """A job that failed for good is an incident until one of its kind and subject is posted again."""
    ended(store, "m:latest", Ending("failed", "network", "cut short"))
    assert wrong(store) == {"job/pull/m:latest": "the pull of m:latest failed for good: network: cut short"}
    again = store.ledger().post("pull", "m:latest", {"model": "m"}, by="test").job.id
    store.ledger().claim(again, worker="w", lease=timedelta(hours=2))
    store.clock.wait(3600)
    assert wrong(store) == {}


@pytest.mark.parametrize(
    ("rented", "typed"),
    [(True, "modal run -m app.jobs::{} --id {}"), (False, "ollama-modal {} {}")],
    ids=["on Modal", "on one machine"],
)
def test_a_dead_job_says_what_can_be_done_with_it(store: Store, rented: bool, typed: str) -> None:
    """Its story, to try it again, or to hear no more of it: each in a command of the place."""
    ended(store, "m:latest", Ending("failed", "network", "cut short"))
    id = store.ledger().reader.jobs()[0].id
    (case,) = looked(store, rented=rented).open
    commands = re.findall("`([^`]*)`", case.incident.hint)
    assert commands == [typed.format(verb, id) for verb in ("job", "retry", "dismiss")]


def test_jobs_that_nobody_takes_up_are_an_incident(store: Store) -> None:
    """Jobs that have waited for a while are an incident, unless one of their lane is being worked."""
    for name in ("a:latest", "b:latest"):
        store.ledger().post("pull", name, {"model": name}, by="test")
    store.clock.wait(800)
    assert wrong(store) == {}
    claimed(store, "a:latest", timedelta(minutes=20))
    store.clock.wait(1000)
    assert wrong(store) == {}
    store.clock.wait(1200)
    assert wrong(store) == {
        "worker/weights": "nobody takes up the jobs of lane weights: 2 wait, since 00:00;"
        " worker w was heard of last, at 00:13"
    }


def test_a_job_that_waits_for_its_next_try_is_no_incident(store: Store) -> None:
    """A job that may not be taken up yet waits for no worker."""
    store.ledger().post("pull", "a:latest", {}, by="test")
    claim = claimed(store, "a:latest", timedelta(minutes=1))
    later = store.clock.now() + timedelta(hours=1)
    store.ledger().end(claim, Ending("retry", "network", "cut", not_before=later), Reading())
    store.clock.wait(3500)
    assert wrong(store) == {}


def claimed(store: Store, subject: str, lease: timedelta) -> Claim:
    (job,) = store.ledger().reader.select(subject=subject)[0]
    claim = store.ledger().claim(job.id, worker="w", lease=lease)
    assert claim is not None
    return claim


def test_a_tier_in_trouble_is_an_incident(store: Store) -> None:
    """A lost tier is an incident with its reason, and no longer one when another container serves."""
    said(store, "failed", why="ollama ended by itself with 1")
    assert wrong(store) == {"tier/a10g": "tier a10g is lost: ollama ended by itself with 1"}
    store.clock.wait(900)
    said(store, "serving", "ta-2")
    assert wrong(store) == {}


def test_a_full_volume_is_an_incident(store: Store) -> None:
    """Weights near their quota are an incident before a pull fails of it."""
    store.facts.put(keys.WEIGHTS_ROOM, {"v": 1, "used": 899_000_000_000})
    assert wrong(store) == {}
    store.facts.put(keys.WEIGHTS_ROOM, {"v": 1, "used": 901_000_000_000})
    assert wrong(store) == {"quota/volume": "the weights take 901 GB of their quota of 1.0 TB"}


def test_a_missing_pinned_model_is_an_incident(store: Store) -> None:
    """A pinned model that is not there is an incident, unless it is on its way, or nobody has looked yet."""
    assert wrong(store) == {}
    store.facts.put(keys.WEIGHTS_MODELS, {"llama3.2:latest": {"size": 1, "facts": None}})
    assert wrong(store) == {"pinned/deepseek-r1:32b": "deepseek-r1:32b is pinned and not there"}
    store.clock.wait(3600)
    store.ledger().post("pull", "deepseek-r1:32b", {"model": "deepseek-r1:32b"}, by="test")
    assert wrong(store) == {}


@pytest.mark.parametrize("rented", [False, True])
def test_a_server_of_no_declared_tier_is_watched_on_one_machine(store: Store, *, rented: bool) -> None:
    """Where one server stands for all tiers, its silence is an incident as that of a tier's own."""
    report = Report("local", "local", "serving", store.clock.now())
    store.facts.put(report.key, report.as_json())
    store.clock.wait(1_800)
    found = looked(store, rented=rented)
    lost = [case.incident.key for case in found.open if case.incident.kind == "tier"]
    assert lost == ([] if rented else ["tier/local"])


def test_a_passed_budget_is_an_incident(store: Store) -> None:
    """A month that has cost more than was meant is an incident; the next month begins anew."""
    store.clock.wait(20 * 86_400)
    began = store.clock.now() - timedelta(hours=10)
    meter = Metered("h100", "ta-1", began, store.clock.now(), {"cold": 0, "warming": 0, "serving": 36_000, "idle": 0})
    store.facts.put(meter.key, meter.as_json())
    fleet = fleet_with(alerts={"monthly_budget_dollars": 40})
    assert wrong(store, FLEET) == {}
    assert wrong(store, fleet) == {"budget/2026-01": "the servers have cost more than $40 in 2026-01"}
    store.clock.wait(20 * 86_400)
    assert [key for key in wrong(store, fleet) if key.startswith("budget/")] == []


def test_a_late_night_is_an_incident(store: Store) -> None:
    """A night's run that has not come hours after it was due is an incident; one that came is none."""
    began = night_began(FLEET.schedule.times, store.clock.now())
    store.clock.wait((began + timedelta(days=1, hours=1) - store.clock.now()).total_seconds())
    store.facts.put(keys.NIGHT_RAN, {"v": 1, "at": isoformat(began)})
    assert wrong(store) == {}
    store.clock.wait(3 * 3600)
    assert wrong(store) == {"nightly/run": "the night's run was due at 03:00 and has not come"}
    store.facts.put(keys.NIGHT_RAN, {"v": 1, "at": isoformat(store.clock.now())})
    store.clock.wait(3600)
    assert wrong(store) == {}


def test_a_night_that_never_came_is_an_incident(store: Store) -> None:
    """Also where none ever came: from the first one on that was due since somebody watches, and none before."""
    began = night_began(FLEET.schedule.times, store.clock.now())
    store.clock.wait((began + timedelta(days=1, hours=9) - store.clock.now()).total_seconds())
    assert wrong(store) == {}
    store.clock.wait(12 * 3600)
    assert wrong(store) == {}
    store.clock.wait(9.1 * 3600)
    assert wrong(store) == {"nightly/run": "the night's run was due at 03:00 and has not come"}


def test_only_what_is_wanted_is_watched(store: Store) -> None:
    """Kinds that the fleet does not name are no incidents."""
    ended(store, "m:latest", Ending("failed", "network", "cut short"))
    assert wrong(store, fleet_with(alerts={"kinds": ["tier"]})) == {}


# What is written down


def test_history_is_kept(store: Store) -> None:
    """Every change of a tier is an entry of its history, once, however many ticks see it, two at once among them."""
    for state, container in (("waking", "ta-1"), ("serving", "ta-1"), ("serving", "ta-1"), ("ended", "ta-1")):
        said(store, state, container)
        for _ in range(2):
            looked(store)
        store.clock.wait(300)
    history = turns(dict(store.facts.items()), "a10g")
    assert [(turn.n, turn.health.state) for turn in history] == [(1, "waking"), (2, "ready"), (3, "asleep")]
    assert history[-1].health.containers == {"ta-1": "gone"}


def test_news_is_told_of(store: Store) -> None:
    """A look says that there is something to tell, until it was told."""
    said(store, "failed")
    assert looked(store).has_news
    [case] = cases(dict(store.facts.items()))
    store.facts.put(f"told/{case.id}/opened", {"v": 1, "at": isoformat(store.clock.now())})
    assert not looked(store).has_news


def test_status_tells_what_is_wrong(store: Store) -> None:
    """`status` shows how each tier is and what is wrong, from what is written down."""
    said(store, "failed", why="ollama ended by itself with 1")
    looked(store)
    found = reports.status(
        store.facts, store.clock.now(), FLEET.tiers, deployed=True, known=KnownJobs((), ()), of_night=()
    )
    assert "tiers    a10g is lost, h100 is asleep" in found.lines()
    assert "trouble  tier a10g is lost: ollama ended by itself with 1" in found.lines()
    assert found.as_json()["incidents"][0]["subject"] == "a10g"


def test_one_machine_is_watched_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a fleet file, `up` watches what is wrong and tells the webhook of the environment, once."""
    home, clock = home_of({"OLLAMA_MODAL_HOME": str(tmp_path)}), HandClock()
    stack = Stack(pid=1, started_at=clock.now(), simulated=True, servers=(), models=None)
    ledger = home.ledger(clock)
    id = ledger.post("pull", "m:latest", {"model": "m"}, by="test").job.id
    claim = ledger.claim(id, worker="w", lease=timedelta(minutes=1))
    assert claim is not None
    ledger.end(claim, Ending("failed", "network", "cut short"), Reading())
    with webhook_server() as hook:
        monkeypatch.setenv("OLLAMA_MODAL_WEBHOOK", hook.url)
        nights = NightlyThread(home, stack, FLEET, clock)
        for _ in range(3):
            nights.check_alerts()
            clock.wait(60)
    [(_, heard)] = hook.heard
    assert heard["text"].startswith("ollama-modal: the pull of m:latest failed for good")


def test_one_machine_knows_its_room_and_its_models(tmp_path: Path) -> None:
    """On one machine a full models directory and a pinned model that is not there come up as well, in its own words;
    what Modal would charge does not, since nothing is rented."""
    home, clock = home_of({"OLLAMA_MODAL_HOME": str(tmp_path)}), HandClock()
    weights = weights_at(tmp_path)
    put(weights, sample("llama3.2"))
    limits = replace(FLEET.retention(), quota_bytes=weights.survey().usage_bytes + 1)
    stack = Stack(
        clock.now().year, clock.now(), simulated=True, servers=(), models=tmp_path / "models", retention=limits
    )
    spent = Metered("h100", "c", clock.now() - timedelta(hours=900), clock.now(), {"serving": 3_000_000.0})
    home.facts().put(spent.key, spent.as_json())
    NightlyThread(home, stack, FLEET, clock).check_alerts()

    found = {case.incident.key: case.incident for case in cases(dict(home.facts().items())) if case.is_open}
    assert set(found) == {"quota/volume", "pinned/deepseek-r1:32b"}
    assert found["pinned/deepseek-r1:32b"].hint.startswith("`ollama-modal pull deepseek-r1:32b` brings it")


# Wakes


def test_own_wakes_have_an_end(store: Store) -> None:
    """A tier is woken so many times a day of our own accord; asked again for the same reason it is the same wake."""
    wakes, now = Wakes(store.facts, FLEET), store.clock.now()
    asked = [wakes.take("a10g", why, now) for why in ("a", "b", "b", "c", "d", "e", "a")]
    assert asked == [True, True, True, True, True, False, True]
    assert (wakes.used("a10g", now), wakes.budget("a10g"), wakes.used("h100", now)) == (4, 4, 0)
    assert wakes.take("a10g", "e", now + timedelta(days=1))
    assert wakes.is_used_up("a10g", now)


def window(**more: Any) -> list[dict[str, Any]]:
    return [{"tier": "a10g", "start": "0 8 * * *", "hours": 2, "models": ["llama3.2"], **more}]


def at(hour: int, minute: int = 30) -> datetime:
    return datetime(2026, 1, 5, hour, minute, tzinfo=FLEET.schedule.zone)


def test_a_redeployment_inside_a_window_restores_it(store: Store) -> None:
    """Each tick says again what a deployment made the platform forget, which is no second wake, and warms nothing."""
    fleet, kept = fleet_with(windows=window()), dict[str, int]()
    for minute in (0, 5):
        keep_windows(store.ledger(), fleet, store.facts, at(8, minute), kept.__setitem__)
        assert kept == {"a10g": 1}
        kept.clear()  # the deployment
    assert Wakes(store.facts, fleet).used("a10g", at(8)) == 1
    assert len(store.ledger().reader.jobs()) == 1


def test_a_window_does_not_start_what_cannot_start(store: Store) -> None:
    """A tier whose starts are refused is not kept up, because the platform would start it for ever; after the pause a
    warm-up may try, and once a start succeeded the window keeps it up again."""
    fleet, kept = fleet_with(windows=window()), list[int]()
    store.clock.wait((at(8).astimezone(UTC) - store.clock.now()).total_seconds())

    def tick() -> None:
        keep_windows(store.ledger(), fleet, store.facts, store.clock.now(), lambda _, least: kept.append(least))

    tick()
    [opened] = store.ledger().reader.jobs()
    for n in range(3):
        said(store, "refused", f"ta-{n}", "nvidia-smi ended with 9")
    tick()
    assert (kept, len(store.ledger().reader.jobs())) == ([1, 0], 1)
    store.ledger().cancel(opened.id, by="test")
    store.clock.wait(61)
    tick()
    assert (kept, len(store.ledger().reader.jobs())) == ([1, 0, 0], 2)
    said(store, "serving", "ta-9")
    tick()
    assert kept == [1, 0, 0, 1]
    assert Wakes(store.facts, fleet).used("a10g", store.clock.now()) == 1


def test_refused_starts_are_one_incident(store: Store) -> None:
    """What cannot start is told once, with the server's own reason, and has passed when a start succeeds, not when
    nobody asks any more."""
    said(store, "serving", "ta-0")
    store.clock.wait(100)
    for n in range(1, 5):
        said(store, "refused", f"ta-{n}", "nvidia-smi ended with 9")
    told = {"tier/a10g": "tier a10g is lost: its starts are refused: nvidia-smi ended with 9"}
    assert wrong(store) == told
    found = reports.status(
        store.facts, store.clock.now(), FLEET.tiers, deployed=True, known=KnownJobs((), ()), of_night=()
    )
    shown = "\n".join(found.lines())
    assert "a10g is lost" in shown
    store.clock.wait(4 * 3600)
    assert wrong(store) == told
    said(store, "ended", "ta-9")
    store.clock.wait(800)
    assert wrong(store) == {}


def test_a_window_beyond_the_budget_stays_shut(store: Store) -> None:
    """A window that may not wake its tier does not open, and somebody hears of it."""
    tiers = read()["tiers"]
    tiers["a10g"]["own_wakes_per_day"] = 0
    fleet, kept = fleet_with(windows=window(), tiers=tiers), list[Any]()
    store.clock.wait((at(8).astimezone(UTC) - store.clock.now()).total_seconds())
    keep_windows(store.ledger(), fleet, store.facts, store.clock.now(), lambda *said: kept.append(said))
    assert (kept, store.ledger().reader.jobs()) == ([], [])
    assert list(wrong(store, fleet)) == ["wakes/a10g"]


def test_two_openings_on_a_day_are_two_wakes(store: Store) -> None:
    """Each opening of a window takes a place of the day's budget, however many ticks see it and whoever warms for it;
    the one that finds none left stays shut."""
    tiers = read()["tiers"]
    tiers["a10g"]["own_wakes_per_day"] = 2
    fleet = fleet_with(windows=window(start="0 8,12,16 * * *"), tiers=tiers)
    told: list[int] = []
    kept: list[tuple[int, int]] = []
    for hour in (8, 9, 11, 12, 13, 15, 16, 17):
        for minute in (5, 35):
            now = at(hour, minute)
            keep_windows(store.ledger(), fleet, store.facts, now, lambda _, least: told.append(least))
            kept += [(hour, least) for least in told]
            told.clear()
    assert sorted({hour for hour, least in kept if least}) == [8, 9, 12, 13]
    assert Wakes(store.facts, fleet).used("a10g", at(17)) == 2
    assert Wakes(store.facts, fleet).is_used_up("a10g", at(17))
    assert Wakes(store.facts, fleet).take("a10g", opening(fleet, "a10g", at(12, 50)), at(13))  # a warm-up of that one


def test_two_windows_that_overlap_are_one_wake(store: Store) -> None:
    """A tier that one window keeps awake is not woken by the next that begins meanwhile."""
    fleet = fleet_with(windows=[*window(), *window(start="0 9 * * *", hours=3)])
    for hour in range(7, 14):
        keep_windows(store.ledger(), fleet, store.facts, at(hour), lambda *_: None)
    assert Wakes(store.facts, fleet).used("a10g", at(13)) == 1


@pytest.mark.parametrize(("key", "value"), [("quota_percent", 0), ("kinds", ["weather"]), ("webhook", "https://x")])
def test_wrong_alerts_are_refused(key: str, value: Any) -> None:
    """A wrong key of the alerts is refused by its path."""
    with pytest.raises(Exception, match=rf"alerts\.{key}"):
        fleet_with(alerts={key: value})
