"""When batches begin, by how the tiers are: what is asked before the first line, what wakes, and who goes early.

A wake is one of the tier's own of the day, and one is enough for all batches that begin while the tier comes. A batch
that waits is put into the queue as soon as what it waits for is there. When the last batch of a tier is over that one
of them woke, its servers are told that they may leave.
"""

import threading
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

from loguru import logger

from app.fleet.file import BadFleet
from app.fleet.schedule import due
from app.fleet.schema import Fleet, WindowConfig
from app.model_server.health import of_tier
from app.model_server.report import Report, ReportsOf
from app.scheduler.wake_budget import BY_BATCH, Wakes
from jobs.batches.records import KIND, BatchRecord, BatchState, Estimate
from jobs.batches.start_rules import Decision, NotYet, TierNow, decide, refused
from jobs.batches.woken_tiers import WokenTier
from jobs.core.clock import Clock
from jobs.core.errors import StoreTrouble
from jobs.core.units import counted
from jobs.ledger.ledger import Ledger
from jobs.ledger.open_jobs import OpenJob, OpenJobs
from jobs.models.placement import LOCAL
from jobs.store import keys
from jobs.store.protocols import DictLike, ReadableDict, ShrinkingDict


@dataclass(frozen=True)
class RentedTiers:
    """The tiers of a deployment, as their servers report, as windows keep them, and as batches have woken them."""

    facts: DictLike
    fleet: Fleet

    def now(self, names: Collection[str], now: datetime) -> list[TierNow]:
        """How these are.

        Raises:
            BadFleet: one of them is not declared.

        """
        reports = ReportsOf(self.facts)()
        return [self._tier(name, reports, now) for name in sorted(names)]

    def _tier(self, name: str, reports: Iterable[Report], now: datetime) -> TierNow:
        longest = self.fleet.tier(name).longest_start
        own = [each for each in reports if each.tier == name]
        woken = WokenTier.of(self.facts, name)
        return TierNow(
            name,
            is_awake=of_tier(name, own, now).state in {"ready", "degraded"},
            is_coming=woken is not None and woken.over_at is None and now - woken.woken_at < longest,
            in_window=bool(self.facts.get(keys.window(name))),
            next_window=next_window(self.fleet, name, now),
            longest_start=longest,
        )


@dataclass(frozen=True)
class OwnTiers:
    """The tiers of one machine: always awake. Windows are as they are declared, if anything is."""

    fleet: Fleet | None

    def now(self, names: Collection[str], now: datetime) -> list[TierNow]:
        return [self._tier(name, now) for name in sorted(names)]

    def _tier(self, name: str, now: datetime) -> TierNow:
        if self.fleet is None:
            return TierNow(name, is_awake=True)
        zone = self.fleet.schedule.zone
        is_open = any(window.is_open(now, zone) for window in _windows(self.fleet, name))
        opens = next_window(self.fleet, name, now)
        return TierNow(name, is_awake=True, in_window=is_open, next_window=opens)


def next_window(fleet: Fleet, tier: str, now: datetime) -> datetime | None:
    """When a window of the tier opens next; None where it has none."""
    coming = (next(due(window.start, fleet.schedule.zone, now), None) for window in _windows(fleet, tier))
    return min(filter(None, coming), default=None)


def _windows(fleet: Fleet, tier: str) -> list[WindowConfig]:
    """Of one machine's server that stands for all tiers, all of them."""
    return [window for window in fleet.windows if tier in {window.tier, LOCAL.name}]


# -- who goes early ----------------------------------------------------------------------------------------------------


def put_early(
    ledger: Ledger, facts: ReadableDict, tiers: RentedTiers | OwnTiers, going_on: Iterable[OpenJob], now: datetime
) -> list[str]:
    """Put the batches into the queue that wait, and need not any more; their ids. Where none waits, nothing is asked.

    Args:
        ledger: the jobs.
        facts: where batches are.
        tiers: how they are.
        going_on: the jobs that have not ended.
        now: the time.

    """
    early = []
    for entry in going_on:
        if _waits(entry, now) and _may_go(facts, tiers, entry.subject, now):
            ledger.enqueue(entry.id)
            early.append(entry.subject)
            logger.info("batch {} begins before it has to", entry.subject)
    return early


def _waits(entry: OpenJob, now: datetime) -> bool:
    return entry.kind == KIND and entry.is_posted and entry.running is None and not entry.is_due(now)


def _may_go(facts: ReadableDict, tiers: RentedTiers | OwnTiers, id: str, now: datetime) -> bool:
    written, said = facts.get(keys.batch(id)), facts.get(keys.batch_state(id))
    if written is None or said is None:
        return False
    start, state = BatchRecord.from_json(written).start, BatchState.from_json(said)
    try:
        return bool(state.tiers) and all(each.carries(start) for each in tiers.now(state.tiers, now))
    except BadFleet:  # a tier that is gone: it begins at its time, and that is told
        return False


# -- who asks whether it may begin -------------------------------------------------------------------------------------


def _seconds(estimate: Estimate | None) -> float:
    """That a batch takes; none, where nobody knows."""
    return estimate.seconds if estimate is not None else 0.0


