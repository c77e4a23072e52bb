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
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from loguru import logger

from jobs.core.clock import Clock
from jobs.core.errors import ServerTrouble, Trouble, os_trouble
from jobs.ledger.job import Backoff
from jobs.store.private_files import opener

GRACE_SECONDS = 5.0
"""For a server to end its runners; what is left then is killed."""

AGAIN = Backoff(first=timedelta(seconds=1), longest=timedelta(minutes=1))
"""Before one that ended by itself is started again."""

STEADY = timedelta(minutes=2)
"""What has run for so long is well: its earlier ends are forgotten."""

_LOOK_SECONDS = 0.05

# Run between fork and exec by the child itself. What a thread of ours held at the fork could stop Python code there
# for ever, so it is a program of its own that becomes the server.
_TIE = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15)  # PR_SET_PDEATHSIG, SIGTERM
if os.getppid() != int(sys.argv[1]):  # we died before it took effect
    os._exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""


class Child:
    """A process that leads a group of its own; what it says goes to `log`."""

    def __init__(self, name: str, argv: Sequence[str], *, env: Mapping[str, str], log: Path) -> None:
        """Start it. Call this from the main thread: Linux takes the end of the starting *thread* for our death.

        Raises:
            Trouble: it cannot be started, or its log cannot be written.

        """
        self.name = name
        self.log = log
        self._argv = [*_tied(os.getpid()), *argv]
        self._env = dict(env)
        try:
            if log.exists():
                log.replace(log.with_suffix(".log.1"))
        except OSError as error:
            raise os_trouble(error, doing=f"putting the log of {name} aside") from error
        self._process = self._started()

    def start_again(self) -> None:
        """Start it anew, what it left running killed first. From the main thread, as before.

        Raises:
            Trouble: it cannot be started.

        """
        self.signal(signal.SIGKILL)
        self._process = self._started()

    def _started(self) -> "subprocess.Popen[bytes]":
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


def stop(children: Iterable[Child], clock: Clock) -> None:
    """End all of them side by side: politely, then for good."""
    left = list(children)
    for child in left:
        child.signal(signal.SIGTERM)
    deadline = clock.monotonic() + GRACE_SECONDS
    while any(not child.has_ended for child in left) and clock.monotonic() < deadline:
        clock.wait(_LOOK_SECONDS)
    for child in left:
        if not child.has_ended:
            logger.warning("{} did not end within {:.0f} s and is killed", child.name, GRACE_SECONDS)
        child.signal(signal.SIGKILL)  # its runners, should it have left any
        child._process.wait()  # noqa: SLF001 - ours
        logger.info("{} has ended", child.name)


def _tied(parent: int) -> list[str]:
    """What a command line begins with, for the process to be told when we die."""
    return [sys.executable, "-I", "-S", "-c", _TIE, str(parent)] if sys.platform == "linux" else []


@dataclass
class _Ends:
    """How often a child has ended by itself, since when it runs, and when it is started again, in monotonic seconds."""

    began_at: float
    count: int = 0
    how: str = ""
    again_at: float | None = None


class Restarts:
    """Starts again what has ended by itself.

    Args:
        children: the processes.
        clock: for pauses.

    """

    def __init__(self, children: Sequence[Child], clock: Clock) -> None:
        self._children = children
        self._clock = clock
        self._ends = {child.name: _Ends(clock.monotonic()) for child in children}  # the main thread's alone
        self._problems: tuple[str, ...] = ()  # the main thread replaces it whole, any thread reads it

    def problems(self) -> tuple[str, ...]:
        """What ended by itself and has not stayed up since."""
        return self._problems

    def look(self) -> None:
        """See who has ended, and start who is due. Call this from the main thread, often."""
        for child in self._children:
            self._look_at(child, self._ends[child.name])
        self._problems = tuple(self._told(child, ends) for child, ends in self._known() if ends.count)

    def _known(self) -> list[tuple[Child, _Ends]]:
        return [(child, self._ends[child.name]) for child in self._children]

    def _look_at(self, child: Child, ends: _Ends) -> None:
        now = self._clock.monotonic()
        if not child.has_ended:
            if ends.count and now - ends.began_at >= STEADY.total_seconds():
                ends.count = 0
            return
        if ends.again_at is None:
            self._put_off(child, ends, child.how_it_ended)
        elif now >= ends.again_at:
            try:
                child.start_again()
            except Trouble as trouble:
                self._put_off(child, ends, str(trouble))
            else:
                ends.began_at, ends.again_at = now, None

    def _put_off(self, child: Child, ends: _Ends, how: str) -> None:
        ends.count += 1
        ends.how = how
        pause = AGAIN.delay(ends.count, 1.0).total_seconds()
        ends.again_at = self._clock.monotonic() + pause
        logger.error("{}; it is started again in {:.0f} s, and what it said last is in {}", how, pause, child.log)

    def _told(self, child: Child, ends: _Ends) -> str:
        times = "" if ends.count == 1 else f", for the {ends.count}th time" if ends.count > 3 else " again"
        then = "it is being started again" if ends.again_at is not None else "it was started again"
        return f"{ends.how}{times}; {then}, and what it said last is in {child.log}"
