"""A page of the newest jobs, from the ledger and on into the archive, at the cost of the page and not of the past.

A list is all jobs in the order of their places (`Job.place`), whether the ledger has them or the archive: who reads on
from a place is told of no job twice, and of each, whatever came or was archived meanwhile. For that a part of the
ledger is read before the same part of the archive: what has left the one by then is in the other.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Protocol

from jobs.ledger.all_jobs import OPEN, JobFilter, Window
from jobs.ledger.job import Job, Place, milliseconds
from jobs.ledger.reader import LedgerReader

LOOKED_AT = 2_000
"""So many jobs are looked at for a page of those that fit. With fewer on it a page says where to go on: a search for
what nobody ever asked for costs no more than another."""

CHOSEN_FROM = 10_000
"""The same for who asks once: a second's work."""

AT_ONCE = 100
"""Jobs that are read together where not all of them fit."""

SURELY_HERE = timedelta(days=4)
"""What was posted since is in the ledger: jobs are archived five days after their end."""


class JobArchive(Protocol):
    """The jobs that have left the ledger."""

    def find(self, id: str) -> Job | None:
        """The one of this id."""

    def beginning(self, text: str) -> Iterable[Job]:
        """Those whose id begins so."""

    def newest(self, before: Place | None = None) -> AbstractContextManager[Iterator[Job]]:
        """From the newest on, or from the one that comes after that place, for as long as somebody looks."""


class EmptyArchive:
    """Nothing has left the ledger."""

    def find(self, _: str) -> Job | None:
        return None

    def beginning(self, _: str) -> Iterable[Job]:
        return ()

    @contextmanager
    def newest(self, _: Place | None = None) -> Iterator[Iterator[Job]]:
        yield iter(())


@dataclass(frozen=True)
class Page:
    """A part of a list.

    Args:
        jobs: newest first.
        rest: where it goes on; None where nothing comes after these.

    """

    jobs: Sequence[Job]
    rest: Place | None


Windows = Callable[[Place | None, int], Window]
"""Of the ledger: so many of the jobs that come after a place."""


def page(
    windows: Windows,
    archive: JobArchive,
    now: datetime,
    *,
    limit: int | None,
    before: Place | None = None,
    since: datetime | None = None,
    fits: Callable[[Job], bool] | None = None,
    most: int | None = LOOKED_AT,
) -> Page:
    """So many of the jobs that fit, from the newest on, or from what comes after a place.

    Args:
        windows: of the ledger.
        archive: what has left it.
        now: the time.
        limit: so many; all, where None.
        before: the place.
        since: only those posted then or later.
        fits: which of them; all, where None.
        most: so many are looked at.

    """
    at_once = limit + 1 if limit is not None and fits is None else max(AT_ONCE, limit or 0)
    with closing(_newest(windows, archive, now, before, at_once)) as jobs:
        recent = jobs if since is None else takewhile(lambda job: job.posted_at >= since, jobs)
        return page_of(recent, limit=limit, fits=fits, most=most)


def chosen(
    reader: LedgerReader, archive: JobArchive, fitting: JobFilter, limit: int | None, now: datetime
) -> tuple[Sequence[Job], int | None]:
    """So many of the newest jobs that fit, or all, and how many there are; None for more.

    Of one state or kind, and without a beginning, some of the newest are looked at (`CHOSEN_FROM`).
    """
    fits = None if fitting == JobFilter(since=fitting.since) else fitting.fits
    if fitting.states and fitting.states <= OPEN:
        opened = sorted(reader.listed(reader.said_open()), key=lambda job: job.age, reverse=True)
        found = page_of(opened, limit=limit, fits=fits, most=None)
    else:
        most = None if limit is None or fitting.since else CHOSEN_FROM
        found = page(reader.window, archive, now, limit=limit, since=fitting.since, fits=fits, most=most)
    return found.jobs, None if found.rest else len(found.jobs)


def page_of(
    jobs: Iterable[Job], *, limit: int | None, fits: Callable[[Job], bool] | None = None, most: int | None = LOOKED_AT
) -> Page:
    """So many of those jobs that fit; of these, which are the newest first, so many are looked at."""
    found: list[Job] = []
    for looked, job in enumerate(jobs):
        if looked == most:
            return Page(found, job.place)
        if fits is None or fits(job):
            if len(found) == limit:
                return Page(found, job.place)
            found.append(job)
    return Page(found, None)


def _newest(
    windows: Windows, archive: JobArchive, now: datetime, before: Place | None, at_once: int
) -> Generator[Job, None, None]:
    """All jobs from there on, the newest first: each is read little before it is asked for."""
    surely_here = Place(milliseconds(now - SURELY_HERE), -1, "")
    while True:
        window = windows(before, at_once)
        jobs, end = window.jobs, window.end
        if not window.has_archived:
            here = [job for job in jobs if job.place >= surely_here]
            yield from here
            jobs = jobs[len(here) :]
            before = surely_here if before is None else min(before, surely_here)
        if window.has_archived or end is None or end < surely_here:
            with archive.newest(before) as old:
                yield from _merged(jobs, old if end is None else takewhile(lambda job: job.place >= end, old))  # noqa: B023 - used at once
        else:
            yield from jobs
        if end is None:
            return
        before = end


def _merged(jobs: Sequence[Job], archived: Iterator[Job]) -> Iterator[Job]:
    """Both in their order; of a job that is in both, what the ledger says."""
    known = {job.id for job in jobs}
    rest = iter(jobs)
    job = next(rest, None)
    for old in archived:
        if old.id in known:
            continue
        while job is not None and job.place > old.place:
            yield job
            job = next(rest, None)
        yield old
    if job is not None:
        yield job
        yield from rest
