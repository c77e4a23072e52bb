"""Server processes that live and die with us: started in groups of their own, watched, and taken down with all theirs.

One that ends by itself is started again, after a pause that grows, and is told of until it has stayed up.
However we end, they end. When we stop politely we end their groups. When we are killed, Linux tells them
(PR_SET_PDEATHSIG): with SIGTERM, because an `ollama serve` that is killed outright leaves its runner behind with the
GPU's memory. macOS has nothing of the kind; there a killed `up` leaves its servers, and the next one finds their port
taken and says so.
"""

import os
import signal
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from loguru import logger

from app.model_server.starting.death_signal import with_death_signal
from jobs.core.clock import Clock
from jobs.core.errors import ServerTrouble, Trouble, os_trouble
from jobs.ledger.job import Backoff
from jobs.store.private_files import opener

GRACE_SECONDS = 5.0
"""For a server to end its runners; what is left then is killed."""

RESTART_BACKOFF = Backoff(first=timedelta(seconds=1), longest=timedelta(minutes=1))
"""Before one that ended by itself is started again."""

STABLE_AFTER = timedelta(minutes=2)
"""What has run for so long is well: its earlier ends are forgotten."""

_POLL_SECONDS = 0.05


class ServerProcess:
    """A process that leads a group of its own; what it says goes to `log`."""

    def __init__(self, name: str, argv: Sequence[str], *, env: Mapping[str, str], log: Path) -> None:
        """Start it. Call this from the main thread: Linux takes the end of the starting *thread* for our death.

        Raises:
            Trouble: it cannot be started, or its log cannot be written.

        """
        self.name = name
        self.log = log
        self._argv = [*with_death_signal(os.getpid()), *argv]
        self._env = dict(env)
        try:
            if log.exists():
                log.replace(log.with_suffix(".log.1"))
        except OSError as error:
            raise os_trouble(error, doing=f"putting the log of {name} aside") from error
        self._process = self._spawned()

    def start_again(self) -> None:
        """Start it anew, what it left running killed first. From the main thread, as before.

        Raises:
            Trouble: it cannot be started.

        """
        self.signal(signal.SIGKILL)
        self._process = self._spawned()

    def _spawned(self) -> "subprocess.Popen[bytes]":
        try:
            with open(self.log, "ab", opener=opener) as out:
                process = subprocess.Popen(
                    self._argv,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env=self._env,
                    start_new_session=True,
                )
        except OSError as error:
            raise os_trouble(error, doing=f"starting {self.name}") from error
        logger.info("started {}, pid {}", self.name, process.pid)
        return process

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def is_done(self) -> bool:
        """Whether it has ended well, by itself."""
        return self._process.poll() == 0

    def wait(self) -> None:
        """Until it has ended."""
        self._process.wait()

    def require_alive(self) -> None:
        """Raise when it has ended.

        Raises:
            ServerTrouble: with how it ended and where its log is.

        """
        if self.has_ended:
            raise ServerTrouble(self.how_it_ended, hint=f"what it said last is in {self.log}")

    @property
    def how_it_ended(self) -> str:
        code = self._process.poll()
        if code is None:
            return f"{self.name} (pid {self.pid}) runs"
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return f"{self.name} (pid {self.pid}) ended {how}"

    def signal(self, number: int) -> None:
        """Send a signal to the whole group, as far as there still is one."""
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):  # macOS says EPERM of a group of zombies
            return


def stop(processes: Iterable[ServerProcess], clock: Clock) -> None:
    """End all of them side by side: politely, then for good."""
    left = list(processes)
    for process in left:
        process.signal(signal.SIGTERM)
    deadline = clock.monotonic() + GRACE_SECONDS
    while any(not process.has_ended for process in left) and clock.monotonic() < deadline:
        clock.wait(_POLL_SECONDS)
    for process in left:
        if not process.has_ended:
            logger.warning("{} did not end within {:.0f} s and is killed", process.name, GRACE_SECONDS)
        process.signal(signal.SIGKILL)  # its runners, should it have left any
        process._process.wait()  # noqa: SLF001 - ours
        logger.info("{} has ended", process.name)


@dataclass
class _Ends:
    """How often a process ended by itself, since when it runs, and when it is started again, in monotonic seconds."""

    began_at: float
    count: int = 0
    how: str = ""
    again_at: float | None = None


class Restarter:
    """Starts again what has ended by itself.

    Args:
        processes: the processes.
        clock: for pauses.
        started: called with the name of each that is started again.

    """

    def __init__(
        self, processes: Sequence[ServerProcess], clock: Clock, started: Callable[[str], object] = lambda _: None
    ) -> None:
        self._clock = clock
        self._started = started
        #: The main thread's alone, like the processes themselves.
        self._ends = {process: _Ends(clock.monotonic()) for process in processes}
        #: The main thread replaces it whole, any thread reads it.
        self._problems: tuple[str, ...] = ()

    def problems(self) -> tuple[str, ...]:
        """What ended by itself and has not stayed up since."""
        return self._problems

    def check(self) -> None:
        """See who has ended, and start who is due. Call this from the main thread, often."""
        for process, ends in self._ends.items():
            self._check_one(process, ends)
        self._problems = tuple(self._problem(process, ends) for process, ends in self._ends.items() if ends.count)

    def _check_one(self, process: ServerProcess, ends: _Ends) -> None:
        now = self._clock.monotonic()
        if not process.has_ended:
            if ends.count and now - ends.began_at >= STABLE_AFTER.total_seconds():
                ends.count = 0
            return
        if ends.again_at is None:
            self._put_off(process, ends, process.how_it_ended)
        elif now >= ends.again_at:
            try:
                process.start_again()
            except Trouble as trouble:
                self._put_off(process, ends, str(trouble))
            else:
                ends.began_at, ends.again_at = now, None
                self._started(process.name)

    def _put_off(self, process: ServerProcess, ends: _Ends, how: str) -> None:
        ends.count += 1
        ends.how = how
        pause = RESTART_BACKOFF.delay(ends.count, 1.0).total_seconds()
        ends.again_at = self._clock.monotonic() + pause
        logger.error("{}; it is started again in {:.0f} s, and what it said last is in {}", how, pause, process.log)

    def _problem(self, process: ServerProcess, ends: _Ends) -> str:
        times = "" if ends.count == 1 else f", {ends.count} times now" if ends.count > 3 else " again"
        then = "it is being started again" if ends.again_at is not None else "it was started again"
        return f"{ends.how}{times}; {then}, and what it said last is in {process.log}"
