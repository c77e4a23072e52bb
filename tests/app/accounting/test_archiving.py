"""What is old leaves the ledger the same way in both places: from one machine's file, and from a deployment's Dicts."""

import errno
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from app.accounting.archiving import ArchiveThread, archiving, nothing_to_commit
from jobs.archive.archived import AFTER, CASES, USAGE, ArchivedJobs, archive_at, archived_facts
from jobs.batches.files.files_due import expect
from jobs.cli.job_commands import LONG_AGO, JobCommands
from jobs.core.errors import DiskFull
from jobs.core.progress import Reading
from jobs.home.home import Home, Stack
from jobs.ledger.job import Ending, Job
from jobs.ledger.ledger import Ledger
from jobs.ledger.reader import LedgerReader
from jobs.listing.dead_memory import known_jobs
from jobs.store import keys
from jobs.store.in_order import InOrder, in_order
from jobs.store.protocols import ShrinkingDict
from jobs.store.sqlite import SqliteDict
from jobs.telemetry.incidents import Incident, cases, record
from jobs.telemetry.usage import Row, UsageRecorder, Use, usage
from jobs.testing.clock import HandClock
from jobs.weights.history import recall
from tests.support.counting_stores import CountingStore
from tests.support.crash_points import Killed, dies_at, refusing
from tests.support.failing_stores import MemoryDict
from tests.support.past_jobs import write_past
from tests.support.stores import claimed

LONG = timedelta(days=400)


class MortalDict:
    """A dict whose user is killed before its n-th change."""

    def __init__(self, real: ShrinkingDict) -> None:
        self.real = real
        self.left = 10**9

    def _step(self) -> None:
        self.left -= 1
        if self.left <= 0:
            raise Killed

    def put(self, key: Any, value: Any, *, skip_if_exists: bool = False) -> bool:
        self._step()
        return self.real.put(key, value, skip_if_exists=skip_if_exists)

    def get(self, key: Any, default: Any = None) -> Any:
        return self.real.get(key, default)

    def pop(self, key: Any, default: Any = None) -> Any:
        self._step()
        return self.real.pop(key, default)

    def keys(self, *prefixes: str) -> Iterator[Any]:
        return self.real.keys(*prefixes)

    def items(self, *prefixes: str) -> Iterator[tuple[Any, Any]]:
        return self.real.items(*prefixes)

    def update(self, other: Mapping[Any, Any], /) -> None:
        self._step()
        self.real.update(other)

    def remove_all(self, names: Iterable[str], /) -> int:
        return sum(self.pop(name) is not None for name in names)


class MortalFile(MortalDict):
    """One machine's: what it does in one step is one step."""

    @property
    def order(self) -> InOrder | None:
        return in_order(self.real)

    def remove_all(self, names: Iterable[str], /) -> int:
        self._step()
        return self.real.remove_all(names)


def documents(jobs: Iterable[Job]) -> list[dict[str, Any]]:
    """The jobs as all are told of them, oldest first."""
    return [job.as_json() for job in sorted(jobs, key=lambda job: job.age)]


