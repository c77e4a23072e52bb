"""Promises of jobs.weights: publishing, mending, removing, and refusing what cannot be."""

import fcntl
import os
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.core.errors import Cancelled, Corrupt, DiskFull, Fenced, NotFound, NotWritable, QuotaExceeded, Refused
from jobs.core.model_name import ModelName
from jobs.testing.clock import HandClock
from jobs.weights.directory import ModelsDirectory
from jobs.weights.removal import remove
from tests.support.file_modes import modes_obeyed
from tests.support.models_directory import (
    CONFIG,
    digest_of,
    fill,
    layer_of,
    nothing,
    publish,
    put,
    put_blob,
    put_manifest,
    sample,
    weights_at,
)


def names_in(weights: ModelsDirectory) -> list[str]:
    return [str(model.name) for model in weights.models()]


def tree(weights: ModelsDirectory) -> set[str]:
    root = weights.layout.root
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


# Publishing


def test_a_published_model_is_whole_readable_and_leaves_no_staging(tmp_path: Path) -> None:
    """Blobs and manifest stand as Ollama lays them out, 0644 in 0755 folders, and nothing else is left."""
    weights = weights_at(tmp_path)
    before = os.umask(0o077)
    try:
        publish(weights, sample("user/tiny:1b"))
    finally:
        os.umask(before)
    tiny = sample("user/tiny:1b")
    assert names_in(weights) == ["user/tiny:1b"]
    assert tree(weights) == {
        "manifests/registry.ollama.ai/user/tiny/1b",
        *(f"blobs/{digest.replace(':', '-')}" for digest in tiny.contents),
    }
    assert weights.layout.manifest(tiny.name).read_bytes() == tiny.manifest.raw
    modes = {path.stat().st_mode & 0o777 for path in weights.layout.root.rglob("*") if path.is_file()}
    assert modes == {0o644}
    folders = {path.stat().st_mode & 0o777 for path in weights.layout.root.rglob("*") if path.is_dir()}
    assert folders == {0o755}
    assert weights.survey().stagings == ()


def test_persist_comes_between_blobs_and_manifest_and_after_it(tmp_path: Path) -> None:
    """What others see is committed in the order that keeps a model whole."""
    seen: list[tuple[int, int]] = []
    weights = weights_at(
        tmp_path,
        persist=lambda: seen.append((len(list(weights.layout.blobs.iterdir())), len(weights.layout.manifest_files()))),
    )
    publish(weights, sample("tiny"))
    assert seen == [(3, 0), (3, 1)]
    seen.clear()
    remove(weights, ModelName.parse("tiny"), still_ours=nothing)
    assert seen == [(3, 0), (0, 0)]


def test_a_newer_manifest_replaces_the_model_and_keeps_the_old_one_in_the_trash(tmp_path: Path) -> None:
    """The name shows the new digest; the old manifest and what only it needed lie in the trash."""
    weights = weights_at(tmp_path)
    old, new = sample("tiny", b"old", b"both"), sample("tiny", b"new", b"both")
    publish(weights, old)
    publish(weights, new)
    assert [model.digest for model in weights.models()] == [new.manifest.digest]
    survey = weights.survey()
    [folder] = survey.trash
    assert folder.manifest == old.manifest
    assert [path.name for path in folder.layout.blobs.iterdir()] == [f"sha256-{digest_of(b'old')[7:]}"]
    assert not survey.strays


def test_blobs_that_are_here_need_no_staging(tmp_path: Path) -> None:
    """A second name for the same blobs is published without fetching them."""
    weights = weights_at(tmp_path)
    publish(weights, sample("one", b"w"))
    two = sample("two", b"w")
    weights.publish(two.name, two.manifest, weights.stage("two", "a"), still_ours=nothing)
    assert names_in(weights) == ["one:latest", "two:latest"]


def test_a_present_blob_stays_and_its_staged_copy_is_dropped(tmp_path: Path) -> None:
    """The file that readers may have open is not touched."""
    weights = weights_at(tmp_path)
    inode = put_blob(weights, b"w").stat().st_ino
    weights.layout.manifests.mkdir()
    publish(weights, sample("tiny", b"w"))
    assert weights.layout.blob(digest_of(b"w")).stat().st_ino == inode


def test_a_short_blob_is_replaced_by_the_staged_one(tmp_path: Path) -> None:
    """A blob of the wrong size counts as absent."""
    weights = weights_at(tmp_path)
    put_blob(weights, b"", digest_of(b"w"))
    publish(weights, sample("tiny", b"w"))
    assert weights.layout.blob(digest_of(b"w")).read_bytes() == b"w"


