"""What is asked of files and folders: that a rename lasts, if anybody wrote, and the system's refusals in our words."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakValueDictionary

from jobs.core.errors import os_trouble

_LOOKS_AFTER_A_CHANGE = 10
"""A file's time is as coarse as the system's ticks, so another change right after one need not show."""

_LOOKS_WITHOUT = 20
"""After so many looks that saw no change there may be one all the same."""


def flush_folder(folder: Path) -> None:
    """Make renames in this folder last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn the system's refusals into Trouble."""
    try:
        yield
    except OSError as error:
        raise os_trouble(error, doing=doing) from error


class FileWatch:
    """Lets threads wait until others may have written to a file. However many wait in a process, one of them looks.

    Args:
        file: every change goes to it.

    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._turn = threading.Condition()
        #: Whether one of those who wait looks; how often one who did has left. Under `_turn`.
        self._is_watched = False
        self._turns = 0
        #: What the last look saw, and how many since saw nothing new. Of who looks.
        self._mark: tuple[int, int] | None = None
        self._looks = 0

    @classmethod
    def of(cls, file: Path) -> "FileWatch":
        """The one of this process."""
        with _watching:
            return _WATCHES.setdefault(file, cls(file))

    def wait(self, pause: Callable[[], None], seconds: float | None) -> None:
        """Return when the file may have changed, or nothing is known of that any more.

        Args:
            pause: lets a moment pass; raises when it was long enough.
            seconds: until it will raise; None for never.

        """
        with self._turn:
            if self._is_watched:
                turns = self._turns
                self._turn.wait_for(lambda: self._turns != turns, seconds)
                return
            self._is_watched = True
        try:
            pause()
            while not self._may_have_changed():
                pause()
        finally:
            with self._turn:
                self._is_watched = False
                self._turns += 1
                self._turn.notify_all()

    def _may_have_changed(self) -> bool:
        try:
            found = os.stat(self._file)  # noqa: PTH116 - many times a second, and a path takes three times as long
            mark: tuple[int, int] | None = (found.st_mtime_ns, found.st_size)
        except FileNotFoundError:
            mark = None
        self._looks = 0 if mark != self._mark or mark is None else self._looks + 1
        self._mark = mark
        return self._looks < _LOOKS_AFTER_A_CHANGE or self._looks % _LOOKS_WITHOUT == 0


_watching = threading.Lock()
_WATCHES: WeakValueDictionary[Path, FileWatch] = WeakValueDictionary()
"""By their files, for as long as somebody may wait. Under `_watching`."""
