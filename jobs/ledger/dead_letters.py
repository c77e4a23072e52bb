"""Dead letters: the jobs that failed for good, and of which nothing newer of their kind and subject is known. Pure.

Grouped by the class of their failure, because an outage kills many jobs in one way, and one remedy serves them all.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime

from jobs.core.errors import FAILURE_CLASSES, BadRequest
from jobs.core.sanitize import plain
from jobs.core.units import local_time
from jobs.ledger.job import Job, JobState
from jobs.ledger.job_text import trouble

LIKELY: Mapping[str, str] = {
    "not_found": "the names are wrong, or their publishers took the models away: ask for the right names",
    "auth": "sign in where the models are kept, or ask for public ones; then retry them all",
    "disk": "make room or raise the quota; then retry them all: what was fetched is kept",
    "network": "an outage, here or there; when it is over, retry them all: what was fetched is kept",
    "corrupt": "the bytes were wrong twice; wait for the registry to mend them, then retry them all",
    "killed": "their workers died again and again; see why in the log, then retry them all: what was fetched is kept",
    "refused": "they cannot be done as asked: change what each message names, and ask anew",
    "bug": "our mistake: please report one of them with what `ollama-modal job ID --json` prints",
}
"""What to do about all jobs of a class, most likely."""


def class_of(job: Job) -> str:
    return (job.attempts[-1].failure_class if job.attempts else None) or "bug"


def dead(jobs: Iterable[Job]) -> list[Job]:
    """The failed jobs of which no later one of the same kind and subject is known, newest first."""
    seen: set[tuple[str, str]] = set()
    found = []
    for job in sorted(jobs, key=_age, reverse=True):
        if (job.kind, job.subject) not in seen and job.state is JobState.FAILED:
            found.append(job)
        seen.add((job.kind, job.subject))
    return found


def _age(job: Job) -> tuple[datetime, int]:
    """Of two jobs of one line that were posted in the same moment, the one of the higher generation is the later."""
    generation = job.id.rpartition("-")[2]
    return job.posted_at, int(generation) if generation.isdecimal() else 0


def of_class(jobs: Iterable[Job], wanted: str | None) -> list[Job]:
    """The dead letters whose failure is of this class, or all of them.

    Raises:
        BadRequest: there is no such class.

    """
    if wanted is not None and wanted not in FAILURE_CLASSES:
        raise BadRequest(f"there is no class of failure {wanted!r}", hint=f"classes are {', '.join(FAILURE_CLASSES)}")
    return [job for job in dead(jobs) if wanted in {None, class_of(job)}]


def lines(jobs: Sequence[Job], now: datetime) -> Iterator[str]:
    """The dead letters for people: each class with its jobs and the likely remedy."""
    groups: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        groups[class_of(job)].append(job)
    for name, group in sorted(groups.items(), key=lambda entry: (-len(entry[1]), entry[0])):
        yield f"{name}: {len(group):,} job{'' if len(group) == 1 else 's'}"
        for job in group:
            why = trouble(job.attempts[-1]) if job.attempts else ""
            yield f"  {job.id}  {job.kind} {plain(job.subject)}  {local_time(job.posted_at, now)}  {why}"
        yield f"  to do: {LIKELY[name]}"
        if name not in {"not_found", "refused", "bug"}:
            yield f"         `ollama-modal retry --all --class {name}`"
