"""The disk that the files of batches lie on: its refusals in our words, its quota, and what containers share of it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.batches.files.refresh_lock import RefreshLock
from jobs.core.clock import Clock
from jobs.core.errors import NetworkTrouble, NoRoom, QuotaExceeded, StoreUnavailable, Trouble, os_trouble
from jobs.core.units import human_bytes

REFRESH_PAUSES = (0.05, 0.2, 0.5, 1.0, 2.0)
"""Seconds between tries of a refresh that fails: files that others have open are closed soon."""

_ROOM = "delete files of batches that nobody needs any more, or free space on that disk; what is done is kept"


class BatchDisk:
    """Threads may share one.

    Args:
        root: made when it is first written to.
        clock: the time.
        persist: called when what was written and flushed must be seen elsewhere: a volume's commit.
        refresh: brings in what others have persisted: a volume's reload. It may raise `NetworkTrouble`, and is tried
            again then.
        quota_bytes: what all files may take. It refuses uploads; results are kept whatever they take.

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

    # -- what others wrote, and what they are to see -------------------------------------------------------------------

    @contextmanager
    def using(self, doing: str) -> Iterator[None]:
        """While files of the root are open; the system's refusals become Trouble.

        Raises:
            Trouble: the disk is full, fails, or is not ours.

        """
        with self._lock.using(), _translated(doing):
            yield

    def persist(self) -> None:
        """Have others see what was written and flushed."""
        if self._persist is not None:
            with self._persisting:
                self._persist()

    def refresh(self) -> None:
        """Bring in what others have persisted, once nobody here has a file open.

        Raises:
            StoreUnavailable: it failed again and again.

        """
        if self._refresh is None:
            return
        for pause in (*REFRESH_PAUSES, None):
            try:
                with self._lock.alone():
                    self._refresh()
            except NetworkTrouble as trouble:
                if pause is None:
                    raise StoreUnavailable(f"the files of batches cannot be refreshed: {trouble}") from trouble
                self.clock.wait(pause)
            else:
                return

    def used_bytes(self) -> int:
        """What everything here takes."""
        with self.using("measuring files"):
            return sum(path.stat().st_size for path in self.root.rglob("*") if path.is_file())

    def need_room(self, more: int) -> None:
        """Insist on room for so many bytes.

        Raises:
            QuotaExceeded: with them there would be too many.

        """
        if self._quota is None:
            return
        used = self.used_bytes()
        if used + more > self._quota:
            raise QuotaExceeded(
                f"{human_bytes(more)} more, but files of batches take {human_bytes(used)} of a quota of"
                f" {human_bytes(self._quota)}",
                hint="delete files that nobody needs any more, or raise `quota_gb` of `[batches]`",
            )


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    """Turn the system's refusals into Trouble whose hint speaks of batches."""
    try:
        yield
    except OSError as error:
        raise trouble_of(error, doing) from error


def trouble_of(error: OSError, doing: str) -> Trouble:
    """What the system's refusal means, and what to remove where it has no room."""
    trouble = os_trouble(error, doing=doing)
    if isinstance(trouble, NoRoom):
        trouble.hint = _ROOM
    return trouble
