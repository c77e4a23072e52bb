"""An attempt that appends results of a batch in a process of its own, until it is killed."""

import multiprocessing
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Self

from jobs.batches.lines.segments import Segments
from jobs.batches.records import BatchRecord
from jobs.core.clock import SystemClock
from tests.support.batch_files import every_line, lines_of, result, storage_at
from tests.support.waiting import PATIENCE

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["pytest", "tests.support.killed_appender"])

AT_ONCE = 3
"""Results that are flushed together."""


class Appender:
    """An attempt that appends, and answers each line with its sequence."""

    def __init__(self, folder: Path, record: BatchRecord, sequence: int) -> None:
        self._told, theirs = _FORKS.Pipe(duplex=False)
        self._child = _FORKS.Process(target=_append, args=(theirs, folder, record.as_json(), sequence), daemon=True)
        self._child.start()
        theirs.close()
        self.told: list[int] = []
        """Lines that it has told of as done, as far as was heard."""

    def hear(self, flushes: int | None = None) -> None:
        """Hear what so many flushes, or all until its end, have made count."""
        with suppress(EOFError):
            while flushes is None or flushes > 0:
                assert self._told.poll(PATIENCE)
                self.told += self._told.recv()
                flushes = None if flushes is None else flushes - 1

    def kill(self) -> None:
        """With SIGKILL; one that has come to its end is left."""
        self._child.kill()

    def __enter__(self) -> Self:
        self.hear(1)  # that it has begun
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.join(PATIENCE)
        self._told.close()


def killed_after(flushes: int, folder: Path, record: BatchRecord, sequence: int) -> list[int]:
    """Have an attempt append, and kill it when it has told of so many flushes, wherever it is by then; all lines that
    it told of as done, also while it died."""
    with Appender(folder, record, sequence) as child:
        child.hear(flushes)
        child.kill()
        child.hear()
        return child.told


def _append(told: Connection, folder: Path, document: dict[str, object], sequence: int) -> None:
    storage = storage_at(folder, SystemClock())
    record = BatchRecord.from_json(document)
    lines = lines_of(storage, record)
    writer = Segments(storage, record.id, lines.lines).open(sequence, "child")
    told.send([])
    for line in every_line(lines):
        writer.append(result(record, line.number, str(sequence)))
        if writer.waiting >= AT_ONCE:
            told.send(writer.flush())
    told.send(writer.flush())
