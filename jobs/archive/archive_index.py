"""Where each archived job stands in the archive's files: found by its id, or page by page by when it was posted.

The index is a file beside those that were set aside, which never change. It is written anew when another one was, by
the one writer of the archive; to add some jobs to many is to copy the many as bytes. Who finds no index, or one that
does not know a file, reads that file. So it may be removed, and an archive of an older version has none.

    a line of JSON: which files it knows, and how many entries there are
    the entries by id       each: id, when posted, file, place, length
    the entries by time     the same ones
"""

import json
import os
import struct
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

from jobs.core.clock import parse_moment
from jobs.ledger.job import Place, milliseconds
from jobs.store import private_files as private
from jobs.store.files import flush_folder

VERSION = 1

_ENTRY = struct.Struct(">24sqIQI")


class Entry(NamedTuple):
    """Where a job's record lies."""

    place: Place
    file: int
    offset: int
    length: int

    def packed(self) -> bytes:
        return _ENTRY.pack(self.place.id.encode(), self.place.posted, self.file, self.offset, self.length)

    @classmethod
    def unpacked(cls, data: bytes) -> Self:
        padded, posted, file, offset, length = _ENTRY.unpack(data)
        id = padded.rstrip(b"\0").decode()
        return cls(Place.of(posted, id), file, offset, length)


def place_of(record: dict[str, Any]) -> Place | None:
    """Where the job of a record stands; None where it does not tell."""
    try:
        id, posted = str(record["id"]), parse_moment(record["posted_at"])
    except (KeyError, TypeError, ValueError):
        return None
    return Place.of(milliseconds(posted), id)


def entries_of(file: int, lines: Iterable[bytes]) -> Iterator[Entry]:
    """An entry for each record of a file that is whole, and that the index has room for."""
    offset = 0
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        place = place_of(record) if isinstance(record, dict) else None
        if place is not None and len(place.id.encode()) <= 24:
            yield Entry(place, file, offset, len(line))
        offset += len(line)


@dataclass(frozen=True)
class _Table(Sequence[Entry]):
    """Entries as they lie in the file, one after the other: each is read when it is asked for."""

    file: BinaryIO
    begin: int
    size: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, number: Any) -> Any:
        return Entry.unpacked(os.pread(self.file.fileno(), _ENTRY.size, self.begin + number * _ENTRY.size))

    def bytes_of(self, first: int, end: int) -> Iterator[bytes]:
        """The entries from one to another, as they lie there, some megabytes at a time."""
        at, stop = self.begin + first * _ENTRY.size, self.begin + end * _ENTRY.size
        while at < stop and (piece := os.pread(self.file.fileno(), min(stop - at, 1 << 22), at)):
            at += len(piece)
            yield piece


def _by_id(entry: Entry) -> str:
    return entry.place.id


def _by_time(entry: Entry) -> Place:
    return entry.place


class ArchiveIndex:
    """An index that is open for reading.

    Args:
        file: the open file.
        files: the numbers of the files that it knows.
        begin: where its entries begin.
        count: how many there are.

    """

    def __init__(self, file: BinaryIO, files: frozenset[int], begin: int, count: int) -> None:
        self.files = files
        self.by_id = _Table(file, begin, count)
        self.by_time = _Table(file, begin + count * _ENTRY.size, count)

    @classmethod
    def opened(cls, path: Path, closing: ExitStack) -> "ArchiveIndex | None":
        """The index there; None where there is none, or it is of another version or cut short."""
        try:
            file = closing.enter_context(path.open("rb", buffering=0))
        except FileNotFoundError:
            return None
        head = os.pread(file.fileno(), 1 << 20, 0).partition(b"\n")[0]
        try:
            document = json.loads(head)
            is_ours = document["v"] == VERSION
            files, count = frozenset(map(int, document["files"])), int(document["count"])
        except (ValueError, KeyError, TypeError):
            return None
        whole = len(head) + 1 + 2 * count * _ENTRY.size
        return cls(file, files, len(head) + 1, count) if is_ours and path.stat().st_size == whole else None

    def find(self, id: str) -> Entry | None:
        """Where the job of this id is."""
        at = bisect_left(self.by_id, id, key=_by_id)
        found = self.by_id[at] if at < len(self.by_id) else None
        return found if found is not None and found.place.id == id else None

    def beginning(self, text: str) -> Iterator[Entry]:
        """Where the jobs are whose ids begin so, in the order of their ids."""
        at = bisect_left(self.by_id, text, key=_by_id)
        while at < len(self.by_id) and (found := self.by_id[at]).place.id.startswith(text):
            yield found
            at += 1

    def newest(self, before: Place | None = None) -> Iterator[Entry]:
        """From the newest on, or from the one that comes after that place in such a list."""
        at = len(self.by_time) if before is None else bisect_left(self.by_time, before, key=_by_time)
        yield from (self.by_time[number] for number in range(at - 1, -1, -1))


def extend(path: Path, files: Iterable[int], lines_of: Callable[[int], Iterable[bytes]]) -> int:
    """Have the index know these files, all of which were set aside; how many jobs were added.

    It is replaced in one step. A file that was taken away stays known: its jobs are passed over.
    """
    with ExitStack() as closing:
        known = ArchiveIndex.opened(path, closing)
        missing = sorted(set(files) - (known.files if known else frozenset()))
        if not missing:
            return 0
        found = {entry.place.id: entry for number in missing for entry in entries_of(number, lines_of(number))}
        new = [entry for entry in found.values() if known is None or known.find(entry.place.id) is None]
        head = {
            "v": VERSION,
            "files": sorted({*missing, *(known.files if known else ())}),
            "count": len(new) + (len(known.by_id) if known else 0),
        }
        draft = path.with_suffix(".draft")
        try:
            with open(draft, "wb", opener=private.opener) as file:
                file.write(json.dumps(head, separators=(",", ":")).encode() + b"\n")
                file.writelines(_merged(known.by_id if known else None, sorted(new, key=_by_id), _by_id))
                file.writelines(_merged(known.by_time if known else None, sorted(new, key=_by_time), _by_time))
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        flush_folder(path.parent)
        return len(new)


def _merged(known: _Table | None, new: Iterable[Entry], key: Callable[[Entry], Any]) -> Iterator[bytes]:
    """All of both in their order: each new one costs a search, and what lies between two is copied."""
    at = 0
    for entry in new:
        if known is not None:
            place = bisect_left(known, key(entry), lo=at, key=key)
            yield from known.bytes_of(at, place)
            at = place
        yield entry.packed()
    if known is not None:
        yield from known.bytes_of(at, len(known))