class Place:
    """Where jobs and what was observed are kept: a past of both, and what is not old."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.clock = HandClock(datetime(2026, 3, 1, tzinfo=UTC))
        self.archive = archive_at(folder)
        self._file: SqliteDict | None = None
        if kind == "one machine":
            self._file = SqliteDict(folder / "ledger.sqlite")
            self.facts: MortalDict = MortalFile(self._file)
        else:
            self.facts = MortalDict(CountingStore(self.clock).facts if kind == "a deployment" else MemoryDict())
        self.ledger = Ledger(CountingStore(self.clock).queue, self.facts, self.clock)
        for number in range(5):
            self.ended(f"m{number}:latest", Ending("failed", "network", "cut") if number == 2 else None)
            self.clock.tick(60)
        self.retried = self.ledger.post("pull", "slow:latest", {"model": "slow"}, by="test").job.id
        self.ledger.end(claimed(self.ledger, self.retried), Ending("retry", "network", "cut"), Reading())
        use = UsageRecorder(self.facts, self.clock, "gateway")
        use.add(Use(self.clock.now(), "m1:latest", "anna", "a10g", "success"))
        use.flush()
        record(self.facts, (), [Incident("job", "pull/m2:latest", "failed")], self.clock.now())
        self.clock.tick(3600)
        record(self.facts, cases(dict(self.facts.items(*keys.CASES))), [], self.clock.now())
        self.ended("m1:latest")
        self.jobs, self.usage, self.cases = self.told(), self.used(), self.known_cases()
        self.memory = recall(self.facts, self.ledger.reader.jobs())

    def ended(self, subject: str, ending: Ending | None = None) -> None:
        id = self.ledger.post("pull", subject, {"model": subject}, by="test").job.id
        result = {"digest": "sha256:1", "way": "registry"}
        self.ledger.end(claimed(self.ledger, id), ending or Ending("succeeded", result=result), Reading())

    def told(self) -> list[dict[str, Any]]:
        archived = ArchivedJobs(self.archive).since
        commands = JobCommands(
            self.ledger, self.clock, is_worked=lambda: True, idle=("", ""), log="", archived=archived
        )
        return documents(commands.since(LONG_AGO))

    def used(self) -> list[Row]:
        return usage(self.facts, since=LONG_AGO.date(), past=archived_facts(self.archive, USAGE))

    def known_cases(self) -> list[str]:
        entries = archived_facts(self.archive, CASES) | dict(self.facts.items(*keys.CASES))
        return [f"{case.id} {case.opened_at} {case.recovered_at}" for case in cases(entries)]

    def archive_all(self) -> int:
        return sum(archiving(self.ledger, self.facts, self.archive, self.clock.now(), nothing_to_commit))

    def check(self) -> None:
        """One history, whatever lies where; and what the weights' upkeep knew of it."""
        assert self.told() == self.jobs
        assert self.used() == self.usage
        assert self.known_cases() == self.cases
        known = recall(self.facts, self.ledger.reader.jobs())
        assert (known.came, known.verified, known.used) == (self.memory.came, self.memory.verified, self.memory.used)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


PLACES = ("one machine", "a deployment", "any other dict")


@pytest.fixture(params=PLACES)
def make_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Place]]:
    made: list[Place] = []

    def make() -> Place:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(Place(request.param, folder))
        return made[-1]

    yield make
    for place in made:
        place.close()


def test_all_that_is_old_leaves_and_is_told_as_before(make_place: Callable[[], Place]) -> None:
    """Days later all of it is in the archive but what goes on, a month later not even ids are left; and whoever asks
    hears the same history as before."""
    place = make_place()
    place.clock.tick(AFTER.total_seconds() - 60)
    assert place.archive_all() == 6 - 1  # the last one ended an hour after the others
    place.check()
    place.clock.tick(20 * 86_400)
    assert place.archive_all() > 1
    assert [job.id for job in place.ledger.reader.jobs()] == [place.retried]
    place.check()
    place.clock.tick(LONG.total_seconds())
    place.archive_all()
    place.check()
    left = {key for key in place.facts.keys(*keys.OF_JOBS) if place.retried not in key}
    assert left == set()
    again = place.ledger.post("pull", "m1:latest", {"model": "m1"}, by="test").job
    assert again.id not in {job["id"] for job in place.jobs}


@pytest.mark.parametrize("then", [0, 2 * 3600, LONG.total_seconds()])
def test_whoever_is_killed_at_it_loses_nothing(make_place: Callable[[], Place], then: float) -> None:
    """Killed before any change to the store: nothing is lost, nothing is told twice, and the next round ends it."""
    for step in range(1, 200):
        place = make_place()
        place.clock.tick(20 * 86_400)
        if then:
            place.archive_all()
            place.clock.tick(then)
        place.facts.left = step
        try:
            place.archive_all()
        except Killed:
            place.facts.left = 10**9
        else:
            assert step > 1
            return
        place.check()
        place.archive_all()
        assert [job.id for job in place.ledger.reader.jobs()] == [place.retried]
        place.check()
        place.close()
    pytest.fail("it never came to its end")


def test_whoever_is_killed_at_a_file_loses_nothing(make_place: Callable[[], Place]) -> None:
    """Killed before any change to the archive's files: the same."""
    for step in range(1, 60):
        place = make_place()
        place.clock.tick(20 * 86_400)
        has_died = dies_at(step, place.archive_all)
        place.check()
        place.archive_all()
        assert [job.id for job in place.ledger.reader.jobs()] == [place.retried]
        place.check()
        place.close()
        if not has_died:
            return
    pytest.fail("it never came to its end")


# -- the thread of one machine -----------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.prepare()
    return home


def past(home: Home, clock: HandClock, count: int) -> list[str]:
    return write_past(home.root / "ledger.sqlite", count, clock.now() - AFTER - timedelta(hours=1))


