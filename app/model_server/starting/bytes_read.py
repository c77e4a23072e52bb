"""How many bytes the runner of a server has taken in so far, by the kernel's own account of it.

A file that is read counts by what was read, one that is mapped by what of it is in memory. Not every kernel tells: a
sandbox may know of neither, and then nobody does.
"""

import os
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class BytesRead:
    """How many bytes have come in; at which rate, where that is measured."""

    done: int
    per_second: float | None = None


def bytes_read(group: int) -> int | None:
    """The most that a process of this group, but for its leader, has taken in; None where that cannot be known."""
    found = [
        taken
        for entry in _PROC.iterdir()
        if entry.name.isdigit() and int(entry.name) != group and _group_of(entry) == group
        if (taken := taken_in(int(entry.name))) is not None
    ]
    return max(found, default=None)


def _group_of(process: Path) -> int | None:
    try:
        return int(process.joinpath("stat").read_text("latin-1").rpartition(")")[2].split()[2])
    except (OSError, ValueError, IndexError):  # it ended meanwhile
        return None


def taken_in(pid: int) -> int | None:
    """What one process has taken in; None where that cannot be known."""
    process = _PROC / str(pid)
    known = [amount for amount in (_read_by(process), _mapped_by(process)) if amount]
    return max(known, default=None)


def _read_by(process: Path) -> int | None:
    try:
        lines = process.joinpath("io").read_text("ascii").splitlines()
        return next(int(line.partition(":")[2]) for line in lines if line.startswith("rchar:"))
    except (OSError, ValueError, StopIteration):
        return None


def _mapped_by(process: Path) -> int | None:
    try:
        return int(process.joinpath("statm").read_text("ascii").split()[2]) * _PAGE
    except (OSError, ValueError, IndexError):
        return None
