"""The last weeks by day: requests, cost and health, from facts as they lie in the ledger's dict or its archive."""

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from app.fleet.schema import load
from app.gateway.auth.keys import ANYONE, Caller
from app.gateway.dashboard.daily import USUAL, Days, DaysResponse, router
from app.gateway.ops.app import create
from app.model_server.health import Health, HealthState, Turn
from jobs.core.clock import parse_moment
from jobs.telemetry.container_time import Metered
from jobs.telemetry.usage import UsageRecorder, Use
from jobs.testing.clock import HandClock
from tests.support.ops_api import ADMIN_KEY, CHAT_KEY, OpsApi, ops_api
from tests.support.stores import Store

NOW = datetime(2026, 9, 15, 8, 30, tzinfo=UTC)
TODAY = NOW.date()
FLEET = load()
ALICE = Caller("alice", frozenset({"chat"}))


def entries_of(*found: Turn | Metered) -> dict[str, Any]:
    return {
        (f"health/{each.health.tier}/{each.n}" if isinstance(each, Turn) else each.key): each.as_json()
        for each in found
    }


def turn(n: int, at: str, state: HealthState, tier: str = "a10g") -> Turn:
    return Turn(n, parse_moment(at), Health(tier, state))


def container(name: str, began: str, hours: float, tier: str = "a10g") -> Metered:
    started_at = parse_moment(began)
    return Metered(tier, name, started_at, started_at + timedelta(hours=hours), {"serving": hours * 3600})


def told(entries: Mapping[str, Any], since: date | None = None, caller: Caller = ANYONE) -> dict[str, Any]:
    return Days(HandClock(NOW), FLEET).as_json(caller, since, entries)


@pytest.fixture
def used(store: Store) -> dict[str, Any]:
    """What two keys asked for today, and one of them yesterday, as usage is written."""
    usage_recorder = UsageRecorder(store.facts, HandClock(NOW), "gateway-1")
    for key, ending, at in (
        ("alice", "success", NOW),
        ("alice", "success", NOW),
        ("root", "success", NOW),
        ("root", "upstream_cut", NOW),
        ("alice", "success", NOW - timedelta(days=1)),
    ):
        usage_recorder.add(
            Use(at, "llama3.2:latest", key, "a10g", ending, prompt_tokens=5, output_tokens=100, seconds=1.0)
        )
    usage_recorder.flush()
    return dict(store.facts.items())


def test_requests_are_summed_by_day_and_ending(used: dict[str, Any]) -> None:
    """Every request counts on its day under how it ended, with the tokens that were written."""
    found = told(used)["requests"]

    assert found == [
        {"day": "2026-09-14", "ending": "success", "count": 1, "output_tokens": 100},
        {"day": "2026-09-15", "ending": "success", "count": 3, "output_tokens": 300},
        {"day": "2026-09-15", "ending": "upstream_cut", "count": 1, "output_tokens": 100},
    ]
    assert told(used, TODAY)["requests"] == found[1:]


def test_a_key_without_the_admin_scope_sees_its_own_requests(used: dict[str, Any]) -> None:
    """Whoever may only chat is not told how much others ask."""
    assert sum(row["count"] for row in told(used, caller=ALICE)["requests"]) == 3


def test_a_container_is_paid_on_the_days_it_was_up() -> None:
    """A night's container is shared between the two days; tiers are told apart; days without cost are left out."""
    entries = entries_of(
        container("c1", "2026-09-13T22:00:00Z", 4), container("c2", "2026-09-14T10:00:00Z", 1, tier="h100")
    )

    found = told(entries)

    assert [(row["day"], row["tier"], round(row["dollars"], 2)) for row in found["cost"]] == [
        ("2026-09-13", "a10g", 2.84),
        ("2026-09-14", "a10g", 2.84),
        ("2026-09-14", "h100", 4.84),
    ]
    assert found["month_dollars"] == pytest.approx(10.52, abs=0.01)
    assert found["budget_dollars"] == FLEET.alerts.monthly_budget_dollars


