"""The results of a batch of which no line was ever sent, where its clients read one for each.

Anthropic's clients look for the result of each of their requests, whatever became of the batch; what was wrong with a
request stands in its own. OpenAI's read what is wrong with a file in the batch itself.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping

from jobs.batches.files.storage import BatchStorage
from jobs.batches.lines.assembly import Assembled, Undone, begin_results
from jobs.batches.lines.line_check import pieces
from jobs.batches.lines.result_lines import unanswered
from jobs.batches.records import BatchRecord, LineCounts


def assemble_unrun(
    storage: BatchStorage,
    record: BatchRecord,
    sequence: int,
    *,
    undone: Undone,
    wrong: Mapping[int, Undone],
    progress: Callable[[int], None],
) -> Assembled:
    """Make the file of results of such a batch.

    Args:
        storage: where it will lie.
        record: the batch.
        sequence: of the attempt that does this.
        undone: what is said of a line.
        wrong: what is said instead of those with these numbers.
        progress: told how many bytes of lines were read, from time to time; what it raises ends this.

    Raises:
        NotFound: the file of the lines is gone.
        DiskFull: there is no room for the results.

    """
    lines = 0
    with begin_results(storage, record, "output", sequence) as output:
        for lines, raw in enumerate(_lines(pieces(storage, record.input_file_id, progress)), 1):
            code, message = wrong.get(lines, undone)
            custom_id = str(json.loads(raw)["custom_id"])
            output.write(unanswered(record.dialect, record.id, lines, custom_id, code=code, message=message) + b"\n")
        return Assembled(output.finish() if output.size else None, None, LineCounts(lines))


def _lines(read: Iterable[bytes]) -> Iterator[bytes]:
    """Each line, as whoever took the requests wrote it: whole, none blank, none too long."""
    rest = b""
    for piece in read:
        *whole, rest = (rest + piece).split(b"\n")
        yield from whole
    if rest:
        yield rest
