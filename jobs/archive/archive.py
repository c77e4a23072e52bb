"""What leaves the ledger for files that only grow: beside the weights of a deployment, in the home of one machine.

A deployment's Dict forgets what nobody touches for seven days; one machine's file forgets nothing, and would grow for
years. Appended first, then committed, then removed: whoever is killed in between leaves a record twice, and none
nowhere; readers tell it once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from heapq import merge
from itertools import islice, takewhile
from operator import itemgetter
from pathlib import Path
from typing import Any

from loguru import logger

from jobs.archive.archive_files import Archive, OpenArchive
from jobs.archive.archive_index import Entry, Place, place_of
from jobs.core.clock import parse_moment
from jobs.core.units import counted
from jobs.ledger.expiry import clearing
from jobs.ledger.job import Job
from jobs.ledger.ledger import Ledger
from jobs.store import keys
from jobs.store.protocols import ShrinkingDict
from jobs.telemetry import incidents, usage

AFTER = timedelta(days=5)
"""Two nights may fail before the Dict forgets."""

_NEVER = datetime.min.replace(tzinfo=UTC)

COUNTED_AFTER = timedelta(days=1)
"""A container that has not counted or reported for so long has ended."""

FOLDER = "ops"
JOBS, TURNS, METERS, REPORTS, WAKES, CASES, USAGE, COLD = (
    *("jobs", "health", "meters", "servers"),
    *("wakes", "incidents", "usage", "cold"),
)

OBSERVED = (keys.HEALTH, keys.METER, keys.SERVER, keys.WAKE, keys.REFUSED_WAKE, keys.USAGE, keys.COLD, *keys.CASES)
"""What is taken out when it is old, beside jobs."""

_PARTS_AFTER_KEY = {keys.SEEN: 0, keys.INCIDENT: 1, keys.RECOVERED: 1, keys.TOLD: 2, keys.TELLING: 3}
"""What follows an incident's key in each kind of key about it: its number, the change, the try."""

AT_ONCE = 500
"""Jobs that are archived in one step."""

Commit = Callable[[], object]
Learn = Callable[[Sequence[Job]], object]
Entries = Mapping[str, Any]


def archive_at(root: Path) -> Archive:
    """The archive of the volume that is mounted there, or of the home."""
    return Archive(root / FOLDER)


def nothing(_: Sequence[Job]) -> None:
    """Learn nothing."""


# -- jobs --------------------------------------------------------------------------------------------------------------


def archive_jobs(
    ledger: Ledger, facts: ShrinkingDict, archive: Archive, now: datetime, commit: Commit, *, learn: Learn = nothing
) -> int:
    """Take the jobs that ended long enough ago out of the ledger, which is kept in `facts`; how many those were."""
    return sum(archiving_jobs(ledger, facts, archive, now, commit, learn=learn))


def archiving_jobs(
    ledger: Ledger,
    facts: ShrinkingDict,
    archive: Archive,
    now: datetime,
    commit: Commit,
    *,
    learn: Learn = nothing,
    since: datetime | None = None,
) -> Iterator[int]:
    """The same, some jobs a step: how many went in each; none where only what is left of others was removed.

    Who takes no further step leaves the rest for next time.

    Args:
        ledger: the jobs.
        facts: the dict that keeps them.
        archive: where they go.
        now: the time.
        commit: has what was written there last.
        learn: told of the jobs of a step before the ledger forgets them, of some perhaps twice.
        since: those that ended before are archived already, as whoever asks knows.

    """
    count, leaving = 0, ledger.reader.ended(since=since, until=now - AFTER)
    while jobs := list(islice(leaving, AT_ONCE)):
        archive.append(JOBS, (job.as_json() for job in sorted(jobs, key=lambda job: job.age)))
        commit()
        learn(jobs)
        ledger.retire(*jobs)
        count += len(jobs)
        yield len(jobs)
    if count:
        logger.info("archived {}", counted(count, "job"))
    for _ in clearing(facts, now):
        yield 0
    if archive.index(JOBS):
        commit()


