"""What batches ask of the file system, counted: nothing by the line, and nothing for what else lies there.

On a network volume each of these takes milliseconds. Each runs at N and at 2N.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.batches.lines.assembly import AT_ONCE, assemble
from jobs.batches.lines.line_check import Checked
from jobs.batches.lines.segments import Segments, SegmentWriter
from jobs.batches.records import BatchRecord
from tests.support.batch_files import batch_of, checked, every_line, lines_of, posted, result, storage_at
from tests.support.counting_files import file_operations

N = 2 * AT_ONCE


class Case:
    """A batch of so many lines, each with a result, among so many others."""

    def __init__(self, folder: Path, lines: int, others: int = 0) -> None:
        self.storage = storage_at(folder)
        for _ in range(others):
            checked(self.storage, batch_of(self.storage, 1))
        self.record = batch_of(self.storage, lines)
        self.count = lines
        self.lines = lines_of(self.storage, self.record)
        self.writer = self.begin(1)
        self.keep(range(1, lines + 1))

    def begin(self, sequence: int) -> SegmentWriter:
        return Segments(self.storage, self.record.id, self.count).open(sequence, "a")

    def keep(self, numbers: range) -> None:
        for number in numbers:
            self.writer.append(result(self.record, number))
        self.writer.flush()

    def again(self) -> BatchRecord:
        """Another batch of the same file."""
        file = self.storage.file(self.record.input_file_id)
        assert file is not None
        return posted(self.storage, file)

    def checked_again(self) -> Checked:
        return checked(self.storage, self.again())


OF_ONE: dict[str, tuple[Callable[[Case], object], int]] = {
    "find a file": (lambda case: case.storage.file(case.record.input_file_id), 1),
    "read a part of a file": (lambda case: case.storage.read(case.record.input_file_id, 0, 1000), 1),
    "save a file": (lambda case: case.storage.save("ann", "f", [bytes(1000)]), 30),
    "delete a file": (lambda case: case.storage.delete(case.record.input_file_id), 30),
    "read lines": (lambda case: case.lines.read(1, 64), 2),
    "begin an attempt": (lambda case: case.begin(2), 20),
    "read a file through": (Case.checked_again, 30),
}


@pytest.mark.parametrize("name", OF_ONE)
def test_others_cost_nothing(name: str, tmp_path: Path) -> None:
    """Whatever is done with one batch or one file asks as much beside twice as many others."""
    work, most = OF_ONE[name]
    few, many = (Case(tmp_path / str(others), 10, others) for others in (8, 16))
    first, second = file_operations(lambda: work(few)), file_operations(lambda: work(many))

    assert first == second
    assert first.total() <= most, first


@pytest.mark.parametrize("results", [1, 64])
def test_results_are_kept_by_the_group(results: int, tmp_path: Path) -> None:
    """One file is opened and flushed, however many they are; before the first ones the folder is flushed as well."""
    storage = storage_at(tmp_path)
    record = batch_of(storage, 200)
    lines_of(storage, record)
    writer = Segments(storage, record.id, 200).open(1, "a")

    def keep(first: int) -> Counter[str]:
        for number in range(first, first + results):
            writer.append(result(record, number))
        return file_operations(writer.flush)

    first, later = keep(1), keep(101)

    assert later["fsync"] == 1
    assert later.total() <= 4, later
    assert first.total() <= later.total() + 3, first


OF_LINES: dict[str, Callable[[Case], object]] = {
    "read them": lambda case: list(every_line(case.lines)),
    "put their results together": lambda case: assemble(case.storage, case.record, case.lines, case.writer.results, 1),
    "read the file through": Case.checked_again,
    "begin an attempt": lambda case: case.begin(2),
}


@pytest.mark.parametrize("name", OF_LINES)
def test_lines_are_taken_many_at_once(name: str, tmp_path: Path) -> None:
    """Twice as many lines are at most twice as many steps, and each step is many lines."""
    few, many = (Case(tmp_path / str(count), count) for count in (N, 2 * N))
    first = file_operations(lambda: OF_LINES[name](few)).total()
    second = file_operations(lambda: OF_LINES[name](many)).total()

    assert second <= 2 * first
    assert (second - first) / N <= 1 / 20


def test_a_list_reads_what_is_new_alone(tmp_path: Path) -> None:
    """Records do not change: listed again, files cost one listing, and each new one is read once."""
    storage = storage_at(tmp_path)
    for _ in range(N // 8):
        storage.save("ann", "f", [b"x"])
    assert len(storage.files()) == N // 8
    again = file_operations(storage.files)
    storage.save("ann", "f", [b"x"])

    assert again.total() == 1, again
    assert file_operations(storage.files)["open"] <= 1


def test_a_quota_measures_what_is_new_alone(tmp_path: Path) -> None:
    """What whole files take does not change: measured again, they cost one listing, and each is measured once."""
    storage = storage_at(tmp_path)
    for _ in range(N // 8):
        storage.save("ann", "f", [b"x"])
    storage.used_bytes()
    few = file_operations(storage.used_bytes)
    for _ in range(N // 8):
        storage.save("ann", "f", [b"x"])
    storage.used_bytes()

    assert file_operations(storage.used_bytes) == few
    assert few.total() < 10, few
