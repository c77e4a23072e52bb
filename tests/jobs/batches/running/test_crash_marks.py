"""The line that kills its worker is found, and the others have their answers."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from jobs.batches.running.crash_marks import CrashMarks
from jobs.ledger.job import Attempt, Job, JobState, Outcome
from tests.support.batch_files import storage_at
from tests.support.batch_runs import GOOD, Gateway, Said, ids, runs
from tests.support.checkout import ROOT
from tests.support.stores import Store
from tests.support.waiting import PATIENCE

AT = datetime(2026, 1, 1, tzinfo=UTC)


def job(*outcomes: Outcome) -> Job:
    """In the attempt after those that ended so."""
    ends: list[Outcome | None] = [*outcomes, None]
    attempts = tuple(Attempt(n, AT, "w", timedelta(1), AT, outcome=each) for n, each in enumerate(ends, 1))
    return Job("line-1", "batch", "batch_1", "batches", JobState.RUNNING, {}, 1000, AT, "test", attempts)


class Attempts:
    """One after the other, as they die."""

    def __init__(self, folder: Path) -> None:
        self._storage = storage_at(folder)
        self._storage.make_folder(self._storage.work("batch_1"))
        self._outcomes: list[Outcome] = []
        self.done: set[int] = set()

    def begin(self) -> CrashMarks:
        return CrashMarks(self._storage, "batch_1", job(*self._outcomes), self.done.__contains__)

    def end(self, outcome: Outcome = "lost") -> None:
        self._outcomes.append(outcome)

    def die_with(self, lines: Iterable[int]) -> None:
        self.begin().write_first(lines)
        self.end()


def test_lines_with_which_two_in_a_row_died_go_by_themselves(tmp_path: Path) -> None:
    """Those alone that were among the first both times, and have no result."""
    at = Attempts(tmp_path)
    assert at.begin().suspects == []
    at.die_with([1, 2, 3])
    assert at.begin().suspects == []
    at.done.add(1)
    at.die_with([2, 3, 4])
    assert at.begin().suspects == [2, 3]
    assert at.begin().killer is None


def test_the_one_with_which_five_in_a_row_died_is_the_killer(tmp_path: Path) -> None:
    """Alone in the last of them."""
    at = Attempts(tmp_path)
    at.die_with([2, 3])
    at.die_with([2, 3])
    for _ in range(3):
        marks = at.begin()
        assert marks.killer is None
        marks.write_alone(2)
        at.end()
        assert at.begin().suspects == [2]
    assert at.begin().killer == (2, 5)


def test_an_attempt_that_was_not_killed_forgets(tmp_path: Path) -> None:
    """So does one whose mark is another attempt's."""
    at = Attempts(tmp_path)
    at.die_with([1, 2])
    at.die_with([1, 2])
    at.end("retry")
    assert at.begin().suspects == []
    at.end("lost")
    assert at.begin().suspects == []


def test_a_line_that_kills_its_worker_is_an_error(live_store: Store, tmp_path: Path) -> None:
    """Each time line 7 is sent its worker dies: it is given up, and all others have their answers."""
    workers: list[int] = []

    def says(number: int, _: int) -> Said:
        if number == 7:
            os.kill(workers[-1], signal.SIGKILL)
            return Said(cut=True)
        return GOOD

    with runs(live_store, tmp_path, Gateway(says)) as (at, gateway):
        record = at.post(20)
        while not at.batches.get(record.id).has_ended:
            assert len(workers) < 20
            command = [sys.executable, "-m", "tests.support.batch_process", str(tmp_path), at.context.gateway]
            with subprocess.Popen(command, cwd=ROOT) as process:
                workers.append(process.pid)
                process.wait(PATIENCE)
        batch = at.batches.get(record.id)
        assert (batch.status, batch.counts.completed, batch.counts.failed) == ("completed", 19, 1)
        (error,) = at.errors(batch)
        assert (error["custom_id"], error["error"]["code"]) == ("id-7", "line_kills_worker")
        assert ids(at.output(batch)) == [f"id-{n}" for n in range(1, 21) if n != 7]
        assert gateway.times(7) == len(workers) - 1
