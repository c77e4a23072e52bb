"""The disk that the files of batches lie on: its refusals in our words, its quota, and what containers share of it."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from jobs.batches.files.refresh_lock import RefreshLock
from jobs.core.clock import Clock
from jobs.core.errors import (
    DiskFailed,
    DiskFull,
    NetworkTrouble,
    NotWritable,
    QuotaExceeded,
    StoreUnavailable,
    Trouble,
    os_trouble,
)
from jobs.core.units import human_bytes
from jobs.store import private_files

REFRESH_PAUSES = (0.05, 0.2, 0.5, 1.0, 2.0)
"""Seconds between tries of a refresh that fails: files that others have open are closed soon."""

REFRESH_EVERY = timedelta(milliseconds=250)
"""No sooner is one refresh followed by another: somebody may ask for files that are not there as fast as they can."""

MEASURED_FOR = timedelta(seconds=10)
"""So long a measure of all files serves, with what was written here since."""


class BatchDisk:
    """Threads may share one.

    Args:
        root: made when it is first written to.
        clock: the time.
        persist: called when what was written and flushed must be seen elsewhere: a volume's commit.
        refresh: brings in what others have persisted: a volume's reload. It may raise `NetworkTrouble`, and is tried
            again then.
        quota_bytes: what all files may take. It refuses uploads; results are kept whatever they take. Containers that
            share a disk may together exceed it by what others bring within `MEASURED_FOR`.

    """

    def __init__(
        self,
        root: Path,
        clock: Clock,
        *,
        persist: Callable[[], None] | None = None,
        refresh: Callable[[], None] | None = None,
        quota_bytes: int | None = None,
    ) -> None:
        self.root = root
        self.clock = clock
        self._persist = persist
        self._refresh = refresh
        self._quota = quota_bytes
        self._lock = RefreshLock()
        self._persisting = threading.Lock()
        self._refreshing = threading.Lock()
        #: When the last refresh that went well began. Under `_refreshing`.
        self._refreshed_at: float | None = None
        self._measuring = threading.Lock()
        #: What all files took when they were last measured, what came here since, and when. Under `_measuring`.
        self._measured = 0
        self._came = 0
        self._measured_at: float | None = None
        #: What each whole file takes, as far as it was measured. Replaced as a whole, by any thread.
        self._sizes: dict[str, int] = {}

    # -- what others wrote, and what they are to see -------------------------------------------------------------------

    @contextmanager
    def using(self, doing: str) -> Iterator[None]:
        """While files of the root are open; the system's refusals become Trouble.

        Raises:
            Trouble: the disk is full, fails, or is not ours.

        """
        with self._lock.using():
            try:
                yield
            except OSError as error:
                raise trouble_of(error, doing, self.root) from error

    def persist(self) -> None:
        """Have others see what was written and flushed."""
        if self._persist is not None:
            with self._persisting:
                self._persist()

    @property
    def is_shared(self) -> bool:
        """Whether others write here, who are seen after a refresh alone."""
        return self._refresh is not None

    def refresh(self) -> None:
        """Bring in what others have persisted until now, once nobody here has a file open.

        Several who ask at once share one, and one follows another after `REFRESH_EVERY` at the earliest: whoever asks
        in between waits. Not within `using`.

        Raises:
            StoreUnavailable: it failed again and again.

        """
        if self._refresh is None:
            return
        asked_at = self.clock.monotonic()
        with self._refreshing:
            if self._refreshed_at is not None and self._refreshed_at > asked_at:
                return
            for pause in (*REFRESH_PAUSES, None):
                self._wait_for_turn()
                began = self.clock.monotonic()
                try:
                    with self._lock.alone():
                        self._refresh()
                except NetworkTrouble as trouble:
                    if pause is None:
                        raise StoreUnavailable(
                            f"the files of batches cannot be brought up to date: {trouble}", hint="ask once more"
                        ) from trouble
                    self.clock.wait(pause)
                else:
                    self._refreshed_at = began
                    return

    def _wait_for_turn(self) -> None:
        if self._refreshed_at is not None:
            left = self._refreshed_at + REFRESH_EVERY.total_seconds() - self.clock.monotonic()
            if left > 0:
                self.clock.wait(left)

    # -- how much there is ---------------------------------------------------------------------------------------------

    def used_bytes(self) -> int:
        """What everything here takes."""
        with self.using("measuring the files of batches"):
            whole = self._size_of_whole()
            return whole + sum(_size(self.root / name) for name in _folders(self.root) if name != "files")

    def _size_of_whole(self) -> int:
        """What whole files take, of which none changes: each is measured once."""
        known, folder = self._sizes, self.root / "files"
        self._sizes = {name: known[name] if name in known else _size(folder / name) for name in _folders(folder)}
        return sum(self._sizes.values())

    def need_room(self, more: int) -> None:
        """Insist on room for so many bytes, which then come.

        Raises:
            QuotaExceeded: with them there would be too many.

        """
        if self._quota is None:
            return
        with self._measuring:
            now = self.clock.monotonic()
            if self._measured_at is None or now - self._measured_at > MEASURED_FOR.total_seconds():
                self._measured, self._came, self._measured_at = self.used_bytes(), 0, now
            used = self._measured + self._came
            if used + more > self._quota:
                self._measured_at = None  # somebody may remove something now
                raise QuotaExceeded(
                    f"no room for {human_bytes(more)} more: files of batches take {human_bytes(used)} of a quota of"
                    f" {human_bytes(self._quota)}",
                    hint="delete files that nobody needs any more, or raise `quota_gb` of `[batches]`",
                )
            self._came += more

    # -- folders -------------------------------------------------------------------------------------------------------

    def make_folder(self, path: Path) -> None:
        """Have a folder of the root there, whose files are our user's alone."""
        if path.is_dir():
            return
        self.root.mkdir(mode=private_files.FOLDER, parents=True, exist_ok=True)
        path.mkdir(mode=private_files.FOLDER, parents=True, exist_ok=True)


def trouble_of(error: OSError, doing: str, root: Path) -> Trouble:
    """What the system's refusal means, and what to do about it where files of batches lie."""
    trouble = os_trouble(error, doing=doing)
    if isinstance(trouble, DiskFull):
        trouble.hint = "delete files of batches that nobody needs, or free space on that disk; what is done is kept"
    elif isinstance(trouble, NotWritable):
        trouble.hint = f"let this user own {root}"
    elif type(trouble) is DiskFailed:
        trouble.hint = "see what the system's log says of that disk; what is done is kept"
    return trouble


def _folders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def _size(folder: Path) -> int:
    """What the files below take, as far as nobody removes them meanwhile."""
    total = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    total += _size(Path(entry.path))
                else:
                    try:
                        total += entry.stat(follow_symlinks=False).st_size
                    except FileNotFoundError:
                        continue
    except FileNotFoundError:
        return total
    return total
