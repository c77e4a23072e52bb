"""What the servers cost: by the seconds that containers counted, by the fleet's prices, and what a window would pay."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from app.accounting import spending
from app.accounting.window_cost import offers
from app.accounting.window_suggestions import USUAL, Recorded
from app.fleet.file import read
from app.fleet.schema import declared, parse
from jobs.archive.archive_files import Archive
from jobs.core.clock import SystemClock
from jobs.home.home import home_of
from jobs.telemetry.cold_starts import ColdStart
from jobs.telemetry.container_time import Meter, Metered, is_warming, metered, say_warming
from jobs.telemetry.cost import LEFT_OUT, Cost, cost, owned
from jobs.telemetry.usage import About, Row, Sums, UsageRecorder, Use
from tests.support.local_stack import Shell
from tests.support.stores import Store

FLEET = declared()
NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
TODAY = NOON.date()


def counted(container: str, started_at: datetime, tier: str = "a10g", *, hours: float = 1, **seconds: float) -> Metered:
    shares: Any = {"cold": 0.0, "warming": 0.0, "serving": 0.0, "idle": 0.0, **seconds}
    return Metered(tier, container, started_at, started_at + timedelta(hours=hours), shares)


def row(model: str, key: str, seconds: float, day: date = TODAY, tier: str = "a10g") -> Row:
    return Row(About(day.isoformat(), model, key, tier, "success"), Sums(2, 10, 20, 2, 0.5, seconds, NOON))


def priced(containers: list[Metered], rows: list[Row], *, days: float = 7) -> Any:
    prices = {"a10g": 3.6, "h100": 36.0}
    return cost(
        containers, rows, prices, since=NOON - timedelta(days=days), until=NOON, as_of="2026-09-15", source="a list"
    )


# The meter


def test_a_container_counts_its_seconds(store: Store) -> None:
    """Each look sets the time since the last one down under what it went to; what is written is the whole count."""
    meter = Meter(store.facts, store.clock, "a10g", "ta-1")
    for share, seconds in (("cold", 40), ("warming", 30), ("serving", 30), ("idle", 30), ("serving", 12.5)):
        store.clock.wait(seconds)
        meter.note(share)  # type: ignore[arg-type]
    [found] = metered(dict(store.facts.items()))
    assert found.seconds == {"cold": 40, "warming": 30, "serving": 42.5, "idle": 30}
    assert (found.key, (found.at - found.started_at).total_seconds()) == ("meter/a10g/ta-1", 142.5)


def test_a_count_that_makes_no_sense_is_left_out() -> None:
    """Facts of another version are passed over."""
    assert metered({"meter/a10g/x": {"v": 9}, "meter/a10g/y": None, "job/x": {}}) == []


def test_warming_is_told_with_an_end(store: Store) -> None:
    """A warm-up that somebody announced counts until it ended, or until it must have."""
    now, lag = store.clock.now(), timedelta(seconds=30)
    assert not is_warming(store.facts, "a10g", now, lag)
    say_warming(store.facts, "a10g", now + timedelta(minutes=10))
    assert is_warming(store.facts, "a10g", now + timedelta(minutes=10), lag)
    assert not is_warming(store.facts, "a10g", now + timedelta(minutes=11), lag)
    assert not is_warming(store.facts, "h100", now, lag)


# The estimate


def test_seconds_become_dollars() -> None:
    """Each tier's seconds are priced by its hour, share by share, and starts are counted."""
    found = priced(
        [
            counted("a", NOON - timedelta(hours=3), cold=100, warming=200, serving=1000, idle=2300),
            counted("b", NOON - timedelta(hours=2), "h100", cold=1000, serving=100, idle=2500),
        ],
        [],
    )
    a10g, h100 = found.tiers
    assert (a10g.tier, a10g.containers, round(a10g.dollars, 6)) == ("a10g", 1, 3.6)
    assert a10g.as_json()["serving"] == {"seconds": 1000, "dollars": 1.0}
    assert (h100.as_json()["cold"]["dollars"], round(h100.dollars, 6)) == (10.0, 36.0)
    assert round(found.dollars, 6) == 39.6


