"""One file as it comes in, piece by piece: whole in the end, or gone."""

import json
import os
import secrets
import shutil
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from jobs.batches.files.batch_disk import BatchDisk
from jobs.batches.records import FileRecord
from jobs.core.errors import BadRequest
from jobs.core.units import human_bytes
from jobs.store.files import flush_folder
from jobs.store.private_files import opener

MOST_FILE_BYTES = 1 << 30
"""Of an upload."""

PIECE = 1 << 20
"""So many bytes are written at once, and are in memory meanwhile."""


class FileWriter:
    """Of one thread at a time. Left without `finish`, as by an exception, nothing of the file stays.

    `write` and `finish` raise `Trouble` when there is no room or the disk fails; nothing of the file stays then.
    """

    def __init__(self, disk: BatchDisk, record: FileRecord, *, most_bytes: int | None) -> None:
        self._disk = disk
        self._record = record
        self._most = most_bytes
        # Of this writer alone: who died and left one under the same id shall not have begun ours.
        self._folder = disk.root / "uploads" / f"{record.id}.{secrets.token_hex(4)}"
        self._buffer = bytearray()
        self._size = 0
        self._is_begun = False
        self._is_over = False

    @property
    def id(self) -> str:
        """Under which the file will be found."""
        return self._record.id

    @property
    def size(self) -> int:
        """How many bytes came so far."""
        return self._size

    def write(self, data: bytes) -> None:
        """Add these bytes.

        Raises:
            BadRequest: the file is larger than it may be.
            QuotaExceeded: it has no place beside the others.
            DiskFull: nor on the disk.

        """
        self._size += len(data)
        if self._most is not None and self._size > self._most:
            self.abandon()
            raise BadRequest(
                f"the file is larger than {human_bytes(self._most)}", hint="split it, and post a batch for each part"
            )
        self._buffer += data
        if len(self._buffer) >= PIECE:
            self._flush()

    @property
    def created_at(self) -> datetime:
        """When it was begun, which is what is told of it."""
        return self._record.created_at

    def finish(self, *, expires_at: datetime | None = None) -> FileRecord:
        """Have the file there, in place of one that was there under this id.

        Args:
            expires_at: when it may be removed, where that was not known when it was begun.

        """
        self._flush(is_last=True)
        record = replace(self._record, bytes=self._size, expires_at=expires_at or self._record.expires_at)
        record = FileRecord.from_json(record.as_json())  # as it is kept
        target = self._disk.root / "files" / record.id
        is_new = False
        try:
            with self._disk.using(f"writing file {record.id}"):
                _write(self._folder / "record.json", json.dumps(record.as_json()).encode(), is_last=True)
                flush_folder(self._folder)
                self._disk.make_folder(target.parent)
                shutil.rmtree(target, ignore_errors=True)
                self._folder.rename(target)
                is_new = True
                flush_folder(target.parent)
            self._disk.persist()
        except BaseException:
            if is_new:  # whoever is told that it failed does not look for it
                self._remove(target)
            raise
        finally:
            self.abandon()
        return record

    def abandon(self) -> None:
        """Remove what was written, unless it has been finished. Once more changes nothing."""
        self._is_over = True
        self._buffer.clear()
        if self._is_begun:
            self._is_begun = False
            self._remove(self._folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._is_over:
            self.abandon()

    def _flush(self, *, is_last: bool = False) -> None:
        if self._is_over:
            raise ValueError(f"file {self._record.id} was finished or abandoned before")
        try:
            if self._record.purpose == "batch":
                self._disk.need_room(len(self._buffer))
            with self._disk.using(f"writing file {self._record.id}"):
                if not self._is_begun:
                    self._is_begun = True
                    self._disk.make_folder(self._folder)
                _write(self._folder / "content", self._buffer, is_last=is_last)
        except BaseException:
            self.abandon()
            raise
        self._buffer.clear()

    def _remove(self, folder: Path) -> None:
        with self._disk.using(f"removing {folder.name}"):
            shutil.rmtree(folder, ignore_errors=True)  # what is left of it is pruned


def _write(path: Path, data: bytes | bytearray, *, is_last: bool) -> None:
    """Append to a file, and flush it when nothing comes any more."""
    with open(path, "ab", buffering=0, opener=opener) as file:
        written = 0
        while written < len(data):
            written += file.write(memoryview(data)[written:])
        if is_last:
            os.fsync(file.fileno())
