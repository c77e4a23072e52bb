"""What has left the ledger: files of JSON lines that only grow, one for each sort of record, rotated by size.

What was appended is on the disk when `append` returns, name and all, and no file takes the name of another.

A writer that is killed may leave its last line torn: the next one begins a line of its own, and readers pass the torn
one over. One that was killed before it could note what it had appended appends it again, so readers expect doubles.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loguru import logger

from jobs.store.files import flush_folder

ROTATE_AT = 16_000_000
"""Bytes: some ten thousand jobs, which is still opened in any editor."""


class Archive:
    def __init__(self, folder: Path, *, rotate_at: int = ROTATE_AT) -> None:
        self._folder = folder
        self._rotate_at = rotate_at

    def append(self, sort: str, records: Iterable[Mapping[str, Any]]) -> int:
        """Append the records, oldest first, for good; how many those were. Nothing is touched for none.

        Raises:
            OSError: they may not be there, or not all of them; appended again they are there twice.

        """
        lines = [json.dumps(record, separators=(",", ":")) + "\n" for record in records]
        if lines:
            self._folder.mkdir(parents=True, exist_ok=True)
            flush_folder(self._folder.parent)
            path = self._folder / f"{sort}.jsonl"
            self._rotate(path, sort)
            torn = path.exists() and not _ends_whole(path)
            with path.open("a", encoding="utf-8") as file:
                file.write("".join(["\n" if torn else "", *lines]))
                file.flush()
                os.fsync(file.fileno())
            flush_folder(self._folder)
        return len(lines)

    def read(self, sort: str) -> Iterator[dict[str, Any]]:
        """Every record that is whole, oldest first."""
        for path in [*(path for _, path in self._full(sort)), self._folder / f"{sort}.jsonl"]:
            if path.exists():
                with path.open(encoding="utf-8", errors="replace") as file:
                    yield from _records(file, path)

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
        number = max((number for number, _ in self._full(sort)), default=0)
        while True:
            number += 1
            aside = self._folder / f"{sort}.{number:05}.jsonl"
            with suppress(FileExistsError):
                aside.open("xb").close()  # the name is ours before it is used: a rename asks nobody
                path.rename(aside)
                return


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def _records(lines: Iterable[str], path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict):
            yield record
        else:
            logger.warning("line {} of {} is torn and passed over", number, path.name)
