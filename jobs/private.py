"""Files and folders that are their owner's alone, whatever the umask says and whatever they were before.

What is mended is mended by its path: to open and close a file that SQLite has open would take SQLite's locks away.
"""

import os
import stat
from collections.abc import Iterable
from pathlib import Path

FILE, FOLDER = 0o600, 0o700


def opener(path: str | os.PathLike[str], flags: int) -> int:
    """For `open(…, opener=…)`: a file that is made so is its owner's alone."""
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE)
    except FileExistsError:
        return os.open(path, flags | os.O_CLOEXEC, FILE)
    os.fchmod(descriptor, FILE)
    return descriptor


def create(path: Path) -> None:
    """Have the file there; one that is there is not opened."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE)
    except FileExistsError:
        return
    try:
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
            path.chmod(wanted)
