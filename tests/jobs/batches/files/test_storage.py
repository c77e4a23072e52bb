"""Files of batches are whole or not there, their owners' alone, and never more than there is room for."""

import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.batches.files.file_writer import PIECE
from jobs.batches.files.prune_plan import BatchPrunePlan
from jobs.batches.files.storage import BatchStorage
from jobs.core.clock import SystemClock
from jobs.core.errors import (
    BadRequest,
    DiskFull,
    NetworkTrouble,
    NotFound,
    NotWritable,
    QuotaExceeded,
    StoreUnavailable,
)
from jobs.testing.clock import HandClock
from tests.support.batch_files import SharedVolume, batch_of, lines_of, storage_at
from tests.support.crash_points import READ_ONLY, dies_at, refusing
from tests.support.disks import NEEDS_MOUNT, fill, small_disk
from tests.support.waiting import PATIENCE, until


@pytest.fixture
def storage(tmp_path: Path) -> BatchStorage:
    return storage_at(tmp_path)


def content(storage: BatchStorage, id: str) -> bytes:
    return storage.read(id, 0, 1 << 30)


# -- files -------------------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=2000)), st.integers(0, 3000), st.integers(0, 3000))
def test_what_was_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], offset: int, size: int
) -> None:
    """In whatever pieces it came, and whichever part is asked for."""
    storage = storage_at(tmp_path_factory.mktemp("files"))
    saved = storage.save("ann", "a.jsonl", iter(pieces))
    whole = b"".join(pieces)

    assert saved.bytes == len(whole)
    assert storage.read(saved.id, offset, size) == whole[offset : offset + size]
    assert storage.file(saved.id) == saved


def test_a_large_file(storage: BatchStorage) -> None:
    """It is written a megabyte at a time."""
    pieces = [bytes([n]) * 100_001 for n in range(30)]

    saved = storage.save("ann", "a", pieces)

    assert 2 * PIECE < saved.bytes == 30 * 100_001
    assert content(storage, saved.id) == b"".join(pieces)


def test_files_are_their_owners(storage: BatchStorage) -> None:
    """Each sees its own, the newest first."""
    clock = storage.clock
    assert isinstance(clock, HandClock)
    saved = []
    for owner in ("ann", "bob", "ann"):
        saved.append(storage.save(owner, "f", [b"x"]))
        clock.tick(1)

    assert storage.files("ann") == [saved[2], saved[0]]
    assert storage.files("bob") == [saved[1]]
    assert storage.files("") == []
    assert storage.files() == saved[::-1]


def test_a_file_is_removed_once(storage: BatchStorage) -> None:
    """Then nobody finds it, and nothing of it is left."""
    saved = storage.save("ann", "f", [b"x"])

    assert storage.delete(saved.id)
    assert not storage.delete(saved.id)

    assert storage.file(saved.id) is None
    assert storage.files() == []
    assert storage.used_bytes() == 0
    with pytest.raises(NotFound, match=saved.id):
        content(storage, saved.id)


@pytest.mark.parametrize("id", ["", "file-", "../x", "file-../../x", "file-a/b", "file-A", "file-a\n", "x" * 300, "\0"])
def test_no_other_name_reaches_a_path(id: str, storage: BatchStorage) -> None:
    """What is no id of a file is the id of none."""
    assert storage.file(id) is None
    for ask in (lambda: storage.read(id, 0, 1), lambda: storage.delete(id), lambda: storage.work(f"{id}/")):
        with pytest.raises(NotFound):
            ask()


def test_a_damaged_record_hides_no_other(storage: BatchStorage) -> None:
    """The file of it counts as gone."""
    bad, good = (storage.save("ann", "f", [b"x"]) for _ in range(2))
    (storage.root / "files" / bad.id / "record.json").write_bytes(b'{"id": "fi')

    assert storage.files() == [good]
    assert storage.file(bad.id) is None


def test_files_are_for_nobody_else(storage: BatchStorage) -> None:
    """Nor is anything else that lies there, whatever the umask says."""
    record = batch_of(storage, 2)
    lines_of(storage, record)

    assert storage.root.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o077 for path in storage.root.rglob("*") if path.is_file()} == {0}


