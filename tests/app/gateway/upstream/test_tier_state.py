"""How a tier is told: by what the gateway saw when it asked, and by what the containers reported."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.gateway.upstream.tier_state import TierState, TierStateName, as_json
from app.model_server.report import Report

NOW = datetime(2026, 9, 15, 8, 30, tzinfo=UTC)
BEFORE = NOW - timedelta(minutes=1)
HOUR_AGO = "2026-09-15T07:30:00.000Z"


def tier(known: TierStateName, state: str | None = None, why: str = "") -> dict[str, Any]:
    seen = TierState("a10g", known, NOW - timedelta(hours=1), "as seen", held=3)
    return as_json(seen, [Report("a10g", "ta-1", state, BEFORE, why=why)] if state else [], NOW)


@pytest.mark.parametrize(
    ("known", "reported", "why", "state"),
    [
        ("asleep", None, "", "asleep"),
        ("asleep", "ended", "", "asleep"),
        ("asleep", "failed", "ollama ended by itself with 1", "lost"),
        ("asleep", "waking", "", "waking"),
        ("waking", "failed", "ollama ended by itself with 1", "waking"),
        ("ready", "serving", "", "ready"),
        ("ready", "serving", "2 probes in a row without an answer", "degraded"),
        ("ready", "failed", "that was another container", "ready"),
    ],
)
def test_whoever_knows_better_is_believed(known: TierStateName, reported: str | None, why: str, state: str) -> None:
    """A tier that answered is ready and one that is asked for is waking, but of its own trouble a container tells."""
    assert tier(known, reported, why)["state"] == state


def test_why_and_since_go_with_the_state() -> None:
    """A reported state comes with the report's reason, and from when nothing newer was heard; callers always count."""
    assert tier("ready", "serving") == {
        "tier": "a10g", "state": "ready", "since": HOUR_AGO, "why": "as seen", "held": 3, "coming": None,
    }  # fmt: skip
    assert tier("asleep", "failed", "it died") == {
        "tier": "a10g", "state": "lost", "since": "2026-09-15T08:29:00.000Z", "why": "it died", "held": 3,
        "coming": None,
    }  # fmt: skip
    assert tier("ready", "serving", "half of it")["since"] == HOUR_AGO
