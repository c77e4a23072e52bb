"""When files of batches are to be looked through again: written down where a night reads it, which sees no disk of
theirs.

One fact, `batch_files`, says when the next file that somebody brought is over, and when they were looked through last.
What becomes of batches themselves, their records say.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from jobs.batches.files.prune_plan import WORK_KEPT, StoredFiles
from jobs.batches.records import KIND
from jobs.core import foreign
from jobs.core.clock import isoformat, parse_moment
from jobs.core.errors import StoreTrouble
from jobs.core.units import counted
from jobs.ledger.job import Job
from jobs.store import keys
from jobs.store.protocols import DictLike, ReadableDict

LISTED = (keys.BATCH, keys.BATCH_END, keys.BATCH_FILES)
"""What `due` goes by."""


def expect(facts: DictLike, expires_at: datetime | None) -> bool:
    """Write down that a file was brought that may be removed then. False where the ledger does not take it now: then
    it is removed with others.
    """
    if expires_at is None:
        return True
    try:
        known = foreign.fields(facts.get(keys.BATCH_FILES))
        coming = _moment(known, "due")
        if coming is None or expires_at < coming:
            facts.put(keys.BATCH_FILES, {"v": 1, **known, "due": isoformat(expires_at)})
    except StoreTrouble:
        return False
    return True


def looked_through(facts: DictLike, left: StoredFiles, now: datetime, keep: timedelta | None) -> None:
    """Write down that they were, and when the next one of what is left is over.

    Raises:
        StoreTrouble: the ledger does not take it now.

    """
    over = [each.expires_at or (each.created_at + keep if keep is not None else None) for each in left.files]
    coming = min((moment for moment in over if moment is not None), default=None)
    fact = {"v": 1, "at": isoformat(now), "due": isoformat(coming) if coming else None}
    facts.put(keys.BATCH_FILES, fact)


def due(entries: Mapping[str, Any], ended_jobs: Iterable[str], now: datetime, keep: timedelta) -> str:
    """Why the files of batches are to be looked through now, in words; empty where nothing is due.

    Args:
        entries: of the ledger, those that `LISTED` begins.
        ended_jobs: the ids of batches whose jobs have ended, as far as the ledger has them.
        now: the time.
        keep: how long files, and batches after their end, stay.

    """
    return "; ".join(_reasons(entries, frozenset(ended_jobs), now, keep))


def batches_due(facts: ReadableDict, jobs: Iterable[Job], keep: timedelta, now: datetime) -> str:
    """The same, by the ledger's dict, and all jobs that are in it.

    Raises:
        StoreTrouble: it cannot be read.

    """
    ended = (job.subject for job in jobs if job.kind == KIND and job.has_ended)
    return due(dict(facts.items(*LISTED)), ended, now, keep)


def keep_records(facts: ReadableDict, now: datetime) -> None:
    """Read what is written down of batches by its keys, which on Modal keeps it from fading; a listing does not.

    Raises:
        StoreTrouble: it cannot be read.

    """
    for key, value in list(facts.items(keys.BATCH, keys.BATCH_STATE, keys.BATCH_END, keys.BATCH_SPEED)):
        written = _moment(foreign.fields(value), "created_at" if key.startswith(keys.BATCH) else "at")
        if written is None or written <= now - keys.LASTS:
            facts.get(key)


def _reasons(entries: Mapping[str, Any], ended_jobs: frozenset[str], now: datetime, keep: timedelta) -> Iterator[str]:
    known = foreign.fields(entries.get(keys.BATCH_FILES))
    looked_at, coming = _moment(known, "at"), _moment(known, "due")
    ends = {
        key.removeprefix(keys.BATCH_END): at
        for key, value in entries.items()
        if key.startswith(keys.BATCH_END) and (at := _moment(foreign.fields(value), "at")) is not None
    }
    posted = {key.removeprefix(keys.BATCH) for key in entries if key.startswith(keys.BATCH)}
    if old := sum(at <= now - keep for at in ends.values()):
        yield f"{counted(old, 'batch', 'batches')} ended more than {counted(keep.days, 'day')} ago"
    if coming is not None and coming <= now:
        yield f"files are over since {coming:%Y-%m-%d}"
    if work := sum(
        now - keep < at <= now - WORK_KEPT and (looked_at is None or at + WORK_KEPT > looked_at) for at in ends.values()
    ):
        yield f"what {counted(work, 'batch', 'batches')} worked on lies there still"
    if broke := len(posted & ended_jobs - ends.keys()):
        yield f"the {'job' if broke == 1 else 'jobs'} of {counted(broke, 'batch', 'batches')} ended without a word"


def _moment(document: Mapping[str, Any], name: str) -> datetime | None:
    text = foreign.text(document.get(name))
    try:
        return parse_moment(text) if text else None
    except ValueError:
        return None
