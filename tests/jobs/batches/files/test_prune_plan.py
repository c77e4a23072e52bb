"""What is kept of files and batches, and what goes."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.batches.batch_store import Batch
from jobs.batches.files.prune_plan import BatchPrunePlan, StoredFiles, plan
from jobs.batches.records import BatchEnd, BatchRecord, BatchState, FileRecord, LineError

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
KEEP = 30 * DAY
LETTERS = "0123456789abcdef01234567"


def file(id: str = "file-1", *, age: timedelta = DAY, expires: timedelta | None = None, **more: Any) -> FileRecord:
    expires_at = None if expires is None else NOW + expires
    return FileRecord(id, "ann", more.pop("purpose", "batch"), "f", 10, NOW - age, expires_at)


def batch(*, ended: timedelta | None = None, age: timedelta = DAY, id: str = f"batch_{LETTERS}", **more: Any) -> Batch:
    """One of file-1 that ended so long ago, or goes on."""
    created = NOW - age
    record = BatchRecord(id, "openai", "ann", "file-1", "/v1/completions", "24h", created, created + DAY)
    end = None
    if ended is not None:
        end = BatchEnd("completed", NOW - ended, BatchState("completed", "w", NOW - ended), **more)
    return Batch(record, end=end, job_id="j-1" if end is None else None)


def planned(stored: StoredFiles, *batches: Batch, keep: timedelta | None = KEEP) -> BatchPrunePlan:
    return plan(stored, {each.id: each for each in batches}, NOW, keep=keep)


def test_nothing_goes_before_its_time() -> None:
    """Neither young files, nor those that say when, nor what belongs to a batch at work."""
    stored = StoredFiles(
        (file(), file("file-2", age=100 * DAY, expires=DAY)), {f"batch_{LETTERS}": NOW - DAY}, {"file-3.a": NOW}
    )

    assert planned(stored, batch()) == BatchPrunePlan()


@pytest.mark.parametrize(
    ("one", "goes"),
    [
        (file("file-2", expires=-DAY), True),
        (file("file-2", expires=DAY), False),
        (file("file-2", age=31 * DAY), True),
        (file("file-2", age=29 * DAY), False),
        (file("file-2", age=31 * DAY, expires=DAY), False),
    ],
)
def test_files_go_when_they_are_old(one: FileRecord, goes: bool) -> None:
    """When they say, and else when everything goes."""
    assert planned(StoredFiles((one,))).files == ((one,) if goes else ())


def test_a_file_that_is_read_stays() -> None:
    """While a batch that has not ended reads its lines there."""
    old = file(age=100 * DAY, expires=-DAY)

    assert planned(StoredFiles((old,)), batch(age=100 * DAY)).files == ()
    assert planned(StoredFiles((old,)), batch(ended=DAY)).files == (old,)


def test_results_of_an_attempt_that_lost_go() -> None:
    """Once the batch has ended with those of another one; until then they may be its own."""
    lost, own = (file(f"file-{LETTERS}-output-{n}", purpose="batch_output") for n in (1, 2))
    stored = StoredFiles((lost, own))

    assert planned(stored, batch()).files == ()
    assert planned(stored, batch(ended=DAY, output_file_id=own.id)).files == (lost,)
    assert planned(stored).files == ()


def test_what_a_batch_worked_on_goes_after_its_end() -> None:
    """An hour later; of a batch of which nothing is known, when everything goes."""
    id = f"batch_{LETTERS}"
    stored = StoredFiles(work={id: NOW - 2 * DAY})

    assert planned(stored, batch(ended=timedelta(minutes=59))).work == ()
    assert planned(stored, batch(ended=timedelta(minutes=61))).work == (id,)
    assert planned(stored).work == ()
    assert planned(StoredFiles(work={id: NOW - 31 * DAY})).work == (id,)


def test_what_was_broken_off_goes() -> None:
    """An upload that nobody writes to for a day; what somebody was about to remove."""
    stored = StoredFiles(uploads={"file-1.a": NOW - 2 * DAY, "file-2.b": NOW}, removed=("file-3.c",))

    assert planned(stored) == BatchPrunePlan(uploads=("file-1.a",), removed=("file-3.c",))


def test_batches_are_forgotten_with_their_files() -> None:
    """So long after their end; one whose job broke, so long after its deadline."""
    old, young = batch(ended=31 * DAY, age=32 * DAY), batch(ended=29 * DAY, id="batch_2")
    broken = Batch(batch(age=40 * DAY, id="batch_3").record, broke=LineError("bug", "it broke"))

    assert planned(StoredFiles(), old, young, broken).batches == (old.id, broken.id)
    assert planned(StoredFiles(), old, young, broken, keep=None).batches == ()


@given(st.integers(-60, 60), st.one_of(st.none(), st.integers(-60, 60)), st.booleans(), st.booleans())
def test_for_ever_means_for_ever(age: int, expires: int | None, has_batch: bool, has_ended: bool) -> None:
    """Without a time to keep nothing goes by its age, but what says so itself."""
    one = file(age=age * DAY, expires=None if expires is None else expires * DAY)
    batches = [batch(ended=DAY if has_ended else None)] if has_batch else []
    gone = planned(StoredFiles((one,)), *batches, keep=None).files

    assert bool(gone) == (expires is not None and expires <= 0 and (has_ended or not has_batch))


def test_it_says_what_it_removes() -> None:
    """In numbers, for the job's result."""
    found = BatchPrunePlan((file(), file("file-2")), ("batch_1",), ("file-3.a",), ("file-4.b",), ("batch_1",))

    assert found.as_json() == {"files": 2, "bytes": 20, "work": 1, "uploads": 2, "batches": 1}
