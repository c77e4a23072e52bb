"""A disk that fills while a batch runs: nothing is lost, and it goes on when there is room."""

from datetime import timedelta
from pathlib import Path

from jobs.batches.files.storage import BatchStorage
from jobs.core.clock import SystemClock
from jobs.ledger.job import JobState
from tests.support.batch_runs import GOOD, QUICK, Gateway, Said, ids, runs
from tests.support.disks import NEEDS_MOUNT, fill, small_disk
from tests.support.stores import Store
from tests.support.waiting import until


@NEEDS_MOUNT
def test_a_full_disk_holds_a_batch_up_and_loses_nothing(live_store: Store, tmp_path: Path) -> None:
    """It says why it waits; with room again it goes on, and no line that was answered is asked again."""
    with small_disk(tmp_path / "disk", 4) as disk:
        ballast: list[Path] = []
        before: list[int] = []  # lines that came while it became full

        def says(number: int, _: int) -> Said:
            if number == 20:
                ballast.append(fill(disk))
                before.append(len(gateway.came))
            return GOOD

        storage = BatchStorage(disk / "batches", SystemClock())
        with runs(live_store, tmp_path, Gateway(says), storage=storage) as (at, gateway):
            record = at.post(200)
            with at.working():
                until(lambda: "No space left" in at.batches.get(record.id).note)
                assert len(gateway.came) - before[0] < 20
                ballast[0].unlink()
                batch = at.ended(record)
            assert (batch.status, batch.counts.completed, batch.note) == ("completed", 200, "")
            assert ids(at.output(batch)) == [f"id-{n}" for n in range(1, 201)]
            assert sorted(gateway.came) == list(range(1, 201))


@NEEDS_MOUNT
def test_a_disk_that_stays_full_ends_the_attempt_and_not_the_batch(live_store: Store, tmp_path: Path) -> None:
    """Job and batch tell why, and it is tried again: what was kept is kept, the rest is asked again."""
    with small_disk(tmp_path / "disk", 4) as disk:
        ballast: list[Path] = []

        def says(number: int, _: int) -> Said:
            if number == 20 and not ballast:
                ballast.append(fill(disk))
            return GOOD

        storage = BatchStorage(disk / "batches", SystemClock())
        impatient = QUICK.__class__(**{**vars(QUICK), "unkept": timedelta(seconds=0.1)})
        with runs(live_store, tmp_path, Gateway(says), storage=storage, pace=impatient) as (at, gateway):
            record = at.post(100)

            def story() -> list[str]:
                job = live_store.ledger().reader.latest("batch", record.id)
                return [each.failure_class or "" for each in job.attempts] if job else []

            with at.working():
                until(lambda: "disk" in story())
                until(lambda: "No space left" in at.batches.get(record.id).note)
                ballast[0].unlink()
                batch = at.ended(record)
            assert (batch.status, batch.counts.completed, batch.note) == ("completed", 100, "")
            assert ids(at.output(batch)) == [f"id-{n}" for n in range(1, 101)]
            assert len(gateway.came) - 100 < 40
            job = live_store.ledger().reader.latest("batch", record.id)
            assert job is not None
            until(lambda: live_store.ledger().reader.get(job.id).state is JobState.SUCCEEDED)
