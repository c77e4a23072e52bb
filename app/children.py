"""Server processes that live and die with us: started in groups of their own, watched, and taken down with all theirs.

However we end, they end. When we stop politely we end their groups. When we are killed, Linux tells them
(PR_SET_PDEATHSIG): with SIGTERM, because an `ollama serve` that is killed outright leaves its runner behind with the
GPU's memory. macOS has nothing of the kind; there a killed `up` leaves its servers, and the next one finds their port
taken and says so.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from loguru import logger

from jobs.clock import Clock
from jobs.errors import ServerTrouble
from jobs.private import opener

GRACE_SECONDS = 5.0
"""For a server to end its runners; what is left then is killed."""

_PR_SET_PDEATHSIG = 1
_LOOK_SECONDS = 0.05


class Child:
    """A process that leads a group of its own; what it says goes to `log`."""

    def __init__(self, name: str, argv: Sequence[str], *, env: Mapping[str, str], log: Path) -> None:
        """Start it. Call this from the main thread: Linux takes the end of the starting *thread* for our death."""
        self.name = name
        self.log = log
        if log.exists():
            log.replace(log.with_suffix(".log.1"))
        with open(log, "wb", opener=opener) as out:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=dict(env),
                start_new_session=True,
                preexec_fn=_tie(os.getpid()),  # noqa: PLW1509 - started before any thread of ours
            )
        logger.info("started {}, pid {}", name, self._process.pid)

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
        code = self._process.poll()
        if code is None:
            return
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        raise ServerTrouble(f"{self.name} (pid {self.pid}) ended {how}", hint=f"what it said last is in {self.log}")

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


def _tie(parent: int) -> Callable[[], None] | None:
    """What the child does between fork and exec, to be told when we die."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)

    def tie() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # we died before it took effect
            os._exit(1)

    return tie
