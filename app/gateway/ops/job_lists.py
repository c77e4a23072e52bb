"""Lists of jobs and of what has failed, as the ops API tells them to one caller."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from jobs.core.clock import isoformat
from jobs.ledger.all_jobs import OPEN, JobFilter, before_cursor, cursor_at, cursor_of
from jobs.ledger.dead_letters import DeadGroup
from jobs.ledger.job import Job, JobState, Place
from jobs.ledger.kinds import Kinds
from jobs.ledger.reader import LedgerReader
from jobs.listing.looks import Look
from jobs.listing.newest import JobArchive, Page, page, page_of

MaySee = Callable[[Job], bool]


@dataclass(frozen=True)
class JobsQuery:
    """Which jobs are to be listed.

    Args:
        fitting: only those that fit.
        is_dead: only those that failed for good, and that nobody has mended or dismissed.
        is_folded: of many such failures of one kind and class, only the newest.
        limit: so many on a page.
        cursor: where the page begins; at the newest when left out.
        before: only those after the job of this id.

    """

    fitting: JobFilter
    is_dead: bool
    is_folded: bool
    limit: int
    cursor: str | None
    before: str | None


@dataclass(frozen=True)
class JobLists:
    """Lists jobs, for whoever may see these (all, where that is None).

    Args:
        look: how they stand.
        reader: of the ledger.
        archive: what has left it.
        kinds: of jobs.
        now: the time.
        may_see: which of them.

    """

    look: Look
    reader: LedgerReader
    archive: JobArchive
    kinds: Kinds
    now: datetime
    may_see: MaySee | None

    def listed(self, query: JobsQuery) -> dict[str, Any]:
        """A page of jobs.

        Raises:
            BadRequest: the cursor is none.

        """
        groups = _seen(self.look.dead, self.may_see)
        leaders = {group.newest.id: group for group in groups if group.is_folded} if query.is_folded else {}
        hidden = {job.id for group in leaders.values() for job in group.jobs[1:]}
        shown = self._page(query, groups, hidden)
        ids = [job.id for job in shown.jobs]
        waits_for = self.look.waits_for
        return {
            "jobs": [job.as_json() for job in shown.jobs],
            "next": None if shown.rest is None else cursor_at(shown.rest),
            "current": [job.id for job in shown.jobs if self._is_current(job)],
            "waits_for": {id: _reference(waits_for[id]) for id in ids if id in waits_for},
            "groups": {id: _group(leaders[id], self.kinds) for id in ids if id in leaders},
        }

    def _page(self, query: JobsQuery, groups: Sequence[DeadGroup], hidden: AbstractSet[str]) -> Page:
        before = None if query.cursor is None else before_cursor(query.cursor)
        if query.before is not None:
            place = self._place(query.before)
            if place is None:
                return Page([], None)
            before = place if before is None else min(before, place)
        fitting = query.fitting
        are_all = self.may_see is None and not hidden and fitting == JobFilter(since=fitting.since)
        fits = None if are_all else self._fits(fitting, hidden)
        few = self._few(query, groups)
        if few is not None:
            rest = (job for job in few if before is None or job.place < before)
            return page_of(rest, limit=query.limit, fits=self._fits(fitting, hidden), most=None)
        return page(
            lambda place, most: self.look.window(self.reader, place, most),
            self.archive,
            self.now,
            limit=query.limit,
            before=before,
            since=fitting.since,
            fits=fits,
        )

    def _fits(self, fitting: JobFilter, hidden: AbstractSet[str]) -> MaySee:
        may_see = self.may_see
        return lambda job: (may_see is None or may_see(job)) and job.id not in hidden and fitting.fits(job)

    def _few(self, query: JobsQuery, groups: Sequence[DeadGroup]) -> Sequence[Job] | None:
        """All jobs among which those are that fit, the newest first, where these are known without a search."""
        fitting = query.fitting
        if query.is_dead:
            found: Iterable[Job] = (job for group in groups for job in group.jobs)
        elif fitting.states and fitting.states <= OPEN:
            found = self.look.going_on(self.reader)
        elif fitting.begin:
            here = self.reader.listed(self.reader.ids(fitting.begin))
            found = {job.id: job for job in (*self.archive.beginning(fitting.begin), *here)}.values()
        else:
            return None
        return sorted(found, key=lambda job: job.age, reverse=True)

    def _place(self, id: str) -> Place | None:
        job = self.reader.find(id) or self.archive.find(id)
        return None if job is None else job.place

    def _is_current(self, job: Job) -> bool:
        """Whether it may be tried again, or dismissed: it came to nothing, and nothing later supersedes it."""
        return job.state in {JobState.FAILED, JobState.CANCELLED} and self.look.is_current(self.reader, job)


def summary(look: Look, *, may_see: MaySee | None, sees: Callable[[str], bool] | None, kinds: Kinds) -> dict[str, Any]:
    """How many jobs there are, and which failures need somebody.

    Args:
        look: how they stand.
        may_see: the jobs that whoever asks may see; all, where None.
        sees: the same by their subjects.
        kinds: of jobs.

    """
    found: Counter[str] = Counter()
    for (_, subject, state), count in look.counts.items():
        found[state] += count if sees is None or sees(subject) else 0
    counts = {state: found[state] for state in JobState}
    return {
        "total": sum(counts.values()),
        "open": sum(counts[state] for state in OPEN),
        "counts": counts,
        "dead": [_group(group, kinds) for group in _seen(look.dead, may_see)],
    }


def _seen(groups: Sequence[DeadGroup], may_see: MaySee | None) -> Sequence[DeadGroup]:
    if may_see is None:
        return groups
    narrowed = (replace(group, jobs=tuple(filter(may_see, group.jobs))) for group in groups)
    return [group for group in narrowed if group.jobs]


def _reference(job: Job) -> dict[str, Any]:
    return {"id": job.id, "kind": job.kind, "subject": job.subject, "cursor": cursor_of(job)}


def _group(group: DeadGroup, kinds: Kinds) -> dict[str, Any]:
    newest = group.newest
    return {
        "kind": group.kind,
        "class": group.failure_class,
        "count": len(group.jobs),
        "newest": _reference(newest),
        "newest_at": isoformat(newest.posted_at),
        "message": newest.attempts[-1].message if newest.attempts else None,
        "remedy": group.remedy,
        "few": [] if group.is_folded else [_reference(job) for job in group.jobs],
        "can_retry": group.is_worth_retrying(kinds),
    }
