"""Windows are proposed where callers come by habit, and on weeks that nobody has seen they are nearly as good as the
best that a person would have declared."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from app.accounting.window_proposals import SLOT, Proposal, Span, Tier, outcome, propose
from app.fleet.schedule import due

BERLIN = ZoneInfo("Europe/Berlin")
TIER = Tier(timedelta(minutes=5), timedelta(seconds=40), 2.0, 2, 4)
WORTH = timedelta(hours=1)
FIRST = datetime(2026, 8, 3, tzinfo=BERLIN)
"""A Monday; an hour comes twice in the weeks after it."""

KNOWN = (FIRST, FIRST + timedelta(weeks=8))
UNSEEN = (KNOWN[1], KNOWN[1] + timedelta(weeks=6))

BY_HAND = (Proposal("0 9 * * 1-5", 9, (), 0, 0), Proposal("0 2 * * *", 1, (), 0, 0))
"""What a person who knows their hours and the batch would declare."""


def working_hours(day: datetime, dice: random.Random, an_hour: float) -> Iterator[datetime]:
    """People between nine and six on working days, so many requests in an hour."""
    at = day.replace(hour=9)
    while day.weekday() < 5 and (at := at + timedelta(hours=dice.expovariate(an_hour))) < day.replace(hour=18):
        yield at


def batch(day: datetime, dice: random.Random) -> Iterator[datetime]:
    """Every night a quarter of an hour, a few minutes after two."""
    began = day.replace(hour=2, minute=dice.randrange(2, 8))
    yield from (began + timedelta(minutes=minute) for minute in range(15))


def noise(day: datetime, dice: random.Random, a_day: float) -> Iterator[datetime]:
    """Somebody at any hour."""
    at = day
    while (at := at + timedelta(days=dice.expovariate(a_day))) < day + timedelta(days=1):
        yield at


def traffic(span: Span, seed: int, *, an_hour: float = 3.0, a_day: float = 0.7) -> dict[datetime, dict[str, int]]:
    """By five minutes, as it is recorded."""
    dice = random.Random(seed)
    asked: dict[datetime, dict[str, int]] = {}
    day = span[0]
    while day < span[1]:
        callers = [(at, "llama3.2") for at in working_hours(day, dice, an_hour)]
        callers += [(at, "qwen3") for at in batch(day, dice)]
        callers += [(at, "mistral") for at in noise(day, dice, a_day)]
        for moment, model in callers:
            at = moment.astimezone(UTC)
            slot = at - timedelta(minutes=at.minute % 5, seconds=at.second, microseconds=at.microsecond)
            models = asked.setdefault(slot, {})
            models[model] = models.get(model, 0) + 1
        day += timedelta(days=1)
    return asked


def spans(proposals: tuple[Proposal, ...] | list[Proposal], span: Span) -> Iterator[Span]:
    for each in proposals:
        for start in due(each.start, BERLIN, span[0] - timedelta(seconds=1)):
            if start >= span[1]:
                break
            yield start, start + timedelta(hours=each.hours)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("an_hour", [1.5, 3.0, 6.0])
def test_unseen_weeks_are_served_as_by_the_best_hand(seed: int, an_hour: float) -> None:
    """At least four of five cold starts are not met in the weeks after those that the proposals are made from, and the
    GPU is awake for a fifth longer at most than with the best windows that a person would have declared."""
    proposed = propose(traffic(KNOWN, seed, an_hour=an_hour), TIER, BERLIN, KNOWN, WORTH)
    unseen = traffic(UNSEEN, seed + 1000, an_hour=an_hour)

    without = outcome(unseen, TIER, (), UNSEEN)
    by_hand = outcome(unseen, TIER, spans(BY_HAND, UNSEEN), UNSEEN)
    ours = outcome(unseen, TIER, spans(proposed, UNSEEN), UNSEEN)

    assert ours.cold_starts <= 0.2 * without.cold_starts
    assert ours.seconds <= 1.2 * by_hand.seconds


def test_noise_is_no_habit() -> None:
    """Who comes at any hour is proposed no window."""
    dice = random.Random(1)
    asked = {
        at.astimezone(UTC): {"mistral": 1} for day in range(56) for at in noise(FIRST + timedelta(days=day), dice, 2.0)
    }

    assert propose(asked, TIER, BERLIN, KNOWN, WORTH) == []


def test_two_weeks_are_the_least() -> None:
    """Of less than two weeks nothing is proposed."""
    span = (FIRST, FIRST + timedelta(days=13))

    assert propose(traffic(span, 1), TIER, BERLIN, span, WORTH) == []


def test_a_window_has_the_models_that_are_asked_for_in_it() -> None:
    """Each window loads what callers ask for while it is open, the most asked for first, as many as fit."""
    proposed = {each.start: each for each in propose(traffic(KNOWN, 3), TIER, BERLIN, KNOWN, WORTH)}

    assert proposed["0 2 * * *"].models[0] == "qwen3"
    assert proposed["0 9 * * 1-5"].models[0] == "llama3.2"
    assert all(len(each.models) <= TIER.most_models for each in proposed.values())


def test_a_tier_that_may_not_be_woken_is_proposed_no_window() -> None:
    """No more windows a day are proposed than may wake the tier."""
    asked = traffic(KNOWN, 3)

    [one] = propose(asked, Tier(TIER.tail, TIER.cold, 2.0, 2, 1), BERLIN, KNOWN, WORTH)

    assert one.start == "0 9 * * 1-5"  # which avoids more than the one of the batch
    assert propose(asked, Tier(TIER.tail, TIER.cold, 2.0, 2, 0), BERLIN, KNOWN, WORTH) == []


def test_a_night_that_never_ends_is_windows_of_a_day() -> None:
    """Callers who never stop get windows of a day each, none longer."""
    at, asked = FIRST.astimezone(UTC), {}
    while at < KNOWN[1]:
        asked[at] = {"llama3.2": 1}
        at += 3 * SLOT

    [each] = propose(asked, TIER, BERLIN, KNOWN, WORTH)

    assert (each.start, each.hours) == ("0 0 * * *", 24)
