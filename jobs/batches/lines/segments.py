"""Results as they come: each line has one, whoever is killed.

    <work>/<sequence>.jsonl   what one attempt appended, a line each:
                              <line> <o|e> <seconds> <prompt tokens> <output tokens> <crc32> <result as JSON>
    <work>/<sequence>.seal    written once, before that attempt appends: how many bytes of each earlier segment count

Lines count from 1. A result counts once it is flushed and persisted. What is torn does not: its checksum says so. An
attempt reads the newest seal, seals what was appended since, and appends to a segment of its own. So what an attempt
that lost its lease appends after that counts for nobody, and no line gets two results. No byte is ever changed.
"""

import json
import os
import zlib
from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, Self

from loguru import logger

from jobs.batches.files.storage import BatchStorage
from jobs.batches.records import BatchUse, LineCounts
from jobs.core import foreign
from jobs.core.errors import Corrupt, Fenced
from jobs.ledger.job import generation_of
from jobs.store.files import flush_folder
from jobs.store.private_files import opener

ATTEMPTS = 1_000_000
"""More than a job may have."""

PIECE = 1 << 18
"""So much of a segment is read at once."""

Kind = Literal["o", "e"]
"""Whether a result belongs among the outputs or the errors."""


def sequence_of(job_id: str, n: int) -> int:
    """Where the segment of attempt `n` of a job stands among those of its batch."""
    return generation_of(job_id) * ATTEMPTS + n


class Result(NamedTuple):
    """What became of a line, for good.

    Args:
        line: its number, from 1.
        kind: "o" among the outputs, "e" among the errors.
        seconds: from sending the line to its answer.
        prompt_tokens: read.
        output_tokens: made.
        document: as it will stand in the file of results, JSON without a line break.

    """

    line: int
    kind: Kind
    seconds: float
    prompt_tokens: int
    output_tokens: int
    document: bytes

    def as_bytes(self) -> bytes:
        """A line of a segment."""
        document = self.document.replace(b"\n", b" ").replace(b"\r", b" ")  # which JSON has between its parts alone
        head = f"{self.line} {self.kind} {self.seconds:.3f} {self.prompt_tokens} {self.output_tokens}".encode()
        return b"%b %08x %b\n" % (head, zlib.crc32(document, zlib.crc32(head)), document)

    @classmethod
    def from_bytes(cls, line: bytes) -> Self | None:
        """What a line of a segment says, without its line break; None where it is torn."""
        parts = line.split(b" ", 6)
        if len(parts) != 7:
            return None
        *head, checksum, document = parts
        if b"%08x" % zlib.crc32(document, zlib.crc32(b" ".join(head))) != checksum:
            return None
        number, kind, seconds, prompt, output = head
        return cls(int(number), "e" if kind == b"e" else "o", float(seconds), int(prompt), int(output), document)


class Place(NamedTuple):
    """In which segment a result lies, and at which byte of it."""

    sequence: int
    offset: int


@dataclass
class _Sums:
    completed: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0

    def add(self, result: Result) -> None:
        self.completed += result.kind == "o"
        self.failed += result.kind == "e"
        self.prompt_tokens += result.prompt_tokens
        self.output_tokens += result.output_tokens
        self.seconds += result.seconds


class Results:
    """Where the result of each line lies: eight bytes a line, whatever a result is like. Of one thread at a time."""

    def __init__(self, lines: int) -> None:
        self.lines = lines
        self._places = array("Q", (0,)) * lines  # of each line: its segment's place + 1, 16 bits; its offset, 48
        self._sequences: list[int] = []
        self._sums = _Sums()

    def is_done(self, line: int) -> bool:
        """Whether the line has a result that counts."""
        return self._places[line - 1] != 0

    @property
    def counts(self) -> LineCounts:
        return LineCounts(self.lines, self._sums.completed, self._sums.failed)

    @property
    def use(self) -> BatchUse:
        """What the lines that have a result took: their tokens and seconds."""
        return BatchUse(self._sums.prompt_tokens, self._sums.output_tokens, self._sums.seconds)

    def place(self, line: int) -> Place | None:
        """Where the result of a line lies."""
        place = self._places[line - 1]
        return Place(self._sequences[(place >> 48) - 1], place & 0xFFFF_FFFF_FFFF) if place else None

    def add(self, result: Result, sequence: int, offset: int) -> bool:
        """Know of a result; false where the line has one already, or there is no such line."""
        if not 1 <= result.line <= self.lines or self._places[result.line - 1]:
            return False
        if not self._sequences or self._sequences[-1] != sequence:
            self._sequences.append(sequence)
        self._places[result.line - 1] = len(self._sequences) << 48 | offset
        self._sums.add(result)
        return True


