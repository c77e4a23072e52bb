"""When callers asked, by five minutes: for each tier and model how many, beside the usage of the same day. Pure.

It says what the sums of a day cannot: whether somebody came to a tier that slept, and at which hours that happens.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from jobs.core import foreign

SLOT = timedelta(minutes=5)
SLOTS = 24 * 12
"""Of a day in UTC."""

MOST = 5_000
"""Entries of one day. Beyond that the models of a tier are one without a name: no caller's text may fill the ledger."""

Times = dict[tuple[str, str], dict[int, int]]
"""By tier and model: how many asked in each slot of the day in which anybody did."""

Asked = dict[datetime, dict[str, int]]
"""By the beginning of the slot, in UTC: how often each model was asked for."""


def note(times: Times, tier: str, model: str, at: datetime, count: int) -> None:
    """So many asked at about that time."""
    slot = (at.astimezone(UTC).hour * 60 + at.minute) * 60 // int(SLOT.total_seconds())
    slots = times.setdefault((tier, model), {})
    slots[slot] = slots.get(slot, 0) + count


def added(parts: Iterable[Times]) -> Times:
    """All of them as one, within bounds."""
    total: Times = {}
    for part in parts:
        for named, slots in part.items():
            kept = total.setdefault(named, {})
            for slot, count in slots.items():
                kept[slot] = kept.get(slot, 0) + count
    return total if sum(map(len, total.values())) <= MOST else _without_names(total)


def as_json(times: Times) -> list[dict[str, Any]]:
    return [
        {"tier": tier, "model": model, "slots": {str(slot): slots[slot] for slot in sorted(slots)}}
        for (tier, model), slots in sorted(times.items())
    ]


def from_json(document: Any) -> Times:
    """What makes no sense is passed over."""
    times: Times = {}
    for entry in map(foreign.fields, foreign.items(document)):
        slots = times.setdefault((foreign.text(entry.get("tier")), foreign.text(entry.get("model"))), {})
        for slot, count in foreign.fields(entry.get("slots")).items():
            if slot.isdecimal() and int(slot) < SLOTS:
                slots[int(slot)] = slots.get(int(slot), 0) + foreign.count(count)
    return times


def by_tier(days: Iterable[tuple[date, Times]]) -> Mapping[str, Asked]:
    """The same of several days, tier by tier, in the order of time."""
    found: dict[str, Asked] = {}
    for day, times in days:
        midnight = datetime.combine(day, time(), UTC)
        for (tier, model), slots in times.items():
            asked = found.setdefault(tier, {})
            for slot, count in slots.items():
                models = asked.setdefault(midnight + slot * SLOT, {})
                models[model] = models.get(model, 0) + count
    return {tier: dict(sorted(asked.items())) for tier, asked in found.items()}


def _without_names(times: Times) -> Times:
    total: Times = {}
    for (tier, _), slots in times.items():
        kept = total.setdefault((tier, ""), {})
        for slot, count in slots.items():
            kept[slot] = kept.get(slot, 0) + count
    return total
