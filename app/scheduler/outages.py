"""What the platform failed at, as a fact: written by whoever met it, once it can be written; read by the alert check.

The fact is `platform/<who>`, overwritten: when, which parts of a tick or a night failed, and in which words the first
of them. A store that is away cannot be told so; but the tick that finds it again sees how long none was done before it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from loguru import logger

from app.scheduler.absence import ABSENCE
from jobs.core.clock import isoformat, parse_moment
from jobs.core.errors import NetworkTrouble, StoreTrouble
from jobs.store import keys
from jobs.store.protocols import DictLike

LONG_AGO = timedelta(days=1)
"""After so long without a tick it was taken down, rather than away."""

FRESH = timedelta(minutes=15)
"""A tick comes every few minutes; what has not been met for so long has passed."""

ABSENCE_TOLD = timedelta(days=1)
"""For so long somebody who comes back may look."""


@dataclass(frozen=True)
class PlatformOutage:
    who: str
    at: datetime
    parts: tuple[str, ...]
    message: str


def is_of_platform(error: Exception) -> bool:
    """Whether it is the platform that failed, and not we."""
    return isinstance(error, NetworkTrouble | StoreTrouble)


def note(facts: DictLike, who: str, failed: Mapping[str, Exception], now: datetime) -> None:
    """Write down what failed of a tick or a night because of the platform. A store that is away does not hear of it."""
    ours = {name: error for name, error in failed.items() if is_of_platform(error)}
    if not ours:
        return
    fact = {"v": 1, "at": isoformat(now), "parts": list(ours), "message": str(next(iter(ours.values())))}
    try:
        facts.put(keys.platform(who), fact)
    except StoreTrouble as trouble:
        logger.warning("what failed could not be written down: {}", trouble)


def note_gap(facts: DictLike, every: timedelta, now: datetime) -> None:
    """Write down that no tick was done for longer than it takes three of them to come."""
    done = facts.get(keys.TICK_DONE)
    if done is not None and 3 * every < now - (at := parse_moment(done["at"])) < LONG_AGO:
        message = f"no tick did all of its work between {isoformat(at)} and {isoformat(now)}"
        facts.put(keys.platform("gap"), {"v": 1, "at": isoformat(now), "parts": ["a whole round"], "message": message})


def note_done(facts: DictLike, now: datetime) -> None:
    facts.put(keys.TICK_DONE, {"v": 1, "at": isoformat(now)})


def noted(entries: Mapping[str, Any], now: datetime) -> Iterator[PlatformOutage]:
    """What was met a short while ago."""
    for key, fact in sorted(entries.items()):
        if not key.startswith(keys.PLATFORM):
            continue
        who, at = key.removeprefix(keys.PLATFORM), parse_moment(fact["at"])
        if now - at < (ABSENCE_TOLD if who == ABSENCE else FRESH):
            yield PlatformOutage(who, at, tuple(fact["parts"]), fact["message"])
