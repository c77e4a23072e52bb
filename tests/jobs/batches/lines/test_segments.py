"""Each line has one result, whoever is killed and whoever goes on after it lost its lease."""

import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from jobs.batches.files.storage import BatchStorage
from jobs.batches.lines.assembly import CANCELLED, EXPIRED, assemble
from jobs.batches.lines.segments import Result, Segments, SegmentWriter, sequence_of
from jobs.batches.records import BatchUse, LineCounts
from jobs.core.clock import SystemClock
from jobs.core.errors import Corrupt, DiskFull, Fenced, StoreUnavailable
from tests.support.batch_files import SharedVolume, batch_of, documents, lines_of, result, storage_at
from tests.support.crash_points import dies_at
from tests.support.disks import NEEDS_MOUNT, fill, small_disk
from tests.support.killed_appender import Appender, killed_after

LINES = 8


def said(found: dict[str, object]) -> str:
    """What a line of a file of results was answered with."""
    response = found["response"]
    assert isinstance(response, dict)
    return str(response["body"]["said"])


@settings(max_examples=12, stateful_step_count=30)
class SegmentsMachine(RuleBasedStateMachine):
    """Attempts begin, get results, flush, and are killed at any change to the disk; those before go on as they like."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="segments-")
        self.is_away = False
        self.volume = SharedVolume(Path(self.folder.name))
        self.alone = storage_at(Path(self.folder.name), persist=self.persist)
        #: Where each attempt keeps its results.
        self.disks: dict[int, BatchStorage] = {}
        self.last = 0
        first = self.mount()
        self.record = batch_of(first, LINES)
        lines_of(first, self.record)
        #: The attempt that holds the batch, and those that held it.
        self.holder: SegmentWriter | None = None
        self.zombies: list[SegmentWriter] = []
        #: What each line was said to be answered with, once that counts.
        self.counts: dict[int, str] = {}
        self.maybe: dict[int, set[str]] = {}
        self.number = 0

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()

    def mount(self) -> BatchStorage:
        """Where the next attempt keeps its results: on the disk of all."""
        return self.alone

    def persist(self) -> None:
        if self.is_away:
            raise StoreUnavailable("not now")

    @rule(dies=st.integers(0, 8))
    def claim(self, dies: int) -> None:
        """Another attempt begins, or is killed at its beginning."""
        if self.holder is not None:
            self.zombies.append(self.holder)
            self.holder = None
        self.last += 1
        opened: list[SegmentWriter] = []
        disk = self.disks[self.last] = self.mount()

        def begin() -> None:
            opened.append(Segments(disk, self.record.id, LINES).open(self.last, f"holder {self.last}"))

        if not dies:
            begin()
        elif dies_at(dies, begin):
            return
        self.holder = opened[0]
        self.check()

    @precondition(lambda self: self.holder is not None)
    @rule(line=st.integers(1, LINES), is_error=st.booleans())
    def answer(self, line: int, is_error: bool) -> None:
        """A line of the holder is answered."""
        assert self.holder is not None
        self.give(self.holder, line, is_error=is_error)

    @precondition(lambda self: self.holder is not None)
    @rule(dies=st.integers(0, 3))
    def flush(self, dies: int) -> None:
        """The holder makes its results count, or is killed meanwhile."""
        assert self.holder is not None
        waiting = dict(self.waiting(self.holder))
        if dies and dies_at(dies, self.holder.flush):
            self.expect(waiting)
            self.holder = None
            return
        told = self.holder.flush() if not dies else sorted(waiting)
        assert sorted(told) == sorted(waiting)
        self.counts.update(waiting)

    @precondition(lambda self: self.holder is not None)
    @rule(cut=st.integers(0, 500))
    def torn(self, cut: int) -> None:
        """The holder is killed in the middle of a write: so many bytes of it came to the disk."""
        assert self.holder is not None
        self.write_torn(self.holder, cut)
        self.expect(dict(self.waiting(self.holder)))
        self.holder = None

    @precondition(lambda self: self.holder is not None)
    @rule(cut=st.integers(0, 500))
    def fails(self, cut: int) -> None:
        """A flush fails at its end, or at its second try in the middle; the holder goes on, and will try again."""
        assert self.holder is not None
        if not self.holder.waiting:
            return
        self.is_away = True
        with pytest.raises(StoreUnavailable):
            self.holder.flush()
        self.is_away = False
        self.write_torn(self.holder, cut)
        self.expect(dict(self.waiting(self.holder)))

    @precondition(lambda self: self.zombies)
    @rule(which=st.integers(0, 50), line=st.integers(1, LINES))
    def go_on(self, which: int, line: int) -> None:
        """One that lost its lease goes on, and makes results count for itself."""
        zombie = self.zombies[which % len(self.zombies)]
        self.give(zombie, line)
        waiting = dict(self.waiting(zombie))
        zombie.flush()
        if self.holder is None:  # until another attempt begins, what it appends may count
            self.expect(waiting)

    def write_torn(self, writer: SegmentWriter, cut: int) -> None:
        data = b"".join(each.as_bytes() for each in writer._waiting.values())[:cut]
        if data:
            path = self.disks[writer.sequence].work(self.record.id) / f"{writer.sequence}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(data)

    def give(self, writer: SegmentWriter, line: int, *, is_error: bool = False) -> None:
        self.number += 1
        writer.append(result(self.record, line, f"{writer.sequence}.{self.number}", "e" if is_error else "o"))

    def waiting(self, writer: SegmentWriter) -> Iterator[tuple[int, str]]:
        for line, each in writer._waiting.items():
            yield line, said(json.loads(each.document))

    def expect(self, waiting: dict[int, str]) -> None:
        """These may count, or not."""
        for line, text in waiting.items():
            self.maybe.setdefault(line, set()).add(text)

    @precondition(lambda self: self.holder is not None)
    @rule()
    def look(self) -> None:
        """The holder puts together what it has."""
        self.check(is_new=False)

    def check(self, *, is_new: bool = True) -> None:
        """What counted counts, as it was; nothing else does but what may; each line is in one file, once."""
        assert self.holder is not None
        disk, sequence = self.disks[self.holder.sequence], self.holder.sequence
        lines = lines_of(disk, self.record)
        made = assemble(disk, self.record, lines, self.holder.results, sequence, undone=EXPIRED)
        found: dict[int, str | None] = {}
        for document in [*documents(disk, made.output), *documents(disk, made.errors)]:
            line = int(document["custom_id"].removeprefix("id-"))
            assert line not in found
            found[line] = said(document) if document["response"] else None
        assert sorted(found) == list(range(1, LINES + 1))
        for line, text in found.items():
            if line in self.counts:
                assert text == self.counts[line]
            elif text is not None:
                assert text in self.maybe.get(line, set())
                self.counts[line] = text
        assert self.holder.results.counts.ended == sum(text is not None for text in found.values())
        if is_new:
            self.maybe.clear()  # what did not count when a later attempt began never will


class VolumeMachine(SegmentsMachine):
    """Each attempt in a container of its own, which sees what others have committed when it began."""

    def mount(self) -> BatchStorage:
        return self.volume.mount(f"container-{self.last}", before_commit=self.persist)


VolumeMachine.TestCase.settings = settings(max_examples=4, stateful_step_count=25)
VolumeMachine.TestCase.__doc__ = "The same on a volume, where what was not committed is lost with its container."
TestSegmentsOnAVolume = VolumeMachine.TestCase
SegmentsMachine.TestCase.__doc__ = "Whatever is killed or goes on, each line has one result, and what counted counts."
TestSegments = SegmentsMachine.TestCase


def test_a_later_attempt_has_what_an_earlier_one_flushed(storage: BatchStorage) -> None:
    """It counts lines, tokens and seconds, of outputs and of errors; what waited for a flush is not there."""
    record = batch_of(storage, 4)
    first = Segments(storage, record.id, 4).open(1, "a")
    first.append(result(record, 1))
    first.append(result(record, 3, kind="e"))
    assert first.flush() == [1, 3]
    first.append(result(record, 4))

    later = Segments(storage, record.id, 4).open(2, "b")

    assert [later.is_done(n) for n in (1, 2, 3, 4)] == [True, False, True, False]
    assert later.results.counts == LineCounts(4, 1, 1)
    assert later.results.use == BatchUse(6, 8, 1.0)


def test_the_first_result_of_a_line_stays(storage: BatchStorage) -> None:
    """Another one is refused, whether the first counts already or waits to."""
    record = batch_of(storage, 2)
    writer = Segments(storage, record.id, 2).open(1, "a")

    assert writer.append(result(record, 1, "first"))
    assert not writer.append(result(record, 1, "second"))
    writer.flush()

    assert not writer.append(result(record, 1, "third"))
    assert writer.flush() == []
    assert "first" in str(
        documents(storage, assemble(storage, record, lines_of(storage, record), writer.results, 1).output)
    )


def test_an_attempt_that_comes_too_late_does_not_begin(storage: BatchStorage) -> None:
    """A later one has begun; nor does one begin twice."""
    record = batch_of(storage, 1)
    Segments(storage, record.id, 1).open(5, "a")

    for sequence in (4, 5):
        with pytest.raises(Fenced):
            Segments(storage, record.id, 1).open(sequence, "b")


def test_the_attempts_of_a_job_posted_again_come_later() -> None:
    """Each attempt of a later job of the batch comes after all of an earlier one."""
    assert sequence_of("abc-1", 999) < sequence_of("abc-2", 1) < sequence_of("abc-2", 2)


def test_what_waits_counts_when_it_is_written_again(tmp_path: Path) -> None:
    """A write that broke off loses nothing: all that waited counts after the next one, once, at its place."""
    is_away = True

    def persist() -> None:
        if is_away and storage.names("work"):
            raise StoreUnavailable("not now")

    storage = storage_at(tmp_path, persist=persist)
    record = batch_of(storage, 3)
    is_away = False
    lines = lines_of(storage, record)
    writer = Segments(storage, record.id, 3).open(1, "a")
    is_away = True
    for n in (1, 2):
        writer.append(result(record, n))
    with pytest.raises(StoreUnavailable):
        writer.flush()
    with (storage.work(record.id) / "1.jsonl").open("ab") as file:  # and a second try in the middle of a line
        file.write(result(record, 1).as_bytes()[:20])
    is_away = False
    writer.append(result(record, 3))

    assert writer.flush() == [1, 2, 3]
    for results in (writer.results, Segments(storage, record.id, 3).open(2, "b").results):
        assert results.counts == LineCounts(3, 3, 0)
        made = assemble(storage, record, lines, results, 9)
        assert [each["custom_id"] for each in documents(storage, made.output)] == ["id-1", "id-2", "id-3"]


def test_damage_is_told(storage: BatchStorage) -> None:
    """A result that was changed on the disk after it was found is in no file: putting together ends with an error."""
    record = batch_of(storage, 1)
    lines = lines_of(storage, record)
    writer = Segments(storage, record.id, 1).open(1, "a")
    writer.append(result(record, 1))
    writer.flush()
    path = storage.work(record.id) / "1.jsonl"
    path.write_bytes(path.read_bytes().replace(b"hello", b"jello"))

    with pytest.raises(Corrupt, match="line 1 of"):
        assemble(storage, record, lines, writer.results, 1)

    assert not [each for each in storage.files() if each.purpose == "batch_output"]
    assert not Segments(storage, record.id, 1).open(2, "b").is_done(1)


def test_what_a_disk_lost_is_run_again(storage: BatchStorage) -> None:
    """A segment that is shorter than what counted of it, or gone: the lines in it have no result, and what somebody
    appends to it later counts no more than before."""
    record = batch_of(storage, 4)
    segments = Segments(storage, record.id, 4)
    for sequence, line in ((1, 1), (2, 2), (3, 3)):
        writer = segments.open(sequence, "a")
        writer.append(result(record, line))
        writer.flush()
    segments.open(4, "b")
    first, second, _ = (storage.work(record.id) / f"{n}.jsonl" for n in (1, 2, 3))
    first.write_bytes(first.read_bytes()[:-5])
    second.unlink()

    later = segments.open(5, "c")
    assert [later.is_done(n) for n in (1, 2, 3)] == [False, False, True]
    second.write_bytes(result(record, 4).as_bytes())
    assert not segments.open(6, "d").is_done(4)


@pytest.mark.parametrize("odd", [b'{"a":\n1}', b'{"a":\r\n "b c"}', b"{}", '{"ä":"\u2028 %b %%"}'.encode()])
def test_any_document_comes_back(odd: bytes) -> None:
    """Line breaks between the parts of a document become blanks; all else is as it was."""
    kept = Result(7, "e", 1.25, 1, 2, odd).as_bytes()

    assert kept.count(b"\n") == 1
    found = Result.from_bytes(kept[:-1])
    assert found is not None
    assert found[:5] == (7, "e", 1.25, 1, 2)
    assert json.loads(found.document) == json.loads(odd)


@given(st.binary(max_size=80), st.integers(0, 200))
def test_no_torn_line_is_taken_for_whole(noise: bytes, cut: int) -> None:
    """Neither a part of a line nor noise is a result."""
    whole = Result(1, "o", 0.5, 3, 4, b'{"custom_id":"a","response":{"body":{"said":"hello"}}}').as_bytes()[:-1]

    assert Result.from_bytes(noise) is None
    assert Result.from_bytes(whole[: min(cut, len(whole) - 1)]) is None
    assert Result.from_bytes(whole[: min(cut, len(whole) - 1)] + noise) in {None, Result.from_bytes(whole)}


@pytest.mark.parametrize("seed", range(6))
def test_killed_attempts_lose_nothing(seed: int, tmp_path: Path) -> None:
    """Attempts that are killed one after the other at any moment, in processes of their own: every line that one told
    of as done is done as it was, and each line has one result in the end."""
    count = 300
    storage = storage_at(tmp_path, SystemClock())
    record = batch_of(storage, count)
    lines = lines_of(storage, record)
    draw = random.Random(seed)
    told: dict[int, int] = {}
    sequence = 0
    while len(told) < count and sequence < 8:
        sequence += 1
        told.update(dict.fromkeys(killed_after(draw.randrange(0, 60), tmp_path, record, sequence), sequence))

    last = Segments(storage, record.id, count).open(sequence + 1, "last")
    assert all(last.is_done(n) for n in told)
    made = assemble(storage, record, lines, last.results, last.sequence, undone=CANCELLED)

    answers = documents(storage, made.output)
    assert {int(each["custom_id"].removeprefix("id-")): int(said(each)) for each in answers}.items() >= told.items()
    ids = [each["custom_id"] for each in (*answers, *documents(storage, made.errors))]
    assert sorted(ids) == sorted(f"id-{n}" for n in range(1, count + 1))


def test_one_that_lost_its_lease_appends_beside_the_next(tmp_path: Path) -> None:
    """In a process of its own, to its end: what it told of before the next one began stays as it was, all else is the
    next one's, and each line has one result."""
    count = 300
    storage = storage_at(tmp_path, SystemClock())
    record = batch_of(storage, count)
    lines = lines_of(storage, record)
    with Appender(tmp_path, record, 1) as lost:
        lost.hear(10)
        before = set(lost.told)
        writer = Segments(storage, record.id, count).open(2, "b")
        for number in range(1, count + 1):
            writer.append(result(record, number, "2"))
            if writer.waiting == 10:
                writer.flush()
        lost.hear()
        assert len(lost.told) == count
    writer.flush()

    last = Segments(storage, record.id, count).open(3, "c")
    for results in (writer.results, last.results):
        made = assemble(storage, record, lines, results, 3)
        answers = documents(storage, made.output)
        assert [each["custom_id"] for each in answers] == [f"id-{n}" for n in range(1, count + 1)]
        assert {n for n, each in enumerate(answers, 1) if said(each) == "1"} >= before
    assert [last.results.place(n) for n in range(1, count + 1)] == [
        writer.results.place(n) for n in range(1, count + 1)
    ]


