"""How much memory this container may use, from the kernel's tables."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Of control groups, the second kind and the first."""


def memory_limit(limits: Iterable[Path] = _LIMITS, machine: Callable[[], int] | None = None) -> int | None:
    """Bytes: its own limit, or what the machine has where that is less, or none is set. None where neither is known."""
    known = [_number(path) for path in limits]
    return min(filter(None, [(machine or _of_the_machine)(), *known]), default=None)


def _of_the_machine() -> int:
    """0 where the kernel does not tell."""
    try:
        return max(0, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (OSError, ValueError):
        return 0


def _number(path: Path) -> int | None:
    try:
        text = path.read_text("ascii").strip()
    except (OSError, ValueError):  # no such table is shown here, or it makes no sense
        return None
    return int(text) if text.isdecimal() else None  # "max" is no limit
