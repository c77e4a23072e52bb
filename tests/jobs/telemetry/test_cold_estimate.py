"""The estimate of the time that is left: what holds of it, whatever came before."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.telemetry.cold_estimate import LAST, Situation, seconds_left
from jobs.telemetry.cold_starts import PHASES, ColdStart, Phase

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
GB = 1_000_000_000

seconds = st.floats(0, 1000, allow_nan=False)
sizes = st.integers(1, 2**46)
phases = st.sampled_from(PHASES)


def started(*, tier: str = "a10g", size: int | None = 2 * GB, n: int = 0, **took: float) -> ColdStart:
    known: dict[Phase, float] = {phase: took[phase] for phase in PHASES if phase in took}
    return ColdStart(tier, "ta-1", n, "start", NOW - timedelta(hours=n), "llama3.2:latest", size, known)


USUAL = started(container=3.0, weights=1.0, engine=2.0, bytes=4.0, memory=0.5, handover=0.25, first_token=0.5)

histories = st.lists(
    st.builds(
        lambda tier, size, took: ColdStart(tier, "ta-1", 0, "start", NOW, "m", size, took),
        st.sampled_from(["a10g", "h100"]),
        st.none() | sizes,
        st.dictionaries(phases, seconds),
    ),
    max_size=20,
)
situations = st.builds(
    Situation, st.sampled_from(["start", "load"]), phases, seconds, st.none() | sizes, st.none() | sizes, st.none()
)


def test_what_was_always_so_is_foretold() -> None:
    """After starts that were all alike, one that is alike takes what they took, less what has passed."""
    history = [USUAL] * 3

    assert seconds_left(history, "a10g", Situation("start", "container", size=2 * GB)) == pytest.approx(USUAL.total)
    assert seconds_left(history, "a10g", Situation("start", "engine", 0.5, 2 * GB)) == pytest.approx(6.75)
    assert seconds_left(history, "a10g", Situation("load", "bytes", 1.0, 2 * GB)) == pytest.approx(4.25)


def test_what_reads_goes_by_the_size() -> None:
    """A model of twice the size is read in twice the time, and nothing else takes longer for it."""
    one, two = (seconds_left([USUAL], "a10g", Situation("start", "container", size=size)) for size in (2 * GB, 4 * GB))
    assert one is not None
    assert two == pytest.approx(one + 4.5)


def test_bytes_that_have_come_are_left_out() -> None:
    """Of bytes that are counted the rest takes its time: at the rate at which they come, or as it was."""
    half = Situation("start", "bytes", 2.0, 2 * GB, 1 * GB)
    assert seconds_left([USUAL], "a10g", half) == pytest.approx(2 + 0.5 + 0.25 + 0.5)
    quick = Situation("start", "bytes", 0.5, 2 * GB, 1 * GB, 2 * GB)
    assert seconds_left([USUAL], "a10g", quick) == pytest.approx(0.5 + 0.5 + 0.25 + 0.5)


def test_one_that_went_badly_decides_nothing() -> None:
    """The median of the last counts: an outlier changes nothing, nor does what is older than those."""
    badly, old = started(container=600.0, n=1), [started(container=100.0, n=n) for n in range(20, 40)]
    recent = [started(container=3.0, n=n) for n in range(2, LAST + 1)]

    assert seconds_left([badly, *recent, *old], "a10g", Situation("start", "container")) == 3.0


@given(histories, situations)
def test_it_is_never_negative(history: list[ColdStart], now: Situation) -> None:
    """Whatever came before, and however long it has lasted."""
    left = seconds_left(history, "a10g", now)
    assert left is None or left >= 0


@given(histories, situations, seconds)
def test_time_that_passes_adds_nothing(history: list[ColdStart], now: Situation, more: float) -> None:
    """The longer the phase has lasted, the less is left, never more."""
    later = Situation(now.kind, now.phase, now.in_phase + more, now.size, now.read, now.bytes_per_second)
    before, after = seconds_left(history, "a10g", now), seconds_left(history, "a10g", later)
    assert (before is None) == (after is None)
    assert before is None or after is None or after <= before


@given(histories, situations, sizes, sizes)
def test_a_larger_model_takes_no_less(history: list[ColdStart], now: Situation, size: int, more: int) -> None:
    """Where no byte has come yet, of two models the larger takes at least as long."""

    def left(size: int) -> float | None:
        return seconds_left(history, "a10g", Situation(now.kind, now.phase, now.in_phase, size))

    one, other = left(size), left(size + more)
    assert one is None or other is None or other >= one * (1 - 1e-9)


@given(histories, situations)
def test_other_tiers_tell_nothing(history: list[ColdStart], now: Situation) -> None:
    """Only starts of the same tier count; without one there is no estimate."""
    own = [each for each in history if each.tier == "a10g"]
    assert seconds_left(history, "a10g", now) == seconds_left(own, "a10g", now)
    assert seconds_left([each for each in history if each.tier != "a10g"], "a10g", now) is None
