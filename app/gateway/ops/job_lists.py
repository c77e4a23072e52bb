"""Lists of jobs and of what has failed, as the ops API tells them to one caller. Pure: all jobs are handed in."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jobs.core.clock import isoformat
from jobs.ledger.all_jobs import OPEN, AllJobs, JobFilter, cursor_of, page
from jobs.ledger.dead_letters import DeadGroup
from jobs.ledger.job import Job, JobState
from jobs.ledger.kinds import Kinds

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


def listed(
    all_jobs: AllJobs, query: JobsQuery, *, may_see: MaySee | None, kinds: Kinds, archived: Iterable[Job] = ()
) -> dict[str, Any]:
    """A page of jobs, for whoever may see these (all, when left out).

    Raises:
        BadRequest: the cursor is none.

    """
    groups = _seen(all_jobs.dead, may_see)
    jobs = _with_archived(all_jobs.jobs, archived)
    jobs = [job for job in jobs if may_see is None or may_see(job)]
    counted = query.fitting.of_any_state()
    of_any_state = [job for job in jobs if counted.fits(job)]
    fitting = query.fitting
    if query.is_dead:
        fitting = replace(fitting, ids=frozenset(job.id for group in groups for job in group.jobs))
    jobs = [job for job in of_any_state if fitting.fits(job)]
    leaders = {group.newest.id: group for group in groups if group.is_folded} if query.is_folded else {}
    if leaders:
        hidden = {job.id for group in leaders.values() for job in group.jobs[1:]}
        jobs = [job for job in jobs if job.id not in hidden]
    if query.before is not None:
        known = [job.id for job in jobs]
        jobs = jobs[known.index(query.before) + 1 :] if query.before in known else []
    shown = page(jobs, query.limit, query.cursor)
    ids = [job.id for job in shown.jobs]
    return {
        "jobs": [job.as_json() for job in shown.jobs],
        "total": shown.total,
        "older": shown.older,
        "next": shown.next,
        "counts": _counts(of_any_state),
        "current": [id for id in ids if id in all_jobs.current],
        "waits_for": {id: _reference(all_jobs.waits_for[id]) for id in ids if id in all_jobs.waits_for},
        "groups": {id: _group(leaders[id], kinds) for id in ids if id in leaders},
    }


def summary(all_jobs: AllJobs, *, may_see: MaySee | None, kinds: Kinds) -> dict[str, Any]:
    """How many jobs there are, and which failures need somebody, for whoever may see these."""
    jobs = all_jobs.jobs if may_see is None else [job for job in all_jobs.jobs if may_see(job)]
    counts = _counts(jobs)
    return {
        "total": len(jobs),
        "open": sum(counts[state] for state in OPEN),
        "counts": counts,
        "dead": [_group(group, kinds) for group in _seen(all_jobs.dead, may_see)],
    }


def _seen(groups: Sequence[DeadGroup], may_see: MaySee | None) -> Sequence[DeadGroup]:
    if may_see is None:
        return groups
    narrowed = (replace(group, jobs=tuple(filter(may_see, group.jobs))) for group in groups)
    return [group for group in narrowed if group.jobs]


def _with_archived(jobs: Sequence[Job], archived: Iterable[Job]) -> Sequence[Job]:
    every = {job.id: job for job in archived}
    if not every:
        return jobs
    every |= {job.id: job for job in jobs}
    return sorted(every.values(), key=lambda job: job.age, reverse=True)


def _counts(jobs: Iterable[Job]) -> dict[JobState, int]:
    counts = Counter(job.state for job in jobs)
    return {state: counts[state] for state in JobState}


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
