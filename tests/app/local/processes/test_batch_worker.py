"""The process that works on batches: there when there is one, followed by another when it crashes, gone with `up`."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from app.local.processes.batch_worker import BatchWorker
from app.local.processes.server_process import STABLE_AFTER
from jobs.core.clock import SystemClock
from jobs.home.home import Home
from jobs.ledger.job import JobState
from tests.support.moved_clock import MovedClock
from tests.support.processes import is_running
from tests.support.waiting import until

LEAVES = "pass"
STAYS = "import time; time.sleep(600)"
CRASHES = "raise SystemExit(3)"


class Case:
    def __init__(self, folder: Path, program: str) -> None:
        self.home = Home(folder / "om")
        self.home.prepare()
        self.home.logs.mkdir()
        self.clock = MovedClock()
        self.ledger = self.home.ledger(SystemClock())
        self.worker = BatchWorker(self.home, self.clock, (sys.executable, "-c", program))

    def post(self) -> str:
        return self.ledger.post("batch", "batch_1", {}, by="test").job.id

    def checked_until_there(self) -> int:
        """Its process, once `up` has looked often enough."""

        def there() -> int | None:
            self.worker.check()
            return self.worker.pid

        return int(until(there))

    def checked_until_gone(self) -> None:
        def gone() -> bool:
            self.worker.check()
            return self.worker.pid is None

        until(gone)


@contextmanager
def case(folder: Path, program: str) -> Iterator[Case]:
    made = Case(folder, program)
    made.worker.start()
    try:
        yield made
    finally:
        made.worker.stop()


def test_it_comes_for_a_batch_and_leaves_by_itself(tmp_path: Path) -> None:
    """Nobody is started while there is none; one that has left well comes again, and is no problem."""
    with case(tmp_path, LEAVES) as at:
        for _ in range(3):
            at.worker.check()
        assert at.worker.pid is None
        at.post()
        at.checked_until_there()
        at.checked_until_gone()
        assert at.worker.problems() == ()
        at.checked_until_there()  # the batch is still in the queue


def test_one_that_crashes_is_followed_by_another(tmp_path: Path) -> None:
    """After a pause, and it is told of until one has stayed."""
    with case(tmp_path, CRASHES) as at:
        at.post()
        at.checked_until_there()
        at.checked_until_gone()
        (problem,) = at.worker.problems()
        assert "batches (pid " in problem
        assert "ended with exit code 3; it is started again" in problem
        at.worker.check()
        assert at.worker.pid is None
        at.clock.tick(1.0)
        at.checked_until_there()
        at.checked_until_gone()
        assert "2 times now" in at.worker.problems()[0]


def test_a_crash_is_forgotten_when_one_has_stayed(tmp_path: Path) -> None:
    """It is no problem any more."""
    with case(tmp_path, STAYS) as at:
        at.post()
        pid = at.checked_until_there()
        until(lambda: is_running(pid))
        os.kill(pid, signal.SIGKILL)
        at.checked_until_gone()
        assert "ended by SIGKILL" in at.worker.problems()[0]
        at.clock.tick(1.0)
        at.checked_until_there()
        at.clock.tick(STABLE_AFTER.total_seconds())
        at.worker.check()
        assert at.worker.problems() == ()


def test_what_a_crashed_one_was_at_goes_on_at_once(tmp_path: Path) -> None:
    """Nobody waits for the lease of a process that is known to be dead; attempts of other lanes are not touched."""
    with case(tmp_path, CRASHES) as at:
        id = at.post()
        other = at.ledger.post("pull", "m:latest", {"model": "m"}, by="test").job.id
        for job in (id, other):
            assert at.ledger.claim(job, worker="w", lease=timedelta(hours=1)) is not None
        at.checked_until_there()
        at.checked_until_gone()
        until(lambda: at.ledger.reader.get(id).state is JobState.WAITING)
        assert at.ledger.reader.get(other).state is JobState.RUNNING


def test_it_ends_with_up(tmp_path: Path) -> None:
    """Asked first, and killed when it does not end."""
    program = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); time.sleep(600)"
    with case(tmp_path, program) as at:
        at.post()
        pid = at.checked_until_there()
    assert not is_running(pid)
