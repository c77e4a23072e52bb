"""When a batch begins, for all four ways, any tiers and any deadline, on a clock that is moved."""

from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.batches.records import BatchStart
from jobs.batches.start_rules import SPARE, NotYet, StartNow, TierNow, decide, refused

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
DAY = timedelta(days=1)
STARTS: tuple[BatchStart, ...] = get_args(BatchStart)

spans = st.integers(0, 4 * 24 * 60).map(lambda minutes: timedelta(minutes=minutes))
seconds = st.floats(0, 3 * 86_400)


@st.composite
def some_tiers(draw: st.DrawFn) -> list[TierNow]:
    return [
        TierNow(
            f"tier-{number}",
            is_awake=draw(st.booleans()),
            is_coming=draw(st.booleans()),
            in_window=draw(st.booleans()),
            next_window=draw(st.none() | spans.map(lambda span: NOON + span)),
            longest_start=draw(st.integers(0, 60)) * MINUTE,
        )
        for number in range(draw(st.integers(1, 3)))
    ]


asleep = TierNow("a10g", longest_start=10 * MINUTE)
awake = TierNow("a10g", is_awake=True, longest_start=10 * MINUTE)
in_window = TierNow("a10g", in_window=True, longest_start=10 * MINUTE)
coming = TierNow("a10g", is_coming=True, longest_start=10 * MINUTE)


def decided(
    start: BatchStart, *tiers: TierNow, at: datetime = NOON, within: timedelta = DAY, takes: timedelta = HOUR
) -> StartNow | NotYet:
    return decide(start, tiers, now=at, deadline=NOON + within, seconds=takes.total_seconds())


@pytest.mark.parametrize(
    ("start", "tier", "begins"),
    [
        ("now", asleep, True),
        ("awake", asleep, False),
        ("awake", awake, True),
        ("awake", in_window, False),  # until the server that it keeps up has come
        ("awake", coming, True),
        ("window", awake, False),
        ("window", coming, False),
        ("window", in_window, True),
        ("cheapest", asleep, False),
        ("cheapest", awake, True),
        ("cheapest", in_window, True),
    ],
)
def test_what_each_way_begins_on(start: BatchStart, tier: TierNow, begins: bool) -> None:
    """With a day to go: at once, on a GPU that is awake, in a window, on either of them."""
    assert isinstance(decided(start, tier), StartNow) is begins


def test_only_a_tier_that_sleeps_is_woken() -> None:
    """One that is awake, or that a window keeps up, is not; nor is any by a batch that waits."""
    other = TierNow("h100", longest_start=10 * MINUTE)

    assert decided("now", asleep) == StartNow(("a10g",))
    assert decided("now", awake, other) == StartNow(("h100",))
    assert decided("now", awake) == decided("now", in_window) == StartNow()
    assert decided("awake", coming) == StartNow(("a10g",))  # it may, should the other batch have been cancelled


@pytest.mark.parametrize("start", ["awake", "window", "cheapest"])
def test_it_begins_in_time_for_its_deadline(start: BatchStart) -> None:
    """Its time and a quarter more before the deadline, and the time that a server may take to come."""
    latest = NOON + DAY - SPARE * HOUR - 10 * MINUTE
    waits = decided(start, asleep)

    assert isinstance(waits, NotYet)
    assert (waits.not_before, waits.latest) == (latest, latest)
    assert isinstance(decided(start, asleep, at=latest - MINUTE), NotYet)
    assert decided(start, asleep, at=latest) == StartNow(("a10g",))


@pytest.mark.parametrize(("start", "waits_for"), [("window", True), ("cheapest", True), ("awake", False)])
def test_it_asks_again_when_its_window_opens(start: BatchStart, waits_for: bool) -> None:
    """Whoever waits for a window asks again as it opens, unless it has to begin before that."""
    tier = TierNow("a10g", next_window=NOON + 2 * HOUR)
    waits, in_a_hurry = decided(start, tier), decided(start, tier, within=2 * HOUR)

    assert isinstance(waits, NotYet)
    assert isinstance(in_a_hurry, NotYet)
    assert (waits.not_before == NOON + 2 * HOUR) is waits_for
    assert ("opens at 2026-03-02T14:00:00.000Z" in waits.note) is waits_for
    assert in_a_hurry.not_before == in_a_hurry.latest < NOON + HOUR
    assert "opens at" not in in_a_hurry.note


