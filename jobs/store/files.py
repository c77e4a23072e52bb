"""What is asked of files and folders: that a rename lasts, and the system's refusals in our words."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.core.errors import os_trouble


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