def test_a_home_of_the_version_before_is_archived_by_itself(home: Home) -> None:
    """The jobs that an older version left are archived as they lie, each once, and an hour later their room is free."""
    clock = HandClock()
    ids = past(home, clock, 1_200)
    jobs = home.reader(clock).jobs()
    thread = ArchiveThread(home, clock)
    assert thread.run_once() == 1_200
    assert home.reader(clock).jobs() == []
    assert documents(ArchivedJobs(archive_at(home.root)).since(LONG_AGO)) == documents(jobs)
    assert {job.id for job in jobs} == set(ids)
    clock.tick(3_700)
    assert thread.run_once() == 0
    assert {key.partition("/")[0] for key in home.facts().keys()} >= {"job", "gone", "live", "upkeep"}  # noqa: SIM118
    assert not [*home.facts().keys(keys.END, keys.CLAIM, keys.BEAT)]
    later = home.ledger(clock).post("pull", jobs[0].subject, {}, by="test").job
    assert later.id not in ids


def test_a_full_disk_has_the_archive_wait(home: Home) -> None:
    """While the archive cannot grow, jobs stay in the ledger, and health says so, once in the log; then it goes on."""
    clock = HandClock()
    past(home, clock, 20)
    thread = ArchiveThread(home, clock)
    logged: list[str] = []
    sink = logger.add(lambda line: logged.append(str(line)), level="INFO", format="{message}")
    try:
        with refusing({"os.mkdir": errno.ENOSPC, "open": errno.ENOSPC}):
            for _ in range(3):
                with pytest.raises(DiskFull):
                    thread.run_once()
                thread.try_once()
        assert len(home.reader(clock).jobs()) == 20
        [problem] = thread.problems()
        assert "what is old is not archived for now" in problem
        assert "disk is full" in problem or "no space" in problem.lower()
        assert sum("stays in the ledger" in line for line in logged) == 1
        thread.try_once()
    finally:
        logger.remove(sink)
    assert (thread.problems(), home.reader(clock).jobs()) == ((), [])
    assert len(ArchivedJobs(archive_at(home.root)).since(LONG_AGO)) == 20


def test_the_thread_archives_at_its_start_and_leaves_when_asked(home: Home) -> None:
    """`up` need not run for an hour before anything is archived, and a stop ends it after the step that it is at."""
    clock = HandClock()
    past(home, clock, 3)
    thread = ArchiveThread(home, clock)
    thread.stop()  # before it has begun: it does one step, and leaves
    thread.start()
    thread.stop()
    assert home.reader(clock).jobs() == []


class ReadsNotAll(LedgerReader):
    """Of whom nobody may ask for all jobs."""

    def jobs(self, newest: int | None = None) -> list[Job]:
        raise AssertionError(f"all jobs were read: {newest}")


@pytest.mark.parametrize("hours", [1, 5])
def test_who_archives_leaves_how_the_jobs_stand(tmp_path: Path, hours: int) -> None:
    """Where no check for alerts comes, each round of the archive leaves the dead letters and the number of jobs for
    readers, and goes on from the round before, also when `up` was away for hours."""
    home, clock = Home(tmp_path), HandClock(datetime(2026, 6, 1, tzinfo=UTC))
    home.prepare()
    write_past(tmp_path / "ledger.sqlite", 20, clock.now() - timedelta(days=1), failed_each=10)
    archive = ArchiveThread(home, clock)
    reader = ReadsNotAll(home.facts())
    for _ in range(4):
        archive.run_once()
        clock.tick(hours * 3600)
        known = known_jobs(reader, clock.now())
        assert len(known.dead) == 2
        assert sum(known.ended.counts.values()) == 20


def test_files_of_batches_are_looked_through_without_a_night(home: Home) -> None:
    """Where no fleet has nights, what is due of batches is posted while `up` runs: once, and only when it is."""
    clock = HandClock(datetime.now(UTC))
    stack = Stack(1, clock.now(), simulated=True, servers=(), models=None)
    home.write_stack(stack)
    archive = ArchiveThread(home, clock)
    archive.run_once()
    assert home.reader(clock).jobs() == []

    with closing(home.facts()) as facts:
        expect(facts, clock.now() - timedelta(days=1))
    archive.run_once()
    archive.run_once()

    [job] = home.reader(clock).jobs()
    assert (job.kind, job.subject, job.posted_by) == ("prune_batches", "*", "up")
