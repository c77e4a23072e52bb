"""On one machine: what is due of batches is told by `plan`, and done by the night."""

from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.fleet.file import read
from app.fleet.schema import parse
from app.local.coming_night import coming_night
from app.local.nightly_thread import NightlyThread
from jobs.batches.files.files_due import expect
from jobs.home.home import Home, Stack
from jobs.ledger.job import BY_NIGHTLY
from jobs.testing.clock import HandClock


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.prepare()
    return home


def test_the_night_prunes_what_is_over_of_batches(home: Home, tmp_path: Path) -> None:
    """A file that is over is a step of the coming night with that reason, and the night posts it once."""
    clock = HandClock(datetime(2026, 10, 6, 12, tzinfo=UTC))
    (tmp_path / "models").mkdir()
    stack = Stack(1, clock.now(), simulated=True, servers=(), models=tmp_path / "models")
    home.write_stack(stack)
    document = read()
    document["models"] = []
    fleet = parse(document, "test")
    assert coming_night(home, stack, fleet, clock).steps == ()
    with closing(home.facts()) as facts:
        expect(facts, clock.now() - timedelta(days=1))

    [step] = coming_night(home, stack, fleet, clock).steps
    assert (step.kind, step.why) == ("prune_batches", "files are over since 2026-10-05")
    NightlyThread(home, stack, fleet, clock).run_if_due()
    NightlyThread(home, stack, fleet, clock).run_if_due()

    [job] = home.reader(clock).jobs()
    assert (job.kind, job.posted_by) == ("prune_batches", BY_NIGHTLY)
