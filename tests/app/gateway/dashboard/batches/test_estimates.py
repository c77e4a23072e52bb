"""What a batch would take is told before it is posted, by counts of its lines."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.fleet.file import read
from app.fleet.schema import Fleet, parse
from app.gateway.auth.keys import Caller
from app.gateway.dashboard.batches.estimates import Estimates, router
from app.gateway.ops.app import create
from jobs.batches.estimate import Where
from jobs.batches.limits import USUAL
from jobs.batches.records import Estimate
from jobs.batches.speed import LineTook, Speed, added
from jobs.batches.start_rules import TierNow
from jobs.core.errors import NotFound
from jobs.store import keys
from jobs.telemetry.cold_starts import ColdStart
from jobs.testing.clock import HandClock
from tests.support.ops_api import ADMIN_KEY, CHAT_KEY, OpsApi, ops_api

NOW = datetime(2026, 9, 15, 20, tzinfo=UTC)
MODELS = {"llama3.2": ("llama3.2:latest", "a10g"), "alias": ("llama3.2:latest", "a10g"), "big": ("big:latest", "h100")}
LINES = {"model": "llama3.2", "lines": 1000, "prompt_bytes": 400_000, "max_tokens": 100_000, "unlimited": 500}


@dataclass
class Scene:
    """How the tiers are, and what is written down."""

    fleet: Fleet
    awake: set[str] = field(default_factory=set)
    opens: datetime | None = None
    entries: dict[str, Any] = field(default_factory=dict)

    def tiers(self, names: Collection[str], _: datetime) -> list[TierNow]:
        longest = timedelta(minutes=10)
        return [TierNow(each, each in self.awake, next_window=self.opens, longest_start=longest) for each in names]

    def where(self, caller: Caller) -> Where:
        def found(model: str) -> tuple[str, str]:
            if model not in MODELS:
                raise NotFound(f"there is no model {model!r}")
            caller.need_model(None) if model == "big" else None
            return MODELS[model]

        return found

    def estimates(self, *, rented: bool = True) -> Estimates:
        return Estimates(HandClock(NOW), self.fleet, rented, USUAL, self.where, self.tiers)


@pytest.fixture
def scene() -> Scene:
    start = ColdStart("a10g", "ta-1", 0, "start", NOW - timedelta(days=1), seconds={"engine": 100.0})
    return Scene(parse(read(), "test"), entries={start.key: start.as_json()})


@pytest.fixture
def api(tmp_path: Path) -> Iterator[OpsApi]:
    with ops_api(tmp_path) as found:
        yield found


def client(api: OpsApi, scene: Scene, *, rented: bool = True) -> TestClient:
    async def entries() -> dict[str, Any]:
        return scene.entries

    return TestClient(create(api.ops_context(), more=(router(scene.estimates(rented=rented), entries),)))


def ask(asked: TestClient, key: str = CHAT_KEY, status: int = 200, **body: Any) -> dict[str, Any]:
    answer = asked.post("/ops/v1/batches/estimate", json={"models": [LINES], **body}, headers={"x-api-key": key})
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_key_of_scope_chat_is_told(api: OpsApi, scene: Scene) -> None:
    """Tokens, time of GPUs, dollars, and when it is done; the wake and the idle time apart; a guess is called one."""
    asked = client(api, scene)
    assert asked.post("/ops/v1/batches/estimate", json={"models": [LINES]}).status_code == 401

    told = ask(asked, start="now")

    assert (told["basis"], told["models"][0]["tier"], told["models"][0]["lines"]) == ("guess", "a10g", 1000)
    assert told["reason"].startswith("nothing was asked of llama3.2:latest on a10g yet")
    assert told["prompt_tokens"] == 110_000
    price = scene.fleet.dollars_per_hour("a10g") / 3600
    assert told["dollars"] == pytest.approx(told["gpu_seconds"] * price, abs=1e-5)
    assert told["wake_dollars"] == pytest.approx(100 * price, abs=1e-5)
    assert told["extra_dollars"] == pytest.approx(told["wake_dollars"] + told["idle_dollars"], abs=1e-5)
    lasts = (Estimate.from_json(told).done_at - NOW).total_seconds()
    assert lasts == pytest.approx(told["seconds"] + 100, abs=0.1)
    assert (told["starts_at"], told["note"], told["refused"]) == ("2026-09-15T20:00:00.000Z", "", None)


def test_it_goes_by_what_was_measured(api: OpsApi, scene: Scene) -> None:
    """What finished batches measured is what is told, under an alias as well; several names of a model are one."""
    speed = added([Speed.of(LineTook(400, 110, 200, 4.0, 200))] * 500).with_gpu(500.0)
    scene.entries[keys.batch_speed("a10g", "llama3.2:latest")] = speed.as_json(NOW)
    scene.awake.add("a10g")
    asked = client(api, scene)

    limited = {**LINES, "max_tokens": 200_000, "unlimited": 0}
    told = ask(asked, models=[limited, {**limited, "model": "alias"}])

    assert (told["basis"], told["note"], told["wake_dollars"]) == ("measured", "", 0.0)
    assert [(each["model"], each["lines"]) for each in told["models"]] == [("llama3.2:latest", 2000)]
    assert told["gpu_seconds"] == pytest.approx(2000, rel=0.03)


def test_one_that_waits_is_told_when_it_would_begin(api: OpsApi, scene: Scene) -> None:
    """One that rides on the next window begins as it opens and wakes nothing; without one it begins in time for its
    deadline, and wakes its tier; a deadline that cannot hold is told."""
    scene.opens = NOW + timedelta(hours=3)
    in_window = ask(client(api, scene), start="window")
    scene.opens = None
    late = ask(client(api, scene), start="cheapest", by="2026-09-16T07:00:00Z")
    never = ask(client(api, scene), start="now", by="2026-09-15T20:01:00Z")

    assert (in_window["starts_at"], in_window["wake_dollars"]) == ("2026-09-15T23:00:00.000Z", 0.0)
    assert "begins at" in late["note"]
    assert late["wake_dollars"] > 0
    assert "2026-09-16T05" < late["starts_at"] < late["done_at"] < "2026-09-16T07"
    assert never["note"].startswith("it will not be done by its deadline")


def test_one_that_is_too_dear_is_told_so(api: OpsApi, scene: Scene) -> None:
    """What would be refused by its `max_dollars` is told with the reason, and what would not be, without."""
    asked = client(api, scene)
    assert "max_dollars is $0.01" in ask(asked, max_dollars=0.01)["refused"]
    assert ask(asked, max_dollars=100.0)["refused"] is None


def test_ones_own_machine_is_free(api: OpsApi, scene: Scene) -> None:
    """Where nothing is rented no dollars are told, and no wake."""
    told = ask(client(api, scene, rented=False), start="now", max_dollars=0.01)
    assert [told[name] for name in ("dollars", "wake_dollars", "extra_dollars", "refused")] == [None] * 4
    assert told["gpu_seconds"] > 0


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"models": [{**LINES, "model": "absent"}]}, 404),
        ({"models": [{**LINES, "text": "what somebody wrote"}]}, 422),
        ({"lines": ["what somebody wrote"]}, 422),
        ({"models": []}, 422),
        ({"models": [{**LINES, "lines": 0}]}, 422),
        ({"models": [{**LINES, "prompt_bytes": -1}]}, 422),
        ({"start": "soon"}, 422),
        ({"by": "2026-09-16"}, 422),
        ({"endpoint": "/v1/images"}, 422),
        ({"max_dollars": 0}, 422),
    ],
)
def test_what_is_wrong_is_refused(api: OpsApi, scene: Scene, body: dict[str, Any], status: int) -> None:
    """A model that is not here, contents, and what makes no sense are refused; of contents nothing is said again."""
    told = ask(client(api, scene), ADMIN_KEY, status, **body)
    assert "what somebody wrote" not in str(told)
