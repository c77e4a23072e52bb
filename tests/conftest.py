"""Fixtures that more than one file asks for."""

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

from jobs.core.clock import Clock, SystemClock
from jobs.ledger.ledger import Ledger
from jobs.store.sqlite import SqliteDict, SqliteQueue
from jobs.testing.clock import HandClock
from tests.modal.platform.interpreters import told

# Who starts a suite in the background may have had Ctrl-C ignored, and what the tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A shared machine stalls for seconds now and then; a promise about time would be a benchmark.
settings.register_profile("house", deadline=None)
settings.load_profile("house")


def pytest_report_header(config: pytest.Config) -> list[str]:
    """On which Python the containers of a deployment run here: the images' own is not on every machine."""
    if config.get_verbosity() < 0:
        return []
    from app.resources import PYTHON  # noqa: PLC0415 - takes as long as a small test

    return [told(PYTHON)]


@dataclass
class Store:
    """A ledger with the queue and dict below it, so that a test can damage them."""

    queue: SqliteQueue
    facts: SqliteDict
    clock: Clock
    path: Path

    def ledger(self) -> Ledger:
        return Ledger(self.queue, self.facts, self.clock)

    def empty_queue(self) -> int:
        count = 0
        for lane in ("weights", "servers"):
            while self.queue.get(block=False, partition=lane) is not None:
                count += 1
        return count

    def close(self) -> None:
        self.queue.close()
        self.facts.close()


def open_store(path: Path, clock: Clock) -> Store:
    return Store(SqliteQueue(path, clock=clock), SqliteDict(path), clock, path)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def store(tmp_path: Path, clock: HandClock) -> Iterator[Store]:
    """A store on a real SQLite file, its clock moved by hand."""
    opened = open_store(tmp_path / "ledger.sqlite", clock)
    yield opened
    opened.close()


@pytest.fixture
def live_store(tmp_path: Path) -> Iterator[Store]:
    """A store on a real SQLite file and the machine's clock, for tests with real threads and processes."""
    opened = open_store(tmp_path / "live.sqlite", SystemClock())
    yield opened
    opened.close()
