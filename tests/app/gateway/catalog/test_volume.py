"""What the gateway reads of the mounted volume: models, what is wrong with the rest, and what was archived."""

from pathlib import Path

import pytest

from app.gateway.catalog.volume import VolumeModels
from jobs.archive.archive import archive_jobs
from jobs.archive.archived import archive_at
from jobs.ledger.job import Ending
from jobs.testing.clock import HandClock
from tests.support.models_directory import put, put_manifest, sample, weights_at
from tests.support.stores import Store, ended_job, pass_days


def test_what_is_not_whole_is_told_beside_what_is(tmp_path: Path) -> None:
    """A manifest that was cut in half takes its model off the list, and is complained of until it is mended."""
    weights = weights_at(tmp_path)
    put(weights, sample("tiny"))
    torn = put_manifest(weights, "torn", sample("torn").manifest.raw[:40])
    volume = VolumeModels(weights.layout.root, lambda: None, HandClock())
    assert [str(model.name) for model in volume.read()] == ["tiny:latest"]
    complaints = volume.complaints()
    assert any("torn" in complaint for complaint in complaints)
    torn.unlink()
    assert volume.complaints() == complaints
    volume.read()
    assert not any("torn" in complaint for complaint in volume.complaints())


@pytest.mark.parametrize("is_open", [False, True])
def test_archived_jobs_are_brought_in(store: Store, tmp_path: Path, is_open: bool) -> None:
    """Archived jobs are read from the volume as it was last committed, or as it was known while a file is open."""
    reloads = []

    def reload() -> None:
        reloads.append(1)
        if is_open:
            raise RuntimeError("there are open files preventing the operation")

    old = ended_job(store, "old:latest", Ending("failed", "network", "cut short"))
    pass_days(store, 40)
    archive_jobs(store.ledger(), store.facts, archive_at(tmp_path), store.clock.now(), lambda: None)
    volume = VolumeModels(tmp_path, reload, store.clock)
    archive = volume.archived
    with archive.newest() as jobs:
        assert [job.id for job in jobs] == [old.id]
    with archive.newest(old.place) as jobs:
        assert list(jobs) == []
    assert [job.id for job in archive.beginning(old.id[:4])] == [old.id]
    found = archive.find(old.id)
    assert found is not None
    assert found.id == old.id
    assert len(reloads) == 4
