"""`up` for years: what it does while nobody asks anything of it costs the same however many jobs have ended.

Counted in the steps of SQLite's own machine, so that whatever is read counts, by its key, by a prefix or by its time.
"""

from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from shutil import copytree

import pytest

from app.accounting.archiving import ArchiveThread
from app.fleet.file import read
from app.fleet.schema import Fleet, parse
from app.gateway.catalog.state import KnownState
from app.local.nightly_thread import NightlyThread
from jobs.archive.archive import AT_ONCE
from jobs.archive.archived import AFTER
from jobs.home.home import Home, Stack
from jobs.listing.dead_memory import look_and_remember
from jobs.models.card import KnownModel
from jobs.store.sqlite import SqliteQueue
from jobs.testing.clock import HandClock
from tests.support.counting_files import file_operations
from tests.support.counting_sqlite import Steps
from tests.support.past_jobs import write_past
from tests.support.stores import open_store

N = 400
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
SPARE = 1.1
"""A B-tree that is one page deeper."""


class NoModels:
    def stamp(self, generation: object) -> object:
        return generation

    def read(self) -> list[KnownModel]:
        return []


def fleet() -> Fleet:
    return parse(read(), "fleet.toml")


def write_home(root: Path, ended: int, old: int) -> None:
    """A home with so many jobs that ended in the last days, and as many as are `old` to be archived."""
    home = Home(root)
    home.prepare()
    path = root / "ledger.sqlite"
    if old:
        write_past(path, old, NOW - AFTER - timedelta(hours=1), models="old")
    write_past(path, ended, NOW - timedelta(minutes=5), failed_each=0)
    with closing(open_store(path, HandClock(NOW))) as store:
        ledger = store.ledger()
        ledger.index_all(ledger.reader.jobs())


class Idle:
    """A home whose `up` has nothing to do."""

    def __init__(self, root: Path) -> None:
        self.clock = HandClock(NOW)
        self.home = Home(root)
        path = root / "ledger.sqlite"
        self.facts = self.home.facts()
        self.ledger = self.home.ledger(self.clock)
        self.archive = ArchiveThread(self.home, self.clock)
        self.known = KnownState(self.facts, NoModels(), self.clock)
        self.queue = SqliteQueue(path, clock=self.clock)
        stack = Stack(1, NOW, simulated=True, servers=(), models=None)
        self.nightly = NightlyThread(self.home, stack, fleet(), self.clock)


WORK: dict[str, Callable[[Idle], object]] = {
    "the archive": lambda idle: idle.archive.run_once(),
    "the check for alerts": lambda idle: idle.nightly.check_alerts(),
    "the sweep of a worker": lambda idle: idle.ledger.sweep(),
    "the look for a job": lambda idle: idle.queue.get(block=False, partition="weights"),
    "what the gateway knows": lambda idle: idle.known.refresh(),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, int], Path]:
    """Each home is written once, and nobody works in it: who does takes a copy."""

    @cache
    def home_of(ended: int, old: int) -> Path:
        root = tmp_path_factory.mktemp("written") / "home"
        write_home(root, ended, old)
        return root

    return home_of


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    steps = Steps()
    steps.watch(monkeypatch)
    return steps


@pytest.fixture
def idle(tmp_path: Path, written: Callable[[int, int], Path], steps: Steps) -> Callable[..., Idle]:
    assert steps.count == 0

    def make(ended: int, old: int = 0) -> Idle:
        return Idle(copytree(written(ended, old), tmp_path / f"{ended} {old}"))

    return make


@pytest.mark.parametrize("what", WORK)
def test_an_idle_round_costs_the_same(what: str, idle: Callable[..., Idle], steps: Steps) -> None:
    """The second round of everything that goes on by itself reads no more with twice as many jobs that have ended."""
    counts = []
    for ended in (N, 2 * N):
        world = idle(ended)
        WORK[what](world)
        world.clock.tick(180)
        counts.append(steps.of(lambda: WORK[what](world)))  # noqa: B023 - called at once
    once, twice = counts
    assert 0 < twice <= SPARE * once, counts


@pytest.mark.parametrize("leaving", [50, 100])
def test_to_archive_some_costs_by_those(leaving: int, idle: Callable[..., Idle], steps: Steps) -> None:
    """To archive some jobs of many costs as much as to archive those of few; and twice as many, twice as much."""
    few, many = (idle(ended, leaving) for ended in (50, 800))
    for world in (few, many):
        WORK["the sweep of a worker"](world)
        look_and_remember(world.ledger.reader, world.facts, world.clock.now())  # as the round before left it
    counts = [steps.of(world.archive.run_once) for world in (few, many)]
    assert counts[1] <= 1.25 * counts[0], counts  # deeper B-trees
    for world in (few, many):
        world.clock.tick(3 * 3600)
    cleared = [steps.of(world.archive.run_once) for world in (few, many)]
    assert cleared[1] <= 1.25 * cleared[0], cleared


def test_to_archive_twice_as_many_costs_twice_as_much(idle: Callable[..., Idle], steps: Steps) -> None:
    """No step of a long backlog pays for those before it."""
    counts = [steps.of(idle(10, old).archive.run_once) for old in (600, 1_200)]
    assert counts[1] <= 2 * SPARE * counts[0], counts


@pytest.mark.parametrize("later", [60, 3 * 3600])
def test_a_round_after_a_long_one_costs_nothing(idle: Callable[..., Idle], steps: Steps, later: float) -> None:
    """Once many jobs are archived, and once what was left of them is removed, a round reads none of them again but
    those of the last step, and asks a handful of things of the file system."""
    counts, files = [], []
    for old in (AT_ONCE, 2 * AT_ONCE):
        world = idle(10, old)
        world.archive.run_once()
        world.clock.tick(later)
        world.archive.run_once()
        world.clock.tick(60)
        counts.append(steps.of(world.archive.run_once))
        files.append(sum(file_operations(world.archive.run_once).values()))
    assert counts[1] <= SPARE * counts[0], counts
    assert max(files) <= 20, files