# -- broken off --------------------------------------------------------------------------------------------------------


def test_left_without_an_end_nothing_stays(storage: BatchStorage) -> None:
    """Whoever brings a file goes away in the middle."""

    def bring() -> None:
        with storage.begin("ann", "f") as writer:
            writer.write(bytes(3 * PIECE))
            assert storage.used_bytes() == 3 * PIECE
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        bring()

    assert storage.used_bytes() == 0
    assert storage.files() == []


def test_an_upload_is_whole_or_not_there(tmp_path: Path) -> None:
    """Killed at any change to the disk, it is one or the other; what is left of it is pruned a day later."""
    clock = HandClock()
    step = 0
    while True:
        step += 1
        storage = storage_at(tmp_path / str(step), clock)
        before = storage.save("ann", "before", [b"x"])
        lived = not dies_at(step, lambda storage=storage: storage.save("ann", "f", [bytes(PIECE + 1)]))  # type: ignore[misc]
        found = [each for each in storage.files() if each != before]
        assert len(found) <= 1
        assert all(content(storage, each.id) == bytes(PIECE + 1) for each in found)
        assert found or not lived
        stored = storage.stored()
        storage.follow(BatchPrunePlan(uploads=tuple(stored.uploads or ()), removed=stored.removed))
        assert storage.used_bytes() == sum(
            path.stat().st_size for path in (storage.root / "files").rglob("*") if path.is_file()
        )
        if lived:
            break
    assert step > 5


def test_a_removal_is_whole_or_not_begun(tmp_path: Path) -> None:
    """Killed at any change to the disk."""
    step = 0
    while True:
        step += 1
        storage = storage_at(tmp_path / str(step))
        saved = storage.save("ann", "f", [b"text"])
        lived = not dies_at(step, lambda storage=storage, id=saved.id: storage.delete(id))  # type: ignore[misc]
        if found := storage.files():
            assert found == [saved]
            assert content(storage, saved.id) == b"text"
        assert not (lived and found)
        if lived:
            break
    assert step > 2


def test_what_cannot_be_shown_to_others_is_not_there(tmp_path: Path) -> None:
    """A volume that takes no commit now: whoever is told so has no file."""
    is_away = True

    def persist() -> None:
        if is_away:
            raise NetworkTrouble("no commit now")

    storage = storage_at(tmp_path, persist=persist)
    with pytest.raises(NetworkTrouble):
        storage.save("ann", "f", [b"x"])
    assert storage.files() == []
    assert storage.used_bytes() == 0

    is_away = False
    saved = storage.save("ann", "f", [b"x"])
    assert storage.files() == [saved]


def test_a_writer_is_used_once(storage: BatchStorage) -> None:
    """It says so."""
    writer = storage.begin("ann", "f")
    writer.write(b"x")
    saved = writer.finish()
    writer.abandon()

    with pytest.raises(ValueError, match="before"):
        writer.finish()
    assert storage.files() == [saved]


# -- how much ----------------------------------------------------------------------------------------------------------


def test_a_file_has_a_largest_size(storage: BatchStorage) -> None:
    """It is refused as soon as it is larger, and nothing of it stays."""
    with storage.begin("ann", "f", most_bytes=2_000_000) as writer:
        writer.write(bytes(2_000_000))
        with pytest.raises(BadRequest, match=r"larger than 2\.0 MB"):
            writer.write(b"x")

    assert storage.used_bytes() == 0


def test_the_quota_is_held(tmp_path: Path) -> None:
    """A file that has no place beside the others is refused, with what to do; once one is removed there is room again.
    Results have no quota."""
    clock = HandClock()
    storage = storage_at(tmp_path, clock, quota_bytes=5_000_000)
    first = storage.save("ann", "f", [bytes(3_000_000)])

    with pytest.raises(QuotaExceeded, match=r"of a quota of 5\.0 MB") as refused:
        storage.save("ann", "f", [bytes(1_500_000), bytes(1_500_000)])
    assert "delete files" in str(refused.value.hint)
    assert storage.files() == [first]
    assert storage.save("ann", "results", [bytes(3_000_000)], purpose="batch_output").bytes == 3_000_000

    storage.delete(first.id)
    assert storage.save("ann", "f", [bytes(1_500_000)])


