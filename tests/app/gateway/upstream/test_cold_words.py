"""What somebody who waits is told, word by word."""

from datetime import UTC, datetime, timedelta

import pytest

from app.gateway.upstream.cold_words import coming, reported
from app.model_server.report import Report
from jobs.core.units import part_of_bytes
from jobs.telemetry.cold_starts import PHASES, ColdStart, Phase, Progress

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
GB = 1_000_000_000
LLAMA = "llama3.2:latest"
EARLIER = ColdStart(
    "a10g", "ta-0", 0, "start", NOW, LLAMA, 2 * GB,
    {"container": 4, "weights": 1, "engine": 2, "bytes": 2, "memory": 1, "handover": 0.5, "first_token": 0.5},
)  # fmt: skip


def words(phase: Phase, *, model: str = LLAMA, asked: str = LLAMA, shown: str | None = None, known: bool = True) -> str:
    progress = Progress(0, "start", NOW, model, phase, {}, 0.0, 2 * GB, 1_100_000_000)
    found = reported([Report("a10g", "ta-1", "waking", NOW, progress=(progress,))], NOW)
    assert found is not None
    history = [EARLIER] if known else []
    return coming("a10g", found, history, NOW).words(asked, model if shown is None else shown, 4.0 if known else None)


def test_each_phase_has_its_words() -> None:
    """What goes on, for which model, how far it has come, and about how long it takes yet."""
    assert [words(phase) for phase in PHASES] == [
        "a10g gets a container for llama3.2, about 10 s",
        "a10g looks at the weights for llama3.2, about 6 s",
        "a10g starts its engine for llama3.2, about 5 s",
        "a10g reads llama3.2, 1.1 of 2.0 GB, about 3 s",
        "a10g puts llama3.2 into memory, about 2 s",
        "a10g has llama3.2 in memory, about 1 s",
        "a10g has llama3.2 in memory, about 1 s",
    ]


def test_without_an_earlier_one_no_time_is_told() -> None:
    """Nobody guesses."""
    assert words("bytes", known=False) == "a10g reads llama3.2, 1.1 of 2.0 GB"


def test_who_waits_for_another_model_is_told_what_for() -> None:
    """The load before his own is named, and the time is of both; a model that is not for his key is not named."""
    assert words("bytes", asked="qwen3:latest") == "a10g reads llama3.2, 1.1 of 2.0 GB, then qwen3, about 7 s"
    assert words("engine", asked="qwen3:latest", shown="another model").startswith(
        "a10g starts its engine for another model, then qwen3"
    )


def test_what_was_told_long_ago_tells_nothing_of_now() -> None:
    """A container that was killed says no end: after a while nobody is told of its start any more."""
    progress = Progress(0, "start", NOW, LLAMA, "bytes", {})
    report = Report("a10g", "ta-1", "waking", NOW, progress=(progress,))
    assert reported([report], NOW + timedelta(seconds=60)) is not None
    assert reported([report], NOW + timedelta(minutes=5)) is None
    assert reported([Report("a10g", "ta-1", "ended", NOW, progress=(progress,))], NOW) is None


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (0, 2 * GB, "0.0 of 2.0 GB"),
        (250_000_000, 815_000_000, "250 of 815 MB"),
        (3 * GB, 2 * GB, "2.0 of 2.0 GB"),
        (None, 40 * GB, "40 GB"),
        (7, 12, "7 of 12 B"),
    ],
)
def test_a_part_in_the_unit_of_the_whole(part: int | None, whole: int, text: str) -> None:
    """So that both can be compared at a glance."""
    assert part_of_bytes(part, whole) == text
