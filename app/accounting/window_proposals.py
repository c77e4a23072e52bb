"""Windows that would have paid: proposed from when callers asked, tier by tier. Pure.

Each hour of the week is looked at by itself: how often callers met a cold start in it, and how many seconds a window
would have kept a GPU awake that was asleep. It is worth a window where the cold starts of it cost less than a person is
ready to pay for each, and where callers came on most of its days: what came once in a while is no habit. Days of one
kind are looked at together, since a few weeks say more of five days than of one.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from zoneinfo import ZoneInfo

SLOT = timedelta(minutes=5)
"""Callers are known by the five minutes in which they asked."""

HOUR = timedelta(hours=1)
DAYS, HOURS = 7, 24
WEEK = DAYS * HOURS
"""Hours of a week, from Monday on. One that comes twice in a night counts for the hour that it is called."""

LEAST_DAYS = 14
"""A habit shows on the same day of two weeks at least."""

HABIT = 0.5
"""In this share of the days that an hour was looked at, callers have to have come."""

WORKDAYS, WEEKEND = range(5), range(5, 7)

Span = tuple[datetime, datetime]
Asked = Mapping[datetime, Mapping[str, int]]
"""How often each model was asked for, by the beginning of the five minutes, in UTC."""


@dataclass(frozen=True)
class Tier:
    """What a window of a tier costs and saves.

    Args:
        tail: how long a container stays idle before it ends.
        cold: how long a start takes.
        dollars_per_hour: while it is awake.
        most_models: that it holds in memory.
        most_openings: of windows in a day; further ones would not wake it.

    """

    tail: timedelta
    cold: timedelta
    dollars_per_hour: float
    most_models: int
    most_openings: int


@dataclass(frozen=True)
class Outcome:
    """What became of the callers in a time, and what it took.

    Args:
        cold_starts: that callers met.
        seconds: for which the tier was awake.

    """

    cold_starts: int
    seconds: float


@dataclass(frozen=True)
class Proposal:
    """A window, as a fleet file declares it, and what it would have done in the time that was looked at.

    Args:
        start: a cron line, in the fleet's timezone.
        hours: that it is open.
        models: that were asked for in it, the most asked for first.
        avoided: cold starts that callers would not have met.
        extra_seconds: for which it alone would have kept the tier awake.

    """

    start: str
    hours: int
    models: tuple[str, ...]
    avoided: int
    extra_seconds: float


@dataclass
class _Hour:
    """An hour of the week, added up over the weeks."""

    looked_at: int = 0
    asked_in: int = 0
    cold_starts: int = 0
    asleep_seconds: float = 0.0

    def __add__(self, other: "_Hour") -> "_Hour":
        return _Hour(
            self.looked_at + other.looked_at,
            self.asked_in + other.asked_in,
            self.cold_starts + other.cold_starts,
            self.asleep_seconds + other.asleep_seconds,
        )

    def pays(self, worth: timedelta) -> bool:
        """Whether callers come in it by habit, and no cold start avoided takes more of the GPU than it is worth."""
        is_habit = self.looked_at > 0 and self.asked_in >= HABIT * self.looked_at
        return is_habit and self.cold_starts * worth.total_seconds() >= self.asleep_seconds


def propose(asked: Asked, tier: Tier, zone: ZoneInfo, span: Span, worth: timedelta) -> list[Proposal]:
    """The windows that would have paid in a time, in the order of the week.

    Args:
        asked: by callers, with no window open.
        tier: what they asked.
        zone: of the fleet's windows.
        span: the time that is known of; nothing comes of less than `LEAST_DAYS`.
        worth: how long a GPU may be awake for one cold start that nobody meets.

    """
    if span[1] - span[0] < timedelta(days=LEAST_DAYS):
        return []
    week = _week(asked, tier, zone, span)
    paying = _without_short_gaps(_paying(week, worth), week, tier)
    proposals = [_proposal(days, start, length, week, asked, zone, tier) for days, start, length in _windows(paying)]
    return _affordable(proposals, tier.most_openings)


def outcome(asked: Asked, tier: Tier, open_: Iterable[Span], span: Span) -> Outcome:
    """What callers would have met in a time with these windows, as far as five minutes tell."""
    windows = _merged(open_)
    callers = sorted(at for at in asked if span[0] <= at < span[1])
    cold_starts, awake_until, place = 0, span[0], 0
    for at in callers:
        while place < len(windows) and windows[place][1] <= at:
            place += 1
        is_open = place < len(windows) and windows[place][0] <= at
        cold_starts += not is_open and at >= awake_until
        awake_until = at + SLOT + tier.tail
    awake = _merged(chain(windows, ((at, at + SLOT + tier.tail) for at in callers)))
    seconds = sum((end - begin).total_seconds() for begin, end in awake)
    return Outcome(cold_starts, seconds + cold_starts * tier.cold.total_seconds())


# -- the hours of a week -----------------------------------------------------------------------------------------------


def _week(asked: Asked, tier: Tier, zone: ZoneInfo, span: Span) -> list[_Hour]:
    """Each hour of the week, added up."""
    hours = [_Hour() for _ in range(WEEK)]
    callers = sorted(at for at in asked if span[0] <= at < span[1])
    awake = _merged((at, at + SLOT + tier.tail) for at in callers)
    starts = Counter(_hour_of(begin) for begin, _ in awake)
    came = {_hour_of(at) for at in callers}
    waking = Counter[datetime]()
    for begin, end in awake:
        for at, first, last in _by_hour(begin, end):
            waking[at] += int((last - first).total_seconds())
    at = _hour_of(span[0])
    while at < span[1]:
        hour = hours[_of_week(at, zone)]
        hour.looked_at += 1
        hour.asked_in += at in came
        hour.cold_starts += starts[at]
        hour.asleep_seconds += HOUR.total_seconds() - waking[at]
        at += HOUR
    return hours


def _paying(week: Sequence[_Hour], worth: timedelta) -> set[int]:
    """The hours of the week that are worth a window, by days of one kind where those agree, else by the day."""
    found = set()
    for hour in range(HOURS):
        for days in (WORKDAYS, WEEKEND):
            each = [day * HOURS + hour for day in days]
            together = sum((week[place] for place in each), _Hour())
            found |= set(each) if together.pays(worth) else {place for place in each if _is_sure(week[place], worth)}
    return found


def _is_sure(hour: _Hour, worth: timedelta) -> bool:
    """Whether one day's hour pays by itself: not by the chance of a week or two."""
    return hour.asked_in >= 3 and hour.pays(worth)


