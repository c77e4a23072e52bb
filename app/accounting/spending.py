"""What the servers of a deployment have cost, about: from the Dict, and from the archive for what has left it."""

import threading
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from app.fleet.schema import Fleet
from jobs.archive.archive_files import Archive
from jobs.archive.archived import COLD, METERS, USAGE, archived_facts, archived_turns
from jobs.core.clock import Clock, isoformat
from jobs.store import keys
from jobs.store.protocols import DictLike
from jobs.telemetry import usage
from jobs.telemetry.cold_starts import cold_starts
from jobs.telemetry.container_time import metered
from jobs.telemetry.cost import Cost, cost


def archived_usage(archive: Archive) -> dict[str, Any]:
    """What the archive knows of containers, cold starts and usage, by the keys that it had in the Dict."""
    return archived_facts(archive, METERS) | archived_facts(archive, USAGE) | archived_facts(archive, COLD)


PAST_EVERY = timedelta(minutes=5)
"""The archive grows once a night, or once an hour."""


class Past:
    """What dashboards want to know of the archive: usage, container time and the tiers' history, by the keys that these
    had in the ledger's dict. Threads may share one.

    Args:
        archive: where it is.
        clock: for its age: it is read again after some minutes.
        before: called before it is read.

    """

    def __init__(self, archive: Archive, clock: Clock, before: Callable[[], object] = tuple) -> None:
        self._archive = archive
        self._clock = clock
        self._before = before
        self._lock = threading.Lock()
        #: What was read last, and when; under `_lock`.
        self._known: Mapping[str, Any] = {}
        self._read_at = float("-inf")

    def __call__(self) -> Mapping[str, Any]:
        with self._lock:
            now = self._clock.monotonic()
            if now - self._read_at >= PAST_EVERY.total_seconds():
                self._before()
                self._known = archived_usage(self._archive) | archived_turns(self._archive)
                self._read_at = now
            return self._known


def estimate(entries: Mapping[str, Any], fleet: Fleet, since: datetime, until: datetime) -> Cost:
    """What was spent between two moments, as far as these entries know: those of the Dict, and those of the archive."""
    return cost(
        metered(entries),
        rows_since(entries, since),
        {tier: fleet.dollars_per_hour(tier) for tier in fleet.tiers},
        since=since,
        until=until,
        as_of=fleet.prices.as_of.isoformat(),
        source=fleet.prices.source,
        cold=cold_starts(entries, since),
    )


def rows_since(entries: Mapping[str, Any], since: datetime) -> list[usage.Row]:
    """The usage of the days since then."""
    first = since.date().isoformat()
    return [
        row
        for key, value in entries.items()
        if key.startswith(keys.USAGE) and key.removeprefix(keys.USAGE)[:10] >= first
        for row in usage.rows_of(value)
    ]


# -- the month's budget ------------------------------------------------------------------------------------------------


def month_began(fleet: Fleet, now: datetime) -> datetime:
    local = now.astimezone(fleet.schedule.zone)
    return local.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def note_month(facts: DictLike, archive: Archive, fleet: Fleet, now: datetime) -> None:
    """Write down what the archive knows of this month, for whoever has no volume to look at: the tick."""
    began = month_began(fleet, now)
    known = estimate(archived_facts(archive, METERS), fleet, began, now)
    facts.put(keys.spent(f"{began:%Y-%m}"), {"v": 1, "at": isoformat(now), "dollars": round(known.dollars, 4)})


def month_dollars(entries: Mapping[str, Any], fleet: Fleet, now: datetime) -> float:
    """What this month has cost so far: what has been archived of it, and what has not yet."""
    began = month_began(fleet, now)
    archived = entries.get(keys.spent(f"{began:%Y-%m}")) or {}
    return float(archived.get("dollars", 0.0)) + estimate(entries, fleet, began, now).dollars