def test_two_who_write_at_once_hold_it_together(tmp_path: Path) -> None:
    """What the one has brought counts for the other before it is finished."""
    storage = storage_at(tmp_path, quota_bytes=5_000_000)
    with storage.begin("ann", "f") as one, storage.begin("bob", "f") as other:
        one.write(bytes(3_000_000))
        with pytest.raises(QuotaExceeded):
            other.write(bytes(3_000_000))
        saved = one.finish()

    assert storage.files() == [saved]
    assert storage.used_bytes() < 5_000_000


@NEEDS_MOUNT
def test_a_full_disk(tmp_path: Path) -> None:
    """It is told, with what to do; half an upload is removed, what lay there stays, and there is room once somebody
    removes a file: a full disk does not refuse that."""
    with small_disk(tmp_path / "disk", 4) as disk:
        storage = storage_at(disk)
        first = storage.save("ann", "first", [bytes(1_000_000)])
        with pytest.raises(DiskFull) as refused:
            storage.save("ann", "f", iter([bytes(PIECE)] * 8))
        assert "delete files" in str(refused.value.hint)
        assert storage.names("uploads") == []
        assert storage.files() == [first]

        ballast = fill(disk)
        with pytest.raises(DiskFull):
            storage.save("ann", "f", [b"x"])
        assert storage.files() == [first]
        assert storage.delete(first.id)
        assert storage.save("ann", "f", [bytes(500_000)]).bytes == 500_000
        ballast.unlink()


def test_a_disk_that_is_only_read(storage: BatchStorage) -> None:
    """It is told whose it should be."""
    saved = storage.save("ann", "f", [b"x"])
    with refusing(READ_ONLY):
        for change in (lambda: storage.save("ann", "f", [b"x"]), lambda: storage.delete(saved.id)):
            with pytest.raises(NotWritable) as refused:
                change()
            assert str(storage.root) in str(refused.value.hint)

    assert content(storage, saved.id) == b"x"


# -- a volume that several containers mount ----------------------------------------------------------------------------


def test_what_one_container_wrote_another_finds(tmp_path: Path) -> None:
    """A file, as soon as it was finished; the list of all; and that it was removed."""
    clock, volume = HandClock(), SharedVolume(tmp_path)
    one, other = volume.mount("one", clock), volume.mount("other", clock)

    saved = one.save("ann", "f", [b"text"])
    assert other.file(saved.id) == saved
    assert content(other, saved.id) == b"text"
    clock.tick(2)
    second = other.save("ann", "g", [b"more"])
    assert {each.id for each in one.files()} == {saved.id, second.id}
    clock.tick(2)
    assert one.delete(saved.id)
    clock.tick(2)
    assert other.files() == [second]
    assert other.file(saved.id) is None


def test_a_refresh_waits_for_who_uses_files(tmp_path: Path) -> None:
    """Nobody's file is open meanwhile, and whoever comes later waits for it."""
    uses = 0
    seen: list[int] = []
    inside, go_on = threading.Event(), threading.Event()
    storage = storage_at(tmp_path, refresh=lambda: seen.append(uses))

    def use() -> None:
        nonlocal uses
        with storage.using("reading"):
            uses += 1
            inside.set()
            with storage.using("reading inside"):  # who is in may go in
                assert go_on.wait(PATIENCE)
            uses -= 1

    user = threading.Thread(target=use)
    user.start()
    assert inside.wait(PATIENCE)
    refresher = threading.Thread(target=storage.refresh)
    refresher.start()
    refresher.join(0.05)
    assert not seen
    go_on.set()
    user.join(PATIENCE)
    refresher.join(PATIENCE)

    assert seen == [0]


