"""How tiers and containers are, by what they reported, and the history of it."""

from datetime import UTC, datetime, timedelta

import pytest

from app.model_server.gpu import Gpu
from app.model_server.health import Health, Turn, next_turn, of_container, of_tier
from app.model_server.report import Loaded, Report

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
GPU = Gpu("NVIDIA A10G", 24_000_000_000, 1)


def report(state: str, *, container: str = "ta-1", minutes: float = 0, why: str = "", share: float = 1.0) -> Report:
    loaded = (Loaded("llama3.2:latest", 1000, int(1000 * share), 8192),)
    at = NOW - timedelta(minutes=minutes)
    return Report("a10g", container, state, at, why=why, gpu=GPU, loaded=loaded)


@pytest.mark.parametrize(
    ("said", "state", "why"),
    [
        (report("waking"), "waking", ""),
        (report("waking", minutes=61), "lost", "it was not heard of since it began to start"),
        (report("serving"), "ready", ""),
        (report("serving", minutes=4), "lost", "not heard of since 2026-03-01T11:56:00.000Z"),
        (report("serving", why="3 probes without an answer"), "degraded", "3 probes without an answer"),
        (report("serving", share=0.5), "degraded", "llama3.2:latest has 50% of itself on the GPU"),
        (report("silent", why="killed"), "lost", "killed"),
        (report("failed", why="ollama ended by itself with 1"), "lost", "ollama ended by itself with 1"),
        (report("refused", why="no GPU"), "lost", "no GPU"),
        (report("ended"), "gone", ""),
    ],
)  # fmt: skip
def test_a_container_is_as_it_reported(said: Report, state: str, why: str) -> None:
    """A container's state follows from its last report and its age."""
    assert of_container(said, NOW) == (state, why)


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ([], "asleep"),
        ([report("ended", minutes=5)], "asleep"),
        ([report("ended", minutes=5), report("waking", container="ta-2")], "waking"),
        ([report("waking"), report("serving", container="ta-2")], "ready"),
        ([report("serving"), report("serving", container="ta-2", share=0.2)], "degraded"),
        ([report("failed", minutes=5), report("serving", container="ta-2")], "ready"),
        ([report("serving", minutes=9)], "lost"),
        ([report("failed", minutes=5)], "lost"),
        ([report("failed", minutes=9), report("ended", container="ta-2", minutes=2)], "asleep"),
        ([report("failed", minutes=61)], "asleep"),
    ],
)
def test_a_tier_is_as_its_containers_are(said: list[Report], state: str) -> None:
    """Any container that is up decides; with none up, the last one does, for an hour."""
    assert of_tier("a10g", said, NOW).state == state


def test_history_is_written_when_something_changes() -> None:
    """A tier, or one container of it, that is as before adds nothing to the history; a change adds one entry."""
    assert next_turn(None, of_tier("a10g", [], NOW), NOW) is None
    steps = [
        ([report("waking")], "waking"),
        ([report("waking")], None),
        ([report("serving")], "ready"),
        ([report("serving"), report("serving", container="ta-2")], "ready"),
        ([report("serving"), report("silent", container="ta-2")], "ready"),
        ([report("serving"), report("silent", container="ta-2")], None),
        ([report("ended"), report("silent", container="ta-2", minutes=1)], "asleep"),
        ([report("ended", minutes=1)], None),
        ([], None),
    ]
    last: Turn | None = None
    told = []
    for said, _ in steps:
        turn = next_turn(last, of_tier("a10g", said, NOW), NOW)
        told.append(turn.health.state if turn else None)
        last = turn or last
    assert told == [state for _, state in steps]
    assert last is not None
    assert last.n == 5
    assert Turn.from_json(last.as_json()) == last


def test_trouble_is_what_needs_somebody() -> None:
    """Degraded and lost are trouble; asleep, waking and ready are not."""
    states = ("asleep", "waking", "ready", "degraded", "lost")
    assert [state for state in states if Health("a10g", state).is_trouble] == ["degraded", "lost"]  # type: ignore[arg-type]
