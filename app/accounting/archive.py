"""What leaves the Dict for files beside the weights, because the Dict forgets what nobody touches for seven days.

Appended first, then committed, then removed: whoever is killed in between leaves a record twice, and none nowhere.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from loguru import logger

from jobs.core.clock import parse_moment
from jobs.core.units import counted
from jobs.ledger.expiry import clear
from jobs.ledger.job import Job
from jobs.ledger.ledger import Ledger
from jobs.store import keys
from jobs.store.jsonl_archive import Archive
from jobs.store.protocols import ShrinkingDict
from jobs.telemetry import incidents, usage

AFTER = timedelta(days=5)
"""Two nights may fail before the Dict forgets."""

COUNTED_AFTER = timedelta(days=1)
"""A container that has not counted or reported for so long has ended."""

FOLDER = "ops"
JOBS, TURNS, METERS, REPORTS, WAKES, CASES, USAGE, COLD = (
    *("jobs", "health", "meters", "servers"),
    *("wakes", "incidents", "usage", "cold"),
)

OBSERVED = (keys.HEALTH, keys.METER, keys.SERVER, keys.WAKE, keys.REFUSED_WAKE, keys.USAGE, keys.COLD, *keys.CASES)
"""What is taken out of the Dict when it is old, beside jobs."""

_PARTS_AFTER_KEY = {keys.SEEN: 0, keys.INCIDENT: 1, keys.RECOVERED: 1, keys.TOLD: 2, keys.TELLING: 3}
"""What follows an incident's key in each kind of key about it: its number, the change, the try."""

Commit = Callable[[], object]
Entries = Mapping[str, Any]


def archive_at(root: Path) -> Archive:
    """The archive of the volume that is mounted there."""
    return Archive(root / FOLDER)


# -- jobs --------------------------------------------------------------------------------------------------------------


def archive_jobs(ledger: Ledger, facts: ShrinkingDict, archive: Archive, now: datetime, commit: Commit) -> int:
    """Take the jobs that ended long enough ago out of the ledger, which is kept in `facts`; how many those were."""
    old = [job for job in ledger.reader.jobs() if job.ended_at and now - job.ended_at > AFTER]
    if archive.append(JOBS, (job.as_json() for job in reversed(old))):
        commit()
        logger.info("archived {}", counted(len(old), "job"))
    for job in old:
        ledger.retire(job.id)
    clear(facts, now)
    return len(old)


def archived_jobs(archive: Archive, since: datetime) -> Iterator[Job]:
    """The archived jobs that were posted since then, oldest first, each once."""
    records = {str(record["id"]): record for record in archive.read(JOBS) if "id" in record}
    for record in records.values():
        try:
            job = Job.from_json(record)
        except (KeyError, TypeError, ValueError):
            logger.warning("the archived job {!r} makes no sense and is passed over", record["id"])
            continue
        if job.posted_at >= since:
            yield job


# -- what was observed -------------------------------------------------------------------------------------------------


def archive_facts(facts: ShrinkingDict, archive: Archive, now: datetime, commit: Commit) -> int:
    """Take what was observed long enough ago out of the Dict; how many entries those were."""
    entries = dict(facts.items(*OBSERVED))
    leaving = {
        TURNS: _old_turns(entries, now),
        METERS: _old(entries, (keys.METER,), now - COUNTED_AFTER),
        REPORTS: _old(entries, (keys.SERVER,), now - COUNTED_AFTER),
        WAKES: _old(entries, (keys.WAKE, keys.REFUSED_WAKE), now - AFTER),
        COLD: _old(entries, (keys.COLD,), now - AFTER),
        CASES: _old_cases(entries, now),
        USAGE: _old_usage(entries, now),
    }
    for sort, old in leaving.items():
        archive.append(sort, ({"key": key, "fact": entries[key]} for key in sorted(old)))
    gone = [key for old in leaving.values() for key in old]
    if gone:
        commit()
        usage.keep_last_used(facts, [row for key in leaving[USAGE] for row in usage.rows_of(entries[key])])
        for key in gone:
            facts.pop(key, None)
        logger.info("archived {}", counted(len(gone), "fact"))
    return len(gone)


def archived_facts(archive: Archive, sort: str) -> dict[str, Any]:
    """The archived facts of a sort by their keys; of one that was archived twice, the later."""
    return {record["key"]: record["fact"] for record in archive.read(sort) if {"key", "fact"} <= record.keys()}


def _old(entries: Entries, prefixes: tuple[str, ...], before: datetime) -> list[str]:
    return [key for key, fact in entries.items() if key.startswith(prefixes) and parse_moment(fact["at"]) < before]


def _old_turns(entries: Entries, now: datetime) -> list[str]:
    """A tier's history, but for its last entry: that is how it is."""
    numbers: dict[str, int] = {}
    for key in entries:
        if key.startswith(keys.HEALTH):
            tier, _, n = key.removeprefix(keys.HEALTH).partition("/")
            numbers[tier] = max(numbers.get(tier, 0), int(n))
    last = {keys.health(tier, n) for tier, n in numbers.items()}
    return [key for key in _old(entries, (keys.HEALTH,), now - AFTER) if key not in last]


def _old_cases(entries: Entries, now: datetime) -> list[str]:
    """All facts of incidents that have passed, of which no later one of the same key is known."""
    known = incidents.cases(entries)
    recent = {case.incident.key for case in known if not case.recovered_at or now - case.recovered_at <= AFTER}
    over = {case.incident.key for case in known} - recent
    about = ((key, key.partition("/")) for key in entries if key.startswith(keys.CASES))
    return [key for key, (word, slash, rest) in about if rest.rsplit("/", _PARTS_AFTER_KEY[word + slash])[0] in over]


def _old_usage(entries: Entries, now: datetime) -> list[str]:
    """Days so old that no writer adds to them any more."""
    first = (now - timedelta(days=usage.MAX_DAYS + 1)).date().isoformat()
    return [key for key in entries if key.startswith(keys.USAGE) and key.removeprefix(keys.USAGE)[:10] < first]