class ArchivedJobs:
    """The archived jobs. Threads may share one: it holds nothing; each question opens the files, and closes them."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    def find(self, id: str) -> Job | None:
        """The archived job of this id."""
        with self._archive.opened(JOBS) as files:
            if (record := files.recent.get(id)) is not None:
                return _job(record)
            entry = files.index.find(id) if files.index else None
            record = files.record(entry) if entry else None
            return _job(record) if record else None

    def beginning(self, text: str) -> list[Job]:
        """Those whose id begins so."""
        with self._archive.opened(JOBS) as files:
            entries = files.index.beginning(text) if files.index else ()
            records = {entry.place.id: files.record(entry) for entry in entries}
            recent = {id: record for id, record in files.recent.items() if id.startswith(text)}
            return [job for record in (records | recent).values() if record and (job := _job(record))]

    def place(self, id: str) -> Place | None:
        """Where that job stands among all; None where it is not archived."""
        job = self.find(id)
        return None if job is None else place_of(job.as_json())

    def count(self) -> int:
        """How many there are."""
        with self._archive.opened(JOBS) as files:
            if files.index is None:
                return len(files.recent)
            find = files.index.find
            return len(files.index.by_id) + sum(find(id) is None for id in files.recent)

    @contextmanager
    def newest(self, before: Place | None = None) -> Iterator[Iterator[Job]]:
        """The jobs from the newest on, or from the one after that place on: each is read when it is asked for."""
        with self._archive.opened(JOBS) as files:
            yield _newest(files, before)

    def since(self, moment: datetime) -> list[Job]:
        """Those that were posted then or later, oldest first."""
        with self.newest() as jobs:
            return [*takewhile(lambda job: job.posted_at >= moment, jobs)][::-1]


def _newest(files: OpenArchive, before: Place | None) -> Iterator[Job]:
    found = ((place_of(record), record) for record in files.recent.values())
    places = [(place, record) for place, record in found if place and (before is None or place < before)]
    recent: list[tuple[Place, Entry | dict[str, Any]]] = [*sorted(places, key=itemgetter(0), reverse=True)]
    entries = files.index.newest(before) if files.index else iter(())
    indexed: Iterator[tuple[Place, Entry | dict[str, Any]]] = (
        (entry.place, entry) for entry in entries if entry.place.id not in files.recent
    )
    for _, each in merge(recent, indexed, key=itemgetter(0), reverse=True):
        record = files.record(each) if isinstance(each, Entry) else each
        if record is not None and (job := _job(record)) is not None:
            yield job


def _job(record: dict[str, Any]) -> Job | None:
    try:
        return Job.from_json(record)
    except (KeyError, TypeError, ValueError):
        logger.warning("the archived job {!r} makes no sense and is passed over", record.get("id"))
        return None


def archived_jobs(archive: Archive, since: datetime) -> Iterator[Job]:
    """The archived jobs that were posted since then, oldest first, each once."""
    yield from ArchivedJobs(archive).since(since)


# -- what was observed -------------------------------------------------------------------------------------------------


def archive_facts(facts: ShrinkingDict, archive: Archive, now: datetime, commit: Commit) -> int:
    """Take what was observed long enough ago out of the Dict; how many entries those were."""
    entries = dict(facts.items(*OBSERVED, *keys.FOR_SERVERS))
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
    for key in _passed(entries, now):
        facts.pop(key, None)
    return len(gone)


def archived_facts(archive: Archive, sort: str) -> dict[str, Any]:
    """The archived facts of a sort by their keys; of one that was archived twice, the later."""
    return {record["key"]: record["fact"] for record in archive.read(sort) if {"key", "fact"} <= record.keys()}


def archived_turns(archive: Archive) -> dict[str, Any]:
    """The archived history of all tiers. One that was gone for long, and came back, numbers its turns anew."""
    records = (record for record in archive.read(TURNS) if {"key", "fact"} <= record.keys())
    return {f"{record['key']}/{record['fact']['at']}": record["fact"] for record in records}


def _passed(entries: Entries, now: datetime) -> Iterator[str]:
    """What the containers of a tier were told long ago. Of one that is gone nobody says it anew."""
    for key, fact in entries.items():
        if key.startswith(keys.WARMING):
            said = [fact["until"]]
        elif key.startswith(keys.WANTED):
            said = [each["at"] for each in fact["models"]]
        else:
            continue
        if max(map(parse_moment, said), default=_NEVER) < now - AFTER:
            yield key


def _old(entries: Entries, prefixes: tuple[str, ...], before: datetime) -> list[str]:
    return [key for key, fact in entries.items() if key.startswith(prefixes) and parse_moment(fact["at"]) < before]


def _old_turns(entries: Entries, now: datetime) -> list[str]:
    """A tier's history, but for its last entry: that is how it is, unless the tier is gone."""
    numbers: dict[str, int] = {}
    for key in entries:
        if key.startswith(keys.HEALTH):
            tier, _, n = key.removeprefix(keys.HEALTH).partition("/")
            numbers[tier] = max(numbers.get(tier, 0), int(n))
    last = {key for tier, n in numbers.items() if entries[key := keys.health(tier, n)]["state"] != "gone"}
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