class Segments:
    """The results of one batch."""

    def __init__(self, storage: BatchStorage, batch_id: str, lines: int) -> None:
        self._storage = storage
        self._folder = storage.work(batch_id)
        self._batch_id = batch_id
        self._lines = lines

    def open(self, sequence: int, holder: str) -> "SegmentWriter":
        """Seal what earlier attempts appended, and begin a segment. One attempt does it once (`sequence_of`).

        Raises:
            Fenced: a later attempt has begun, or this one has before.

        """
        self._storage.refresh()
        results = Results(self._lines)
        with self._storage.using(f"sealing results of {self._batch_id}"):
            self._storage.make_folder(self._folder)
            sealed = _newest_seal(self._folder)
            if sealed.sequence >= sequence:
                raise Fenced(
                    f"attempt {sealed.sequence} of {self._batch_id} has begun, so that {sequence} comes too late"
                )
            counted = dict(sealed.counted)
            for each in _sequences(self._folder, ".jsonl"):
                if sealed.sequence <= each < sequence:
                    counted[each] = _whole_bytes(self._segment(each))
            for each, length in counted.items():
                counted[each] = self._still_there(each, length)
            seal = {"v": 1, "holder": holder, "counted": {str(each): length for each, length in counted.items()}}
            _write_once(self._folder / f"{sequence}.seal", json.dumps(seal).encode())
        self._storage.persist()
        for each, length in sorted(counted.items()):
            self._fold(each, length, results)
        return SegmentWriter(self._storage, self._segment(sequence), sequence, results)

    def open_next(self, holder: str) -> "SegmentWriter":
        """The same, after all attempts that have begun, for whoever is none: no attempt of the batch's job goes on."""
        self._storage.refresh()
        with self._storage.using(f"sealing results of {self._batch_id}"):
            sequence = _newest_seal(self._folder).sequence + 1
        return self.open(sequence, holder)

    def _still_there(self, sequence: int, length: int) -> int:
        """How much of what counted of a segment is still there: a disk may lose what it was told to keep. Those lines
        are run again."""
        path = self._segment(sequence)
        size = path.stat().st_size if path.exists() else 0
        if size >= length:
            return length
        logger.error("{} has {} bytes, and had {}: lines of {} are run again", path, size, length, self._batch_id)
        return _whole_bytes(path) if size else 0

    def _fold(self, sequence: int, length: int, results: Results) -> None:
        for offset, line in self._read(sequence, length):
            result = Result.from_bytes(line)
            if result is not None:
                results.add(result, sequence, offset)

    def _read(self, sequence: int, length: int) -> Iterator[tuple[int, bytes]]:
        """The lines of a segment up to its length, with their offsets, piece by piece."""
        path, at, begin = self._segment(sequence), 0, 0
        held: list[bytes] = []  # of a line whose end has not come
        while at < length:
            with self._storage.using(f"reading results of {self._batch_id}"), path.open("rb") as file:
                file.seek(at)
                piece = file.read(min(PIECE, length - at))
            if not piece:
                raise Corrupt(f"segment {sequence} of {self._batch_id} is shorter than it was")
            at += len(piece)
            held.append(piece)
            if b"\n" in piece:
                *whole, rest = b"".join(held).split(b"\n")
                held = [rest]
                for line in whole:
                    yield begin, line
                    begin += len(line) + 1

    @contextmanager
    def reading(self) -> Iterator[Callable[[int, Place], Result]]:
        """Reads results by their lines and where they lie. Files are open until this is left, so not for long.

        What it gives raises `Corrupt` when a result is not what it was.
        """
        with self._storage.using(f"reading results of {self._batch_id}"), ExitStack() as opened:
            files: dict[int, BinaryIO] = {}

            def read(line: int, place: Place) -> Result:
                sequence, offset = place
                if sequence not in files:
                    files[sequence] = opened.enter_context(self._segment(sequence).open("rb"))
                files[sequence].seek(offset)
                result = Result.from_bytes(files[sequence].readline().rstrip(b"\n"))
                if result is None or result.line != line:
                    raise Corrupt(f"the result of line {line} of {self._batch_id} is not what it was")
                return result

            yield read

    def _segment(self, sequence: int) -> Path:
        return self._folder / f"{sequence}.jsonl"


