"""What has left the ledger: files of JSON lines that only grow, one for each sort of record, rotated by size.

What was appended is on the disk when `append` returns, name and all, and no file takes the name of another. Where each
record of jobs stands in the files that were set aside, `jobs.archive.archive_index` tells.

A writer that is killed may leave its last line torn: the next one begins a line of its own, and readers pass the torn
one over. One that was killed before it could note what it had appended appends it again, so readers expect doubles.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from jobs.archive import archive_index
from jobs.archive.archive_index import ArchiveIndex, Entry
from jobs.store import private_files as private
from jobs.store.files import flush_folder

ROTATE_AT = 2_000_000
"""Bytes: some two thousand jobs. The file that grows is read whole by whoever looks for a job; of the others, the index
tells where it is."""


def warn(text: str, *values: object) -> None:
    """Log a warning: with what takes longer to import than most lists take, and is hardly ever needed."""
    from loguru import logger  # noqa: PLC0415

    logger.opt(depth=1).warning(text, *values)


class Archive:
    def __init__(self, folder: Path, *, rotate_at: int = ROTATE_AT) -> None:
        self._folder = folder
        self._rotate_at = rotate_at

    @property
    def folder(self) -> Path:
        return self._folder

    def append(self, sort: str, records: Iterable[Mapping[str, Any]]) -> int:
        """Append the records, oldest first, for good; how many those were. Nothing is touched for none.

        Raises:
            OSError: they may not be there, or not all of them; appended again they are there twice.

        """
        lines = [json.dumps(record, separators=(",", ":")) + "\n" for record in records]
        if lines:
            self._folder.mkdir(mode=private.FOLDER, parents=True, exist_ok=True)
            flush_folder(self._folder.parent)
            path = self._folder / f"{sort}.jsonl"
            self._rotate(path, sort)
            torn = path.exists() and not _ends_whole(path)
            with open(path, "a", encoding="utf-8", opener=private.opener) as file:
                file.write("".join(["\n" if torn else "", *lines]))
                file.flush()
                os.fsync(file.fileno())
            flush_folder(self._folder)
        return len(lines)

    def read(self, sort: str) -> Iterator[dict[str, Any]]:
        """Every record that is whole, oldest first."""
        for path in [*(path for _, path in self._full(sort)), self._current(sort)]:
            yield from _records_of(path)

    def read_back(self, sort: str) -> Iterator[list[dict[str, Any]]]:
        """The records that are whole, those of one file after another, the newest file first."""
        yield list(_records_of(self._current(sort)))
        for _, path in reversed(self._full(sort)):
            yield list(_records_of(path))

    # -- by the index --------------------------------------------------------------------------------------------------

    def index(self, sort: str) -> int:
        """Have the index know every file that was set aside; how many records came into it. Only the writer may.

        Raises:
            OSError: it stays as it was.

        """
        full = dict(self._full(sort))
        return archive_index.extend(self._index(sort), full, lambda number: _lines_of(full[number]))

    @contextmanager
    def opened(self, sort: str) -> Iterator["OpenArchive"]:
        """The archive of jobs for as long as somebody looks into it. Its files are open meanwhile, and not after."""
        with ExitStack() as closing:
            # The file that grows comes first: when it is set aside meanwhile, what it held was read already.
            recent = {str(record["id"]): record for record in _records_of(self._current(sort)) if "id" in record}
            index = ArchiveIndex.opened(self._index(sort), closing)
            full = dict(self._full(sort))
            for number in sorted(full.keys() - (index.files if index else ())):
                recent = {str(each["id"]): each for each in _records_of(full[number]) if "id" in each} | recent
            yield OpenArchive(recent, index, full, closing)

    def _current(self, sort: str) -> Path:
        return self._folder / f"{sort}.jsonl"

    def _index(self, sort: str) -> Path:
        return self._folder / f"{sort}.index"

    def kept_at(self) -> datetime | None:
        """When something was appended last; None where nothing ever was."""
        files = self._folder.glob("*.jsonl")
        return max((datetime.fromtimestamp(path.stat().st_mtime, UTC) for path in files), default=None)

    def _full(self, sort: str) -> list[tuple[int, Path]]:
        """The files that were set aside, by their numbers, oldest first; some may have been taken away since."""
        found = [(path.name.removeprefix(f"{sort}.").removesuffix(".jsonl"), path) for path in self._folder.glob("*")]
        return sorted((int(number), path) for number, path in found if number.isascii() and number.isdigit())

    def _rotate(self, path: Path, sort: str) -> None:
        if not path.exists() or path.stat().st_size < self._rotate_at:
            return
        with ExitStack() as closing:  # of a number that was taken away the index still knows what lay where
            known = ArchiveIndex.opened(self._index(sort), closing)
            number = max([*(known.files if known else ()), *(number for number, _ in self._full(sort))], default=0)
        while True:
            number += 1
            aside = self._folder / f"{sort}.{number:05}.jsonl"
            with suppress(FileExistsError):
                aside.open("xb").close()  # the name is ours before it is used: a rename asks nobody
                path.rename(aside)
                return


class OpenArchive:
    """The records of jobs: those that no index knows are in memory, the others are read one by one.

    Args:
        recent: the former, by their ids.
        index: of the latter, where there is one.
        full: the files that the index tells of, by their numbers.
        closing: closes what is opened here.

    """

    def __init__(
        self,
        recent: Mapping[str, dict[str, Any]],
        index: ArchiveIndex | None,
        full: Mapping[int, Path],
        closing: ExitStack,
    ) -> None:
        self.recent = recent
        self.index = index
        self._full = full
        self._closing = closing
        self._files: dict[int, BinaryIO | None] = {}

    def record(self, entry: Entry) -> dict[str, Any] | None:
        """The record at that place; None where its file was taken away."""
        if (file := self._file(entry.file)) is None:
            return None
        line = os.pread(file.fileno(), entry.length, entry.offset)
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict) and record.get("id") == entry.place.id:
            return record
        warn("what file {} of the archive holds of job {} is not what was put there", entry.file, entry.place)
        return None

    def _file(self, number: int) -> BinaryIO | None:
        if number not in self._files:
            opened = None
            with suppress(FileNotFoundError, KeyError):
                opened = self._closing.enter_context(self._full[number].open("rb", buffering=0))
            self._files[number] = opened
        return self._files[number]


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def _lines_of(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file


def _records_of(path: Path) -> Iterator[dict[str, Any]]:
    try:
        file = path.open(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    with file:
        yield from _records(file, path)


def _records(lines: Iterable[str], path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict):
            yield record
        else:
            warn("line {} of {} is torn and passed over", number, path.name)
