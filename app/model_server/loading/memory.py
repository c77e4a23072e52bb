"""How much memory this container has, and how many bytes of files a process has taken in, from the kernel's tables."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Of control groups, the second kind and the first."""


def limit(*, limits: Iterable[Path] = _LIMITS) -> int:
    """Bytes of memory that this container may use: its own limit, or what the machine has where that is less."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *filter(None, map(_number, limits))])


def taken_in(pid: int, *, proc: Path = Path("/proc")) -> int:
    """Bytes of files that a process and all its descendants have mapped and touched, or have read, whichever is more.

    0 where the kernel does not tell, as in sandboxes that show no such tables.
    """
    processes = list(_family(pid, proc))
    touched = sum(_field(proc / str(each) / "status", "RssFile:") * 1024 for each in processes)
    read = sum(_field(proc / str(each) / "io", "rchar:") for each in processes)
    return max(touched, read)


def _family(pid: int, proc: Path) -> Iterator[int]:
    yield pid
    for children in proc.glob(f"{pid}/task/*/children"):
        for child in _text(children).split():
            yield from _family(int(child), proc)


def _field(table: Path, name: str) -> int:
    rows = (line.split() for line in _text(table).splitlines())
    return next((int(row[1]) for row in rows if len(row) > 1 and row[0] == name), 0)


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None  # "max" is no limit


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except OSError:  # it has ended, or such a table is not shown here
        return ""
