"""The slow volume: built where a C compiler is, mounted where FUSE is, and gone when it is left, by whatever.

Who is killed leaves no mount: the program ends with who started it, and a process beside it unmounts then. What
lies in a scratch folder is removed by the next run.
"""

import errno
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cold_rig.needs import NoRig

SOURCE = Path(__file__).with_suffix(".c")
COMPILER = "cc"


@dataclass(frozen=True)
class VolumeSpeed:
    """How slow it is.

    Args:
        latency_ms: of each request.
        stream_mb: megabytes a second of one request.
        total_mb: megabytes a second of all.
        background: requests that the kernel has under way for one who reads ahead.

    """

    latency_ms: float = 3.0
    stream_mb: float = 260.0
    total_mb: float = 2500.0
    background: int = 12

    def floor(self, size: int) -> float:
        """Seconds that so many bytes take at least."""
        return size / (self.total_mb * 1e6)


def build(folder: Path) -> Path:
    """The program, made in this folder.

    Raises:
        NoRig: something that it needs is not installed.

    """
    for needed, package in ((COMPILER, "a C compiler"), ("fusermount3", "fuse3")):
        if shutil.which(needed) is None:
            raise NoRig(f"there is no `{needed}`: install {package}")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise NoRig("/dev/fuse cannot be opened: this machine lets nobody mount")
    program = folder / "slow_volume"
    words = [COMPILER, "-O2", "-Wall", "-pthread", "-o", str(program), str(SOURCE)]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    if done.returncode:
        raise NoRig(f"{SOURCE.name} cannot be compiled: {done.stderr.strip()[-500:]}")
    return program


_SCRATCH = re.compile(r"ollama-modal-cold-(?:(\d+)-)?\w+")


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder of this process, for a model and for where volumes are mounted."""
    with tempfile.TemporaryDirectory(prefix=f"ollama-modal-cold-{os.getpid()}-") as folder:
        yield Path(folder)


def remove_left_over(root: Path | None = None) -> list[Path]:
    """Remove the scratch folders of runs that were killed; those that were. Where a volume is mounted there whose
    program has ended, it is unmounted before."""
    removed = []
    for folder in (root or Path(tempfile.gettempdir())).iterdir():
        found = _SCRATCH.fullmatch(folder.name)
        if found is None or (found[1] and Path("/proc", found[1]).exists()):
            continue
        if not found[1] and not any(map(_is_dead, folder.iterdir())):
            continue  # of whom it is nobody knows
        for each in folder.iterdir():
            if _is_dead(each):
                _unmount(each)
        shutil.rmtree(folder, ignore_errors=True)
        removed.append(folder)
    return removed


def _is_dead(mount: Path) -> bool:
    """Whether a volume is mounted there that nobody answers for."""
    try:
        mount.stat()
    except OSError as error:
        return error.errno == errno.ENOTCONN
    return False


def _unmount(mount: Path) -> None:
    """Lazily: a reader at its last block still has its file open."""
    subprocess.run(["fusermount3", "-u", "-z", str(mount)], check=False, capture_output=True)


@contextmanager
def mounted(program: Path, source: Path, mount: Path, speed: VolumeSpeed) -> Iterator[Path]:
    """The volume, with nothing of it in the page cache.

    Raises:
        NoRig: it could not be mounted.

    """
    mount.mkdir(exist_ok=True)
    numbers = (speed.latency_ms, speed.stream_mb, speed.total_mb, speed.background)
    process = subprocess.Popen(
        [str(program), str(source), str(mount), *map(str, numbers)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        if process.stdout.readline() != b"ready\n":
            raise NoRig(process.stderr.read().decode(errors="replace").strip())
        yield mount
    finally:
        _unmount(mount)
        process.kill()  # the end of the volume, also where another process has taken a copy of the table of mounts
        process.wait()
        if process.stdout is not None:
            process.stdout.read()  # until what unmounts in the end has ended: it knows the mount by its path alone
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
