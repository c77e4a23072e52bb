"""What SQLite's errors become: trouble that says whether trying again can help, and which file it is about."""

import sqlite3
import threading
from collections import deque
from contextlib import closing, suppress
from pathlib import Path
from queue import Empty

import pytest

from jobs.core.clock import SystemClock
from jobs.core.errors import Bug, StoreFull, StoreTrouble, StoreUnavailable, StoreUnusable
from jobs.store.sqlite import POLL_SECONDS, SqliteDict, SqliteQueue, store_trouble
from tests.support.disks import NEEDS_MOUNT, fill, small_disk
from tests.support.waiting import PATIENCE

OURS = {
    sqlite3.SQLITE_MISUSE,
    sqlite3.SQLITE_RANGE,
    sqlite3.SQLITE_INTERNAL,
    sqlite3.SQLITE_NOTFOUND,
    sqlite3.SQLITE_EMPTY,
}
"""Only a mistake of ours brings these about."""


@pytest.mark.parametrize("code", range(1, 27))
def test_every_error_has_a_meaning(code: int, tmp_path: Path) -> None:
    """Each primary code of SQLite is unavailable, full, unusable or our mistake, and each names the file."""
    error = sqlite3.OperationalError("it says why")
    error.sqlite_errorcode = code
    trouble = store_trouble(error, tmp_path / "ledger.sqlite")
    assert isinstance(trouble, Bug if code in OURS else StoreTrouble), code
    assert f"'{tmp_path / 'ledger.sqlite'}': it says why" in str(trouble)
    assert isinstance(trouble, Bug) or trouble.hint


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_BUSY, StoreUnavailable),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, StoreUnavailable),
        (sqlite3.SQLITE_LOCKED, StoreUnavailable),
        (sqlite3.SQLITE_IOERR_READ, StoreUnavailable),
        (sqlite3.SQLITE_FULL, StoreFull),
        (sqlite3.SQLITE_READONLY_DIRECTORY, StoreUnusable),
        (sqlite3.SQLITE_CORRUPT, StoreUnusable),
        (sqlite3.SQLITE_NOTADB, StoreUnusable),
        (sqlite3.SQLITE_CANTOPEN, StoreUnusable),
    ],
)
def test_extended_codes_mean_what_their_kind_means(code: int, kind: type[StoreTrouble], tmp_path: Path) -> None:
    """A code that says more than the kind of error is read by its kind."""
    error = sqlite3.OperationalError("x")
    error.sqlite_errorcode = code
    assert type(store_trouble(error, tmp_path / "f")) is kind


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


def test_a_file_that_is_no_ledger_is_unusable(path: Path) -> None:
    """A file of something else is refused as it is opened, and stays as it is."""
    path.write_text("once upon a time " * 100)
    with pytest.raises(StoreUnusable, match=r"ledger.sqlite': file is not a database"):
        SqliteDict(path)
    assert path.read_text().startswith("once upon")


def test_a_file_that_somebody_else_holds_is_unavailable(path: Path) -> None:
    """A file that somebody else writes to for too long is away for now: the write fails, and the next one goes well."""
    with closing(SqliteDict(path, busy_seconds=0.05)) as facts, closing(SqliteQueue(path, busy_seconds=0.05)) as queue:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable, match="database is locked"):
                facts.put("k", 1)
            with pytest.raises(StoreUnavailable, match="database is locked"):
                queue.put("id", partition="weights")
            assert facts.get("k") is None
            other.execute("ROLLBACK")
        assert facts.put("k", 1)
        queue.put("id", partition="weights")
        assert queue.get(block=False, partition="weights") == "id"


@NEEDS_MOUNT
@pytest.mark.parametrize("what", ["dict", "queue"])
def test_a_full_disk_is_told_as_such(tmp_path: Path, what: str) -> None:
    """On a full disk a write says that it is full, not what came of the attempt to take it back; reading goes on, what
    was written is there, and once there is space the same connection writes again."""
    with small_disk(tmp_path / "disk", 2) as disk:
        path = disk / "ledger.sqlite"
        with closing(SqliteDict(path)) as facts, closing(SqliteQueue(path)) as queue:

            def write(n: int) -> None:
                if what == "dict":
                    facts.put(f"k{n}", "x" * 5000)
                else:
                    queue.put("x" * 5000, partition="weights")

            write(0)
            ballast = fill(disk)
            with pytest.raises(StoreFull, match=r"the disk is full, and with it the ledger in .*ledger\.sqlite"):
                deque(map(write, range(1, 400)), maxlen=0)
            with pytest.raises(StoreFull):
                write(500)
            assert facts.get("k0") == ("x" * 5000 if what == "dict" else None)
            ballast.unlink()
            write(501)
            assert (queue.len(partition="weights") > 1) == (what == "queue")