# -- disks -------------------------------------------------------------------------------------------------------------


@NEEDS_MOUNT
def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    """It is told, with what to do. What counted counts; what was to be kept goes on waiting, and counts once there is
    room; then the files are made, which were not while there was none."""
    with small_disk(tmp_path / "disk", 8) as disk:
        storage = storage_at(disk)
        record = batch_of(storage, 60)
        lines = lines_of(storage, record)
        writer = Segments(storage, record.id, 60).open(1, "a")
        for number in range(1, 31):
            writer.append(result(record, number, "x" * 20_000))
        writer.flush()
        ballast = fill(disk)
        with ballast.open("r+b") as file:
            file.truncate(ballast.stat().st_size - 50_000)  # so that the next one ends in the middle
        for number in range(31, 61):
            writer.append(result(record, number, "x" * 20_000))
        for _ in range(2):
            with pytest.raises(DiskFull) as refused:
                writer.flush()
            assert "delete files of batches" in str(refused.value.hint)
        assert writer.results.counts.ended == 30
        assert writer.waiting == 30
        with pytest.raises(DiskFull):
            assemble(storage, record, lines, writer.results, 1)
        assert [each.purpose for each in storage.files()] == ["batch"]
        assert storage.names("uploads") == []
        ballast.unlink()

        assert writer.flush() == list(range(31, 61))
        later = Segments(storage, record.id, 60).open(2, "b")
        assert later.results.counts == LineCounts(60, 60, 0)
        made = assemble(storage, record, lines, later.results, 2)
        assert [each["custom_id"] for each in documents(storage, made.output)] == [f"id-{n}" for n in range(1, 61)]


def test_attempts_in_several_containers(tmp_path: Path) -> None:
    """What one committed another goes on from, and what the first appends later counts for nobody; nor does what it had
    not committed."""
    volume = SharedVolume(tmp_path)
    one, other = volume.mount("one"), volume.mount("other")
    record = batch_of(one, 4)
    lines_of(one, record)
    first = Segments(one, record.id, 4).open(1, "a")
    first.append(result(record, 1, "first"))
    first.flush()

    second = Segments(other, record.id, 4).open(2, "b")
    assert second.results.counts == LineCounts(4, 1, 0)
    first.append(result(record, 2, "too late"))
    first.flush()
    second.append(result(record, 2, "second"))
    second.flush()

    third = Segments(one, record.id, 4).open(3, "c")
    made = assemble(one, record, lines_of(one, record), third.results, 3)
    assert [said(each) for each in documents(one, made.output)] == ["first", "second"]
    assert other.file(made.output.id if made.output else "") == made.output