def test_what_lies_outside_does_not_count() -> None:
    """A container that was up when the span began counts for its part; one told twice counts once."""
    before = counted("a", NOON - timedelta(days=8), serving=3600)
    half = counted("b", NOON - timedelta(days=7, minutes=30), serving=3000, idle=600)
    twice = [
        counted("c", NOON - timedelta(hours=2), idle=100, hours=0.5),
        counted("c", NOON - timedelta(hours=2), idle=200),
    ]
    [tier] = priced([before, half, *twice], []).tiers
    assert tier.containers == 2
    assert tier.seconds == {"cold": 0, "warming": 0, "serving": 1500, "idle": 500}


def test_serving_is_shared_by_use() -> None:
    """What serving cost is shared among models and keys by the seconds of their requests."""
    containers = [counted("a", NOON - timedelta(hours=3), serving=1000, idle=2600)]
    rows = [row("llama3.2:latest", "anna", 30), row("llama3.2:latest", "anna", 30), row("phi:latest", "bob", 40)]
    old = row("llama3.2:latest", "anna", 900, TODAY - timedelta(days=30))
    uses = priced(containers, [*rows, old]).uses
    assert [(use.model, use.key, use.requests, round(use.dollars, 6)) for use in uses] == [
        ("llama3.2:latest", "anna", 4, 0.6),
        ("phi:latest", "bob", 2, 0.4),
    ]


def test_serving_without_records_is_told_as_such() -> None:
    """Serving that no record explains is shown, and not hidden among other models."""
    [use] = priced([counted("a", NOON - timedelta(hours=3), serving=1000)], []).uses
    assert (use.as_json()["model"], use.as_json()["key"], round(use.dollars, 6)) == (None, None, 1.0)


def test_the_estimate_says_what_it_is() -> None:
    """For people and for programs: an estimate, the prices' date, and what is not in it."""
    found = priced([counted("a", NOON - timedelta(hours=3), cold=36, serving=1000)], [row("m:latest", "k", 1)])
    lines = list(found.lines())
    assert lines[0] == "about $1.04 since 2026-03-03 12:00"
    assert "an estimate, by the containers' own count and the prices of 2026-09-15 (a list)" in lines
    assert lines[-1] == "not in it: " + "; ".join(LEFT_OUT)
    document = found.as_json()
    assert (document["is_estimate"], document["left_out"]) == (True, list(LEFT_OUT))
    assert document["prices"] == {"as_of": "2026-09-15", "source": "a list"}


def test_an_estimate_reads_the_same_elsewhere() -> None:
    """What a gateway tells as JSON is printed elsewhere as it would be there; so is what costs nothing."""
    containers = [counted("a", NOON - timedelta(hours=3), cold=36, serving=1000)]
    rows = [row("m:latest", "k", 1), row("n:latest", "", 1)]
    for found in (priced(containers, rows), priced(containers, []), owned(rows, NOON - timedelta(days=7), NOON)):
        assert list(Cost.from_json(found.as_json()).lines()) == list(found.lines())
    assert list(owned(rows, NOON, NOON).lines())[-1] == "nothing there is paid by the second: this machine is yours"


def test_the_month_counts_what_was_archived(store: Store, tmp_path: Any) -> None:
    """What this month has cost is the same before and after its counts have left the Dict."""
    early = counted("a", NOON - timedelta(days=5), serving=3600)
    late = counted("b", NOON - timedelta(hours=2), idle=3600)
    for each in (early, late):
        store.facts.put(each.key, each.as_json())
    whole = spending.month_dollars(dict(store.facts.items()), FLEET, NOON)
    assert round(whole, 2) == round(2 * FLEET.dollars_per_hour("a10g"), 2)

    archive = Archive(tmp_path)
    archive.append("meters", [{"key": early.key, "fact": early.as_json()}])
    store.facts.pop(early.key)
    spending.note_month(store.facts, archive, FLEET, NOON)
    assert spending.month_dollars(dict(store.facts.items()), FLEET, NOON) == pytest.approx(whole, abs=0.001)
    next_month = NOON + timedelta(days=30)
    assert spending.month_dollars(dict(store.facts.items()), FLEET, next_month) == 0


