"""When a batch begins: at once, when a GPU is awake anyway, in a window, whichever comes first; in time, at the latest.

    now       at once
    awake     when a GPU of its tier is awake
    window    when a window of its tier is open
    cheapest  whichever of the two comes first

Each of the last three wakes one so that the deadline holds. Pure: how the tiers are is handed in, and so is the time.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from jobs.batches.records import BatchRecord, BatchStart, Estimate
from jobs.core.clock import isoformat
from jobs.core.units import human_span

SPARE = 1.25
"""An estimate times this is meant to be enough."""


@dataclass(frozen=True)
class TierNow:
    """A tier at one moment, as far as it decides when a batch begins.

    Args:
        name: its name.
        is_awake: one of its servers is up.
        is_coming: a batch has woken it just now.
        in_window: a window keeps one up, or is about to.
        next_window: when its next one opens; None where it has none.
        longest_start: how long somebody may have to wait for it where it sleeps.

    """

    name: str
    is_awake: bool = False
    is_coming: bool = False
    in_window: bool = False
    next_window: datetime | None = None
    longest_start: timedelta = timedelta(0)

    @property
    def sleeps(self) -> bool:
        return not (self.is_awake or self.in_window)

    def carries(self, start: BatchStart) -> bool:
        """Whether such a batch begins on it as it is."""
        if start == "now":
            return not self.sleeps or self.is_coming
        is_there = start in {"awake", "cheapest"} and (self.is_awake or self.is_coming)
        return is_there or (start in {"window", "cheapest"} and self.in_window)


@dataclass(frozen=True)
class StartNow:
    """It begins.

    Args:
        wakes: the tiers that it has to wake for that; those that are coming among them, in case they do not.
        note: what will not hold; empty where all will.

    """

    wakes: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class NotYet:
    """It waits.

    Args:
        not_before: when it is worth asking again, should nothing change before.
        latest: when it begins at the latest.
        note: what for; and what will not hold.

    """

    not_before: datetime
    latest: datetime
    note: str


Decision = StartNow | NotYet


class BatchStarts(Protocol):
    """Whom a batch asks whether it may begin, and tells that it is done. Any thread may."""

    def may_start(self, record: BatchRecord, estimate: Estimate | None, tiers: Collection[str]) -> Decision:
        """Whether its lines may be sent now.

        Asked before the first line of each attempt; and again when lines were turned away for long, since a tier may
        have fallen asleep. What has to be woken for it is counted, and may be woken by its lines, once this has said
        so.

        Args:
            record: the batch as it was posted.
            estimate: of what is left of it; None where nobody knows.
            tiers: those that its lines go to.

        Raises:
            StoreTrouble: the ledger does not answer.

        """

    def over(self, record: BatchRecord, tiers: Collection[str]) -> None:
        """No line of it will be sent any more, for now: tiers that batches alone kept awake may go back to sleep.

        It raises nothing: a tier that was not told falls asleep later, by itself.
        """


def decide(
    start: BatchStart, tiers: Sequence[TierNow], *, now: datetime, deadline: datetime, seconds: float
) -> Decision:
    """Whether a batch begins now.

    Args:
        start: how it was posted.
        tiers: those that its lines go to.
        now: the time.
        deadline: of the batch.
        seconds: that it takes, from its first line to its last, as far as is known.

    """
    asleep = [each for each in tiers if each.sleeps]
    latest = latest_start(tiers, deadline, seconds)
    if start == "now" or all(each.carries(start) for each in tiers) or now >= latest:
        ready = now + max((each.longest_start for each in asleep), default=timedelta(0))
        return StartNow(tuple(each.name for each in asleep), _late_note(ready, seconds, deadline))
    opening = min(_openings(start, tiers, now), default=latest)
    return NotYet(min(opening, latest), latest, _waiting_note(start, tiers, opening, latest))


def latest_start(tiers: Sequence[TierNow], deadline: datetime, seconds: float) -> datetime:
    """When a batch has to begin so that it is done by its deadline, though all of its tiers have to be woken."""
    longest = max((each.longest_start for each in tiers), default=timedelta(0))
    return _before(deadline, longest.total_seconds() + SPARE * seconds)


def refused(
    wanted: StartNow, *, why: str, again_at: datetime, now: datetime, deadline: datetime, seconds: float
) -> NotYet:
    """What becomes of a batch that should have woken a tier and must not.

    Args:
        wanted: what was decided.
        why: it must not, in words.
        again_at: when the next wake may be had.
        now: the time.
        deadline: of the batch.
        seconds: that it takes.

    """
    late = _late_note(again_at, seconds, deadline)
    risk = late or f"unless a GPU is awake before, it may not be done by its deadline, {isoformat(deadline)}"
    note = f"{' and '.join(wanted.wakes)} must not be woken: {why}; tried again at {isoformat(again_at)}; {risk}"
    return NotYet(max(again_at, now), max(again_at, now), note)


def _openings(start: BatchStart, tiers: Sequence[TierNow], now: datetime) -> Iterator[datetime]:
    for each in tiers:
        opens = each.next_window
        if start in {"window", "cheapest"} and opens is not None and opens > now and not each.carries(start):
            yield opens


def _waiting_note(start: BatchStart, tiers: Sequence[TierNow], opening: datetime, latest: datetime) -> str:
    names = " and ".join(each.name for each in tiers if not each.carries(start))
    opens = f"the window of {names} that opens at {isoformat(opening)}"
    awake = f"a GPU of {names} to be awake"
    has_window = start != "awake" and opening < latest
    what = {"awake": awake, "window": opens if has_window else f"a window of {names}"}.get(
        start, f"{awake}, or for {opens}" if has_window else awake
    )
    return f"waits for {what}; it begins at {isoformat(latest)} at the latest"


def _late_note(ready: datetime, seconds: float, deadline: datetime) -> str:
    done = _after(ready, seconds)
    if done <= deadline:
        return ""
    return (
        f"it will not be done by its deadline, {isoformat(deadline)}: it takes about {human_span(seconds)},"
        f" until {isoformat(done)}"
    )


def _before(moment: datetime, seconds: float) -> datetime:
    """So many seconds before; the beginning of time where an estimate makes no sense."""
    try:
        return moment - timedelta(seconds=seconds)
    except OverflowError:
        return datetime.min.replace(tzinfo=moment.tzinfo)


def _after(moment: datetime, seconds: float) -> datetime:
    try:
        return moment + timedelta(seconds=seconds)
    except OverflowError:
        return datetime.max.replace(tzinfo=moment.tzinfo)
