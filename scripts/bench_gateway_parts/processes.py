"""Processes: started, pinned to a processor and ended; what whole trees of them have used."""

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path


def tree(pid: int) -> list[int]:
    """The process and all its descendants."""
    family = [pid]
    for each in family:
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{each}/task").iterdir():
                family += map(int, (thread / "children").read_text().split())
    return family


def cpu_seconds(pid: int) -> float:
    """User and system time of the tree, and of those of it that have ended."""
    ticks = 0
    for each in tree(pid):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, words[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int, which: str) -> float:
    """Of the whole tree: VmHWM is the peak of each, VmRSS what they hold now."""
    kilobytes = 0
    for each in tree(pid):
        with contextlib.suppress(OSError):
            match = re.search(rf"{which}:\s+(\d+)", Path(f"/proc/{each}/status").read_text())
            kilobytes += int(match[1]) if match else 0
    return kilobytes / 1000


def pinned(kind: str) -> list[str]:
    """The gateway on one processor, everything else on the other, so that neither takes from the other."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2 or shutil.which("taskset") is None:
        return []
    return ["taskset", "-c", str(cores[0] if kind == "gateway" else cores[1])]


@contextlib.contextmanager
def running(
    words: Sequence[str],
    log: Path,
    environ: Mapping[str, str] | None = None,
    *,
    folder: Path | None = None,
    is_heard: bool = False,
) -> Iterator[subprocess.Popen[str]]:
    """A process, ended with its whole group. What it says goes to the log, but for the stdout of one that is heard."""
    with log.open("w", encoding="utf-8") as said:
        process = subprocess.Popen(
            words,
            env=environ,
            cwd=folder,
            stdout=subprocess.PIPE if is_heard else said,
            stderr=said,
            text=True,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def first_line(process: subprocess.Popen[str], log: Path) -> str:
    """What it says when it is ready."""
    line = process.stdout.readline() if process.stdout else ""
    if not line.startswith("ready"):
        sys.exit(f"error: {shlex.join(map(str, process.args))} did not become ready\n{log.read_text('utf-8')[-2000:]}")  # type: ignore[arg-type]
    return line.strip()
