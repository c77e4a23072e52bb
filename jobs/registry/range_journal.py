"""Which parts of a half-fetched blob are on disk: a text file beside it that only grows.

    sha256:<hex> <size>        the first line says which blob this is
    <start> <stop>             each further line: these bytes were on disk before the line was written

A line that is torn counts for nothing, wherever it stands; the others hold. A torn one never claims too much: what is
left of it is no span, or a part of the span it was to be. A journal that does not fit its blob is worth nothing: the
blob begins again. One thread at a time writes it: the download's keeper, or whoever prepares and ends a download.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from jobs.weights.manifest import Layer
from jobs.weights.staging import RANGES

ByteRange = tuple[int, int]
"""From the first byte to the one after the last."""


def journal_of(staged: Path) -> Path:
    return staged.with_name(staged.name + RANGES)


def resume(staged: Path, layer: Layer) -> list[ByteRange]:
    """What is on disk of this blob, joined and in order. Afterwards both files are there, ready to be written."""
    spans = _read(staged, layer)
    if spans is not None:
        return spans
    discard(staged)
    with staged.open("wb") as file:
        file.truncate(layer.size)
    journal_of(staged).write_text(_heading(layer))
    return []


def record(staged: Path, spans: Iterable[ByteRange]) -> None:
    """Vouch for these bytes; they are on disk already, not only on their way there.

    All of the lines or none: half of one would spoil the next, and with it the blob.
    """
    lines = "".join(f"{start} {stop}\n" for start, stop in spans).encode()
    journal = os.open(journal_of(staged), os.O_RDWR | os.O_APPEND)
    try:
        had = os.fstat(journal).st_size
        try:
            _write_all(journal, lines if _ends_whole(journal) else b"\n" + lines)
        except OSError:  # a disk that fills takes a part first
            os.ftruncate(journal, had)
            raise
    finally:
        os.close(journal)


def _ends_whole(journal: int) -> bool:
    """Whether its last line is whole. A line that nobody could finish must not become the beginning of the next."""
    size = os.fstat(journal).st_size
    return size == 0 or os.pread(journal, 1, size - 1) == b"\n"


def _write_all(descriptor: int, text: bytes) -> None:
    left = memoryview(text)
    while left:
        left = left[os.write(descriptor, left) :]


def discard(staged: Path) -> None:
    """Remove the blob and its journal, journal first: data without a journal is never trusted."""
    for path in (journal_of(staged), staged):
        with suppress(FileNotFoundError):
            path.unlink()


def missing(had: list[ByteRange], size: int, step: int) -> Iterator[ByteRange]:
    """The gaps between what was had, in order, none longer than `step`."""
    at = 0
    for start, stop in [*had, (size, size)]:
        for first in range(at, start, step):
            yield first, min(first + step, start)
        at = stop


def _heading(layer: Layer) -> str:
    return f"{layer.digest} {layer.size}\n"


def _read(staged: Path, layer: Layer) -> list[ByteRange] | None:
    """The journal's spans, or None when it is not this blob's. Cuts a torn last line off."""
    journal = journal_of(staged)
    try:
        raw = journal.read_bytes()
        size = staged.stat().st_size
    except FileNotFoundError:
        return None
    whole = raw[: raw.rfind(b"\n") + 1]
    heading, *lines = whole.decode("ascii", "replace").splitlines(keepends=True) or [""]
    spans = [_span(line, layer.size) for line in lines]
    if heading != _heading(layer) or size != layer.size:
        return None
    if len(whole) < len(raw):
        os.truncate(journal, len(whole))
    return _joined(span for span in spans if span)


def _span(line: str, size: int) -> ByteRange | None:
    start, _, stop = line.strip().partition(" ")
    if not (start.isdecimal() and stop.isdecimal()):
        return None
    span = int(start), int(stop)
    return span if span[0] < span[1] <= size else None


def _joined(spans: Iterable[ByteRange]) -> list[ByteRange]:
    joined: list[ByteRange] = []
    for start, stop in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(stop, joined[-1][1])
        else:
            joined.append((start, stop))
    return joined
