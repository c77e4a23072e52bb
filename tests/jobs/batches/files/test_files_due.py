"""A night knows by the ledger alone when files of batches are to be looked through."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from jobs.batches.files.files_due import LISTED, batches_due, due, expect, keep_records, looked_through
from jobs.batches.files.prune_plan import StoredFiles
from jobs.batches.records import BatchEnd, BatchRecord, BatchState, FileRecord
from jobs.core.errors import StoreUnavailable
from jobs.ledger.job import Job, JobState
from jobs.store import keys
from tests.support.failing_stores import MemoryDict

NOW = datetime(2026, 10, 30, 3, tzinfo=UTC)
KEEP = timedelta(days=30)


def days(count: float) -> timedelta:
    return timedelta(days=count)


def post(facts: MemoryDict, id: str, at: datetime, ended_at: datetime | None = None) -> None:
    record = BatchRecord(id, "openai", "ann", "file-1", "/v1/embeddings", "24h", at, at + days(1))
    facts.put(keys.batch(id), record.as_json())
    if ended_at is not None:
        end = BatchEnd("completed", ended_at, BatchState("completed", "w/1", ended_at))
        facts.put(keys.batch_end(id), end.as_json())


def file(name: str, created_at: datetime, expires_at: datetime | None = None) -> FileRecord:
    return FileRecord(name, "ann", "batch", "lines.jsonl", 9, created_at, expires_at)


def why(facts: MemoryDict, *ended_jobs: str) -> str:
    return due(dict(facts.items(*LISTED)), ended_jobs, NOW, KEEP)


def test_nothing_is_due_where_nothing_is() -> None:
    """Who never had a batch hears nothing of them; nor is anything due of one that is at work."""
    facts = MemoryDict()
    assert why(facts) == ""
    post(facts, "batch_1", NOW - days(1))
    assert why(facts) == ""


def test_old_batches_are_due() -> None:
    """What ended longer ago than it is kept is due, however it was looked through before."""
    facts = MemoryDict()
    post(facts, "batch_1", NOW - days(32), NOW - days(31))
    looked_through(facts, StoredFiles(), NOW - days(1), KEEP)
    assert why(facts) == "1 batch ended more than 30 days ago"


def test_what_a_batch_worked_on_is_due_once() -> None:
    """The night after its end the folder of a batch goes; then nothing is due of it for as long as it is kept."""
    facts = MemoryDict()
    post(facts, "batch_1", NOW - days(1), NOW - timedelta(minutes=10))
    assert why(facts) == ""
    post(facts, "batch_2", NOW - days(1), NOW - timedelta(hours=2))
    assert why(facts) == "what 1 batch worked on lies there still"
    looked_through(facts, StoredFiles(), NOW, KEEP)
    assert why(facts) == ""


def test_a_batch_that_ended_without_a_word_is_due() -> None:
    """One whose job has ended and that has no end of its own is to be ended, with what is done."""
    facts = MemoryDict()
    for id in ("batch_1", "batch_2"):
        post(facts, id, NOW - days(1))
    jobs = [
        Job(id, "batch", id, "batches", state, {}, 1, NOW, "ann")
        for id, state in (("batch_1", JobState.FAILED), ("batch_2", JobState.RUNNING))
    ]
    assert batches_due(facts, jobs, KEEP, NOW) == "the job of 1 batch ended without a word"


def test_files_without_a_batch_are_due() -> None:
    """A file that somebody brought, and posted no batch of, is due once it is over; of several, once the first is."""
    facts = MemoryDict()
    for over in (NOW + days(2), NOW - days(1), NOW + days(9)):
        assert expect(facts, over)
    assert expect(facts, None)
    assert why(facts) == "files are over since 2026-10-29"

    left = StoredFiles((file("file-2", NOW - days(29)), file("file-3", NOW, NOW + days(9))))
    looked_through(facts, left, NOW, KEEP)
    assert why(facts) == ""
    assert facts.get(keys.BATCH_FILES)["due"].startswith("2026-10-31")
    looked_through(facts, left, NOW, None)
    assert facts.get(keys.BATCH_FILES)["due"].startswith("2026-11-08")


def test_an_upload_waits_for_no_ledger_that_is_away() -> None:
    """Where it cannot be written down when a file is over, the file is there all the same."""

    class Away(MemoryDict):
        def get(self, key: Any, default: Any = None) -> Any:
            raise StoreUnavailable("the ledger does not answer")

    assert not expect(Away(), NOW)


@pytest.mark.parametrize("nonsense", [None, 7, {"at": "soon", "due": 3}, {"due": ""}])
def test_what_makes_no_sense_is_nothing(nonsense: Any) -> None:
    """A fact of another version is passed over."""
    assert due({keys.BATCH_FILES: nonsense, keys.batch_end("batch_1"): nonsense}, (), NOW, KEEP) == ""


def test_records_are_kept_from_fading() -> None:
    """What was written down some days ago is read by its key, which a platform counts as use; what is new is not."""
    read: list[str] = []

    class Watched(MemoryDict):
        def get(self, key: Any, default: Any = None) -> Any:
            read.append(key)
            return super().get(key, default)

    facts = Watched()
    post(facts, "batch_1", NOW - days(5), NOW - days(4))
    post(facts, "batch_2", NOW - days(1), NOW)
    keep_records(facts, NOW)
    assert sorted(read) == [keys.batch("batch_1"), keys.batch_end("batch_1")]