@pytest.mark.parametrize("how", ["absent", "short", "not settled", "a link"])
def test_a_blob_that_is_not_staged_in_full_is_never_published(tmp_path: Path, how: str) -> None:
    """Absent, short, unhashed or linked: the publication is refused before anything moved, and can be tried again."""
    weights = weights_at(tmp_path)
    tiny = sample("tiny", b"w")
    staging = fill(weights.stage("tiny", "a"), tiny, but=(digest_of(b"w"),))
    path = staging.path(digest_of(b"w"))
    if how == "short":
        path.write_bytes(b"")
        staging.settle(digest_of(b"w"))
    elif how == "not settled":
        path.write_bytes(b"w")
    elif how == "a link":
        (tmp_path / "w").write_bytes(b"w")
        path.symlink_to(tmp_path / "w")
        staging.settle(digest_of(b"w"))
    with pytest.raises(Corrupt, match="neither published nor staged in full") as caught:
        weights.publish(tiny.name, tiny.manifest, staging, still_ours=nothing)
    assert caught.value.can_retry
    assert list(weights.layout.blobs.iterdir()) == []
    path.unlink(missing_ok=True)
    path.write_bytes(b"w")
    staging.settle(digest_of(b"w"))
    weights.publish(tiny.name, tiny.manifest, staging, still_ours=nothing)
    assert names_in(weights) == ["tiny:latest"]


def test_a_blob_that_vanishes_while_publishing_keeps_the_manifest_back(tmp_path: Path) -> None:
    """Ollama may delete a shared blob under us; then nothing is listed and trying again can help."""
    weights = weights_at(tmp_path, persist=lambda: weights.layout.blob(digest_of(b"w")).unlink())
    with pytest.raises(Corrupt, match="was missing when all was to be there") as caught:
        publish(weights, sample("tiny", b"w"))
    assert caught.value.can_retry
    assert weights.layout.manifest_files() == [] == weights.layout.strange_files()


def test_a_model_in_another_spelling_is_replaced_where_it_stands(tmp_path: Path) -> None:
    """Ollama folds case, so there is never a second spelling of one name; a new tag goes to the model that has others,
    and is spelled as it was asked for."""
    weights = weights_at(tmp_path)
    publish(weights, sample("Tiny:Q4", b"old"))
    publish(weights, sample("tiny:q4", b"new"))
    publish(weights, sample("other:Q4"))
    publish(weights, sample("more:q4"))
    publish(weights, sample("TINY:q8"))
    assert names_in(weights) == ["Tiny:Q4", "Tiny:q8", "more:q4", "other:Q4"]
    torn = put_manifest(weights, "Torn:X", b"")
    publish(weights, sample("torn:x", b"new"))
    assert "Torn:X" in names_in(weights)
    assert torn.stat().st_size > 0


@pytest.mark.parametrize("shape", ["file above", "folder there", "empty folder"])
def test_what_stands_in_the_way_is_named(tmp_path: Path, shape: str) -> None:
    """A file where a folder belongs, or a filled folder in the file's place, is refused; an empty one is replaced."""
    weights = weights_at(tmp_path)
    weights.prepare()
    target = weights.layout.manifest(ModelName.parse("tiny"))
    if shape == "file above":
        target.parent.parent.mkdir(parents=True)
        target.parent.write_text("a file")
    else:
        target.mkdir(parents=True)
        if shape == "folder there":
            (target / "x").write_text("x")
    if shape == "empty folder":
        publish(weights, sample("tiny"))
        assert names_in(weights) == ["tiny:latest"]
        return
    with pytest.raises(Refused, match="stands in its way"):
        publish(weights, sample("tiny"))
    assert names_in(weights) == []


# Fences


def test_a_holder_that_was_taken_over_publishes_nothing(tmp_path: Path) -> None:
    """The old attempt is fenced before a byte moves, and the new one publishes the same bytes."""
    weights = weights_at(tmp_path)
    tiny = sample("tiny")
    old = fill(weights.stage("tiny", "old"), tiny)
    new = weights.stage("tiny", "new")
    with pytest.raises(Fenced):
        weights.publish(tiny.name, tiny.manifest, old, still_ours=nothing)
    assert names_in(weights) == []
    for digest in tiny.contents:
        new.settle(digest)
    weights.publish(tiny.name, tiny.manifest, new, still_ours=nothing)
    assert names_in(weights) == ["tiny:latest"]
    assert weights.verify(tiny.manifest.blobs) == []