@given(st.lists(st.tuples(st.floats(0, 20 * 24), st.floats(0.1, 30)), max_size=8))
def test_no_cost_is_lost_between_the_days(lives: list[tuple[float, float]]) -> None:
    """Whenever containers began and however long they were up, the days add up to what all of it cost."""
    began = NOW - timedelta(days=USUAL - 2)
    found = [
        container(f"c{number}", (began + timedelta(hours=start)).isoformat(), min(hours, 24 * 5))
        for number, (start, hours) in enumerate(lives)
    ]

    cost = told(entries_of(*found))["cost"]

    hours = sum((each.at - each.started_at).total_seconds() for each in found) / 3600
    assert sum(row["dollars"] for row in cost) == pytest.approx(hours * FLEET.dollars_per_hour("a10g"), abs=0.01)


def test_without_prices_no_cost_is_made_up(used: dict[str, Any]) -> None:
    """On one machine nothing is priced, so cost is absent, not nought; the rest is told."""
    found = Days(HandClock(NOW)).as_json(ANYONE, None, used)

    assert (found["cost"], found["month_dollars"], found["budget_dollars"]) == (None, None, None)
    assert found["requests"]


def test_a_day_is_as_good_as_its_worst_hour() -> None:
    """A state lasts until the next one; the worst of a day counts; before the first report nothing is said."""
    entries = entries_of(
        turn(1, "2026-09-11T10:00:00Z", "ready"),
        turn(2, "2026-09-12T10:00:00Z", "degraded"),
        turn(3, "2026-09-12T11:00:00Z", "ready"),
        turn(4, "2026-09-13T23:00:00Z", "lost"),
        turn(5, "2026-09-14T00:30:00Z", "asleep"),
        turn(10, "2026-09-15T08:00:00Z", "waking"),
    )

    assert [(row["day"][-2:], row["state"]) for row in told(entries)["health"]] == [
        ("11", "well"),
        ("12", "degraded"),
        ("13", "lost"),
        ("14", "lost"),
        ("15", "well"),
    ]


def test_the_history_of_each_tier_is_its_own() -> None:
    """What one tier went through says nothing of another."""
    entries = entries_of(turn(1, "2026-09-15T01:00:00Z", "lost"), turn(1, "2026-09-15T02:00:00Z", "ready", "h100"))

    assert {row["tier"]: row["state"] for row in told(entries)["health"]} == {"a10g": "lost", "h100": "well"}


def test_a_year_is_the_most() -> None:
    """Nobody can have years added up by one request; the answer says from when on it tells."""
    assert told({}, date(2020, 1, 1))["since"] == (TODAY - timedelta(days=365)).isoformat()
    assert told({}, TODAY + timedelta(days=3))["requests"] == []


@pytest.fixture
def somewhere(tmp_path: Path) -> Iterator[OpsApi]:
    with ops_api(tmp_path) as found:
        yield found


def test_it_is_part_of_the_ops_api(somewhere: OpsApi, used: dict[str, Any]) -> None:
    """Whoever has a key is answered in the documented shape, others are not."""
    entries = used | entries_of(turn(1, "2026-09-15T01:00:00Z", "lost"), container("c1", "2026-09-13T22:00:00Z", 4))

    async def read() -> dict[str, Any]:
        return entries

    more = (router(Days(HandClock(NOW), FLEET), read),)
    client = TestClient(create(somewhere.ops_context(), more=more))

    assert client.get("/ops/v1/days").status_code == 401
    for key, requests in ((ADMIN_KEY, 5), (CHAT_KEY, 3)):
        answer = client.get("/ops/v1/days?since=2026-09-01", headers={"x-api-key": key})
        known = DaysResponse.model_validate(answer.json())
        assert sum(row.count for row in known.requests) == requests
    assert client.get("/ops/v1/days?since=1999-01-01", headers={"x-api-key": ADMIN_KEY}).status_code == 200
    week = client.get("/ops/v1/days?since=7d", headers={"x-api-key": ADMIN_KEY}).json()
    assert week["since"] == (TODAY - timedelta(days=7)).isoformat()
    assert client.get("/ops/v1/days?since=soon", headers={"x-api-key": ADMIN_KEY}).status_code == 400
