"""What a download has still to do, shared by all of its threads under one lock.

    pending ──take──▶ on its way ──land──▶ landed ──keep──▶ kept ──kept_after──▶ hashed
       ▲                   │
       └───── cut short ───┘

As many ranges as there are connections may be on their way or landed: that is all a SIGKILL can cost. It moves no byte
and touches no disk; the one thing that it opens is a blob's file.
"""

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jobs.registry.range_journal import ByteRange
from jobs.weights.manifest import Layer


class DownloadStopped(Exception):
    """This thread was told to stop; whoever told it knows why."""


@dataclass
class Blob:
    """A blob on its way; what a queue says of it is guarded by the queue's lock."""

    layer: Layer
    path: Path
    pending: list[ByteRange]
    """To be fetched, in order."""
    kept: dict[int, int]
    """On disk and in the journal, start to stop; the hasher follows them from 0."""
    is_busy: bool = False
    """A connection is reading through."""
    #: The other side ignores ranges: one connection reads through all of it. Set by the connection that learns it and
    #: never taken back, so it is read without a lock.
    is_sequential: bool = False
    #: Opened by whichever thread needs it first, closed by the hasher; guarded by `_lock`.
    _fd: int = -1
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def fd(self) -> int:
        """Opened at the first use: a model may have more blobs than a process may have files."""
        with self._lock:
            if self._fd < 0:
                self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            return self._fd

    def close(self) -> None:
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1


@dataclass
class Range:
    """A span on its way: written up to `at`. It belongs to one thread at a time, to whom the queue hands it."""

    blob: Blob
    start: int
    stop: int
    at: int
    has_permit: bool


class RangeQueue:
    """The ranges of several blobs.

    Args:
        blobs: in the order to fetch them.
        permits: how many ranges may be on their way or landed at once.

    """

    def __init__(self, blobs: Sequence[Blob], permits: int) -> None:
        #: Guards all of this, and the pending and kept spans of the blobs; every change notifies.
        self._changed = threading.Condition()
        self._blobs = blobs
        self._permits = permits
        self._landed: list[Range] = []
        self._halves: list[Range] = []
        self._left = sum(stop - start for blob in blobs for start, stop in blob.pending)
        #: Set once, by `stop`; read by every thread, also while it moves bytes.
        self.stopped = threading.Event()

    @property
    def bytes_left(self) -> int:
        """What is not kept yet. Read without the lock: an int, and whoever reads it looks again."""
        return self._left

    def stop(self) -> None:
        """Let no thread go on, and none wait for the queue."""
        with self._changed:
            self.stopped.set()
            self._changed.notify_all()

    # For the connections

    def take(self) -> Blob | Range | None:
        """What to fetch next, waiting for a permit: a range, or a blob to read through; None when all is done."""
        with self._changed:
            while self._left and not self.stopped.is_set():
                for blob in self._blobs:
                    if not blob.pending or blob.is_busy:
                        continue
                    if blob.is_sequential:
                        blob.is_busy = True
                        return blob
                    if self._permits:
                        self._permits -= 1
                        start, stop = blob.pending.pop(0)
                        return Range(blob, start, stop, start, has_permit=True)
                self._changed.wait()
            return None

    def take_from(self, blob: Blob, at: int) -> Range | None:
        """The next pending span of a blob that is read through, at or after `at`."""
        with self._changed:
            for index, (start, stop) in enumerate(blob.pending):
                if start >= at:
                    del blob.pending[index]
                    return Range(blob, start, stop, start, has_permit=False)
        return None

    def land(self, part: Range) -> None:
        """Hand the range to the keeper, or give it back when it did not get to its end."""
        with self._changed:
            if part.at == part.stop:
                self._landed.append(part)
            else:
                part.blob.pending.append((part.start, part.stop))
                part.blob.pending.sort()
                self._permits += part.has_permit
            self._changed.notify_all()

    def leave_half(self, part: Range) -> None:
        """Remember how far a range got whose thread ends."""
        with self._changed:
            self._halves.append(part)

    def release(self, blob: Blob) -> None:
        """Nobody reads through it any more."""
        with self._changed:
            blob.is_busy = False
            self._changed.notify_all()

    # For the keeper

    def landed(self) -> list[Range]:
        """All that landed since the last time; waits for some, and is empty when there is nothing to wait for."""
        with self._changed:
            while self._left and not self._landed and not self.stopped.is_set():
                self._changed.wait()
            if self.stopped.is_set():
                return []
            landed, self._landed = self._landed, []
            return landed

    def keep(self, landed: Sequence[Range]) -> None:
        """These are on the disk and in the journal."""
        with self._changed:
            for part in landed:
                part.blob.kept[part.start] = part.stop
                self._permits += part.has_permit
                self._left -= part.stop - part.start
            self._changed.notify_all()

    def unkept(self) -> list[Range]:
        """What landed or was left half when all threads had ended."""
        return [part for part in (*self._landed, *self._halves) if part.at > part.start]

    # For the hasher

    def kept_after(self, blob: Blob, at: int, most: int) -> int:
        """How far bytes are kept from `at` on without a gap, at most so many; waits for them.

        Raises:
            DownloadStopped: there is nothing to wait for.

        """
        with self._changed:
            while at not in blob.kept and not self.stopped.is_set():
                self._changed.wait()
            if self.stopped.is_set():
                raise DownloadStopped
            stop = blob.kept.pop(at)
            middle = min(stop, at + most)
            if middle < stop:
                blob.kept[middle] = stop
            return middle
