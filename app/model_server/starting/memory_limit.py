"""How much memory this container may use, from the kernel's tables."""

import os
from collections.abc import Iterable
from pathlib import Path

_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Of control groups, the second kind and the first."""


def memory_limit(limits: Iterable[Path] = _LIMITS) -> int:
    """Bytes: its own limit, or what the machine has where that is less, or none is set."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *filter(None, map(_number, limits))])


def _number(path: Path) -> int | None:
    try:
        text = path.read_text("ascii").strip()
    except OSError:  # no such table is shown here
        return None
    return int(text) if text.isdigit() else None  # "max" is no limit
