"""A list of jobs is read page by page, on into the archive, whatever is posted, ends and leaves meanwhile."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.strategies import booleans, integers

from jobs.archive.archive import archiving_jobs
from jobs.archive.archived import JOBS, ArchivedJobs, archive_at
from jobs.core.progress import Reading
from jobs.ledger.all_jobs import AllJobs, Window, before_cursor, cursor_at
from jobs.ledger.expiry import clear
from jobs.ledger.job import Attempt, Ending, Job, JobState, Place
from jobs.ledger.ledger import Ledger
from jobs.listing.newest import LOOKED_AT, EmptyArchive, Page, Windows, page, page_of
from jobs.store.sqlite import SqliteDict, SqliteQueue
from jobs.testing.clock import HandClock

LEASE = timedelta(days=90)


@dataclass
class Reader:
    """Somebody who reads on from page to page."""

    cursor: str | None
    told: list[str] = field(default_factory=list)
    has_ended: bool = False


class Home(RuleBasedStateMachine):
    """Jobs that are posted, end, leave the ledger and are forgotten there, while readers read on."""

    is_in_memory: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self._folder = TemporaryDirectory()
        self.root = Path(self._folder.name)
        self.clock = HandClock()
        self.facts = SqliteDict(self.root / "l")
        self.queue = SqliteQueue(self.root / "l", clock=self.clock)
        self.ledger = Ledger(self.queue, self.facts, self.clock)
        self.archive = archive_at(self.root)
        self.archive._rotate_at = 3_000
        self.posted: list[str] = []
        self.readers: list[tuple[Reader, list[str]]] = []
        self.number = 0

    def teardown(self) -> None:
        self.queue.close()
        self.facts.close()
        self._folder.cleanup()

    def windows(self) -> Windows:
        if self.is_in_memory:
            return AllJobs.of(self.ledger.reader.jobs()).window
        return self.ledger.reader.window

    def page(self, cursor: str | None, limit: int) -> Page:
        before = None if cursor is None else before_cursor(cursor)
        return page(self.windows(), ArchivedJobs(self.archive), self.clock.now(), limit=limit, before=before)

    @initialize()
    def first(self) -> None:
        self.post(3)

    @rule(count=integers(1, 4))
    def post(self, count: int) -> None:
        """Several in one moment."""
        for _ in range(count):
            self.number += 1
            subject = f"m{self.number % 3}-{self.number}:latest"
            self.posted.append(self.ledger.post("pull", subject, {"model": subject}, by="test").job.id)

    @rule(which=integers(0, 50))
    def end(self, which: int) -> None:
        job = self.ledger.reader.find(self.posted[which % len(self.posted)])
        if job is not None and not job.has_ended:
            claim = self.ledger.claim(job.id, worker="w", lease=LEASE)
            assert claim is not None
            self.ledger.end(claim, Ending("succeeded"), Reading())

    @rule(minutes=integers(0, 1), days=integers(0, 8))
    def pass_time(self, minutes: int, days: int) -> None:
        self.clock.tick(60 * minutes + 86_400 * days)

    @rule(is_forgotten=booleans())
    def archive_some(self, is_forgotten: bool) -> None:
        for _ in archiving_jobs(self.ledger, self.facts, self.archive, self.clock.now(), lambda: None):
            pass
        if is_forgotten:
            self.clock.tick(40 * 86_400)
            clear(self.facts, self.clock.now())

    @rule()
    def begin(self) -> None:
        self.readers.append((Reader(None), self.posted.copy()))

    @precondition(lambda self: self.readers)
    @rule(which=integers(0, 20), limit=integers(1, 3))
    def read_on(self, which: int, limit: int) -> None:
        reader, _ = self.readers[which % len(self.readers)]
        self._read(reader, limit)

    def _read(self, reader: Reader, limit: int) -> None:
        if not reader.has_ended:
            found = self.page(reader.cursor, limit)
            assert len(found.jobs) == limit or found.rest is None
            reader.told += [job.id for job in found.jobs]
            reader.cursor = None if found.rest is None else cursor_at(found.rest)
            reader.has_ended = found.rest is None

    @invariant()
    def nobody_is_told_twice(self) -> None:
        for reader, _ in self.readers:
            assert len(set(reader.told)) == len(reader.told)

    @rule()
    def read_to_the_end(self) -> None:
        """Each hears of every job that was there when he began, and of none twice, the newest first."""
        for reader, there in self.readers:
            while not reader.has_ended:
                self._read(reader, 3)
            assert set(there) <= set(reader.told)
        self.readers.clear()
        every = self.page(None, 10_000)
        assert sorted(job.id for job in every.jobs) == sorted(self.posted)
        assert list(every.jobs) == sorted(every.jobs, key=lambda job: job.place, reverse=True)


class HomeInMemory(Home):
    """The same by a ledger's jobs in memory, as of a deployment."""

    is_in_memory: ClassVar[bool] = True


