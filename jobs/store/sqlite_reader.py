"""Reads the dict of a SQLite file that others write, and changes no byte of it, nor of what lies beside it.

A file that nobody has open is read as one that does not change, which needs neither `-wal` nor `-shm`; whether that was
so is looked at afterwards. Else the shared index is only read, and written as any reader writes it where SQLite cannot
do without. Where there is no file there are no entries. Each call opens the file anew, so what comes later is seen.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from jobs.store.in_order import Moment
from jobs.store.sqlite import (
    BUSY_SECONDS,
    COUNT_POSTED,
    POSTED_INDEX,
    in_order_of_posting,
    in_time,
    last_of,
    listing,
    store_trouble,
    without_end,
)

_AS_IT_LIES, _INDEX_UNTOUCHED, _AS_ANY_READER = "immutable=1", "mode=ro&readonly_shm=1", "mode=ro"

_LOOKS = 10
"""So often a file is looked at that somebody begins to write each time; then it is read as any reader does."""

_Mark = tuple[int, int, int] | None


class SqliteReader:
    """A `ReadableDict`. Threads may share one. Every method raises `StoreTrouble` when the file fails."""

    def __init__(self, path: Path, name: str = "ollama-ledger") -> None:
        self._path = path
        self._log = path.with_name(f"{path.name}-wal")
        self._name = name

    def get(self, key: Any, default: Any = None) -> Any:
        rows = self._rows("SELECT value FROM entries WHERE dict = ? AND key = ?", self._name, key)
        return json.loads(rows[0][0]) if rows else default

    def keys(self, *prefixes: str) -> Iterator[Any]:
        sql, values = listing("key", self._name, prefixes)
        return (key for (key,) in self._rows(sql, *values))

    def items(self, *prefixes: str) -> Iterator[tuple[Any, Any]]:
        sql, values = listing("key, value", self._name, prefixes)
        rows = self._rows(sql, *values)
        # As one document, for the reason that `SqliteDict.items` has.
        return zip((key for key, _ in rows), json.loads(f"[{','.join(text for _, text in rows)}]"), strict=True)

    def by_time(self, prefix: str, after: Moment, until: str, most: int) -> list[Moment]:
        return [Moment(*row) for row in self._rows(*in_time(self._name, prefix, after, until, most))]

    def last(self, prefix: str, before: str, most: int) -> list[tuple[str, Any]]:
        return [(key, json.loads(value)) for key, value in self._rows(*last_of(self._name, prefix, before, most))]

    def posted_before(self, at: str, key: str, most: int) -> list[tuple[str, Any]]:
        is_indexed = bool(self._rows("SELECT 1 FROM sqlite_master WHERE name = ?", POSTED_INDEX))
        rows = self._rows(*in_order_of_posting(self._name, at, key, most, is_indexed=is_indexed))
        return [(found, json.loads(value)) for _, found, value in rows]

    def count_posted(self) -> int:
        rows = self._rows(COUNT_POSTED, self._name)
        return int(rows[0][0]) if rows else 0

    def unended(self, since: str) -> list[str]:
        return [id for (id,) in self._rows(*without_end(self._name, since))]

    def _rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        try:
            for _ in range(_LOOKS):
                before = self._marks()
                ledger, log = before
                if ledger is None or not ledger[0]:
                    return []
                if log is not None and log[0]:
                    break
                rows = self._read(_AS_IT_LIES, sql, values)
                if self._marks() == before:
                    return rows
            try:
                return self._read(_INDEX_UNTOUCHED, sql, values)
            except sqlite3.OperationalError:  # no mark of another reader fits, or the log has gone meanwhile
                return self._read(_AS_ANY_READER, sql, values)
        except sqlite3.Error as error:
            raise store_trouble(error, self._path) from error

    def _read(self, way: str, sql: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        address = f"{self._path.absolute().as_uri()}?{way}"
        with closing(sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS, isolation_level=None)) as connection:
            return connection.execute(sql, values).fetchall()

    def _marks(self) -> tuple[_Mark, _Mark]:
        """What tells that the file, or the log of what is still to go into it, has changed."""
        return _mark(self._path), _mark(self._log)


def _mark(path: Path) -> _Mark:
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino
