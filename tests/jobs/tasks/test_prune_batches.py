"""Pruning batches, through a real worker: what is no longer kept goes, and batches that broke end with what is done."""

from datetime import timedelta
from pathlib import Path
from typing import Any

from jobs.batches.lines.segments import Segments
from jobs.batches.records import BatchRecord, LineError
from jobs.core.progress import Reading
from jobs.ledger.job import Ending, Job, JobState
from jobs.ledger.kinds import ALL
from jobs.store import keys
from tests.support.batch_files import checked, result
from tests.support.batch_runs import Runs, ids, runs
from tests.support.stores import Store
from tests.support.waiting import until


def pruned(at: Runs) -> dict[str, Any]:
    """What a prune says that it did."""
    ledger = at.store.ledger()
    id = ledger.post("prune_batches", ALL, {}, by="test").job.id

    def ended() -> Job | None:
        job = ledger.reader.get(id)
        return job if job.has_ended else None

    with at.working():
        job = until(ended)
    assert job.state is JobState.SUCCEEDED, job.attempts
    return dict(job.result)


def broken(at: Runs, lines: int, done: range) -> BatchRecord:
    """A batch of which these lines were answered when its job failed for good, without a word."""
    record = at.post(lines)
    count = checked(at.storage, record).lines
    writer = Segments(at.storage, record.id, count).open(7, "w")
    for number in done:
        writer.append(result(record, number))
    writer.flush()
    ledger = at.store.ledger()
    job_id = at.batches.get(record.id).job_id
    claim = ledger.claim(job_id or "", worker="w", lease=timedelta(minutes=1))
    assert claim is not None
    ledger.end(claim, Ending("failed", "bug", "a line kills its worker"), Reading())
    return record


def test_what_is_kept_stays(live_store: Store, tmp_path: Path) -> None:
    """Before its time nothing of a batch goes: neither its files, nor what is known of it."""
    with runs(live_store, tmp_path, keep=timedelta(days=30)) as (at, _):
        batch = at.run(at.post(3))
        files = at.storage.files()

        assert pruned(at) == {"files": 0, "bytes": 0, "work": 0, "uploads": 0, "batches": 0}
        assert at.storage.files() == files
        assert at.batches.get(batch.id) == batch


def test_what_is_kept_no_more_goes(live_store: Store, tmp_path: Path) -> None:
    """A batch that has ended, its lines and its results; once more there is nothing to remove."""
    with runs(live_store, tmp_path, keep=timedelta(0)) as (at, _):
        batch = at.run(at.post(3))

        told = pruned(at)

        assert (told["files"], told["batches"]) == (2, 1)
        assert at.storage.files() == []
        assert at.batches.find(batch.id) is None
        assert not list(live_store.facts.keys(keys.BATCH, keys.BATCH_STATE, keys.BATCH_END, keys.BATCH_PASS))
        assert pruned(at)["files"] == 0


def test_a_batch_that_broke_ends_with_what_is_done(live_store: Store, tmp_path: Path) -> None:
    """Its job failed for good and said nothing of the batch: what was answered can be read, and the other lines have
    the reason. Once more nothing changes."""
    with runs(live_store, tmp_path) as (at, _):
        record = broken(at, 5, range(1, 4))
        assert at.batches.get(record.id).end is None

        pruned(at)

        batch = at.batches.get(record.id)
        assert (batch.status, batch.counts.completed, batch.counts.failed) == ("failed", 3, 2)
        assert batch.errors == (LineError("bug", "a line kills its worker"),)
        assert ids(at.output(batch)) == ["id-1", "id-2", "id-3"]
        assert [(each["custom_id"], each["error"]["code"]) for each in at.errors(batch)] == [
            ("id-4", "bug"),
            ("id-5", "bug"),
        ]
        pruned(at)
        assert at.batches.get(record.id) == batch


def test_a_batch_that_broke_before_it_was_read(live_store: Store, tmp_path: Path) -> None:
    """It ends without files."""
    with runs(live_store, tmp_path) as (at, _):
        record = at.post(2)
        ledger = at.store.ledger()
        claim = ledger.claim(at.batches.get(record.id).job_id or "", worker="w", lease=timedelta(minutes=1))
        assert claim is not None
        ledger.end(claim, Ending("failed", "bug", "it broke"), Reading())

        pruned(at)

        batch = at.batches.get(record.id)
        assert batch.end is not None
        assert (batch.status, batch.end.output_file_id, batch.end.error_file_id) == ("failed", None, None)