Home.TestCase.settings = HomeInMemory.TestCase.settings = settings(
    max_examples=30, stateful_step_count=30, deadline=None
)
TestWhoReadsOn = Home.TestCase
TestWhoReadsOnInMemory = HomeInMemory.TestCase


def job(number: int, clock: HandClock) -> Job:
    at = clock.now() - timedelta(minutes=number)
    done = Attempt(1, at, "w", LEASE, at, at, "succeeded")
    return Job(f"a{number}-1", "pull", f"m{number}:latest", "weights", JobState.SUCCEEDED, {}, 1, at, "test", (done,))


class Leaving:
    """A ledger one of whose jobs leaves for the archive right after it was read, or right before."""

    def __init__(self, root: Path, is_after: bool) -> None:
        self.clock = HandClock()
        self.archive = archive_at(root)
        self.here = [job(number, self.clock) for number in range(3)]
        self.is_after = is_after

    def window(self, before: Place | None, most: int) -> Window:
        if not self.is_after:
            self.leave()
        window = AllJobs.of(self.here).window(before, most)
        self.leave()
        return window

    def leave(self) -> None:
        self.archive.append(JOBS, [self.here.pop().as_json()])


@pytest.mark.parametrize("is_after", [True, False])
def test_a_job_that_leaves_meanwhile_is_told_once(tmp_path: Path, is_after: bool) -> None:
    """Whether a job goes to the archive right before the ledger is read or right after it, it is in the list, once."""
    leaving = Leaving(tmp_path, is_after)
    now = leaving.clock.now() + timedelta(days=30)
    found = page(leaving.window, ArchivedJobs(leaving.archive), now, limit=None)
    assert [each.id for each in found.jobs] == ["a0-1", "a1-1", "a2-1"]


class Watched(EmptyArchive):
    opened = 0

    @contextmanager
    def newest(self, before: Place | None = None) -> Iterator[Iterator[Job]]:
        self.opened += 1
        with super().newest(before) as jobs:
            yield jobs


def test_the_archive_is_opened_where_the_ledger_ends() -> None:
    """A page of new jobs opens no archive; one that the ledger cannot fill does."""
    clock, archive = HandClock(), Watched()
    windows = AllJobs.of(job(number, clock) for number in range(10)).window
    assert len(page(windows, archive, clock.now(), limit=5).jobs) == 5
    assert archive.opened == 0
    assert len(page(windows, archive, clock.now(), limit=20).jobs) == 10
    assert archive.opened == 1


def test_a_search_looks_at_so_many() -> None:
    """A page of few that fit says where to go on, and going on comes to the end."""
    clock = HandClock()
    jobs = AllJobs.of(job(number, clock) for number in range(2 * LOOKED_AT + 5))
    before, pages = None, []
    while True:
        found = page(
            jobs.window, EmptyArchive(), clock.now(), limit=5, before=before, fits=lambda job: job.id == "a4001-1"
        )
        pages.append([each.id for each in found.jobs])
        if found.rest is None:
            break
        before = before_cursor(cursor_at(found.rest))
    assert pages == [[], [], ["a4001-1"]]
    assert page_of(jobs.jobs, limit=1, most=None).rest == jobs.jobs[1].place
