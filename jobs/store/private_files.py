"""Files and folders that are their owner's alone, whatever the umask says and whatever they were before.

What is mended is mended by its path: to open and close a file that SQLite has open would take SQLite's locks away.
"""

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

FILE, FOLDER = 0o600, 0o700

_NO_MODES = frozenset({errno.ENOENT, errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EROFS})
"""What file systems answer that cannot change a mode, or where there is nothing to change any more."""


def opener(path: str | os.PathLike[str], flags: int) -> int:
    """For `open(…, opener=…)`: a file that is made so is its owner's alone."""
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE)
    except FileExistsError:
        return os.open(path, flags | os.O_CLOEXEC, FILE)
    with _where_modes_are():
        os.fchmod(descriptor, FILE)
    return descriptor


def create(path: Path) -> None:
    """Have the file there; one that is there is not opened."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE)
    except FileExistsError:
        return
    try:
        with _where_modes_are():
            os.fchmod(descriptor, FILE)
    finally:
        os.close(descriptor)


def mend(paths: Iterable[Path]) -> None:
    """Close these to others, as far as they are there and ours: links, and folders where all may write, are left."""
    for path in paths:
        try:
            found = path.lstat()
        except FileNotFoundError:
            continue
        wanted = FOLDER if stat.S_ISDIR(found.st_mode) else FILE
        is_ours = found.st_uid == os.geteuid() and not found.st_mode & stat.S_ISVTX
        if is_ours and not stat.S_ISLNK(found.st_mode) and stat.S_IMODE(found.st_mode) != wanted:
            with _where_modes_are():
                path.chmod(wanted)


@contextmanager
def _where_modes_are() -> Iterator[None]:
    """A file system without modes, or that is only read, is as open as its mount says; what is gone needs nothing."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_MODES:
            raise
