"""Puts the results of a batch together, in the order of its lines, into the files that people read.

OpenAI's clients read two: what was answered, and what failed. Anthropic's read one. The ids are made of the batch's and
of the attempt's, so that an attempt that lost its lease can never change a file that somebody has: `BatchEnd`, which is
written once, says which files are the batch's, and what another attempt made is pruned.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import NamedTuple

from jobs.batches.files.file_writer import FileWriter
from jobs.batches.files.storage import BatchStorage
from jobs.batches.lines.line_index import Lines
from jobs.batches.lines.result_lines import unanswered
from jobs.batches.lines.segments import Results, Segments
from jobs.batches.records import BatchRecord, FileRecord, LineCounts

AT_ONCE = 256
"""Lines that are put together in one step, in which files are open."""


class Assembled(NamedTuple):
    """The files that were made; None where nothing would be in one. Lines that have no result count as failed."""

    output: FileRecord | None
    errors: FileRecord | None
    counts: LineCounts = LineCounts()


class Undone(NamedTuple):
    """What is said of lines that have no result: "batch_expired", "batch_cancelled", or why it ended early."""

    code: str
    message: str


CANCELLED = Undone("batch_cancelled", "this line was not run: the batch was cancelled")
EXPIRED = Undone("batch_expired", "this line was not run: the batch's time was over")


def _nothing(_: int) -> None:
    return None


def assemble(
    storage: BatchStorage,
    record: BatchRecord,
    lines: Lines,
    results: Results,
    sequence: int,
    *,
    undone: Undone = CANCELLED,
    expires_at: datetime | None = None,
    progress: Callable[[int], None] = _nothing,
) -> Assembled:
    """Make the files of a batch's results.

    Args:
        storage: where they will lie.
        record: the batch.
        lines: its lines, for the ids of those that have no result.
        results: those that count.
        sequence: of the attempt that does this.
        undone: what is said of lines that have no result.
        expires_at: until when the files are kept; where it is not said, as long as the batch's poster said.
        progress: told how many lines were put together, from time to time; what it raises ends this.

    Raises:
        DiskFull: there is no room for them.

    """
    segments = Segments(storage, record.id, results.lines)

    def begin(what: str) -> FileWriter:
        return begin_results(storage, record, what, sequence, expires_at=expires_at)

    with begin("output") as output, begin("error") as errors:
        first = 1
        while first <= results.lines:
            numbers = range(first, min(first + AT_ONCE, results.lines + 1))
            places = [results.place(n) for n in numbers]
            ids = _custom_ids(lines, numbers) if None in places else {}
            with segments.reading() as read:
                for n, place in zip(numbers, places, strict=True):
                    result = read(n, place) if place is not None else None
                    document = (
                        result.document
                        if result is not None
                        else unanswered(record.dialect, record.id, n, ids[n], code=undone.code, message=undone.message)
                    )
                    is_error = result is None or result.kind == "e"
                    into = errors if is_error and record.dialect == "openai" else output
                    into.write(document + b"\n")
            first = numbers.stop
            progress(first - 1)
        counts = LineCounts(results.lines, results.counts.completed, results.lines - results.counts.completed)
        return Assembled(output.finish() if output.size else None, errors.finish() if errors.size else None, counts)


def begin_results(
    storage: BatchStorage, record: BatchRecord, what: str, sequence: int, *, expires_at: datetime | None = None
) -> FileWriter:
    """A file of results of this attempt: its "output", or its "error"s. Where it is not said until when it is kept, as
    long as the batch's poster said."""
    if expires_at is None and record.results_kept_seconds is not None:
        expires_at = storage.clock.now() + timedelta(seconds=record.results_kept_seconds)
    return storage.begin(
        record.owner,
        f"{record.id}_{what}.jsonl",
        purpose="batch_output",
        expires_at=expires_at,
        id=f"file-{record.id.rpartition('_')[2]}-{what}-{sequence}",
    )


def _custom_ids(lines: Lines, numbers: range) -> dict[int, str]:
    """The ids of these lines, however many are read in one step."""
    found: dict[int, str] = {}
    first = numbers.start
    while first < numbers.stop:
        for number, custom_id in lines.custom_ids(first, numbers.stop - first):
            found[number] = custom_id
            first = number + 1
    return found
