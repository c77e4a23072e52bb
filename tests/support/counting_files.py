"""Counts what this thread asks of the file system: each call that looks for, opens, makes, moves, removes or flushes a
file or folder. Reading and writing what is open is not counted, nor what a listing told by itself.

The calls are seen as the interpreter makes them (`sys.setprofile`), so nothing is replaced, and no clock is read.
"""

import io
import os
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

ON_PATHS = (
    "access chmod link listdir lstat mkdir open readlink remove rename replace rmdir scandir stat statvfs symlink"
    " truncate unlink utime"
)
ON_DESCRIPTORS = "fchmod fdatasync fsync"

COUNTED = frozenset(getattr(os, name) for name in f"{ON_PATHS} {ON_DESCRIPTORS}".split()) | {io.open}
"""What libraries call in the end, `pathlib` and `shutil` too."""


def file_operations(work: Callable[[], object]) -> Counter[str]:
    """How often each operation was asked for while this was done."""
    asked: Counter[str] = Counter()

    def see(_: Any, event: str, called: Any) -> None:
        if event != "c_call":
            return
        if isinstance(getattr(called, "__self__", None), os.DirEntry):  # `is_dir` asks only of a link
            asked["entry stat"] += called.__name__ == "stat"
        elif called in COUNTED:
            asked[called.__name__] += 1

    sys.setprofile(see)
    try:
        work()
    finally:
        sys.setprofile(None)
    return asked
