"""Promises of jobs.weights.staging."""

import threading
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jobs.core.errors import Fenced
from jobs.weights.staging import RANGES, Staging, folders, release, slug, take_over
from tests.support.models_directory import digest_of, layer_of

A, B, C = (digest_of(letter) for letter in (b"a", b"b", b"c"))

names = st.text("abAB_.-:/~@é ", min_size=1, max_size=400)


def staged(staging: Staging, digest: str, content: bytes) -> None:
    staging.path(digest).write_bytes(content)
    journal(staging, digest).write_text(f"{len(content)}")


def journal(staging: Staging, digest: str) -> Path:
    path = staging.path(digest)
    return path.with_name(path.name + RANGES)


@given(names, names)
@example("hf.co/a/b:c", "hf.co/a_b:c")
@example("model:tag", "MODEL:tag")
@example("h" * 350 + "/n/m:t", "h" * 350 + "/n/m:u")
@example("~a", "a")
def test_a_slug_belongs_to_one_subject_and_fits_a_file_name(one: str, other: str) -> None:
    """Different subjects have different slugs, even where case folds; with a holder they fit in 255 bytes."""
    folder = f"{slug(one)}@{'h' * 80}"
    assert len(folder.encode()) <= 255
    assert not set(folder) & set("/\0:")
    assert folder.count("@") == 1
    assert folder[0] != "~"
    assert (slug(one).lower() == slug(other).lower()) == (one == other)


@given(st.text("ab:-", min_size=1, max_size=6), st.text("ab:-", min_size=1, max_size=6))
def test_no_slug_begins_another_up_to_the_holder(one: str, other: str) -> None:
    """A folder is found by its slug and `@`, and never by that of another subject."""
    assert f"{slug(one)}@x".startswith(f"{slug(other)}@") == (one == other)


def test_a_new_holder_finds_what_the_last_one_fetched(tmp_path: Path) -> None:
    """Taking over keeps every byte, and the old holder's paths are gone."""
    old = take_over(tmp_path, "m", "one")
    staged(old, A, b"half")
    new = take_over(tmp_path, "m", "two")
    assert new.path(A).read_bytes() == b"half"
    assert journal(new, A).exists()
    with pytest.raises(Fenced, match="taken over from 'one'"):
        old.hold()
    with pytest.raises(FileNotFoundError):
        old.path(A).write_bytes(b"late")
    new.hold()


def test_staging_again_under_the_same_holder_keeps_all(tmp_path: Path) -> None:
    """A holder that asks twice has one folder."""
    staged(take_over(tmp_path, "m", "one"), A, b"half")
    assert take_over(tmp_path, "m", "one").path(A).read_bytes() == b"half"


def test_another_subjects_folder_is_left_alone(tmp_path: Path) -> None:
    """Only leftovers of the same subject are taken."""
    other = take_over(tmp_path, "m:1", "one")
    staged(other, A, b"theirs")
    assert list(take_over(tmp_path, "m:2", "two").folder.iterdir()) == []
    assert other.path(A).read_bytes() == b"theirs"


def leftovers(root: Path, *contents: dict[str, bytes]) -> None:
    """Folders of one subject that several killed holders left side by side."""
    for number, files in enumerate(contents):
        aside = take_over(root, "m", f"old{number}")
        for digest, content in files.items():
            staged(aside, digest, content)
        aside.folder.rename(root.parent / f"aside{number}")
    for number in range(len(contents)):
        (root.parent / f"aside{number}").rename(root / f"{slug('m')}@old{number}")


def test_many_leftovers_become_one_and_the_fuller_copy_stays(tmp_path: Path) -> None:
    """Whatever several killed holders left is joined, blob by blob, data with its journal."""
    root = tmp_path / "staging"
    small, large = b"s" * 5000, b"l" * 50_000
    leftovers(root, {A: small, B: large}, {A: large, C: small}, {B: small})
    new = take_over(root, "m", "new")
    assert [entry.name for entry in root.iterdir()] == [new.folder.name]
    assert {digest: len(new.path(digest).read_bytes()) for digest in (A, B, C)} == {A: 50_000, B: 50_000, C: 5000}
    assert {digest: journal(new, digest).read_text() for digest in (A, B)} == {A: "50000", B: "50000"}
    assert len(list(new.folder.iterdir())) == 6


def test_joining_that_was_cut_short_is_finished_by_the_next(tmp_path: Path) -> None:
    """What a holder had taken and not yet joined when it died is joined by the next, and left nowhere."""
    first = take_over(tmp_path, "m", "one")
    taken = Staging("m", "one", first.folder / ".taken")
    deeper = Staging("m", "one", first.folder / ".taken" / ".taken")
    deeper.folder.mkdir(parents=True)
    staged(taken, A, b"a")
    staged(deeper, B, b"b")
    taken.path(C).write_bytes(b"data without its journal")
    new = take_over(tmp_path, "m", "two")
    assert sorted(entry.name for entry in new.folder.iterdir()) == sorted(
        path.name for digest in (A, B) for path in (new.path(digest), journal(new, digest))
    )


def test_of_many_holders_at_once_one_stays(tmp_path: Path) -> None:
    """Without any lock, holders that start together end with one folder that has the bytes; the rest are fenced."""
    for _ in range(20):
        staged(take_over(tmp_path, "m", "old"), A, b"half")
        gate = threading.Barrier(4)
        ended: list[Staging | Exception] = []

        def start(holder: str, gate: threading.Barrier = gate, ended: list[Staging | Exception] = ended) -> None:
            gate.wait()
            try:
                ended.append(take_over(tmp_path, "m", holder))
            except Exception as error:
                ended.append(error)

        threads = [threading.Thread(target=start, args=(f"h{number}",)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not [each for each in ended if not isinstance(each, Staging | Fenced)], ended
        final = take_over(tmp_path, "m", "last")
        assert [entry.name for entry in tmp_path.iterdir()] == [final.folder.name]
        assert final.path(A).read_bytes() == b"half"


def test_release_fences_the_holder_and_keeps_the_bytes(tmp_path: Path) -> None:
    """A released folder is nobody's, asking again changes nothing, and the next attempt goes on from it."""
    holders = []
    for number in range(2):
        holder = take_over(tmp_path, "m", "sleeper")
        staged(holder, (A, B)[number], b"half")
        assert release(tmp_path, "m") == 1
        assert release(tmp_path, "m") == 0
        with pytest.raises(Fenced):
            holder.hold()
        holders.append(holder)
        (folder,) = folders(tmp_path)
        assert (folder.holder, folder.slug) == ("", slug("m"))
    new = take_over(tmp_path, "m", "next")
    assert {path.read_bytes() for path in (new.path(A), new.path(B))} == {b"half"}


def test_discarding_removes_what_is_ours_and_only_that(tmp_path: Path) -> None:
    """A folder that was taken over is not discarded by its old holder."""
    old = take_over(tmp_path, "m", "one")
    staged(old, A, b"half")
    new = take_over(tmp_path, "m", "two")
    old.discard()
    assert new.path(A).exists()
    new.discard()
    new.discard()
    assert list(tmp_path.iterdir()) == []


def test_discarding_that_was_cut_short_is_finished_by_whoever_stages_next(tmp_path: Path) -> None:
    """What a killed holder was throwing away does not stay for ever."""
    old = take_over(tmp_path, "m", "one")
    staged(old, A, b"half")
    old.folder.rename(tmp_path / f"~{old.folder.name}")
    assert take_over(tmp_path, "another", "two").folder.parent == tmp_path
    assert len(list(tmp_path.iterdir())) == 1


def test_a_blob_is_settled_only_by_its_holder_and_in_full(tmp_path: Path) -> None:
    """Size alone proves nothing: a sparse file has its full size from the first byte."""
    staging = take_over(tmp_path, "m", "one")
    layer = layer_of(b"a")
    staging.path(A).write_bytes(b"\0")
    assert not staging.is_settled(layer)
    staging.settle(A)
    assert staging.is_settled(layer)
    assert not take_over(tmp_path, "m", "two").is_settled(layer)


@pytest.mark.parametrize("holder", ["", "a/b", "a@b", "released-1", "x" * 81, "a\n"])
def test_what_cannot_name_a_holder_is_refused(tmp_path: Path, holder: str) -> None:
    """A holder's name is part of a path."""
    with pytest.raises(ValueError, match="does not name a holder"):
        take_over(tmp_path, "m", holder)


@pytest.mark.parametrize("digest", ["../x", "sha256:..", A + "/x"])
def test_only_a_digest_reaches_a_path(tmp_path: Path, digest: str) -> None:
    """Nothing but a digest names a staged blob."""
    with pytest.raises(ValueError, match="no digest"):
        take_over(tmp_path, "m", "one").path(digest)
