"""Ends the work of this process at its n-th change to the disk, as a kill would: no later one is made.

To die before something is only read is to die before the next change, so reading does not count.
"""

import os
import sys
import threading
from collections.abc import Callable

CHANGES = frozenset({"os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate"})


class Killed(BaseException):
    """No handler of ours may catch it."""


class _Counting(threading.local):
    left: int | None = None


_counting = _Counting()
_hooked: list[bool] = []


def _step(event: str, arguments: tuple[object, ...]) -> None:
    if _counting.left is None or not (event in CHANGES or (event == "open" and _writes(arguments))):
        return
    _counting.left -= 1
    if _counting.left <= 0:  # and so does every later one: what cleans up is dead as well
        raise Killed(event)


def _writes(arguments: tuple[object, ...]) -> bool:
    flags = arguments[2]
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def dies_at(step: int, work: Callable[[], object]) -> bool:
    """Do the work until right before its n-th change; false when it came to its end before that."""
    if not _hooked:
        sys.addaudithook(_step)  # there is no way to take it off again
        _hooked.append(True)
    _counting.left = step
    try:
        work()
    except Killed:
        return True
    finally:
        _counting.left = None
    return False
