"""What somebody who waits is told, word by word."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.gateway.upstream.cold_wait import Waited, joined
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
    assert reported([report], NOW + timedelta(seconds=20)) is not None
    assert reported([report], NOW + timedelta(seconds=40)) is None
    assert reported([Report("a10g", "ta-1", "ended", NOW, progress=(progress,))], NOW) is None


def test_a_server_that_serves_no_more_loads_no_more() -> None:
    """While nobody answers, a load in a server that served before goes on no more, and one that starts does."""
    load = Progress(3, "load", NOW, LLAMA, "bytes", {})
    killed = Report("a10g", "ta-1", "serving", NOW, progress=(load,))
    silent = NOW + timedelta(seconds=1)
    assert reported([killed], silent) is not None
    assert reported([killed], silent, silent_since=silent) is None
    starts = Report("a10g", "ta-2", "waking", NOW, progress=(Progress(0, "start", NOW, LLAMA, "engine", {}),))
    found = reported([killed, starts], silent, silent_since=silent)
    assert found is not None
    assert found[0].container == "ta-2"


@pytest.mark.parametrize("minutes", [-30, -3, 3, 30])
def test_a_wrong_clock_changes_no_word(minutes: float) -> None:
    """A server whose clock is minutes off is told of for as long as others are, and by when it was heard."""
    theirs = NOW + timedelta(minutes=minutes)
    progress = Progress(0, "start", theirs - timedelta(seconds=5), LLAMA, "engine", {}, in_phase=2.0)
    said = Report("a10g", "ta-1", "waking", theirs, progress=(progress,))
    heard = said.heard(None, NOW - timedelta(seconds=2), NOW)
    later = NOW + timedelta(seconds=10)
    found = reported([heard.heard(heard, NOW, later)], later)
    assert found is not None
    now = coming("a10g", found, [], later)
    assert now.now.in_phase == pytest.approx(12, abs=2)
    assert now.since == pytest.approx(NOW - timedelta(seconds=5), abs=timedelta(seconds=2))
    assert reported([heard], NOW + timedelta(seconds=40)) is None


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.floats()
        | st.integers()
        | st.text(max_size=8)
        | st.datetimes().map(lambda at: at.isoformat() + "Z"),
        lambda each: st.lists(each, max_size=3),
    ),
    st.data(),
)
def test_a_report_that_makes_no_sense_harms_nobody(value: Any, data: st.DataObject) -> None:
    """Whatever stands in the place of a field, of the report or of its progress: words come of it or none, and numbers
    that can be sent on."""
    whole = Report(
        "a10g", "ta-1", "waking", NOW, progress=(Progress(0, "start", NOW, LLAMA, "bytes", {"engine": 2.0}),)
    )
    document = whole.as_json()
    at = data.draw(st.sampled_from([document, document["progress"][0], document["progress"][0]["seconds"]]))
    at[data.draw(st.sampled_from(sorted(at)))] = value
    report = Report.from_json(document).heard(None, NOW - timedelta(seconds=2), NOW)
    found = reported([report], NOW)
    if found is not None:
        told = coming("a10g", found, [EARLIER], NOW)
        assert told.words(LLAMA, told.model).startswith("a10g ")
        json.dumps(told.as_json(), allow_nan=False)
    joined(Waited("a10g", LLAMA, NOW, True, 1.0, 2.0), [report], None)


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
