"""Promises of jobs.weights.trash and trash_moves: what goes to the trash, comes back, and leaves it for good."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobs.core.errors import Corrupt, DiskFull, NotFound, NotWritable, Refused
from jobs.core.model_name import ModelName
from jobs.testing.clock import HandClock
from jobs.weights import restore, trash, trash_moves
from jobs.weights.directory import ModelsDirectory
from jobs.weights.layout import Layout
from jobs.weights.removal import remove
from tests.support.crash_points import FULL, READ_ONLY, refusing
from tests.support.models_directory import (
    digest_of,
    fill,
    nothing,
    publish,
    put,
    put_blob,
    put_manifest,
    sample,
    weights_at,
)

TINY = ModelName.parse("tiny")


def throw(weights: ModelsDirectory, name: str = "tiny") -> int:
    return trash_moves.throw_models(weights, [ModelName.parse(name)], still_ours=nothing)


def empty(weights: ModelsDirectory) -> int:
    paths = [folder.path for folder in weights.survey().trash]
    return trash_moves.empty(weights, paths, still_ours=nothing)


def files(weights: ModelsDirectory) -> dict[str, bytes]:
    root = weights.layout.root
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_thrown_model_is_out_of_ollamas_sight_and_whole_in_the_trash(tmp_path: Path) -> None:
    """Its manifest and the blobs that only it needs move; what another model shares stays where it is."""
    weights = weights_at(tmp_path, clock=HandClock(datetime(2026, 3, 1, 12, tzinfo=UTC)))
    tiny, other = sample("tiny", b"alone", b"both"), sample("other", b"both")
    publish(weights, tiny)
    publish(weights, other)
    before = weights.survey().usage_bytes

    assert throw(weights) == len(b"alone")

    survey = weights.survey()
    assert [model.name for model in survey.models] == [other.name]
    [folder] = survey.trash
    assert folder.path.name.startswith("20260301T120000000Z-tiny_latest-")
    assert (folder.name, folder.manifest) == (TINY, tiny.manifest)
    assert [path.name for path in folder.layout.blobs.iterdir()] == [f"sha256-{digest_of(b'alone')[7:]}"]
    assert survey.usage_bytes == before, "what lies in the trash counts"
    assert not survey.strays
    assert not (weights.layout.manifests / "registry.ollama.ai/library/tiny").exists()


def test_many_models_go_as_one_does(tmp_path: Path) -> None:
    """However many are thrown and deleted, what all manifests need is asked as often, and committed as often; one that
    is gone already is passed over, and what two of them shared goes with the first."""
    asked = []
    for count in (1, 2, 30):
        commits: list[int] = []
        clock = HandClock(datetime(2026, 3, 1, 12, tzinfo=UTC))
        weights = weights_at(tmp_path / str(count), persist=lambda: commits.append(1), clock=clock)  # noqa: B023
        names = [f"m{n}" for n in range(count)]
        for name in names:
            put(weights, sample(name, name.encode(), b"shared"))
        put(weights, sample("stays", b"stays"))
        models = [ModelName.parse(name) for name in [*names, "gone"]]
        assert trash_moves.throw_models(weights, models, still_ours=nothing) == sum(map(len, names)) + len(b"shared")
        found = weights.survey()
        assert ([str(model.name) for model in found.models], found.orphans) == (["stays:latest"], ())
        assert len(found.trash) == count
        empty(weights)
        assert weights.survey().trash == ()
        asked.append(len(commits))
    assert len(set(asked)) == 1


def test_persist_comes_between_the_manifest_and_its_blobs(tmp_path: Path) -> None:
    """A reader elsewhere sees the model gone before the first blob is."""
    seen: list[tuple[bool, bool]] = []
    blob = Layout(tmp_path / "models").blob(digest_of(b"alone"))
    manifest = Layout(tmp_path / "models").manifest(TINY)
    weights = weights_at(tmp_path, persist=lambda: seen.append((manifest.exists(), blob.exists())))
    publish(weights, sample("tiny", b"alone"))
    seen.clear()
    throw(weights)
    assert seen == [(False, True), (False, False)]


def test_emptying_deletes_what_nobody_needs(tmp_path: Path) -> None:
    """A folder of the trash goes whole, and its bytes are told; emptied twice, nothing more happens."""
    weights = weights_at(tmp_path)
    publish(weights, sample("tiny", b"alone" * 100))
    throw(weights)
    assert empty(weights) > 500
    assert files(weights) == {}
    assert empty(weights) == 0


def test_emptying_gives_back_what_a_manifest_lacks(tmp_path: Path) -> None:
    """Where somebody wrote a manifest that needs a blob in the trash, that blob goes back instead of away."""
    weights = weights_at(tmp_path)
    tiny = sample("tiny", b"alone")
    publish(weights, tiny)
    throw(weights)
    put_manifest(weights, "again", tiny.manifest.raw)
    empty(weights)
    assert [str(model.name) for model in weights.models()] == ["again:latest"]


def test_emptying_hands_on_what_a_later_one_in_the_trash_needs(tmp_path: Path) -> None:
    """Two models in the trash that share a blob each come back whole, whichever leaves first."""
    weights = weights_at(tmp_path)
    publish(weights, sample("one", b"only one", b"both"))
    publish(weights, sample("two", b"only two", b"both"))
    throw(weights, "one")
    throw(weights, "two")
    [second] = [folder for folder in weights.survey().trash if str(folder.name) == "two:latest"]
    trash_moves.empty(weights, [second.path], still_ours=nothing)
    restore.restore(weights, restore.newest_thrown(weights, ModelName.parse("one")), still_ours=nothing)
    assert [str(model.name) for model in weights.models()] == ["one:latest"]


def test_a_deleted_model_leaves_what_the_trash_needs(tmp_path: Path) -> None:
    """Deleting for good takes nothing from an earlier version that waits in the trash."""
    weights = weights_at(tmp_path)
    publish(weights, sample("tiny", b"old", b"both"))
    publish(weights, sample("tiny", b"new", b"both"))
    removed = remove(weights, TINY, still_ours=nothing)
    assert removed.freed_bytes == len(b"new")
    assert "an earlier model there needs them" in removed.note
    restore.restore(weights, restore.newest_thrown(weights, TINY), still_ours=nothing)
    assert weights.models()


def test_a_rollback_brings_the_old_one_back_and_can_be_undone(tmp_path: Path) -> None:
    """The earlier version stands again, whole; the one it replaced is in the trash, and comes back the same way."""
    weights = weights_at(tmp_path)
    old, new = sample("tiny", b"old", b"both"), sample("tiny", b"new", b"both")
    publish(weights, old)
    publish(weights, new)
    for expected, left in ((old, new), (new, old), (old, new)):
        folder = restore.newest_thrown(weights, ModelName.parse("TINY"))
        assert restore.restore(weights, folder, still_ours=nothing) == left.manifest.digest
        [model] = weights.models()
        assert model.digest == expected.manifest.digest
        assert not weights.verify(model.manifest.blobs)
        [kept] = weights.survey().trash
        assert kept.manifest == left.manifest
        assert not weights.survey().strays


def test_a_pruned_model_comes_back_as_well(tmp_path: Path) -> None:
    """What prune threw away is an earlier version too, though nothing stands in its place."""
    weights = weights_at(tmp_path)
    publish(weights, tiny := sample("tiny", b"alone"))
    throw(weights)
    assert restore.restore(weights, restore.newest_thrown(weights, TINY), still_ours=nothing) is None
    assert [model.digest for model in weights.models()] == [tiny.manifest.digest]
    assert not weights.survey().trash
    with pytest.raises(NotFound, match="the trash holds no earlier 'tiny:latest'"):
        restore.newest_thrown(weights, TINY)


def test_a_rollback_that_lacks_a_blob_changes_nothing(tmp_path: Path) -> None:
    """Whole or not at all: the blob is named, and what is published stays."""
    weights = weights_at(tmp_path)
    publish(weights, sample("tiny", b"old"))
    publish(weights, sample("tiny", b"new"))
    folder = restore.newest_thrown(weights, TINY)
    folder.layout.blob(digest_of(b"old")).unlink()
    before = files(weights)
    with pytest.raises(Corrupt, match=r"the earlier 'tiny:latest' cannot come back: its blob sha256:\w+ is gone"):
        restore.restore(weights, folder, still_ours=nothing)
    assert files(weights) == before


def test_blobs_come_back_for_a_pull(tmp_path: Path) -> None:
    """What lies in the trash is taken back by rename, and only what is missing."""
    weights = weights_at(tmp_path)
    tiny = sample("tiny", b"alone", b"more")
    publish(weights, tiny)
    throw(weights)
    put_blob(weights, b"more")
    taken = trash_moves.take_back(weights, tiny.manifest.blobs, still_ours=nothing)
    assert taken == tiny.manifest.size - len(b"more")
    assert all(weights.blob_state(layer) == "present" for layer in tiny.manifest.blobs)
    assert trash_moves.take_back(weights, tiny.manifest.blobs, still_ours=nothing) == 0


def test_orphans_join_the_model_in_the_trash_that_needs_them(tmp_path: Path) -> None:
    """A run that died between the manifest and its blobs is finished by the next, so that the model can come back."""
    weights = weights_at(tmp_path)
    publish(weights, tiny := sample("tiny", b"alone"))
    folder = trash.make(weights.layout, "tiny", datetime(2026, 1, 1, tzinfo=UTC))
    trash.move(weights.layout.manifest(TINY), Layout(folder).manifest(TINY), below=weights.layout.root)
    other = put_blob(weights, b"nobody's")

    orphans = [stray.path for stray in weights.survey().orphans]
    assert other in orphans
    trash_moves.throw_orphans(weights, orphans, still_ours=nothing)

    survey = weights.survey()
    assert not survey.orphans
    assert len(survey.trash) == 2
    restore.restore(weights, restore.newest_thrown(weights, TINY), still_ours=nothing)
    assert weights.models()[0].digest == tiny.manifest.digest


def test_an_orphan_that_was_published_meanwhile_stays(tmp_path: Path) -> None:
    """What a plan took for an orphan is asked for again under the lock."""
    weights = weights_at(tmp_path)
    path = put_blob(weights, b"alone")
    publish(weights, sample("tiny", b"alone"))
    assert trash_moves.throw_orphans(weights, [path], still_ours=nothing) == 0
    assert weights.models()


def test_while_a_manifest_is_torn_nothing_that_it_may_need_goes(tmp_path: Path) -> None:
    """No model is thrown, no orphan, and the trash is not emptied: half a manifest may mean any of them."""
    weights = weights_at(tmp_path)
    publish(weights, sample("old", b"old"))
    throw(weights, "old")
    publish(weights, tiny := sample("tiny", b"alone"))
    orphan = put_blob(weights, b"orphan")
    put_manifest(weights, "torn", tiny.manifest.raw[: len(tiny.manifest.raw) // 2])
    before = files(weights)
    with pytest.raises(Refused, match="a manifest is torn, and nobody can tell which blobs that one needs"):
        throw(weights)
    assert trash_moves.throw_orphans(weights, [orphan], still_ours=nothing) == 0
    assert empty(weights) == 0
    assert files(weights) == before


def test_a_model_that_replaces_a_torn_one_keeps_nothing(tmp_path: Path) -> None:
    """Half a manifest is worth nothing, so there is nothing to roll back to."""
    weights = weights_at(tmp_path)
    put_manifest(weights, "tiny", b'{"schemaVersion"')
    publish(weights, sample("tiny", b"alone"))
    assert not weights.survey().trash


def test_what_killed_deletions_leave_is_swept(tmp_path: Path) -> None:
    """A folder that was being deleted is no folder of the trash any more, and goes with the next emptying."""
    weights = weights_at(tmp_path)
    weights.prepare()
    left = weights.layout.trash / "~20260101T000000000Z-tiny" / "blobs"
    left.mkdir(parents=True)
    (left / f"sha256-{'0' * 64}").write_bytes(b"x")
    assert not weights.survey().trash
    empty(weights)
    assert not list(weights.layout.trash.iterdir())


@pytest.mark.parametrize("name", ["notes.txt", "20269901T000000000Z-date", "20260101T000000Z-short"])
def test_what_is_not_ours_in_the_trash_is_left_alone(tmp_path: Path, name: str) -> None:
    """A file or folder with any other name is nobody's: it is listed as unknown and never deleted."""
    weights = weights_at(tmp_path)
    weights.prepare()
    (weights.layout.trash / name).mkdir(parents=True)
    assert [stray.path.name for stray in weights.survey().of("unknown")] == [name]
    empty(weights)
    assert (weights.layout.trash / name).is_dir()


def test_what_is_no_models_directory_is_not_pruned(tmp_path: Path) -> None:
    """A directory without both folders of a models directory is refused with what it lacks, and stays untouched."""
    (tmp_path / "models" / "blobs").mkdir(parents=True)
    with pytest.raises(Refused, match=r"does not look like a models directory: it has no folder manifests$"):
        trash_moves.require_models_directory(Layout(tmp_path / "models"))
    with pytest.raises(Refused, match=r"it has no folder blobs and no manifests$"):
        trash_moves.require_models_directory(Layout(tmp_path / "nowhere"))


def test_a_trash_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    """Nothing is moved through a link out of the models directory."""
    weights = weights_at(tmp_path)
    publish(weights, sample("tiny", b"alone"))
    (tmp_path / "elsewhere").mkdir()
    weights.layout.trash.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotWritable, match="is a link out of the models directory"):
        throw(weights)
    assert weights.models()
    assert not list((tmp_path / "elsewhere").iterdir())


def test_times_in_the_trash_are_utc_and_told_apart(tmp_path: Path) -> None:
    """Two folders of one model thrown at the same moment are two, and an hour set back makes none of them older."""
    clock = HandClock(datetime(2026, 10, 25, 0, 30, tzinfo=UTC))  # an hour before Berlin lives an hour twice
    layout = Layout(tmp_path)
    first, second = (trash.make(layout, "tiny", clock.now()) for _ in range(2))
    clock.tick(timedelta(hours=-1).total_seconds())
    third = trash.make(layout, "tiny", clock.now())
    listed = trash.folders(layout)
    assert not trash.strange_files(layout)
    assert [folder.path for folder in listed] == [third, first, second]
    assert [folder.thrown_at.hour for folder in listed] == [23, 0, 0]


