"""What a gateway tells of money: an estimate by what is written down, for whoever may know."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.fleet.schema import load
from app.gateway.auth.keys import ANYONE, Caller
from app.gateway.dashboard.cost import CostResponse, Costs, router
from app.gateway.ops.app import create
from jobs.core.clock import SystemClock, isoformat
from jobs.telemetry.container_time import Metered
from jobs.telemetry.usage import UsageRecorder, Use
from jobs.testing.clock import HandClock
from tests.support.local_stack import Shell
from tests.support.ops_api import ADMIN_KEY, CHAT_KEY, OpsApi, ops_api, served
from tests.support.stores import Store

NOW = datetime(2026, 9, 15, 8, 30, tzinfo=UTC)
ALICE = Caller("alice", frozenset({"chat"}))


def container(began: datetime, **seconds: float) -> Metered:
    shares = {"cold": 0.0, "warming": 0.0, "serving": 0.0, "idle": 0.0, **seconds}
    return Metered("a10g", "ta-1", began, began + timedelta(hours=1), shares)  # type: ignore[arg-type]


@pytest.fixture
def entries(store: Store) -> dict[str, Any]:
    """A container that served for half of its hour, for two keys alike."""
    usage_recorder = UsageRecorder(store.facts, HandClock(NOW), "gateway-1")
    for key in ("alice", "root"):
        usage_recorder.add(Use(NOW - timedelta(hours=1), "llama3.2:latest", key, "a10g", "success", seconds=60))
    usage_recorder.flush()
    meter = container(NOW - timedelta(hours=2), serving=1800, idle=1800)
    return {**dict(store.facts.items()), meter.key: meter.as_json()}


def test_what_was_spent_is_shared_by_use(entries: dict[str, Any]) -> None:
    """An hour of a container costs its tier's hour; its serving is shared by model and key, with the prices' date."""
    found = CostResponse.model_validate(Costs(HandClock(NOW), load()).as_json(ANYONE, None, entries))

    assert (found.is_estimate, round(found.dollars, 2)) == (True, 1.42)
    assert found.prices.as_of == "2026-09-15"
    assert [(use.model, use.key, round(use.dollars, 3)) for use in found.uses] == [
        ("llama3.2:latest", "alice", 0.355),
        ("llama3.2:latest", "root", 0.355),
    ]
    later = Costs(HandClock(NOW), load()).as_json(ANYONE, NOW - timedelta(minutes=90), entries)
    assert round(later["dollars"], 2) == 0.71


def test_others_uses_are_told_to_administrators_only(entries: dict[str, Any]) -> None:
    """A key of scope chat sees what the tiers cost, and of the uses its own, at their true share."""
    found = Costs(HandClock(NOW), load()).as_json(ALICE, None, entries)

    assert [(use["key"], round(use["dollars"], 3)) for use in found["uses"]] == [("alice", 0.355)]
    assert round(found["dollars"], 2) == 1.42


def test_where_nothing_is_rented_there_are_uses_and_no_dollars(entries: dict[str, Any]) -> None:
    """A machine of one's own costs nothing by the second, and says so."""
    found = Costs(HandClock(NOW)).as_json(ANYONE, None, entries)

    assert (found["dollars"], found["tiers"], len(found["uses"])) == (0, [], 2)
    assert found["prices"]["source"] == "this machine is yours"


@pytest.mark.parametrize(
    ("since", "told"),
    [
        (NOW - timedelta(days=400), NOW - timedelta(days=366)),
        (datetime.min.replace(tzinfo=timezone(timedelta(hours=5))), NOW - timedelta(days=366)),
        (NOW + timedelta(minutes=1), NOW),
    ],
)
def test_a_year_is_the_most(since: datetime, told: datetime) -> None:
    """Nobody can have years added up by one request, nor the future; the answer says from when on it tells."""
    assert Costs(HandClock(NOW), load()).as_json(ANYONE, since, {})["since"] == isoformat(told)


@pytest.fixture
def somewhere(tmp_path: Path) -> Iterator[OpsApi]:
    with ops_api(tmp_path) as found:
        yield found


def test_it_is_part_of_the_ops_api(somewhere: OpsApi, entries: dict[str, Any]) -> None:
    """Whoever has a key is answered in the documented shape, others are not."""

    async def read() -> dict[str, Any]:
        return entries

    client = TestClient(create(somewhere.ops_context(), more=(router(Costs(HandClock(NOW), load()), read),)))

    assert client.get("/ops/v1/cost").status_code == 401
    for key, uses in ((ADMIN_KEY, 2), (CHAT_KEY, 1)):
        answer = client.get("/ops/v1/cost?since=2026-09-14T00:00:00Z", headers={"x-api-key": key})
        assert len(CostResponse.model_validate(answer.json()).uses) == uses
    for since, status in (("1999-01-01T00:00:00Z", 200), ("2026-09-14", 200), ("7d", 200), ("soon", 400)):
        assert client.get(f"/ops/v1/cost?since={since}", headers={"x-api-key": ADMIN_KEY}).status_code == status


def test_the_command_asks_a_gateway_elsewhere(somewhere: OpsApi, tmp_path: Path) -> None:
    """`ollama-modal cost --url` prints what the gateway there estimates, as lines and as JSON."""
    now = SystemClock().now()
    meter = container(now - timedelta(hours=2), cold=60, serving=1740, idle=1800)
    somewhere.store().facts.put(meter.key, meter.as_json())
    with served(somewhere.app()) as url:
        shell = Shell(tmp_path / "elsewhere", {"OLLAMA_MODAL_URL": url, "OLLAMA_MODAL_KEY": ADMIN_KEY})
        told, document = shell.run("cost", "--since", "1d"), shell.ask("cost", "--since", "1d")

    assert told.stdout.startswith("about $1.42 since "), told.stderr
    assert "the prices of 2026-09-15 (modal.com/pricing)" in told.stdout
    assert round(document["dollars"], 2) == 1.42
    assert document["since"] >= isoformat(now - timedelta(days=1))
