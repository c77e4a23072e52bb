"""The queue and the dict on one SQLite file: what modal.Queue and modal.Dict are on the platform.

Safe for many threads and processes: WAL, and every operation is one statement or one immediate transaction. Facts are
written with `synchronous=FULL`, so what was answered survives a power cut; the queue only carries ids and need not.
SQLite's errors end here: what leaves this file is `StoreTrouble`, which says whether trying again can help.
"""

import json
import os
import queue
import sqlite3
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from jobs.core.clock import Clock, SystemClock
from jobs.core.errors import BadRequest, Bug, StoreFull, StoreUnavailable, StoreUnusable, Trouble
from jobs.store import keys as names
from jobs.store.files import FileWatch
from jobs.store.in_order import Moment
from jobs.store.prefixes import shortest

BUSY_SECONDS = 15.0
"""How long anybody waits for another thread's or process's turn at the file. A turn takes milliseconds, so this is a
stuck disk. It is shorter than the shortest lease, so that a holder hears of it while his still runs."""

_LOCKED_SECONDS = 0.005
"""How long until somebody else's turn at a new file is over, most likely."""

POLL_SECONDS = 0.025
"""How often a waiting `get` looks, so that claims come within 50 ms: at first whether anybody has written to the file,
which costs two microseconds, and into it only then. Of several in a process one looks."""

PARTITION_ITEMS = 5_000
FADES_AFTER = 86_400
ITEM_BYTES = 1 << 20
VALUE_BYTES = 100 << 20
KEY_BYTES = 64
"""The sizes that Modal refuses (queue.py:262-285, docs 'dicts'), refused here as well."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (dict TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (dict, key))
  WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS items (
  id INTEGER PRIMARY KEY AUTOINCREMENT, queue TEXT NOT NULL, partition TEXT NOT NULL, value TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS items_in_order ON items (queue, partition, id);
CREATE TABLE IF NOT EXISTS partitions (
  queue TEXT NOT NULL, partition TEXT NOT NULL, expires_at REAL NOT NULL, PRIMARY KEY (queue, partition)
) WITHOUT ROWID;
"""

_AT = "json_extract(value, '$.at')"


def _begins(prefix: str) -> str:
    """The keys that begin so, in the words in which the index by time is declared: SQLite compares them as written."""
    return f"key >= '{prefix}' AND key < '{_end_of(prefix)}'"


def _index_of(prefix: str) -> str:
    return f"{prefix.rstrip('/')}_by_time"


def _indexes() -> str:
    """An index by time of each sort that is read so. An older file is given them as it is opened, once."""
    return "".join(
        f"CREATE INDEX IF NOT EXISTS {_index_of(prefix)} ON entries (dict, {_AT}, key) WHERE {_begins(prefix)};\n"
        for prefix in names.BY_TIME
    )


VACUUM_PAGES = 25_000
"""A file whose filled pages are more than these, some 100 MB, is not written anew: others would wait too long."""

SPARE_PAGES = 2_000
"""So many free pages, some 8 MB, are left for what comes next."""


_FAILING = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_ABORT,
        sqlite3.SQLITE_NOMEM,
    }
)
_UNUSABLE = frozenset(
    {
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_FORMAT,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_AUTH,
        sqlite3.SQLITE_NOLFS,
        sqlite3.SQLITE_ERROR,  # our statements are right, so the tables are not ours
        sqlite3.SQLITE_SCHEMA,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_TOOBIG,
    }
)
_NO_SPACE = 64 * 1024
"""Bytes. With less SQLite cannot grow its index of the log, and calls that an error of input or output."""


def store_trouble(error: sqlite3.Error, path: Path) -> Trouble:
    """What an error of SQLite means for whoever works with the file; a `Bug` when it means that we misuse it."""
    code = getattr(error, "sqlite_errorcode", None)
    primary = code & 0xFF if isinstance(code, int) else None
    said = f"{str(path)!r}: {error}"
    if primary == sqlite3.SQLITE_FULL or (
        primary in {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN} and _has_no_space(path)
    ):
        return StoreFull(
            f"the disk is full, and with it the ledger in {said}",
            hint=f"free some space in {str(path.parent)!r}; nothing is lost, and what waits goes on by itself",
        )
    if primary in _FAILING:
        return StoreUnavailable(
            f"the ledger cannot be read or written for now: {said}",
            hint=f"when it stays so, see whether the disk of {str(path)!r} works and who else has the file open",
        )
    if primary in _UNUSABLE:
        return StoreUnusable(
            f"the ledger cannot be used: {said}",
            hint=f"let this user own {str(path)!r} and its folder; when it is damaged, move it away or bring it back",
        )
    return Bug(f"the ledger was asked in a wrong way: {said}")


