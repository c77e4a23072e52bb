"""Where each line of a file begins, and its model; reads lines by their number.

<work>/lines.idx   eight bytes a line: its offset, and which of the models; at last where the file ends

No file is held open between two calls.
"""

import json
import os
import secrets
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.batches.files.storage import BatchStorage
from jobs.batches.records import BatchRecord
from jobs.core.errors import Corrupt, NotFound
from jobs.store.files import flush_folder
from jobs.store.private_files import opener

MOST_MODELS = 1_000
"""In one file."""

MOST_READ = 4 << 20
"""Bytes of lines that are read at once, where they are more than one."""

_ENTRY = 8
_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class InputLine:
    """A line that may be sent.

    Args:
        number: its number in the file, from 1.
        custom_id: its poster's own.
        model: whom it asks: its own, or the batch's.
        body: what is sent, with that model in it.

    """

    number: int
    custom_id: str
    model: str
    body: Mapping[str, Any]


class IndexWriter:
    """Writes an index as the lines come; it is there when it has been finished."""

    def __init__(self, storage: BatchStorage, batch_id: str) -> None:
        self._storage = storage
        self._folder = storage.work(batch_id)
        self._beside = self._folder / f"lines.{secrets.token_hex(4)}.new"
        self._entries = array("Q")

    def add(self, offset: int, model: int) -> None:
        """Know where the next line begins."""
        self._entries.append(offset << 16 | model)
        if len(self._entries) >= _AT_ONCE:
            self._flush()

    def finish(self, end: int) -> None:
        """Have the index there."""
        self._entries.append(end << 16)
        self._flush()
        with self._storage.using("keeping where lines begin"):
            self._beside.rename(self._folder / "lines.idx")
            flush_folder(self._folder)

    def abandon(self) -> None:
        """Leave nothing of an index that was not finished."""
        with self._storage.using("removing an index"):
            self._beside.unlink(missing_ok=True)

    def _flush(self) -> None:
        with self._storage.using("keeping where lines begin"):
            self._storage.make_folder(self._folder)
            with open(self._beside, "ab", opener=opener) as file:
                self._entries.tofile(file)
                file.flush()
                os.fsync(file.fileno())
        del self._entries[:]


class Lines:
    """The lines of a batch whose file was read through. Threads may share one: no file is held open."""

    def __init__(self, storage: BatchStorage, record: BatchRecord, models: Sequence[str], lines: int) -> None:
        self._storage = storage
        self._record = record
        self._models = models
        self._path = storage.work(record.id) / "lines.idx"
        self.lines = lines

    def models(self, first: int, count: int) -> list[str]:
        """The models of so many lines, from the first, without reading the lines."""
        return [self._models[entry & 0xFFFF] for entry in self._entries(first, count)[:-1]]

    def read(self, first: int, count: int) -> list[InputLine]:
        """So many lines, from the first; fewer, but one at least, where they are long.

        Raises:
            NotFound: the file is gone, or the index.
            Corrupt: they do not fit each other.

        """
        return [self._line(number, raw, model) for number, raw, model in self._raw(first, count)]

    def custom_ids(self, first: int, count: int) -> list[tuple[int, str]]:
        """The numbers and ids of so many lines, as `read` has them."""
        return [(line.number, line.custom_id) for line in self.read(first, count)]

    def _raw(self, first: int, count: int) -> list[tuple[int, bytes, str]]:
        entries = self._entries(first, count)
        offsets = [entry >> 16 for entry in entries]
        most = next((n for n in range(len(offsets) - 1, 1, -1) if offsets[n] - offsets[0] <= MOST_READ), 1)
        data = self._storage.read(self._record.input_file_id, offsets[0], offsets[most] - offsets[0])
        if len(data) != offsets[most] - offsets[0]:
            raise Corrupt(f"file {self._record.input_file_id} is shorter than it was")
        return [
            (
                first + n,
                data[offsets[n] - offsets[0] : offsets[n + 1] - offsets[0]],
                self._models[entries[n] & 0xFFFF],
            )
            for n in range(most)
        ]

    def _entries(self, first: int, count: int) -> "array[int]":
        count = max(1, min(count, self.lines - first + 1))
        found = array("Q")
        with self._storage.using(f"reading where lines of {self._record.id} begin"):
            try:
                with self._path.open("rb") as file:
                    file.seek(_ENTRY * (first - 1))
                    found.frombytes(file.read(_ENTRY * (count + 1)))
            except FileNotFoundError:
                raise NotFound(f"nothing is known of the lines of {self._record.id}") from None
        if first < 1 or len(found) != count + 1:
            raise Corrupt(f"batch {self._record.id} has no line {first}")
        return found

    def _line(self, number: int, raw: bytes, model: str) -> InputLine:
        try:
            document = json.loads(raw)
            body = {**document["params" if self._record.dialect == "anthropic" else "body"], "model": model}
            return InputLine(number, str(document["custom_id"]), model, body)
        except (ValueError, KeyError, TypeError) as error:
            raise Corrupt(f"line {number} of file {self._record.input_file_id} is not what it was") from error