def test_a_holder_released_between_blobs_and_manifest_shows_nothing(tmp_path: Path) -> None:
    """Losing the folder half-way leaves blobs that no reader lists, and the next attempt needs none of them again."""

    def persist() -> None:
        weights.release("tiny:latest")

    weights = weights_at(tmp_path, persist=persist)
    tiny = sample("tiny")
    with pytest.raises(Fenced):
        publish(weights, tiny)
    assert names_in(weights) == []
    again = weights_at(tmp_path)
    again.publish(tiny.name, tiny.manifest, again.stage("tiny:latest", "b"), still_ours=nothing)
    assert names_in(again) == ["tiny:latest"]


@pytest.mark.parametrize("step", range(2))
def test_whoever_lost_the_lease_stops_before_anything_shows(tmp_path: Path, step: int) -> None:
    """still_ours is asked before the blobs and again before the manifest; when it raises, no model appears."""
    weights = weights_at(tmp_path)
    asked: list[int] = []

    def still_ours() -> None:
        asked.append(1)
        if len(asked) > step:
            raise Fenced

    tiny = sample("tiny")
    staging = fill(weights.stage("tiny", "a"), tiny)
    with pytest.raises(Fenced):
        weights.publish(tiny.name, tiny.manifest, staging, still_ours=still_ours)
    assert weights.layout.manifest_files() == [] == weights.layout.strange_files()
    assert len(list(weights.layout.blobs.iterdir())) == (0, 3)[step]


@pytest.mark.parametrize("step", range(2))
def test_a_commit_that_fails_is_told_and_can_be_repeated(tmp_path: Path, step: int) -> None:
    """Whichever persist fails, the error comes out, nothing half is listed, and the same call ends it later."""
    calls: list[int] = []

    def persist() -> None:
        calls.append(1)
        if len(calls) == step + 1:
            raise OSError(28, "No space left on device")

    weights = weights_at(tmp_path, persist=persist)
    with pytest.raises(DiskFull):
        publish(weights, sample("tiny"))
    assert names_in(weights) == ([], ["tiny:latest"])[step]
    publish(weights, sample("tiny"), holder="b")
    assert names_in(weights) == ["tiny:latest"]
    assert weights.survey().stagings == ()


