"""Fixtures that more than one file asks for."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from jobs.core.clock import SystemClock
from jobs.testing.clock import HandClock
from tests.modal.platform.interpreters import told
from tests.support.stores import Store, open_store

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
