"""Parallel readers that bring the blobs of a model into the page cache while the engine loads it.

An engine maps its file and faults its pages in one after the other: one stream, of a volume that gives many at a time.
What is read here before is there when it comes to it. The engine knows nothing of it; it is started at the same moment.

Of a file system with 3 ms a request, 260 MB/s a stream and 2.5 GB/s in all, 1.34 GB took a real llama.cpp 11 s to its
first token by itself, and 3 s with readers ahead (`scripts/bench_cold` measures it).
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from loguru import logger

from app.model_server.starting.bytes_read import BytesRead
from jobs.core.clock import Clock

BLOCK = 4 * 1024 * 1024
"""Bytes of a read. Smaller ones cost more requests; larger ones leave readers idle at the end of a file."""

UNKNOWN_AHEAD = 2_000_000_000
"""Bytes that may be read ahead where nobody knows how much memory there is."""

_WAIT_SECONDS = 0.05
"""Between two looks at how far the engine has come, for a reader that is far enough ahead of it."""

_GIVEN_UP_SECONDS = 120.0
"""An engine that takes nothing in for so long has failed, or does not tell."""


class ReadAhead:
    """Reads files from their beginnings to their ends, in their order, by many threads at once.

    Args:
        paths: what the engine will load, in its order. One that is not there is left to the engine, which tells it.
        clock: for the rate, and for waiting.
        most_ahead: bytes that may be read beyond what the engine has taken in.
        taken_in: bytes of these files that the engine has taken in so far.
        readers: threads, at most; each has memory for a block, so no more of them than blocks.

    """

    def __init__(
        self,
        paths: Iterable[Path],
        clock: Clock,
        *,
        most_ahead: int,
        taken_in: Callable[[], int],
        readers: int,
    ) -> None:
        self._clock = clock
        self._most_ahead = most_ahead
        self._taken_in = taken_in
        #: Guards the four below: held by a reader that takes its next block, has read one, or ends.
        self._lock = threading.Lock()
        self._blocks = deque(_blocks(paths))
        self._handed_out = 0
        self._done = 0
        count = max(1, min(readers, len(self._blocks)))
        self._busy = count
        #: Written once, by the last reader or by whoever stops them before.
        self._ended_at: float | None = None
        self._stopping = threading.Event()
        self._began = clock.monotonic()
        self._threads = [
            threading.Thread(target=self._read, name=f"read ahead {number}", daemon=True) for number in range(count)
        ]

    def progress(self) -> BytesRead:
        """What the readers have brought so far, and the rate of it."""
        with self._lock:
            seconds = (self._clock.monotonic() if self._ended_at is None else self._ended_at) - self._began
            return BytesRead(self._done, self._done / seconds if seconds > 0 else None)

    def start(self) -> None:
        """Begin; returns at once."""
        self._began = self._clock.monotonic()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End after the blocks that are being read: the engine has all, or will have nothing."""
        self._stopping.set()
        with self._lock:
            self._ended_at = self._ended_at or self._clock.monotonic()

    def join(self, seconds: float | None = None) -> None:
        """Wait until the last reader has ended: while a file of a volume is open, the volume cannot be reloaded."""
        for thread in self._threads:
            thread.join(seconds)

    def _read(self) -> None:
        buffer, file = memoryview(bytearray(BLOCK)), _OpenFile()
        try:
            while (block := self._next_block()) is not None:
                path, offset, size = block
                count = os.preadv(file.of(path), [buffer[:size]], offset)
                with self._lock:
                    self._done += count
        except OSError as error:
            if not self._stopping.is_set():  # the engine meets the same, and what it says of it decides
                logger.warning("no more is read ahead: {}", error)
            self.stop()
        finally:
            file.close()
            with self._lock:
                self._busy -= 1
                if not self._busy:
                    self._ended_at = self._ended_at or self._clock.monotonic()

    def _next_block(self) -> tuple[Path, int, int] | None:
        """The next one to be read, once the engine is near enough."""
        until = self._clock.monotonic() + _GIVEN_UP_SECONDS
        while not self._stopping.is_set() and self._clock.monotonic() < until:
            with self._lock:
                if not self._blocks:
                    return None
                if self._handed_out < self._most_ahead or self._handed_out - self._taken_in() < self._most_ahead:
                    block = self._blocks.popleft()
                    self._handed_out += block[2]
                    return block
            self._clock.wait(_WAIT_SECONDS, self._stopping)
        return None


class _OpenFile:
    """One reader's own: the file that it reads."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._file = -1

    def of(self, path: Path) -> int:
        if path != self._path:
            self.close()
            self._file, self._path = os.open(path, os.O_RDONLY | os.O_CLOEXEC), path
        return self._file

    def close(self) -> None:
        if self._path is not None:
            os.close(self._file)
            self._path = None


def most_ahead(memory: int | None) -> int:
    """Bytes that may be read beyond what the engine has taken in: half of the container's memory."""
    return UNKNOWN_AHEAD if memory is None else memory // 2


def _blocks(paths: Iterable[Path]) -> Iterator[tuple[Path, int, int]]:
    for path in paths:
        size = _size(path)
        for offset in range(0, size, BLOCK):
            yield path, offset, min(BLOCK, size - offset)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