def _without_short_gaps(paying: set[int], week: Sequence[_Hour], tier: Tier) -> set[int]:
    """The same, with an hour between two that pay where sleeping through it saves less than one more start takes."""
    start = (tier.cold + tier.tail).total_seconds()
    gaps = {
        place
        for place in set(range(WEEK)) - paying
        if {(place - 1) % WEEK, (place + 1) % WEEK} <= paying
        if week[place].asleep_seconds <= start * week[place].looked_at
    }
    return paying | gaps


# -- windows -----------------------------------------------------------------------------------------------------------


def _windows(paying: set[int]) -> Iterator[tuple[tuple[int, ...], int, int]]:
    """Days, first hour and length of each window: hours that follow one another, those of several days together."""
    days: dict[tuple[int, int], list[int]] = {}
    for place in sorted(paying):
        if len(paying) < WEEK and (place - 1) % WEEK in paying:
            continue
        length = 1
        while length < WEEK and (place + length) % WEEK in paying:
            length += 1
        for part in range(0, length, HOURS):
            begin = (place + part) % WEEK
            days.setdefault((begin % HOURS, min(HOURS, length - part)), []).append(begin // HOURS)
        if len(paying) == WEEK:
            break
    for (start, length), each in days.items():
        yield tuple(sorted(each)), start, length


def _proposal(  # noqa: PLR0917 - a window, and what it is made of
    days: tuple[int, ...],
    start: int,
    length: int,
    week: Sequence[_Hour],
    asked: Asked,
    zone: ZoneInfo,
    tier: Tier,
) -> Proposal:
    places = {(day * HOURS + start + hour) % WEEK for day in days for hour in range(length)}
    models: Counter[str] = Counter()
    for at, each in asked.items():
        if _of_week(at, zone) in places:
            models.update(each)
    hours = [week[place] for place in places]
    return Proposal(
        start=f"0 {start} * * {_cron_days(days)}",
        hours=length,
        models=tuple(name for name, _ in models.most_common(tier.most_models)),
        avoided=sum(hour.cold_starts for hour in hours),
        extra_seconds=sum(hour.asleep_seconds for hour in hours),
    )


def _cron_days(days: Sequence[int]) -> str:
    """As cron counts them, from Sunday on."""
    if len(days) == DAYS:
        return "*"
    numbers = sorted((day + 1) % DAYS for day in days)
    if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]}-{numbers[-1]}"
    return ",".join(map(str, numbers))


def _affordable(proposals: list[Proposal], most_openings: int) -> list[Proposal]:
    """No more windows than may wake the tier in a day: those that avoid the most."""
    kept: list[Proposal] = []
    openings: Counter[str] = Counter()
    for each in sorted(proposals, key=lambda each: (-each.avoided, each.start)):
        days = _days_of(each.start)
        if all(openings[day] < most_openings for day in days):
            openings.update(days)
            kept.append(each)
    return sorted(kept, key=proposals.index)


def _days_of(start: str) -> list[str]:
    days = start.rsplit(maxsplit=1)[-1]
    if days == "*":
        return list(map(str, range(DAYS)))
    first, _, last = days.partition("-")
    return [str(day) for day in range(int(first), int(last) + 1)] if last else days.split(",")


# -- time --------------------------------------------------------------------------------------------------------------


def _hour_of(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _of_week(at: datetime, zone: ZoneInfo) -> int:
    local = at.astimezone(zone)
    return local.weekday() * HOURS + local.hour


def _merged(spans: Iterable[Span]) -> list[Span]:
    """In order, those that touch as one."""
    found: list[Span] = []
    for begin, end in sorted(spans):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((begin, end))
    return found


def _by_hour(begin: datetime, end: datetime) -> Iterator[tuple[datetime, datetime, datetime]]:
    """Each hour that a span is in, with its part of it."""
    at = _hour_of(begin)
    while at < end:
        yield at, max(begin, at), min(end, at + HOUR)
        at += HOUR