def test_a_full_disk_stops_no_deletion(tmp_path: Path) -> None:
    """Where nothing new fits, the trash can be emptied all the same, and nothing that is there gets lost."""
    weights = weights_at(tmp_path)
    publish(weights, sample("old", b"old" * 1000))
    throw(weights, "old")
    publish(weights, sample("tiny", b"alone"))
    newer = sample("tiny", b"newer")
    staging = fill(weights.stage("pull tiny", "a"), newer)
    before = files(weights)
    with refusing(FULL):
        with pytest.raises(DiskFull, match="moving tiny:latest to the trash: No space left on device"):
            throw(weights)
        with pytest.raises(DiskFull, match="publishing tiny:latest: No space left on device"):
            weights.publish(TINY, newer.manifest, staging, still_ours=nothing)
        assert set(before.values()) <= set(files(weights).values())
        assert empty(weights) > 3000
    assert weights.models()


def test_a_read_only_volume_is_told_and_left_as_it_is(tmp_path: Path) -> None:
    """Each way of writing is refused with what was going on; planning needs none of them."""
    weights = weights_at(tmp_path)
    publish(weights, sample("tiny", b"old"))
    publish(weights, sample("tiny", b"alone"))
    orphan = put_blob(weights, b"orphan")
    before = files(weights)
    changes = {event: code for event, code in READ_ONLY.items() if event != "open"}  # the lock lies elsewhere
    with refusing(changes):
        survey = weights.survey()
        for work in (
            lambda: throw(weights),
            lambda: trash_moves.throw_orphans(weights, [orphan], still_ours=nothing),
            lambda: empty(weights),
            lambda: restore.restore(weights, restore.newest_thrown(weights, TINY), still_ours=nothing),
        ):
            with pytest.raises(NotWritable, match=r"trash: Read-only file system"):
                work()
    assert (len(survey.trash), len(survey.orphans)) == (1, 1)
    assert files(weights) == before
