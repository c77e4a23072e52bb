"""What the page is told beside jobs, models and tiers: who asks, what is declared, what is spent, what runs next."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from app.fleet.file import read
from app.fleet.schema import Fleet, load, parse
from app.gateway.auth.keys import ANYONE, Caller
from app.gateway.dashboard.overview import Overview, OverviewResponse, router, upcoming
from app.gateway.ops.app import create
from app.model_server.report import REPORT_STALE, Loaded, Report
from jobs.core.clock import parse_moment
from jobs.ledger.job_text import REMEDIES, REMEDIES_OF_KINDS
from jobs.testing.clock import HandClock
from tests.support.ops_api import ADMIN_KEY, CHAT_KEY, OpsApi, ops_api

NOW = datetime(2026, 9, 15, 8, 30, tzinfo=UTC)
CHAT = Caller("alice", frozenset({"chat"}), models=("llama*",))


DECLARED = read()
FLEET = load()


def fleet(**windows: Any) -> Fleet:
    return parse({**DECLARED, **windows}, "fleet.toml")


WORK_HOURS = {"tier": "a10g", "start": "0 8 * * 1-5", "hours": 10, "models": ["llama3.2"]}
"""In the fleet's timezone, two hours ahead of UTC in September."""


def serving(tier: str = "a10g", container: str = "c1", *, at: datetime = NOW, dollars: float | None = 1.42) -> Report:
    loaded = (Loaded("llama3.2:latest", 4_100_000_000, 4_100_000_000, 8192),)
    return Report(tier, container, "serving", at, loaded=loaded, in_flight=1, dollars_per_hour=dollars)


def board(*reports: Report, **changes: Any) -> Overview:
    found = Overview(HandClock(NOW), lambda: reports, fleet=FLEET)
    return replace(found, **changes)


def test_a_sleeping_tier_costs_nothing_now() -> None:
    """A tier that nobody is heard of costs nothing at this moment, and its price while awake is told."""
    told = board().as_json(ANYONE, {})["tiers"]

    assert (told["a10g"]["dollars_now"], told["a10g"]["dollars_per_hour"]) == (0, 1.42)
    assert told["h100"]["gpu"] == "H100"
    assert told["h100"]["vram_gb"] == 80


def test_each_container_that_is_up_is_paid() -> None:
    """What is spent at this moment is the sum over the containers that were heard of lately."""
    gone = serving(container="c3", at=NOW - REPORT_STALE - timedelta(seconds=1))
    ended = replace(serving(container="c4"), state="ended")

    told = board(serving(), serving(container="c2", dollars=1.5), gone, ended).as_json(ANYONE, {})["tiers"]["a10g"]

    assert told["dollars_now"] == 2.92
    assert [each["container"] for each in told["containers"]] == ["c1", "c2"]
    assert told["containers"][0]["loaded"] == [{"name": "llama3.2:latest", "size": 4_100_000_000}]


def test_without_a_fleet_nothing_is_made_up() -> None:
    """On one machine no price, no pin and no run is declared, so none is told; its servers are."""
    told = board(serving("local", dollars=None), fleet=None, quota_bytes=5).as_json(ANYONE, {})

    assert told["tiers"]["local"]["dollars_now"] is None
    assert (told["prices"], told["models"], told["next"], told["quota_bytes"]) == (None, {}, [], 5)


def test_servers_of_ones_own_cost_nothing_now() -> None:
    """With a fleet file on one machine its pins, nights, windows and prices are told, but nothing is spent."""
    windows = fleet(windows=[WORK_HOURS])

    told = board(serving(dollars=None), fleet=windows, rented=False).as_json(ANYONE, {})

    tier = told["tiers"]["a10g"]
    assert (told["rented"], tier["dollars_per_hour"], tier["dollars_now"]) == (False, 1.42, None)
    assert told["prices"] == {"as_of": "2026-09-15", "source": FLEET.prices.source}
    assert {run["what"].removesuffix(" opens").removesuffix(" closes") for run in told["next"]} == {
        "Nightly",
        "The window of a10g",
    }
    assert told["models"]["llama3.2:latest"]["pinned"]


def test_what_is_declared_is_told_by_the_name_in_full() -> None:
    """Pins and tiers are those of the fleet, under the names that the list of models has in small letters."""
    told = board().as_json(ANYONE, {})

    assert told["models"]["llama3.2:latest"] == {"tier": "a10g", "pinned": True, "warmed": True}
    assert told["prices"]["as_of"] == "2026-09-15"
    assert told["quota_bytes"] == 1000 * 10**9