def _has_no_space(path: Path) -> bool:
    try:
        disk = os.statvfs(path.parent)
    except OSError:
        return False
    return disk.f_blocks > 0 and disk.f_bavail * disk.f_frsize < _NO_SPACE


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise store_trouble(error, path) from error


class _File:
    """One connection to the file, taken by one thread at a time; other processes have their own.

    Every method raises `StoreTrouble` when the file fails.
    """

    def __init__(self, path: Path, synchronous: str, busy_seconds: float) -> None:
        self._path = path
        self._busy_seconds = busy_seconds
        self._lock = threading.Lock()
        with _translated(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            #: Belongs to the thread that holds `_lock`; made without it, before any other thread knows of this file.
            self._connection = sqlite3.connect(
                path, timeout=busy_seconds, isolation_level=None, check_same_thread=False
            )
            try:
                if not self._connection.execute("PRAGMA page_count").fetchone()[
                    0
                ]:  # else it writes: on a full disk, too
                    self._connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
                self._write_ahead()
                self._connection.execute(f"PRAGMA synchronous={synchronous}")
                self._connection.executescript(_SCHEMA + _indexes() + _INDEX_POSTED)
            except BaseException:
                self._connection.close()
                raise

    def _write_ahead(self) -> None:
        """Have the file written by way of a log. Of several who turn to that in a new file at once, SQLite makes none
        wait, as they might wait for each other: it tells all but one that the file is locked.
        """
        clock = SystemClock()
        until = clock.monotonic() + self._busy_seconds
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode=WAL")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or clock.monotonic() > until:
                    raise
            else:
                return
            clock.wait(_LOCKED_SECONDS)

    def run(self, sql: str, *values: Any) -> tuple[list[tuple[Any, ...]], int]:
        """One statement: its rows, and how many it changed."""
        with self._taken() as connection:
            cursor = connection.execute(sql, values)
            return cursor.fetchall(), cursor.rowcount

    def give_back(self) -> int:
        """Give free pages back to the disk, some thousand at a time; how many that were.

        A file of an older version can give back none until it is written anew, once: when most of it is free, so that
        this costs by what is left in it. Until then its free pages are filled again.
        """
        with self._taken() as connection:
            pages, free, is_incremental = (
                int(connection.execute(f"PRAGMA {what}").fetchone()[0])
                for what in ("page_count", "freelist_count", "auto_vacuum")
            )
            if free <= SPARE_PAGES:
                return 0
            if is_incremental:
                most = min(free - SPARE_PAGES, SPARE_PAGES)
                connection.execute(f"PRAGMA incremental_vacuum({most})").fetchall()
            elif pages - free <= min(free / 2, VACUUM_PAGES):
                connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
                connection.execute("VACUUM")
            else:
                return 0
            left = int(connection.execute("PRAGMA page_count").fetchone()[0])
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()  # where somebody reads, another time
            return pages - left

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Several statements as one: all of them, or none."""
        with self._taken() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                # A full disk has ended the transaction already, and a failed commit has not.
                if connection.in_transaction:
                    with suppress(sqlite3.Error):  # what led here is the one to tell
                        connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        with self._taken() as connection:
            connection.close()

    @contextmanager
    def _taken(self) -> Iterator[sqlite3.Connection]:
        if not self._lock.acquire(timeout=self._busy_seconds):
            raise StoreUnavailable(
                f"the ledger in {str(self._path)!r} has not answered another thread for {self._busy_seconds:g} s",
                hint=f"see whether the disk of {str(self._path)!r} works",
            )
        try:
            with _translated(self._path):
                yield self._connection
        finally:
            self._lock.release()


def _encode(value: Any, limit: int, what: str) -> str:
    try:
        text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BadRequest(f"{what} is not plain JSON: {error}") from error
    if len(text.encode()) > limit:
        raise BadRequest(f"{what} has {len(text.encode()):,} bytes; {limit:,} is the most")
    return text


READ_AT_ONCE = 64 * 1024
"""Characters of JSON that are read by one call, during which no other thread of the process does anything."""


def _decoded(texts: Sequence[str]) -> Iterator[Any]:
    """The documents. Many small ones are read as one, in half the time of reading them one by one."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= READ_AT_ONCE:
            yield from json.loads(f"[{','.join(batch)}]")
            batch, size = [], 0
    yield from json.loads(f"[{','.join(batch)}]")


class SqliteDict:
    """A `DictLike` on SQLite. Entries do not fade here."""

    def __init__(self, path: Path, name: str = "ollama-ledger", *, busy_seconds: float = BUSY_SECONDS) -> None:
        self._file = _File(path, "FULL", busy_seconds)
        self._name = name

    def put(self, key: Any, value: Any, *, skip_if_exists: bool = False) -> bool:
        text = _encode(value, VALUE_BYTES, f"the value of {key!r}")
        conflict = "DO NOTHING" if skip_if_exists else "DO UPDATE SET value = excluded.value"
        sql = f"INSERT INTO entries VALUES (?, ?, ?) ON CONFLICT {conflict}"  # noqa: S608 - one of two constants
        _, changed = self._file.run(sql, self._name, _key(key), text)
        return changed == 1

    def get(self, key: Any, default: Any = None) -> Any:
        rows, _ = self._file.run("SELECT value FROM entries WHERE dict = ? AND key = ?", self._name, _key(key))
        return json.loads(rows[0][0]) if rows else default

    def pop(self, key: Any, default: Any = None) -> Any:
        sql = "DELETE FROM entries WHERE dict = ? AND key = ? RETURNING value"
        rows, _ = self._file.run(sql, self._name, _key(key))
        return json.loads(rows[0][0]) if rows else default

    def update(self, other: Mapping[Any, Any], /) -> None:
        rows = [
            (self._name, _key(key), _encode(value, VALUE_BYTES, f"the value of {key!r}"))
            for key, value in other.items()
        ]
        sql = "INSERT INTO entries VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET value = excluded.value"
        if rows:
            with self._file.writing() as connection:
                connection.executemany(sql, rows)

    def keys(self, *prefixes: str) -> Iterator[Any]:
        return (key for (key,) in self._beginning("key", prefixes))

    def items(self, *prefixes: str) -> Iterator[tuple[Any, Any]]:
        rows = self._beginning("key, value", prefixes)
        return zip((key for key, _ in rows), _decoded([text for _, text in rows]), strict=True)

    def by_time(self, prefix: str, after: Moment, until: str, most: int) -> list[Moment]:
        rows, _ = self._file.run(*in_time(self._name, prefix, after, until, most))
        return [Moment(*row) for row in rows]

    def last(self, prefix: str, before: str, most: int) -> list[tuple[str, Any]]:
        rows, _ = self._file.run(*last_of(self._name, prefix, before, most))
        return [(key, json.loads(value)) for key, value in rows]

    def remove_all(self, keys: Iterable[str], /) -> int:
        rows = [(self._name, _key(key)) for key in keys]
        if not rows:
            return 0
        with self._file.writing() as sql:
            return sql.executemany("DELETE FROM entries WHERE dict = ? AND key = ?", rows).rowcount

    def give_back(self) -> int:
        """Give some of the room that nothing needs any more back to the disk; how many pages those were."""
        return self._file.give_back()

    def _beginning(self, columns: str, prefixes: tuple[str, ...]) -> list[tuple[Any, ...]]:
        """The rows whose keys begin so: ranges of the primary key, so no other row is read."""
        sql, values = listing(columns, self._name, prefixes)
        rows, _ = self._file.run(sql, *values)
        return rows

    def posted_before(self, at: str, key: str, most: int) -> list[tuple[str, Any]]:
        rows, _ = self._file.run(*in_order_of_posting(self._name, at, key, most))
        return [(found, json.loads(value)) for _, found, value in rows]

    def count_posted(self) -> int:
        rows, _ = self._file.run(COUNT_POSTED, self._name)
        return int(rows[0][0])

    def unended(self, since: str) -> list[str]:
        rows, _ = self._file.run(*without_end(self._name, since))
        return [id for (id,) in rows]

    def close(self) -> None:
        self._file.close()


_POSTED_AT = "json_extract(value, '$.posted_at')"
_REQUESTS = f"key >= '{names.JOB}' AND key < '{names.JOB.removesuffix('/')}0'"
"""In the words in which the index of them is declared: SQLite compares them as they are written."""

POSTED_INDEX = "jobs_by_posting"

_INDEX_POSTED = f"""
CREATE INDEX IF NOT EXISTS {POSTED_INDEX} ON entries (dict, {_POSTED_AT}, key) WHERE {_REQUESTS};
"""

COUNT_POSTED = f"SELECT count(*) FROM entries WHERE dict = ? AND {_REQUESTS}"  # noqa: S608 - constants


def in_order_of_posting(name: str, at: str, key: str, most: int, *, is_indexed: bool = True) -> tuple[Any, ...]:
    """The statement for the requests before a moment and key, newest first, and its values: two ranges of the index.

    A file that an older version left has none, until it is written again.
    """
    entries = f"entries INDEXED BY {POSTED_INDEX}" if is_indexed else "entries"  # SQLite would rather sort all of them
    select = f"SELECT {_POSTED_AT}, key, value FROM {entries} WHERE dict = ? AND {_REQUESTS} AND {_POSTED_AT}"  # noqa: S608 - constants
    sql = f"{select} = ? AND key < ? UNION ALL {select} < ? ORDER BY 1 DESC, 2 DESC LIMIT ?"
    return sql, name, at, key, name, at, most


def without_end(name: str, since: str) -> tuple[Any, ...]:
    """The statement for the ids of requests since then that have neither a final end nor a mark, and its values: a
    range of the index, and two searches for each."""
    id = f"substr(key, {len(names.JOB) + 1})"
    there = "SELECT 1 FROM entries AS other WHERE other.dict = posted.dict AND other.key"
    has_end = (
        f"{there} > '{names.END}' || id || '/' AND other.key < '{names.END}' || id || '0'"
        " AND json_extract(other.value, '$.outcome') IN ('succeeded', 'failed', 'cancelled')"
    )
    posted = (
        f"SELECT dict, {id} AS id FROM entries INDEXED BY {POSTED_INDEX}"  # noqa: S608 - constants, as below
        f" WHERE dict = ? AND {_REQUESTS} AND {_POSTED_AT} >= ?"
    )
    has_mark = f"{there} = '{names.GONE}' || id"
    sql = f"SELECT id FROM ({posted}) AS posted WHERE NOT EXISTS ({has_end}) AND NOT EXISTS ({has_mark})"  # noqa: S608
    return sql, name, since


def in_time(name: str, prefix: str, after: Moment, until: str, most: int) -> tuple[Any, ...]:
    """The statement for where the entries of a dict stand by their time, and its values: a range of the index."""
    if prefix not in names.BY_TIME:
        raise Bug(f"entries of {prefix!r} are not kept by their time")
    entries = f"entries INDEXED BY {_index_of(prefix)}"  # SQLite would rather look through the keys
    select = f"SELECT {_AT}, key FROM {entries} WHERE dict = ? AND {_begins(prefix)} AND {_AT}"  # noqa: S608 - constants
    sql = f"{select} = ? AND key > ? UNION ALL {select} > ? AND {_AT} <= ? ORDER BY 1, 2 LIMIT ?"
    return sql, name, after.at, after.key, name, after.at, until, most


def last_of(name: str, prefix: str, before: str, most: int) -> tuple[Any, ...]:
    """The statement for the last entries that begin so and come before a key, and its values: a range of the keys."""
    sql = "SELECT key, value FROM entries WHERE dict = ? AND key >= ? AND key < ? ORDER BY key DESC LIMIT ?"
    end = _end_of(prefix)
    return sql, name, prefix, before if end is None else min(before, end), most


def listing(columns: str, name: str, prefixes: tuple[str, ...]) -> tuple[str, list[str]]:
    """The statement that reads these columns of a dict's entries whose keys begin so, and its values."""
    ranges = [(prefix, _end_of(prefix)) for prefix in shortest(map(_key, prefixes))]
    select = f"SELECT {columns} FROM entries WHERE dict = ? AND key >= ?"  # noqa: S608 - one of two constants
    sql = " UNION ALL ".join(select if end is None else f"{select} AND key < ?" for _, end in ranges)
    return sql, [value for begin, end in ranges for value in (name, begin, end) if value is not None]


def _end_of(prefix: str) -> str | None:
    """The least text that comes after all that begin so; None when none does. SQLite orders text as its code points."""
    begin = prefix.rstrip(chr(sys.maxunicode))
    if not begin:
        return None
    last = ord(begin[-1]) + 1
    return begin[:-1] + chr(0xE000 if last == 0xD800 else last)  # between the two lies what is no character


def _key(key: Any) -> str:
    if not isinstance(key, str):
        raise BadRequest(f"the key {key!r} is not a string; Modal compares other keys by their pickled bytes")
    return key


class SqliteQueue:
    """A `QueueLike` on SQLite."""

    def __init__(
        self, path: Path, name: str = "ollama-jobs", clock: Clock | None = None, *, busy_seconds: float = BUSY_SECONDS
    ) -> None:
        self._file = _File(path, "NORMAL", busy_seconds)
        self._watch = FileWatch.of(path.absolute().with_name(f"{path.name}-wal"))
        self._name = name
        self._clock = clock or SystemClock()

    def put(self, v: Any, block: bool = True, *, partition: str | None = None) -> None:
        self.put_many([v], block, partition=partition)

    def put_many(self, vs: list[Any], block: bool = True, *, partition: str | None = None) -> None:
        texts = [_encode(v, ITEM_BYTES, "the item") for v in vs]
        lane = _partition(partition)
        until = self._deadline(block, None)
        while not self._try_put(texts, lane):
            self._wait(until, queue.Full(f"partition {lane!r} holds {PARTITION_ITEMS:,} items, the most it can"))

    def get(self, block: bool = True, timeout: float | None = None, *, partition: str | None = None) -> Any:
        lane = _partition(partition)
        until = self._deadline(block, timeout)
        while (text := self._try_get(lane)) is None:
            if not block:
                return None
            left = None if until is None else until - self._clock.monotonic()
            if left is not None and left <= 0:
                raise queue.Empty
            self._watch.wait(lambda: self._wait(until, queue.Empty()), left)
        return json.loads(text)

    def len(self, *, partition: str | None = None) -> int:
        sql = "SELECT count(*) FROM items JOIN partitions USING (queue, partition) WHERE queue = ? AND expires_at > ?"
        now = self._clock.now().timestamp()
        rows, _ = self._file.run(f"{sql} AND partition = ?", self._name, now, _partition(partition))
        return int(rows[0][0])

    def close(self) -> None:
        self._file.close()

    def _try_put(self, texts: list[str], lane: str) -> bool:
        now = self._clock.now().timestamp()
        with self._file.writing() as sql:
            self._clear_expired(sql, lane, now)
            counted = sql.execute("SELECT count(*) FROM items WHERE queue = ? AND partition = ?", (self._name, lane))
            if counted.fetchone()[0] + len(texts) > PARTITION_ITEMS:
                return False
            rows = [(self._name, lane, text) for text in texts]
            sql.executemany("INSERT INTO items (queue, partition, value) VALUES (?, ?, ?)", rows)
            sql.execute("INSERT OR REPLACE INTO partitions VALUES (?, ?, ?)", (self._name, lane, now + FADES_AFTER))
        return True

    def _try_get(self, lane: str) -> str | None:
        # Looking first keeps an idle worker from taking the write lock many times a second.
        seen, _ = self._file.run("SELECT 1 FROM items WHERE queue = ? AND partition = ? LIMIT 1", self._name, lane)
        if not seen:
            return None
        with self._file.writing() as sql:
            self._clear_expired(sql, lane, self._clock.now().timestamp())
            row = sql.execute(
                "SELECT id, value FROM items WHERE queue = ? AND partition = ? ORDER BY id LIMIT 1", (self._name, lane)
            ).fetchone()
            if row is None:
                return None
            sql.execute("DELETE FROM items WHERE id = ?", (row[0],))
        return str(row[1])

    def _clear_expired(self, sql: sqlite3.Connection, lane: str, now: float) -> None:
        gone = sql.execute(
            "DELETE FROM partitions WHERE queue = ? AND partition = ? AND expires_at <= ?", (self._name, lane, now)
        )
        if gone.rowcount:
            sql.execute("DELETE FROM items WHERE queue = ? AND partition = ?", (self._name, lane))

    def _deadline(self, block: bool, timeout: float | None) -> float | None:
        if not block:
            return self._clock.monotonic()
        return None if timeout is None else self._clock.monotonic() + timeout

    def _wait(self, until: float | None, otherwise: Exception) -> None:
        if until is not None and self._clock.monotonic() >= until:
            raise otherwise
        self._clock.wait(POLL_SECONDS)


def _partition(partition: str | None) -> str:
    if partition is not None and not 1 <= len(partition.encode()) <= KEY_BYTES:
        raise BadRequest(
            f"the partition {partition!r} has {len(partition.encode())} bytes; 1 to {KEY_BYTES} are allowed"
        )
    return partition or ""