def test_many_users_and_refreshes(tmp_path: Path) -> None:
    """However many threads use files and refresh at once, no refresh meets an open file, and all come to an end."""
    uses, met, lock = [0], [], threading.Lock()
    storage = storage_at(tmp_path, refresh=lambda: met.append(uses[0]))

    def use() -> None:
        for _ in range(50):
            with storage.using("reading"):
                with lock:
                    uses[0] += 1
                with lock:
                    uses[0] -= 1

    def refresh() -> None:
        for _ in range(50):
            storage.refresh()

    threads = [threading.Thread(target=work) for work in (use, use, refresh, refresh)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(PATIENCE)

    assert not any(each.is_alive() for each in threads)
    assert set(met) == {0}


def test_a_refresh_that_fails_is_tried_again(tmp_path: Path) -> None:
    """A few times; then it is told, and the next one is a new one."""
    clock, volume = HandClock(), SharedVolume(tmp_path)
    storage = volume.mount("one", clock)
    volume.refusals = 3
    storage.refresh()
    assert volume.reloads == 4

    volume.refusals = 100
    with pytest.raises(StoreUnavailable, match="open files"):
        storage.refresh()
    volume.refusals = 0
    storage.refresh()


def test_asked_for_what_is_not_there_it_refreshes_now_and_then(tmp_path: Path) -> None:
    """Somebody may ask for nothing as fast as they can: each waits for its turn, four times a second."""
    clock, volume = HandClock(), SharedVolume(tmp_path)
    storage = volume.mount("one", clock)
    for _ in range(20):
        assert storage.file("file-unknown") is None

    assert clock.monotonic() >= volume.reloads * 0.25 - 0.25


class AskedClock(SystemClock):
    """Counts how often it was looked at."""

    def __init__(self) -> None:
        self.looks = 0
        self._lock = threading.Lock()

    def monotonic(self) -> float:
        with self._lock:
            self.looks += 1
        return time.monotonic()


def test_those_who_ask_at_once_share_a_refresh(tmp_path: Path) -> None:
    """However many they are: those who come while one is under way have the next one together."""
    clock = AskedClock()
    refreshes, go_on, inside = [0], threading.Event(), threading.Event()

    def refresh() -> None:
        refreshes[0] += 1
        inside.set()
        assert go_on.wait(PATIENCE)

    storage = storage_at(tmp_path, clock, refresh=refresh)
    first = threading.Thread(target=storage.refresh)
    first.start()
    assert inside.wait(PATIENCE)
    before = clock.looks
    threads = [threading.Thread(target=storage.refresh) for _ in range(20)]
    for each in threads:
        each.start()
    until(lambda: clock.looks == before + 20, "all ask")
    go_on.set()
    for each in (first, *threads):
        each.join(PATIENCE)

    assert refreshes[0] == 2


# -- what is pruned ----------------------------------------------------------------------------------------------------


def test_a_plan_is_one_commit(tmp_path: Path) -> None:
    """However much goes: each commit of a volume takes as long as a whole upload may."""
    commits = [0]

    def persist() -> None:
        commits[0] += 1

    storage = storage_at(tmp_path, persist=persist)
    files = tuple(storage.save("ann", "f", [b"x"]) for _ in range(5))
    commits[0] = 0
    storage.follow(BatchPrunePlan(files=files))

    assert storage.files() == []
    assert commits[0] == 1


def test_a_plan_is_followed(storage: BatchStorage) -> None:
    """What it names goes, and nothing else; who may not go on stops."""
    record = batch_of(storage, 3)
    lines_of(storage, record)
    keep, go = (storage.save("ann", "f", [b"x"]) for _ in range(2))
    left = storage.begin("ann", "f")
    left.write(bytes(PIECE))
    stored = storage.stored()

    assert list(stored.work or ()) == [record.id]
    plan = BatchPrunePlan(files=(go,), work=(record.id,), uploads=tuple(stored.uploads or ()))
    with pytest.raises(InterruptedError):
        storage.follow(plan, still_ours=lambda: (_ for _ in ()).throw(InterruptedError()))
    assert go in storage.files()
    storage.follow(plan)

    assert {each.id for each in storage.files()} == {keep.id, record.input_file_id}
    assert (storage.names("work"), storage.names("uploads"), storage.names("removed")) == ([], [], [])
