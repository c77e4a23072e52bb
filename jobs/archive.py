"""What has left the ledger: files of JSON lines that only grow, one for each sort of record, rotated by size.

A writer that is killed may leave its last line torn: the next one begins a line of its own, and readers pass the torn
one over. One that was killed before it could note what it had appended appends it again, so readers expect doubles.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from loguru import logger

ROTATE_AT = 16_000_000
"""Bytes: some ten thousand jobs, which is still opened in any editor."""


class Archive:
    def __init__(self, folder: Path, *, rotate_at: int = ROTATE_AT) -> None:
        self._folder = folder
        self._rotate_at = rotate_at

    def append(self, sort: str, records: Iterable[Mapping[str, Any]]) -> int:
        """Append the records, oldest first; how many those were. Nothing is touched for none."""
        lines = [json.dumps(record, separators=(",", ":")) + "\n" for record in records]
        if lines:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"{sort}.jsonl"
            self._rotate(path, sort)
            torn = path.exists() and not _ends_whole(path)
            with path.open("a", encoding="utf-8") as file:
                file.write("".join(["\n" if torn else "", *lines]))
        return len(lines)

    def read(self, sort: str) -> Iterator[dict[str, Any]]:
        """Every record that is whole, oldest first."""
        for path in [*sorted(self._folder.glob(f"{sort}.[0-9]*.jsonl")), self._folder / f"{sort}.jsonl"]:
            if path.exists():
                with path.open(encoding="utf-8", errors="replace") as file:
                    yield from _records(file, path)

    def _rotate(self, path: Path, sort: str) -> None:
        if path.exists() and path.stat().st_size >= self._rotate_at:
            full = len([*self._folder.glob(f"{sort}.[0-9]*.jsonl")])
            path.rename(self._folder / f"{sort}.{full + 1:05}.jsonl")


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