def test_what_will_not_hold_is_told() -> None:
    """A deadline that cannot hold is told as soon as it begins; so is a wake that must not be, with its risk."""
    hurried = decided("cheapest", asleep, within=HOUR)
    assert isinstance(hurried, StartNow)
    assert hurried.note == (
        "it will not be done by its deadline, 2026-03-02T13:00:00.000Z: it takes about 1 h 0 min,"
        " until 2026-03-02T13:10:00.000Z"
    )
    assert decided("now", awake, within=HOUR) == StartNow()

    def without_wake(again_at: datetime) -> NotYet:
        wanted = StartNow(("a10g",))
        why = "its 3 wakes for today are used up"
        return refused(wanted, why=why, again_at=again_at, now=NOON, deadline=NOON + DAY, seconds=3600)

    assert without_wake(NOON + HOUR).note == (
        "a10g must not be woken: its 3 wakes for today are used up; tried again at 2026-03-02T13:00:00.000Z; unless a"
        " GPU is awake before, it may not be done by its deadline, 2026-03-03T12:00:00.000Z"
    )
    assert "it will not be done by its deadline" in without_wake(NOON + DAY).note
    assert without_wake(NOON + HOUR).not_before == NOON + HOUR


@given(start=st.sampled_from(STARTS), tiers=some_tiers(), within=spans, takes=seconds)
def test_it_begins_by_its_latest_start_whatever_happens(
    start: BatchStart, tiers: list[TierNow], within: timedelta, takes: float
) -> None:
    """Asked again whenever it says so, though nothing changes but the time, it begins; and, if it ever could have been,
    it is done by its deadline."""
    now, deadline, asked = NOON, NOON + within, 0
    decision = decide(start, tiers, now=now, deadline=deadline, seconds=takes)
    could = not isinstance(decision, StartNow)
    while isinstance(decision, NotYet):
        assert now < decision.not_before <= decision.latest
        now, asked = decision.not_before, asked + 1
        assert asked <= len(tiers) + 1  # once for each window, and once for the deadline
        decision = decide(start, tiers, now=now, deadline=deadline, seconds=takes)
    longest = max((each.longest_start for each in tiers if each.name in decision.wakes), default=timedelta(0))
    if could:
        assert now + longest + timedelta(seconds=takes) <= deadline + timedelta(milliseconds=1)
        assert decision.note == ""
    assert set(decision.wakes) == {each.name for each in tiers if each.sleeps}


@given(tiers=some_tiers(), within=spans, takes=seconds)
def test_the_cheapest_way_waits_no_longer_than_another(tiers: list[TierNow], within: timedelta, takes: float) -> None:
    """What begins when a GPU is awake, or in a window, begins by then if it takes whichever comes first; and at once
    begins before all."""
    begins = {
        start: isinstance(decide(start, tiers, now=NOON, deadline=NOON + within, seconds=takes), StartNow)
        for start in STARTS
    }

    assert begins["now"]
    assert begins["cheapest"] or not (begins["awake"] or begins["window"])


@given(start=st.sampled_from(["awake", "window", "cheapest"]), tiers=some_tiers(), within=spans, takes=seconds)
def test_nothing_is_woken_before_it_has_to_be(
    start: BatchStart, tiers: list[TierNow], within: timedelta, takes: float
) -> None:
    """Who did not say that it is to begin at once wakes nothing while there is time."""
    decision = decide(start, tiers, now=NOON, deadline=NOON + within, seconds=takes)
    late = NOON + max(each.longest_start for each in tiers) + timedelta(seconds=SPARE * takes) >= NOON + within

    coming = {each.name for each in tiers if each.is_coming}
    assert late or isinstance(decision, NotYet) or set(decision.wakes) <= coming


@pytest.mark.parametrize("takes", [1e13, 1e300])
def test_an_estimate_without_sense_ends_nothing(takes: float) -> None:
    """What would take longer than the calendar begins, and is told that it will not be done."""
    decision = decide("awake", [asleep], now=NOON, deadline=NOON + DAY, seconds=takes)

    assert isinstance(decision, StartNow)
    assert "it will not be done by its deadline" in decision.note
