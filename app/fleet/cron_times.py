"""The moments that a cron line names in a timezone, each once, also in the nights that lose an hour or have one twice.

An hour that comes twice is meant the first time; one that is leapt over is made up for. Pure.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim

_BEFORE = timedelta(hours=3)
"""Whoever begins to count within a repeated hour takes its second half for the first: so begin well before it."""


def due(line: str, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
    """All that come after a moment, in UTC, where neighbours are as far apart as they really are."""
    for moment in CronSim(line, (after - _BEFORE).astimezone(zone)):
        at = moment.astimezone(UTC)
        if at > after:
            yield at
