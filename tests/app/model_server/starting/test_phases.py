"""How far a start has come: what ended when, and that the parts are the whole."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.model_server.starting.phases import Phases
from jobs.telemetry.cold_starts import OF_THE_SERVER, Progress
from jobs.testing.clock import HandClock

GB = 1_000_000_000


@given(st.lists(st.tuples(st.floats(0, 100), st.sampled_from(OF_THE_SERVER)), max_size=8), st.floats(0, 50))
def test_the_parts_are_the_whole(steps: list[tuple[float, str]], ago: float) -> None:
    """In whatever order the ends are told, the phases add up to the time from its beginning to the last that counts."""
    clock = HandClock()
    phases = Phases(clock, 0, "start", began_ago=ago)
    began, last = clock.monotonic() - ago, clock.monotonic() - ago
    for seconds, phase in steps:
        clock.tick(seconds)
        before = phases.progress().total
        phases.ended(phase)  # type: ignore[arg-type]
        if phases.progress().total != before:
            last = clock.monotonic()

    assert phases.progress().total == pytest.approx(last - began, abs=1e-6)


def test_a_start_by_its_phases() -> None:
    """Each phase lasts from the end of the one before; what nobody told the end of is in the next one."""
    clock = HandClock()
    phases = Phases(clock, 0, "start", began_ago=1.5)
    clock.tick(0.5)
    phases.ended("weights")
    clock.tick(2)
    phases.ended("engine")
    phases.of("llama3.2:latest", 2 * GB)
    clock.tick(1)
    phases.read(1 * GB)
    seen = phases.progress()
    assert (seen.phase, seen.in_phase, seen.read, seen.size) == ("bytes", 1, 1 * GB, 2 * GB)
    clock.tick(3)
    phases.ended("memory")

    told = phases.progress()
    assert told.is_over
    assert told.read == told.size
    assert told.seconds == {"weights": 2, "engine": 2, "memory": 4}


def test_bytes_may_come_before_the_engine_answers() -> None:
    """Whoever reads ahead tells from the first line on; what it measures is told, and nobody asks the kernel."""
    phases = Phases(HandClock(), 0, "start")
    phases.of("llama3.2:latest", 2 * GB)
    phases.read(3 * GB, bytes_per_second=1.5 * GB)

    told = phases.progress()
    assert (told.phase, told.read, told.bytes_per_second) == ("weights", 2 * GB, 1.5 * GB)
    phases.ended("engine")
    assert not phases.is_reading


def test_progress_opens_as_it_was_written() -> None:
    """What is written down is read again as it was; what makes no sense is nothing."""
    clock = HandClock()
    phases = Phases(clock, 3, "load")
    phases.of("llama3.2:latest", 2 * GB)
    clock.tick(2)
    phases.read(1 * GB)

    assert Progress.from_json(phases.progress().as_json()) == phases.progress()
    nonsense: list[Any] = [None, {}, {"at": "yesterday"}, [], {"at": 3, "seconds": []}]
    for odd in nonsense:
        assert Progress.from_json(odd) is None