def test_a_model_that_nobody_declared_has_its_tier() -> None:
    """Of a model that is here but not declared, the tier that answers for it is told, and that nothing pins it."""
    told = board(routes=lambda: {"llama3.2:latest": "h100", "phi3:mini": "a10g"}).as_json(ANYONE, {})["models"]

    assert told["phi3:mini"] == {"tier": "a10g", "pinned": False, "warmed": False}
    assert told["llama3.2:latest"]["tier"] == "a10g"  # as declared


def test_a_key_hears_only_of_models_it_may_use() -> None:
    """When a model was last used is told to keys that may use it, and to every admin."""
    used = {"llama3.2:latest": NOW, "phi3:mini": NOW}

    assert set(board().as_json(CHAT, used)["last_used"]) == {"llama3.2:latest"}
    assert set(board().as_json(ANYONE, used)["last_used"]) == set(used)


def test_remedies_fit_a_page() -> None:
    """There is a remedy for each class of failure, with nothing in it that only a program could fill in."""
    told = board().as_json(ANYONE, {})["remedies"]

    assert set(told) == {*REMEDIES, *("/".join(each) for each in REMEDIES_OF_KINDS)}
    for text in told.values():
        assert "!r" not in text
        assert "ollama-modal retry" not in text  # the page has a button for that
        text.format(id="k7m2p9x4qd-1", subject="llama3.2:latest")


def test_next_runs_are_those_of_the_schedules() -> None:
    """The next tick and the next night are told in their order, as moments, with what they will do."""
    runs = list(upcoming(FLEET, NOW))

    assert [(run["what"], run["at"]) for run in runs] == [
        ("Tick", "2026-09-15T08:35:00.000Z"),
        ("Nightly", "2026-09-16T01:00:00.000Z"),  # 3 o'clock in Berlin
    ]
    for part in ("2 pinned models", "newer versions", "verifies a share", "trash", "try 2 models", "archives"):
        assert part in runs[1]["does"]


@pytest.mark.parametrize(
    ("now", "what", "at"),
    [
        ("2026-09-15T05:00:00Z", "The window of a10g opens", "2026-09-15T06:00:00.000Z"),
        ("2026-09-15T06:00:00Z", "The window of a10g closes", "2026-09-15T16:00:00.000Z"),
        ("2026-09-15T15:59:00Z", "The window of a10g closes", "2026-09-15T16:00:00.000Z"),
        ("2026-09-18T16:00:00Z", "The window of a10g opens", "2026-09-21T06:00:00.000Z"),  # over the weekend
        ("2026-10-24T12:00:00Z", "The window of a10g opens", "2026-10-26T07:00:00.000Z"),  # the clock goes back
    ],
)
def test_a_window_opens_or_closes_next(now: str, what: str, at: str) -> None:
    """Of a window the next edge is told: its closing while it is open, else its opening, in the fleet's own time."""
    runs = upcoming(fleet(windows=[WORK_HOURS]), parse_moment(now))

    assert [(run["what"], run["at"]) for run in runs if "window" in run["what"]] == [(what, at)]


WITH_WINDOW = fleet(windows=[WORK_HOURS])


@given(st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31), timezones=st.just(UTC)))  # noqa: DTZ001 - bounds
def test_runs_lie_ahead(now: datetime) -> None:
    """At any moment, daylight-saving nights included, every run that is told lies ahead, the soonest first."""
    runs = [parse_moment(run["at"]) for run in upcoming(WITH_WINDOW, now)]

    assert len(runs) == 3
    assert runs == sorted(runs)
    assert runs[0] > now - timedelta(seconds=1)


@pytest.fixture
def somewhere(tmp_path: Path) -> Iterator[OpsApi]:
    with ops_api(tmp_path) as found:
        yield found


def test_it_is_part_of_the_ops_api(somewhere: OpsApi) -> None:
    """Whoever has a key is told, in the documented shape, who he is by it; without one nobody is."""

    async def last_used() -> dict[str, datetime]:
        return {}

    app = create(somewhere.ops_context(), more=(router(board(serving()), last_used),))
    client = TestClient(app)

    assert client.get("/ops/v1/board").status_code == 401
    for key, scopes in ((ADMIN_KEY, ["chat", "admin"]), (CHAT_KEY, ["chat"])):
        told = client.get("/ops/v1/board", headers={"authorization": f"Bearer {key}"}).json()
        assert told["caller"]["scopes"] == scopes
        OverviewResponse.model_validate(told)
    assert "/ops/v1/board" in client.get("/ops/v1/openapi.json", headers={"x-api-key": CHAT_KEY}).json()["paths"]