class SegmentWriter:
    """Appends what one attempt gets. Of one thread at a time: whoever shares it has a lock.

    Attributes:
        results: what counts, before and since.

    """

    def __init__(self, storage: BatchStorage, path: Path, sequence: int, results: Results) -> None:
        self._storage = storage
        self._path = path
        self.sequence = sequence
        self.results = results
        self._waiting: dict[int, Result] = {}
        #: Whether the folder is known to keep our file; whether its end may be torn.
        self._is_listed = False
        self._is_torn = False

    def is_done(self, line: int) -> bool:
        """Whether the line has a result that counts."""
        return self.results.is_done(line)

    @property
    def waiting(self) -> int:
        """How many results wait for the next flush."""
        return len(self._waiting)

    def append(self, result: Result) -> bool:
        """Have a result wait for the next flush; false where the line has one, which stays."""
        if self.results.is_done(result.line) or result.line in self._waiting:
            return False
        self._waiting[result.line] = result
        return True

    def flush(self) -> list[int]:
        """Write what waits; the lines that count from now on. Should it fail, all of them go on waiting.

        Raises:
            Trouble: the disk is full or fails, or others cannot be shown it now.

        """
        if not self._waiting:
            return []
        written = [(result, result.as_bytes()) for result in self._waiting.values()]
        with self._storage.using("keeping results"):
            was_torn, self._is_torn = self._is_torn, True
            # The end of what may be torn: a line of its own, which counts only if it was whole.
            data = b"".join([b"\n" if was_torn else b"", *(line for _, line in written)])
            end = _append(self._path, data)
            if not self._is_listed:
                flush_folder(self._path.parent)
                self._is_listed = True
        self._storage.persist()
        offset = end - len(data) + was_torn
        for result, line in written:
            self.results.add(result, self.sequence, offset)
            offset += len(line)
        self._is_torn = False
        self._waiting.clear()
        return [result.line for result, _ in written]


class _Seal(NamedTuple):
    sequence: int
    counted: dict[int, int]


def _sequences(folder: Path, ending: str) -> list[int]:
    return sorted(int(path.stem) for path in folder.glob(f"*{ending}") if path.stem.isdecimal())


def _newest_seal(folder: Path) -> _Seal:
    known = _sequences(folder, ".seal")
    if not known:
        return _Seal(0, {})
    path = folder / f"{known[-1]}.seal"
    document = foreign.fields(foreign.document(path.read_bytes(), str(path)))
    return _Seal(known[-1], {int(key): foreign.count(value) for key, value in document["counted"].items()})


def _whole_bytes(path: Path) -> int:
    """How much of a segment is whole lines, flushed as it is now: whoever appended it may not have got so far."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        end = file.seek(0, os.SEEK_END)
        while end:
            begin = max(0, end - PIECE)
            file.seek(begin)
            found = file.read(end - begin).rfind(b"\n")
            if found >= 0:
                return begin + found + 1
            end = begin
    return 0


def _append(path: Path, data: bytes) -> int:
    """Append and flush; where the file ends then."""
    with open(path, "ab", buffering=0, opener=opener) as file:
        written = 0
        while written < len(data):
            written += file.write(memoryview(data)[written:])
        os.fsync(file.fileno())
        return file.tell()


def _write_once(path: Path, data: bytes) -> None:
    beside = path.with_suffix(".new")
    with open(beside, "wb", opener=opener) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)
    flush_folder(path.parent)