@NEEDS_MOUNT
def test_a_ledger_is_not_opened_on_a_full_disk(tmp_path: Path) -> None:
    """A ledger that has to be made, or whose index has, says on a full disk that it is full."""
    with small_disk(tmp_path / "disk", 2) as disk:
        fill(disk)
        with pytest.raises(StoreFull):
            SqliteDict(disk / "ledger.sqlite")


def test_a_call_that_hangs_holds_others_up_for_a_while(path: Path) -> None:
    """A thread that waits behind one whose call never returns is told so after a limit."""
    hangs, go_on = threading.Event(), threading.Event()

    class Slow(str):
        """A key that SQLite may read only once it is told to go on."""

        __slots__ = ()

        def __conform__(self, _: object) -> str:
            hangs.set()
            go_on.wait(PATIENCE)
            return str(self)

    with closing(SqliteDict(path, busy_seconds=0.05)) as facts:
        thread = threading.Thread(target=facts.get, args=(Slow("k"),), daemon=True)
        thread.start()
        assert hangs.wait(PATIENCE)
        with pytest.raises(StoreUnavailable, match="has not answered another thread"):
            facts.get("other")
        go_on.set()
        thread.join(PATIENCE)
        assert facts.get("other") is None


def test_a_file_that_another_one_makes_is_waited_for(tmp_path: Path) -> None:
    """Of several who open a new home at once each waits for his turn, where SQLite itself would let nobody wait."""
    path, failures = tmp_path / "ledger.sqlite", list[StoreUnavailable]()

    def opens() -> None:
        try:
            SqliteQueue(path).close()
        except StoreUnavailable as failure:
            failures.append(failure)

    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("CREATE TABLE begun (x)")
        other.execute("BEGIN IMMEDIATE")
        opener = threading.Thread(target=opens)
        opener.start()
        opener.join(0.3)  # without waiting it has failed by then, unless the machine is busy
        other.execute("COMMIT")
    opener.join(PATIENCE)
    assert failures == []


# -- waiting at the queue ----------------------------------------------------------------------------------------------


class CountingPauses(SystemClock):
    """The machine's clock; how often somebody let a moment pass by it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: By any thread, under `_lock`.
        self.pauses = 0

    def wait(self, seconds: float, wake: threading.Event | None = None) -> bool:
        with self._lock:
            self.pauses += 1
        return super().wait(seconds, wake)


def test_of_all_who_wait_in_a_process_one_looks(tmp_path: Path) -> None:
    """However many lanes have nobody's job, the file is looked at as often as for one; each has its turn to give up."""
    clock, path = CountingPauses(), tmp_path / "ledger.sqlite"
    began = clock.monotonic()

    def wait(lane: str) -> None:
        with closing(SqliteQueue(path, clock=clock)) as queue:
            for _ in range(2):
                with pytest.raises(Empty):
                    queue.get(timeout=0.4, partition=lane)

    threads = [threading.Thread(target=wait, args=(f"lane{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert 0 < clock.pauses <= (clock.monotonic() - began) / POLL_SECONDS + 2


@pytest.mark.parametrize("lane", ["first", "second"])
def test_whoever_of_those_waits_gets_what_comes(tmp_path: Path, lane: str) -> None:
    """An item reaches the one who waits for it, whether he or another one looks at the file."""
    path = tmp_path / "ledger.sqlite"
    queues = {each: SqliteQueue(path) for each in ("first", "second", "put")}
    got: dict[str, object] = {}

    def wait(own: str) -> None:
        with suppress(Empty):
            got[own] = queues[own].get(timeout=None if own == lane else 0.5, partition=own)

    threads = [threading.Thread(target=wait, args=(own,)) for own in ("first", "second")]
    for thread in threads:
        thread.start()
    threads[lane == "first"].join(PATIENCE)  # the other one has given up, and looked for both if he came first
    queues["put"].put("item", partition=lane)
    for thread in threads:
        thread.join(PATIENCE)
    for queue in queues.values():
        queue.close()
    assert got == {lane: "item"}
