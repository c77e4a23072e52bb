"""What leaves the Dict for files beside the weights, because the Dict forgets what nobody touches for seven days.

Appended first, then committed, then removed: whoever is killed in between leaves a record twice, and none nowhere.
"""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

from loguru import logger

from jobs.archive import Archive
from jobs.clearing import clear
from jobs.ledger import Ledger
from jobs.protocols import ShrinkingDict
from jobs.record import Job

AFTER = timedelta(days=5)
"""Two nights may fail before the Dict forgets."""

FOLDER = "ops"
JOBS = "jobs"


def archive_at(root: Path) -> Archive:
    """The archive of the volume that is mounted there."""
    return Archive(root / FOLDER)


def archive_jobs(
    ledger: Ledger, facts: ShrinkingDict, archive: Archive, now: datetime, commit: Callable[[], object]
) -> int:
    """Take the jobs that ended long enough ago out of the ledger, which is kept in `facts`; how many those were."""
    old = [job for job in ledger.jobs() if job.ended_at and now - job.ended_at > AFTER]
    if archive.append(JOBS, (job.as_json() for job in reversed(old))):
        commit()
        logger.info("archived {} jobs", len(old))
    for job in old:
        ledger.retire(job.id)
    clear(facts, now)
    return len(old)


def archived_jobs(archive: Archive, since: datetime) -> Iterator[Job]:
    """The archived jobs that were posted since then, oldest first, each once."""
    found = {str(record["id"]): record for record in archive.read(JOBS) if "id" in record}
    for record in found.values():
        try:
            job = Job.from_json(record)
        except (KeyError, TypeError, ValueError):
            logger.warning("the archived job {!r} makes no sense and is passed over", record["id"])
            continue
        if job.posted_at >= since:
            yield job