def test_whoever_waits_for_the_lock_can_still_be_stopped(tmp_path: Path) -> None:
    """A lock held elsewhere delays a writer, and a cancelled job does not wait for it."""
    weights = weights_at(tmp_path, clock=HandClock())
    publish(weights, sample("tiny"))
    asked: list[int] = []

    def still_ours() -> None:
        asked.append(1)
        if len(asked) > 3:
            raise Cancelled

    with (tmp_path / "weights.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Cancelled):
            remove(weights, ModelName.parse("tiny"), still_ours=still_ours)
    assert names_in(weights) == ["tiny:latest"]
    remove(weights, ModelName.parse("tiny"), still_ours=nothing)


def test_two_holders_that_publish_at_once_leave_one_whole_model(tmp_path: Path) -> None:
    """Whoever loses is fenced or refused; readers only ever see the whole model, and the bytes are right."""
    tiny = sample("tiny")
    for number in range(15):
        weights = weights_at(tmp_path / str(number))
        gate = threading.Barrier(3)
        ended: list[Exception | None] = []

        def attempt(
            holder: str,
            weights: ModelsDirectory = weights,
            gate: threading.Barrier = gate,
            ended: list[Exception | None] = ended,
        ) -> None:
            gate.wait()
            try:
                publish(weights, tiny, holder=holder)
                ended.append(None)
            except Exception as error:
                ended.append(error)

        threads = [threading.Thread(target=attempt, args=(holder,)) for holder in ("one", "two", "three")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        unexpected = [each for each in ended if not (each is None or isinstance(each, Fenced | FileNotFoundError))]
        assert unexpected == []
        assert None in ended
        assert names_in(weights) == ["tiny:latest"]
        assert weights.verify(tiny.manifest.blobs) == []


# Mending


def test_a_damaged_blob_is_mended_alone(tmp_path: Path) -> None:
    """The staged copy takes its place in one step; nothing else changes and the model stays listed."""
    weights = weights_at(tmp_path)
    tiny = sample("tiny", b"weights", b"other")
    publish(weights, tiny)
    put_blob(weights, b"weighty", digest_of(b"weights"))
    other = weights.layout.blob(digest_of(b"other"))
    before = other.stat()
    (damage,) = weights.verify(tiny.manifest.blobs)
    staging = weights.stage("tiny", "mender")
    layer = layer_of(b"weights")
    with pytest.raises(Corrupt):
        weights.replace_blob(layer, staging, still_ours=nothing)
    staging.path(damage.digest).write_bytes(b"weights")
    staging.settle(damage.digest)
    weights.replace_blob(layer, staging, still_ours=nothing)
    assert weights.verify(tiny.manifest.blobs) == []
    assert (other.stat().st_ino, other.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    weights.release("tiny")
    with pytest.raises(Fenced):
        weights.replace_blob(layer, staging, still_ours=nothing)


# Removing


def test_removing_a_model_frees_what_only_it_needed(tmp_path: Path) -> None:
    """Shared blobs stay, the rest goes with its sizes told, and empty folders go up to manifests."""
    weights = weights_at(tmp_path)
    publish(weights, sample("one", b"own", b"shared"))
    publish(weights, sample("user/two", b"shared"))
    removed = remove(weights, ModelName.parse("ONE"), still_ours=nothing)
    assert str(removed.name) == "one:latest"
    assert removed.deleted == (layer_of(b"own"),)
    assert removed.freed_bytes == 3
    assert {layer.digest for layer in removed.kept} == {digest_of(b"shared"), digest_of(CONFIG)}
    assert names_in(weights) == ["user/two:latest"]
    assert [path.name for path in (weights.layout.manifests / "registry.ollama.ai").iterdir()] == ["user"]
    remove(weights, ModelName.parse("user/two"), still_ours=nothing)
    assert tree(weights) == set()
    assert weights.layout.manifests.is_dir()
    assert list(weights.layout.manifests.iterdir()) == []


def test_while_a_manifest_is_torn_no_blob_is_deleted(tmp_path: Path) -> None:
    """Nobody knows what the torn one refers to, so the model goes and its blobs stay, and the answer says why."""
    weights = weights_at(tmp_path)
    publish(weights, sample("one"))
    put_manifest(weights, "torn", b'{"sch')
    removed = remove(weights, ModelName.parse("one"), still_ours=nothing)
    assert removed.deleted == ()
    assert len(removed.kept) == 3
    assert removed.note.startswith("no blob was deleted, because the manifest of torn:latest is torn")
    assert names_in(weights) == []
    assert len(weights.survey().orphans) == 3


def test_a_broken_model_can_be_removed(tmp_path: Path) -> None:
    """A torn manifest, and a model whose blobs are missing, go like any other; what others need stays."""
    weights = weights_at(tmp_path)
    publish(weights, sample("one", b"own"))
    put_manifest(weights, "torn", b"")
    put(weights, sample("gone", b"gone", b"rest"))
    weights.layout.blob(digest_of(b"gone")).unlink()
    assert remove(weights, ModelName.parse("torn"), still_ours=nothing).deleted == ()
    assert remove(weights, ModelName.parse("gone"), still_ours=nothing).deleted == (layer_of(b"rest"),)
    assert names_in(weights) == ["one:latest"]


def test_a_blob_of_an_incomplete_model_is_not_deleted(tmp_path: Path) -> None:
    """A manifest whose other blobs are missing still refers to those that are here."""
    weights = weights_at(tmp_path)
    put(weights, sample("half", b"shared", b"gone"))
    weights.layout.blob(digest_of(b"gone")).unlink()
    publish(weights, sample("one", b"shared"))
    remove(weights, ModelName.parse("one"), still_ours=nothing)
    assert weights.layout.blob(digest_of(b"shared")).exists()


def test_what_is_not_here_cannot_be_removed(tmp_path: Path) -> None:
    """An absent model is NotFound, and asking makes nothing."""
    weights = weights_at(tmp_path)
    with pytest.raises(NotFound, match=r"'absent:latest' is not here"):
        remove(weights, ModelName.parse("absent"), still_ours=nothing)
    assert not weights.layout.root.exists()


@pytest.mark.parametrize("link", ["blobs", "manifests", "host"])
def test_nothing_is_deleted_or_written_through_a_link_out_of_the_directory(tmp_path: Path, link: str) -> None:
    """Where a link leads elsewhere, removal and publishing are refused and the other place is untouched."""
    elsewhere = weights_at(tmp_path / "elsewhere")
    tiny = sample("tiny")
    publish(elsewhere, tiny)
    before = tree(elsewhere)
    weights = weights_at(tmp_path)
    weights.prepare()
    if link == "host":
        host = "registry.ollama.ai"
        (weights.layout.manifests / host).symlink_to(elsewhere.layout.manifests / host)
    else:
        (weights.layout.root / link).rmdir()
        (weights.layout.root / link).symlink_to(elsewhere.layout.root / link)
        put_manifest(weights, tiny.name, tiny.manifest.raw)
        assert not weights.is_ours()
    with pytest.raises(NotWritable, match="link out of the models directory"):
        remove(weights, tiny.name, still_ours=nothing)
    with pytest.raises(NotWritable, match="link out of the models directory"):
        publish(weights, tiny)
    assert tree(elsewhere) == before


models = st.dictionaries(
    st.sampled_from(["a", "b", "B:x", "c:1", "c:2"]),
    st.frozensets(st.sampled_from([b"p", b"q", b"r", b"s"]), min_size=1),
    min_size=1,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(models, st.data())
def test_removing_never_takes_a_blob_that_a_manifest_refers_to(
    tmp_path_factory: pytest.TempPathFactory, contents: dict[str, frozenset[bytes]], data: st.DataObject
) -> None:
    """In any order, every model that is left stays whole, and after the last one no blob is left."""
    weights = weights_at(tmp_path_factory.mktemp("any"))
    for name, blobs in contents.items():
        put(weights, sample(name, *sorted(blobs)))
    left = set(contents)
    for name in data.draw(st.permutations(sorted(contents))):
        remove(weights, ModelName.parse(name), still_ours=nothing)
        left.remove(name)
        assert {model.name for model in weights.models()} == {ModelName.parse(each) for each in left}
        assert weights.survey().orphans == ()
    assert tree(weights) == set()


# Room and rights


def test_what_outgrows_the_quota_is_refused_with_sizes(tmp_path: Path) -> None:
    """The message names need, use, trash and quota; what could go is worded by whoever knows the policy."""
    weights = weights_at(tmp_path)
    publish(weights, sample("small", b"s" * 2_000))
    publish(weights, sample("large", b"l" * 50_000))
    used = weights.survey().usage_bytes
    weights.room_for(1_000_000, used + 1_000_000)
    weights.room_for(1_000_000, None)
    with pytest.raises(QuotaExceeded) as caught:
        weights.room_for(1_000_001, used + 1_000_000, could_go=lambda survey: f"{len(survey.models)} models")
    assert str(caught.value) == "1.0 MB needed, but the weights use 53 kB of a quota of 1.1 MB"
    assert caught.value.hint == "2 models"
    publish(weights, sample("large", b"L" * 50_000))
    with pytest.raises(QuotaExceeded, match=r"use 103 kB of a quota of 5 B, 50 kB of it in the trash$"):
        weights.room_for(10, 5)


def test_a_disk_too_small_is_refused_where_its_numbers_count(tmp_path: Path) -> None:
    """A local disk's free space is a limit of its own."""
    weights = ModelsDirectory(tmp_path / "not" / "yet", lock=tmp_path / "l", persist=nothing, clock=HandClock())
    weights.room_for(1)
    with pytest.raises(DiskFull, match=r"^1000 PB needed, but the disk has .* free$"):
        weights.room_for(10**18)
    with pytest.raises(QuotaExceeded, match="free on disk"):
        weights.room_for(10, 5)


def test_what_is_missing_of_a_models_directory_is_made(tmp_path: Path) -> None:
    """A new place, an empty one, and one with only what a system leaves there become a models directory."""
    weights = weights_at(tmp_path)
    (weights.layout.root / "lost+found").mkdir(parents=True)
    (weights.layout.root / ".hidden").write_text("")
    assert weights.is_ours()
    assert {path.name for path in weights.layout.root.iterdir()} >= {"blobs", "manifests", "staging"}


def test_a_directory_of_something_else_is_refused_untouched(tmp_path: Path) -> None:
    """A home directory named by mistake is not turned into a models directory."""
    weights = weights_at(tmp_path)
    weights.layout.root.mkdir()
    (weights.layout.root / "thesis.tex").write_text("")
    assert not weights.is_ours()
    with pytest.raises(NotWritable, match=r"does not look like a models directory: .* but 'thesis\.tex'") as caught:
        weights.stage("tiny", "a")
    assert caught.value.hint is not None
    assert tree(weights) == {"thesis.tex"}


def test_a_file_in_the_directorys_place_is_not_writable(tmp_path: Path) -> None:
    """So is a file in the place of one of its folders."""
    weights = weights_at(tmp_path)
    weights.layout.root.write_text("")
    with pytest.raises(NotWritable, match="is no directory"):
        weights.prepare()
    weights.layout.root.unlink()
    weights.layout.root.mkdir()
    weights.layout.blobs.write_text("")
    with pytest.raises(NotWritable, match="is no directory"):
        weights.prepare()


def test_a_directory_of_another_user_is_not_ours(tmp_path: Path) -> None:
    """Folders that cannot be written are told before anything is fetched."""
    weights = weights_at(tmp_path)
    weights.prepare()
    weights.layout.blobs.chmod(0o555)
    with modes_obeyed(), pytest.raises(NotWritable, match="cannot be written by user"):
        weights.prepare()
