"""Ends the work of this process at its n-th change to the disk, as a kill would: no later one is made.

To die before something is only read is to die before the next change, so reading does not count. Or it has the system
refuse changes, as a full or a read-only disk does.
"""

import errno
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

CHANGES = frozenset({"os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate"})


class Killed(BaseException):
    """No handler of ours may catch it."""


class _Counting(threading.local):
    left: int | None = None
    refused: Mapping[str, int] = {}


_counting = _Counting()
_hooked: list[bool] = []


def _step(event: str, arguments: tuple[object, ...]) -> None:
    if event in _counting.refused and (event != "open" or _writes(arguments)):
        raise OSError(_counting.refused[event], os.strerror(_counting.refused[event]))
    if _counting.left is None or not (event in CHANGES or (event == "open" and _writes(arguments))):
        return
    _counting.left -= 1
    if _counting.left <= 0:  # and so does every later one: what cleans up is dead as well
        raise Killed(event)


def _writes(arguments: tuple[object, ...]) -> bool:
    flags = arguments[2]
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _hook() -> None:
    if not _hooked:
        sys.addaudithook(_step)  # there is no way to take it off again
        _hooked.append(True)


FULL = {"os.mkdir": errno.ENOSPC}
"""A disk without room for another folder; what is there can be renamed and removed."""

READ_ONLY = dict.fromkeys([*CHANGES, "open"], errno.EROFS)


@contextmanager
def refusing(changes: Mapping[str, int]) -> Iterator[None]:
    """Have the system refuse these changes, each with its error number."""
    _hook()
    _counting.refused = changes
    try:
        yield
    finally:
        _counting.refused = {}


def dies_at(step: int, work: Callable[[], object]) -> bool:
    """Do the work until right before its n-th change; false when it came to its end before that."""
    _hook()
    _counting.left = step
    try:
        work()
    except Killed:
        return True
    finally:
        _counting.left = None
    return False
