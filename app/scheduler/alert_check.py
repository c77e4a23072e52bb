"""The alert check of every tick: how the tiers are, what has come up, what has passed; and the delivery of the news.

Checking writes facts and waits for nobody. Delivery is apart, because a webhook may hang.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from loguru import logger

from app.fleet.schedule import night_began
from app.fleet.schema import Fleet
from app.model_server.health import GONE, LOST_FOR, Health, Turn, next_turn, of_tier
from app.model_server.report import Report
from app.scheduler.alert_rules import AlertFacts, incidents
from app.scheduler.wake_budget import Wakes
from jobs.core.clock import Clock, isoformat
from jobs.core.errors import Trouble
from jobs.listing.dead_memory import KnownJobs
from jobs.store import keys
from jobs.store.protocols import DictLike
from jobs.telemetry.incidents import AlertDelivery, Case, cases, due_alerts, record

WEBHOOK = "OLLAMA_MODAL_WEBHOOK"

STALE = timedelta(days=1)
"""Older news is none: a webhook that is set up today need not hear of last week."""

_ELSEWHERE = frozenset({"open", "audit", "access", "batches"})
"""The sorts of which a check needs nothing, or asks the ledger."""

LISTED = tuple(begin for sort, begins in keys.SORTS.items() if sort not in _ELSEWHERE for begin in begins)
"""What a check judges by, beside the jobs: how the keys begin."""

AT_ONCE = 20
"""Messages of one delivery; the rest waits for the next."""


@dataclass(frozen=True)
class AlertsChecked:
    """What a check found: how each tier is, the cases that are open, and whether there is news to deliver."""

    health: tuple[Health, ...]
    open: tuple[Case, ...]
    has_news: bool


def check(jobs: KnownJobs, facts: DictLike, fleet: Fleet, now: datetime, *, rented: bool = True) -> AlertsChecked:
    """See how everything is, and write down what has changed. Two checks at once write the same.

    Args:
        jobs: what is known of them.
        facts: the ledger's dict.
        fleet: what should be.
        now: the time.
        rented: false on one machine.

    """
    if facts.get(keys.NIGHTS_SINCE) is None:
        facts.put(keys.NIGHTS_SINCE, {"v": 1, "at": isoformat(now)}, skip_if_exists=True)
    entries = dict(facts.items(*LISTED)) | {key: facts.get(key) for key in (keys.WEIGHTS_ROOM, keys.WEIGHTS_MODELS)}
    health = healths(entries, fleet, now, rented=rented)
    before = last_turns(entries)
    for each in (*health, *_gone(before, health, now, rented=rented)):
        _write_turn(facts, before.get(each.tier), each, now)
    wakes = Wakes(facts, fleet)
    alert_facts = AlertFacts(
        entries=entries,
        jobs=jobs,
        health=health,
        refused=[tier for tier in fleet.tiers if wakes.is_used_up(tier, now)],
        night_began=night_began(fleet.schedule.times, now),
        now=now,
        rented=rented,
    )
    known = cases(entries)
    after = record(facts, known, incidents(fleet, alert_facts), now)
    latest = {case.id: case for case in (*known, *after)}
    fresh = [alert for alert in due_alerts(latest.values()) if _is_fresh(alert.case, now)]
    return AlertsChecked(tuple(health), tuple(case for case in after if case.is_open), bool(fresh))


def keep(facts: DictLike, now: datetime) -> None:
    """Read by its key what is only listed otherwise, and counts for longer than the seven days of a Dict's memory."""
    entries = dict(facts.items(keys.HEALTH, *keys.CASES))
    for tier, turn in last_turns(entries).items():
        if now - turn.at >= keys.LASTS and turn.health.state != GONE:
            facts.get(keys.health(tier, turn.n))
    for case in cases(entries):
        if case.is_open and now - case.opened_at >= keys.LASTS:
            facts.get(keys.incident(case.id))
            facts.get(keys.told(case.id, "opened"))


def healths(entries: Mapping[str, Any], fleet: Fleet, now: datetime, *, rented: bool = True) -> list[Health]:
    """How each tier of the fleet is, by the reports among these entries; on one machine, each that a server is of."""
    reports = [Report.from_json(value) for key, value in entries.items() if key.startswith(keys.SERVER)]
    others = () if rented else sorted({each.tier for each in reports if not each.is_final})
    of: dict[str, list[Report]] = {tier: [] for tier in (*fleet.tiers, *others)}
    for each in reports:
        of.get(each.tier, []).append(each)
    return [of_tier(tier, reports_of_tier, now) for tier, reports_of_tier in of.items()]


def _gone(before: Mapping[str, Turn], health: Iterable[Health], now: datetime, *, rented: bool) -> Iterator[Health]:
    """The tiers with a history that are there no more. On one machine one that just started may not have reported."""
    there = {each.tier for each in health}
    for tier, turn in before.items():
        if tier not in there and turn.health.state != GONE and (rented or now - turn.at > LOST_FOR):
            yield Health(tier, GONE)


def turns(entries: Mapping[str, Any], tier: str) -> list[Turn]:
    """The history of a tier, oldest first."""
    turns_of_tier = [Turn.from_json(value) for key, value in entries.items() if key.startswith(keys.health(tier, ""))]
    return sorted(turns_of_tier, key=lambda turn: turn.n)


def last_turns(entries: Mapping[str, Any]) -> Mapping[str, Turn]:
    """The newest entry of each tier's history."""
    last: dict[str, Turn] = {}
    for key, value in entries.items():
        if key.startswith(keys.HEALTH):
            tier, turn = key.removeprefix(keys.HEALTH).rpartition("/")[0], Turn.from_json(value)
            if tier not in last or turn.n > last[tier].n:
                last[tier] = turn
    return last


def _write_turn(facts: DictLike, last: Turn | None, health: Health, now: datetime) -> None:
    turn = next_turn(last, health, now)
    if turn is not None and facts.put(keys.health(health.tier, turn.n), turn.as_json(), skip_if_exists=True):
        logger.info("tier {} is {}{}", health.tier, health.state, f": {health.why}" if health.why else "")


def _is_fresh(case: Case, now: datetime) -> bool:
    return now - (case.recovered_at or case.seen_at) < STALE


def deliver(facts: DictLike, clock: Clock, post: Callable[[str], None]) -> int:
    """Deliver what nobody was told yet; how many messages went out. The first that does not get through ends it."""
    entries, sent = dict(facts.items(*keys.CASES, keys.STILL_OPEN)), 0
    delivery = AlertDelivery(facts, clock, entries)
    for alert in list(due_alerts(cases(entries)))[:AT_ONCE]:
        if not _is_fresh(alert.case, clock.now()):
            delivery.settle(alert, "too old")
        elif delivery.may_send(alert):
            try:
                post(f"ollama-modal: {alert.text}")
            except Trouble as trouble:
                logger.warning("nobody could be told of {}: {}", alert.id, trouble)
                return sent
            delivery.settle(alert)
            sent += 1
    return sent