class OwnStarts:
    """`BatchStarts` of one machine, where nothing is woken."""

    def __init__(self, fleet: Fleet | None, clock: Clock) -> None:
        self._tiers = OwnTiers(fleet)
        self._clock = clock

    def may_start(self, record: BatchRecord, estimate: Estimate | None, tiers: Collection[str]) -> Decision:
        now = self._clock.now()
        seen = self._tiers.now(tiers, now)
        return decide(record.start, seen, now=now, deadline=record.expires_at, seconds=_seconds(estimate))

    def over(self, record: BatchRecord, tiers: Collection[str]) -> None:
        """Nobody goes to sleep here."""


class RentedStarts:
    """`BatchStarts` of a deployment.

    Args:
        ledger: the jobs.
        facts: where everything is reported.
        fleet: what is declared.
        clock: the time.

    """

    def __init__(self, ledger: Ledger, facts: ShrinkingDict, fleet: Fleet, clock: Clock) -> None:
        self._ledger = ledger
        self._facts = facts
        self._fleet = fleet
        self._clock = clock
        self._tiers = RentedTiers(facts, fleet)
        self._wakes = Wakes(facts, fleet)
        self._open = OpenJobs(facts, clock)
        #: Held by whichever batch begins, or tells that it is over: neither overlooks the other in this process.
        self._deciding = threading.Lock()
        #: The tiers to which each batch that began here sends lines now; under `_deciding`.
        self._used_by: dict[str, frozenset[str]] = {}

    def may_start(self, record: BatchRecord, estimate: Estimate | None, tiers: Collection[str]) -> Decision:
        with self._deciding:
            now, seconds = self._clock.now(), _seconds(estimate)
            seen = self._tiers.now(tiers, now)
            decision = decide(record.start, seen, now=now, deadline=record.expires_at, seconds=seconds)
            if isinstance(decision, NotYet):
                return decision
            for tier in decision.wakes:
                if why := self._why_not_woken(tier, now, is_asked_for=record.start == "now"):
                    again_at = self._wakes.next_day(now)
                    return refused(
                        decision, why=why, again_at=again_at, now=now, deadline=record.expires_at, seconds=seconds
                    )
            for tier in set(tiers).difference(decision.wakes):
                self._goes_on(tier)
            self._used_by[record.id] = frozenset(tiers)
        if set(decision.wakes).difference(each.name for each in seen if each.is_coming):
            self._take_others_along(record.id, now)
        return decision

    def over(self, record: BatchRecord, tiers: Collection[str]) -> None:
        with self._deciding:
            self._used_by[record.id] = frozenset()
            for tier in tiers:
                try:
                    self._over(record.id, tier)
                except StoreTrouble as trouble:
                    logger.warning("tier {} is not told that its batches are over: {}", tier, trouble)

    def _why_not_woken(self, tier: str, now: datetime, *, is_asked_for: bool) -> str:
        """Take a wake, unless one was taken for other batches just now; empty, or why it must not be woken."""
        if self._wakes.is_stopped(now):
            return "the month's budget is spent"
        woken = WokenTier.of(self._facts, tier)
        since = now - self._fleet.tier(tier).longest_start
        if woken is not None and woken.over_at is not None:
            since = max(since, woken.over_at)
        if not self._wakes.take(tier, BY_BATCH, now, since=since, is_asked_for=is_asked_for):
            allowed = self._wakes.budget(tier)
            used = f"its {counted(allowed, 'wake')} of our own for today {'is' if allowed == 1 else 'are'} used up"
            return f"{used} (tiers.{tier}.own_wakes_per_day)"
        if woken is None or woken.over_at is not None or woken.woken_at < since:
            WokenTier(now).say(self._facts, tier)
        return ""

    def _goes_on(self, tier: str) -> None:
        """A tier that batches woke, and whose servers were told to leave just now, is in use again."""
        woken = WokenTier.of(self._facts, tier)
        if woken is not None and woken.over_at is not None:
            WokenTier(woken.woken_at).say(self._facts, tier)

    def _take_others_along(self, id: str, now: datetime) -> None:
        """What waits for a GPU to be awake begins with this batch. One that is overlooked begins at the next tick."""
        try:
            others = [entry for entry in self._open.all().jobs if entry.subject != id]
            put_early(self._ledger, self._facts, self._tiers, others, now)
        except StoreTrouble as trouble:
            logger.warning("whether other batches wait is not known: {}", trouble)

    def _over(self, id: str, tier: str) -> None:
        woken = WokenTier.of(self._facts, tier)
        if woken is None or woken.over_at is not None or self._fleet.tier(tier).min_containers:
            return
        if self._facts.get(keys.window(tier)) or self._is_used_by_others(id, tier):
            return
        WokenTier(woken.woken_at, self._clock.now()).say(self._facts, tier)
        logger.info("the batches that woke {} are over; its servers may leave", tier)

    def _is_used_by_others(self, id: str, tier: str) -> bool:
        others = (
            entry.subject
            for entry in self._open.all().jobs
            if entry.kind == KIND and entry.running is not None and entry.subject != id
        )
        return any(tier in self._tiers_used_by(other) for other in others)

    def _tiers_used_by(self, other: str) -> Collection[str]:
        """Where a running batch sends lines; as it says itself, where it began elsewhere."""
        if (known := self._used_by.get(other)) is not None:
            return known
        said = self._facts.get(keys.batch_state(other))
        state = BatchState.from_json(said) if said is not None else None
        return state.tiers if state is not None and state.status == "in_progress" else ()
