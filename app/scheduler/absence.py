"""An app that was stopped for so long that the Dict has forgotten: seen by whoever comes back, and told.

On Modal an entry that nobody touches for seven days fades, and nobody is told of that. Two things are left to tell by:
the tick before, where its entry is still there; else the archive on the volume, which nobody wrote for so long before
the Dict began to be kept anew. What is found is `platform/absence`, which the alert check reads.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta

from loguru import logger

from jobs.archive.archive_files import Archive
from jobs.core.clock import isoformat, parse_moment
from jobs.core.errors import StoreTrouble
from jobs.core.units import counted
from jobs.store import keys
from jobs.store.protocols import DictLike

FORGETS_AFTER = timedelta(days=7)
"""As long as a Dict keeps what nobody touches."""

ABSENCE = "absence"

HINT = (
    "the weights and their archive are as they were: `modal run -m app.jobs::jobs --since 90d` lists what was archived;"
    " what was still to be done is to be posted again"
)


def lost() -> list[str]:
    """What fades for good, in words for people: everything else is written again by whoever is at work."""
    return list(dict.fromkeys(entry.loses for entry in keys.TABLE if entry.loses))


def note_late_tick(facts: DictLike, now: datetime) -> None:
    """Write down that the tick before was so long ago, if it was."""
    done = facts.get(keys.TICK_DONE)
    if done is not None and now - parse_moment(done["at"]) >= FORGETS_AFTER:
        _note(facts, parse_moment(done["at"]), now)


def note_old_archive(facts: DictLike, archive: Archive, now: datetime) -> None:
    """Write down that the archive is older than what the Dict knows, if it is; not when the store is away."""
    try:
        kept_at, since = archive.kept_at(), facts.get(keys.NIGHTS_SINCE)
        began = now if since is None else parse_moment(since["at"])
        if kept_at is not None and began - kept_at >= FORGETS_AFTER:
            _note(facts, kept_at, now)
    except StoreTrouble as trouble:
        logger.warning("whether the ledger has forgotten something could not be learnt: {}", trouble)


def _note(facts: DictLike, since: datetime, now: datetime) -> None:
    known = facts.get(keys.platform(ABSENCE))
    if known is not None and now - parse_moment(known["at"]) < FORGETS_AFTER:
        return  # of this absence, by somebody who was here before us
    message = "".join(_words(since, now))
    facts.put(keys.platform(ABSENCE), {"v": 1, "at": isoformat(now), "parts": ["a week"], "message": message})
    logger.warning("{}", message)


def _words(since: datetime, now: datetime) -> Iterator[str]:
    yield f"the app was away for {counted((now - since).days, 'day')}, since {since:%Y-%m-%d} at the latest, and its"
    yield f" ledger forgets in {FORGETS_AFTER.days} what nobody touches. Lost may be: {'; '.join(lost())}"
