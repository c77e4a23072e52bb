"""An attempt that appends results of a batch in a process of its own, until it is killed."""

import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

from jobs.batches.lines.segments import Segments
from jobs.batches.records import BatchRecord
from jobs.core.clock import SystemClock
from tests.support.batch_files import every_line, lines_of, result, storage_at
from tests.support.waiting import PATIENCE

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["pytest", "tests.support.killed_appender"])

AT_ONCE = 3
"""Results that are flushed together."""


def killed_after(flushes: int, folder: Path, record: BatchRecord, sequence: int) -> list[int]:
    """Have an attempt append, and kill it when it has told of so many flushes, wherever it is by then; all lines that
    it told of as done, also while it died. It answers each line with its sequence."""
    ours, theirs = _FORKS.Pipe(duplex=False)
    child = _FORKS.Process(target=_append, args=(theirs, folder, record.as_json(), sequence), daemon=True)
    child.start()
    theirs.close()
    told: list[int] = []
    try:
        seen = 0
        while True:
            assert ours.poll(PATIENCE)
            told += ours.recv()
            seen += 1
            if seen == flushes + 1:  # the first one tells that it has begun
                os.kill(child.pid or 0, signal.SIGKILL)
    except EOFError:
        return told
    finally:
        child.join(PATIENCE)
        ours.close()


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
