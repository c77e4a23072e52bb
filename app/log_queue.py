"""Takes log lines without ever making anybody wait, and writes them on a thread of its own.

A pipe that nobody reads, a terminal held with Ctrl-S, a disk that is full or hangs: none of them holds up whoever logs,
the event loop and the workers least of all. What finds no place is dropped and counted, and once lines flow again, a
line says how many are missing. A line may be handed over as the values that it is made of: then it is made there, too.
"""

import os
import select
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from io import TextIOWrapper
from logging import LogRecord, makeLogRecord
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import cast

from jobs.store.private_files import opener

QUEUE_BYTES = 4 << 20
"""What may wait to be written: some ten thousand lines, a hundredth of the smallest container's memory."""

BATCH_CHARACTERS = 64 << 10
"""Written at once, at most: as much as a pipe takes."""

GATHER_SECONDS = 0.1
"""So long a line that is made here waits for more of them: to wake a thread for each would cost more than the line."""

MADE_AT_ONCE = 32
"""Lines that are made before those are written, which leaves the interpreter to others."""

LATE_CHARACTERS = 400
"""What a line counts for that is not made yet."""

DRAIN_SECONDS = 1.0
"""How long the end of the process waits for the last lines; who does not read by then does not read."""


class LineQueue:
    """A sink for loguru, and for lines of talk.

    Args:
        write: writes some whole lines; it may wait as long as it likes, and raises OSError when they are lost.
        notice: the line that says how many lines were dropped.
        close: called by the thread that writes, after its last line.
        limit: how many characters may wait.
        drain_seconds: how long `stop` waits for what is left.

    """

    def __init__(
        self,
        write: Callable[[str], object],
        notice: Callable[[int], str],
        *,
        close: Callable[[], object] = lambda: None,
        limit: int = QUEUE_BYTES,
        drain_seconds: float = DRAIN_SECONDS,
    ) -> None:
        self._write = write
        self._notice = notice
        self._close = close
        self._limit = limit
        self._drain_seconds = drain_seconds
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        #: These six are guarded by `_lock`, that of `_changed`, and nobody waits for anything else while holding it.
        #: `dropped` alone reads without it: a number that only grows.
        self._lines: deque[str | Callable[[], str]] = deque()
        self._is_urgent = False
        self._waiting = 0
        self.is_stopping = False
        """Whether it takes no more."""
        self._unreported = 0
        self._dropped = 0
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """How many lines were lost so far."""
        return self._dropped

    def write(self, text: str) -> None:
        """Take some whole lines, to be written soon. Never waits, and never raises."""
        text = str(text)  # loguru's own kind of string holds the whole record, with its traceback
        with self._changed:
            if self._has_room(len(text)):
                self._lines.append(text)
                self._is_urgent = True
                self._changed.notify()

    def write_later(self, make: Callable[[], str]) -> None:
        """Take a line that the thread makes when it writes it, in a moment; behind what came before, as any other."""
        with self._lock:
            if self.is_stopping or self._waiting + LATE_CHARACTERS > self._limit:
                self._drop(1)
            else:
                self._waiting += LATE_CHARACTERS
                self._lines.append(make)
                if len(self._lines) == 1:
                    self._changed.notify()

    def _has_room(self, size: int) -> bool:
        """Take room for so much, or count a line that has none."""
        if self.is_stopping or self._waiting + size > self._limit:
            self._drop(1)
            return False
        self._waiting += size
        return True

    def stop(self) -> None:
        """Write what is left, as far as somebody reads it within `drain_seconds`."""
        with self._changed:
            self.is_stopping = True
            self._changed.notify()
        self._thread.join(self._drain_seconds)

    def _run(self) -> None:
        while (taken := self._next_batch())[0]:
            batch, size = taken
            try:
                self._write("".join([each if isinstance(each, str) else each() for each in batch]))
            except OSError:
                with self._changed:
                    self._drop(len(batch))
            else:
                self._report_dropped()
            finally:
                with self._changed:
                    self._waiting -= size
        self._close()  # here: while a write hangs in it, a descriptor must not become another file's

    def _next_batch(self) -> tuple[list[str | Callable[[], str]], int]:
        """Some of the next lines, and what they count for; none when it is time to stop."""
        with self._changed:
            while not self._lines and not self.is_stopping:
                self._is_urgent = False
                self._changed.wait()
                if not self._is_urgent and not self.is_stopping:
                    self._changed.wait_for(lambda: self._is_urgent or self.is_stopping, GATHER_SECONDS)
            batch: list[str | Callable[[], str]] = []
            size = 0
            lines = self._lines
            while lines and len(batch) < MADE_AT_ONCE:
                more = len(lines[0]) if isinstance(lines[0], str) else LATE_CHARACTERS
                if batch and size + more > BATCH_CHARACTERS:
                    break
                batch.append(lines.popleft())
                size += more
            return batch, size

    def _report_dropped(self) -> None:
        with self._changed:
            unreported, self._unreported = self._unreported, 0
        if not unreported:
            return
        try:
            self._write(self._notice(unreported))
        except OSError:
            with self._changed:
                self._unreported += unreported

    def _drop(self, count: int) -> None:
        self._dropped += count
        self._unreported += count


def to_descriptor(descriptor: int) -> Callable[[str], object]:
    """Writes text to an open file, pipe or terminal, all of it, around the buffers and locks that others may hold."""

    def write(text: str) -> None:
        data = memoryview(text.encode("utf-8", "backslashreplace"))
        while data:
            try:
                data = data[os.write(descriptor, data) :]
            except BlockingIOError:  # whoever shares this terminal with us has set it so
                select.select([], [descriptor], [])

    return write


class RotatedFile(RotatingFileHandler):
    """Lines in a file, the last few of its predecessors beside it.

    Args:
        path: the newest; `<path>.1` is the one before.
        limit: bytes of one file.
        keep: how many predecessors stay.

    """

    def __init__(self, path: Path, *, limit: int = 10 << 20, keep: int = 5) -> None:
        super().__init__(
            path, maxBytes=limit, backupCount=keep, encoding="utf-8", errors="backslashreplace", delay=True
        )

    def _open(self) -> TextIOWrapper:
        """It tells who asked for what, so it is its owner's alone."""
        file = open(  # noqa: SIM115 - as the library does, which closes it
            self.baseFilename, self.mode, encoding=self.encoding, errors=self.errors, opener=opener
        )
        return cast("TextIOWrapper", file)

    def write_lines(self, text: str) -> None:
        """Write whole lines.

        Raises:
            OSError: the disk did not take them.

        """
        self.handle(makeLogRecord({"msg": text.removesuffix("\n")}))

    def handleError(self, record: LogRecord) -> None:  # noqa: ARG002, N802 - as the library calls it
        """Let the error out, and open the file anew for the next line: what a failed flush kept is lost."""
        with suppress(OSError):
            self.close()
        raise  # noqa: PLE0704 - called in an except block