def test_this_machine_costs_nothing_and_says_what_it_did(tmp_path: Any) -> None:
    """`ollama-modal cost` sums up what each model and key took here, without a price."""
    shell = Shell(tmp_path)
    assert "nothing was asked of the gateway since then" in shell.run("cost").stderr
    usage_recorder = UsageRecorder(home_of(shell.environ).facts(), SystemClock(), "gateway")
    usage_recorder.add(Use(SystemClock().now(), "llama3.2:latest", "anna", "a10g", "success", seconds=90))
    usage_recorder.flush()
    told = shell.run("cost", "--since", "1d")
    assert told.stdout.splitlines()[-1].split() == "a10g llama3.2:latest anna 1 1 min 30 s $0.00".split()  # noqa: SIM905
    assert shell.ask("cost")["uses"][0]["seconds"] == 90
    assert shell.ask("windows") == []


# Windows


def started(seconds: float, days_ago: int = 1) -> Iterator[tuple[str, Any]]:
    """A start of this length, a load beside it, and what its container counted, which goes into no start's length."""
    at = NOON - timedelta(days=days_ago)
    start = ColdStart("a10g", f"ta-{seconds}", 0, "start", at, seconds={"container": 8.0, "engine": seconds - 8.0})
    load = ColdStart("a10g", f"ta-{seconds}", 1, "load", at, seconds={"memory": 1000.0})
    for each in (start, load, counted(f"ta-{seconds}", at, cold=2 * seconds)):
        yield each.key, each.as_json()


def with_windows(*windows: dict[str, Any]) -> Any:
    return parse({**read(), "windows": list(windows)}, "test")


def test_a_window_is_priced_by_its_month() -> None:
    """A window shows its price per month, and from how many cold starts on it pays."""
    fleet = with_windows({"tier": "a10g", "start": "0 8 * * *", "hours": 10, "models": ["llama3.2"]})
    [offer] = offers(fleet, dict(each for took in (50, 60, 300) for each in started(took)), NOON)
    assert (offer.openings, round(offer.hours)) == (30, 301)  # summer time begins meanwhile
    assert offer.dollars == pytest.approx(301 * fleet.dollars_per_hour("a10g"), rel=0.01)
    assert (offer.cold_seconds, offer.tail_seconds, offer.break_even) == (60, 300, 101)
    lines = "\n".join(offer.lines())
    assert "a month: 30 openings, 301 h at $1.42" in lines
    assert "it pays from 101 cold starts per opening on: each is a start of 60 s and 300 s of idle tail, $0.14" in lines


def test_a_start_is_as_long_for_what_is_declared_as_for_what_is_proposed() -> None:
    """Both go by the cold starts of the last weeks that were recorded, and by nothing else."""
    fleet = with_windows({"tier": "a10g", "start": "0 8 * * *", "hours": 10, "models": ["llama3.2"]})
    entries = dict(each for took in (50, 60, 300) for each in started(took))
    entries |= dict(started(3000, days_ago=USUAL.days + 1))
    [offer] = offers(fleet, entries, NOON)

    assert Recorded.of(entries, NOON - USUAL, NOON).starts == {"a10g": offer.cold_seconds} == {"a10g": 60}


def test_windows_that_overlap_count_once() -> None:
    """Hours in which a window is open twice are paid once; starts that nobody recorded are said to be unknown."""
    fleet = with_windows({"tier": "h100", "start": "0 */6 * * *", "hours": 12, "models": ["deepseek-r1:32b"]})
    [offer] = offers(fleet, {}, NOON)
    assert (offer.openings, round(offer.hours)) == (120, 720)
    assert offer.as_json()["cold_start_seconds"] is None
    assert "none is recorded yet" in "\n".join(offer.lines())
    assert offers(FLEET, {}, NOON) == []
