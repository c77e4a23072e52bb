"""When schedules are due: the moments that a cron line names in a timezone, and the night of a moment. Pure.

Each moment comes once, also in the nights that lose an hour or have one twice: an hour that comes twice is meant the
first time, and one that is leapt over is made up for.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from zoneinfo import ZoneInfo

from cronsim import CronSim

from app.fleet.file import Times
from jobs.ledger.job import Job

NIGHT = timedelta(days=1)
"""From one night to the next."""

_BEFORE = timedelta(hours=3)
"""Whoever begins to count within a repeated hour takes its second half for the first: so begin well before it."""


def due(line: str, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
    """All that come after a moment, in UTC, where two that follow one another are as far apart as they really are."""
    for moment in CronSim(line, (after - _BEFORE).astimezone(zone)):
        at = moment.astimezone(UTC)
        if at > after:
            yield at


def night_began(times: Times, now: datetime) -> datetime:
    """When the nightly schedule was last due, in its own timezone."""
    zone = ZoneInfo(times.timezone)
    coming = due(times.nightly, zone, now - 2 * NIGHT)
    *_, began = takewhile(lambda moment: moment <= now, coming)
    return began.astimezone(zone)


def jobs_of_night(times: Times, jobs: Iterable[Job], now: datetime) -> tuple[Job, ...]:
    """The jobs that were posted since the night began; not those of a clock that once ran days ahead."""
    began = night_began(times, now)
    return tuple(job for job in jobs if began <= job.posted_at <= now + NIGHT)
