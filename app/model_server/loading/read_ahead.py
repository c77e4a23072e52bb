"""Parallel readers that bring the blobs of a model into the page cache while the engine loads it.

An engine maps its file and faults its pages in one after the other: one stream, of a volume that gives many at a time.
What is read here before is there when it comes to it. The engine knows nothing of it; it is started at the same moment.

Of a file system with 3 ms a request, 260 MB/s a stream and 2.5 GB/s in all, 1.34 GB took a real llama.cpp 11 s to its
first token by itself, and 3 s with readers ahead (`scripts/bench_cold` measures it).
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from loguru import logger

from jobs.core.clock import Clock

READERS = 32
BLOCK = 4 * 1024 * 1024
"""Bytes of a read. Smaller ones cost more requests; larger ones leave readers idle at the end of a file."""

_WAIT_SECONDS = 0.05
"""Between two looks at how far the engine has come, for a reader that is far enough ahead of it."""


@dataclass(frozen=True)
class BytesRead:
    """How far the readers have come: bytes, and seconds since they began."""

    done: int
    size: int
    seconds: float

    @property
    def per_second(self) -> float:
        return self.done / self.seconds if self.seconds else 0.0


class ReadAhead:
    """Reads files from their beginnings to their ends, in their order, by many threads at once.

    Args:
        paths: what the engine will load, in its order. One that is not there is left to the engine, which tells it.
        clock: for the rate, and for waiting.
        most_ahead: bytes that may be read beyond what the engine has taken in.
        taken_in: bytes of these files that the engine has taken in so far.
        readers: threads.

    """

    def __init__(
        self,
        paths: Sequence[Path],
        clock: Clock,
        *,
        most_ahead: int,
        taken_in: Callable[[], int],
        readers: int = READERS,
    ) -> None:
        self._clock = clock
        self._most_ahead = most_ahead
        self._taken_in = taken_in
        self._files = [(path, size) for path in paths if (size := _size(path))]
        #: Guards the three below; held by the reader that takes its next block, or has read one.
        self._lock = threading.Lock()
        self._blocks = self._all_blocks()
        self._handed_out = 0
        self._done = 0
        #: Written once, by whoever finds the end first: the last reader, or who stops them.
        self._ended_at: float | None = None
        self._stopping = threading.Event()
        self._began = clock.monotonic()
        self._threads = [
            threading.Thread(target=self._read, name=f"read ahead {number}", daemon=True)
            for number in range(min(readers, -(-self.size // BLOCK)))
        ]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(size for _, size in self._files)

    @property
    def progress(self) -> BytesRead:
        with self._lock:
            now = self._clock.monotonic() if self._ended_at is None else self._ended_at
            return BytesRead(self._done, self.size, now - self._began)

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

    def _all_blocks(self) -> Iterator[tuple[Path, int, int]]:
        for path, size in self._files:
            for offset in range(0, size, BLOCK):
                yield path, offset, min(BLOCK, size - offset)

    def _read(self) -> None:
        buffer, files = bytearray(BLOCK), _OpenFiles()
        try:
            while (block := self._next_block()) is not None:
                path, offset, size = block
                self._note(os.preadv(files.of(path), [memoryview(buffer)[:size]], offset))
        except OSError as error:
            # The engine meets the same, and what it says of it decides.
            logger.warning("no more is read ahead: {}: {}", error.filename or "a blob", error.strerror)
            self.stop()
        finally:
            files.close()

    def _next_block(self) -> tuple[Path, int, int] | None:
        """The next one to be read, once the engine is near enough."""
        while not self._stopping.is_set():
            with self._lock:
                if self._handed_out < self._most_ahead or self._is_near():
                    block = next(self._blocks, None)
                    self._handed_out += block[2] if block else 0
                    return block
            self._clock.wait(_WAIT_SECONDS, self._stopping)
        return None

    def _is_near(self) -> bool:
        return self._handed_out - self._taken_in() < self._most_ahead

    def _note(self, count: int) -> None:
        with self._lock:
            self._done += count
            if self._done >= self.size:
                self._ended_at = self._ended_at or self._clock.monotonic()


class _OpenFiles:
    """One reader's own files: the one that it reads."""

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


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
