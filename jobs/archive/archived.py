"""What has left the ledger, as it is read: for who lists jobs, and imports nothing of what writes them."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from heapq import merge
from itertools import takewhile
from operator import itemgetter
from pathlib import Path
from typing import Any

from jobs.archive.archive_files import Archive, OpenArchive, warn
from jobs.archive.archive_index import Entry, place_of
from jobs.ledger.job import Job, Place

AFTER = timedelta(days=5)
"""So long after its end a job is archived: two nights may fail before a deployment's Dict forgets."""

FOLDER = "ops"
JOBS, TURNS, METERS, REPORTS, WAKES, CASES, USAGE, COLD, AUDIT = (
    *("jobs", "health", "meters", "servers"),
    *("wakes", "incidents", "usage", "cold", "audit"),
)


def archive_at(root: Path) -> Archive:
    """The archive of the volume that is mounted there, or of the home."""
    return Archive(root / FOLDER)


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
        warn("the archived job {!r} makes no sense and is passed over", record.get("id"))
        return None


def archived_jobs(archive: Archive, since: datetime) -> Iterator[Job]:
    """The archived jobs that were posted since then, oldest first, each once."""
    yield from ArchivedJobs(archive).since(since)


def archived_facts(archive: Archive, sort: str) -> dict[str, Any]:
    """The archived facts of a sort by their keys; of one that was archived twice, the later."""
    return {record["key"]: record["fact"] for record in archive.read(sort) if {"key", "fact"} <= record.keys()}


def archived_turns(archive: Archive) -> dict[str, Any]:
    """The archived history of all tiers. One that was gone for long, and came back, numbers its turns anew."""
    records = (record for record in archive.read(TURNS) if {"key", "fact"} <= record.keys())
    return {f"{record['key']}/{record['fact']['at']}": record["fact"] for record in records}
