"""The journal beside a half-fetched blob."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.registry import range_journal as journal
from jobs.weights.manifest import Layer

BLOB = Layer("x", f"sha256:{'a' * 64}", 1000)
SPANS = st.lists(st.tuples(st.integers(0, 999), st.integers(1, 1000)).filter(lambda span: span[0] < span[1]))


@given(SPANS, st.integers(1, 1500))
def test_had_and_missing_make_the_whole(spans: list[journal.ByteRange], step: int) -> None:
    """What was recorded and what is missing cover each byte once, and no missing span is longer than a range."""
    with tempfile.TemporaryDirectory() as folder:
        staged = Path(folder) / "blob"
        assert journal.resume(staged, BLOB) == []
        journal.record(staged, spans)
        had = journal.resume(staged, BLOB)
    gaps = list(journal.missing(had, BLOB.size, step))
    assert sorted(at for start, stop in had + gaps for at in range(start, stop)) == list(range(BLOB.size))
    assert {at for start, stop in had for at in range(start, stop)} == {
        at for start, stop in spans for at in range(start, stop)
    }
    assert all(stop - start <= step for start, stop in gaps)


@given(st.integers(0, 200))
def test_a_journal_torn_anywhere_is_never_wrong(length: int) -> None:
    """A journal cut at any byte claims nothing that the whole one did not, and can be written on."""
    spans = [(0, 10), (100, 250), (700, 1000)]
    with tempfile.TemporaryDirectory() as folder:
        staged = Path(folder) / "blob"
        journal.resume(staged, BLOB)
        journal.record(staged, spans)
        path = journal.journal_of(staged)
        path.write_bytes(path.read_bytes()[:length])
        had = journal.resume(staged, BLOB)
        assert set(had) <= set(spans)
        journal.record(staged, [(300, 400)])
        assert journal.resume(staged, BLOB) == sorted([*had, (300, 400)])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda staged: staged.unlink(),
        lambda staged: staged.write_bytes(b"short"),
        lambda staged: journal.journal_of(staged).unlink(),
        lambda staged: journal.journal_of(staged).write_text("sha256:other 1000\n0 10\n"),
        lambda staged: journal.journal_of(staged).write_bytes(bytes(50) + b"\n"),
    ],
    ids=["no file", "short file", "no journal", "another blob's", "garbage"],
)
def test_a_journal_that_does_not_fit_begins_the_blob_again(spoil: object, tmp_path: Path) -> None:
    """File and journal that contradict one another are both replaced."""
    assert callable(spoil)
    staged = tmp_path / "blob"
    journal.resume(staged, BLOB)
    journal.record(staged, [(0, 10)])
    assert journal.resume(staged, BLOB) == [(0, 10)]
    spoil(staged)
    assert journal.resume(staged, BLOB) == []
    assert staged.stat().st_size == BLOB.size


@pytest.mark.parametrize("line", ["900 1001", "", "7", "12 ", "30 20", "-5 20", "1e2 300", "\0\0\0\0"])
def test_a_line_that_makes_no_sense_costs_that_line_alone(line: str, tmp_path: Path) -> None:
    """Whatever became of a line in the middle, the spans before and after it are still had."""
    staged = tmp_path / "blob"
    journal.resume(staged, BLOB)
    journal.record(staged, [(0, 10)])
    with journal.journal_of(staged).open("a") as file:
        file.write(f"{line}\n")
    journal.record(staged, [(500, 700)])
    assert journal.resume(staged, BLOB) == [(0, 10), (500, 700)]


@given(SPANS, SPANS, st.data())
def test_a_write_that_breaks_off_costs_what_it_was_about(
    before: list[journal.ByteRange], after: list[journal.ByteRange], data: st.DataObject
) -> None:
    """A disk that takes only the beginning of a line: nothing is claimed that was not vouched for, and what is vouched
    for later, by the same process, is not lost to it."""
    with tempfile.TemporaryDirectory() as folder:
        staged = Path(folder) / "blob"
        journal.resume(staged, BLOB)
        journal.record(staged, before)
        path = journal.journal_of(staged)
        whole = path.stat().st_size
        journal.record(staged, [(120, 640)])
        os.truncate(path, data.draw(st.integers(whole, path.stat().st_size)))
        journal.record(staged, after)
        had = journal.resume(staged, BLOB)
    claimed = {at for start, stop in had for at in range(start, stop)}
    vouched = {at for start, stop in before + after for at in range(start, stop)}
    assert vouched <= claimed <= vouched | set(range(120, 640))


def test_a_short_write_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that takes three bytes at a time gets all of them."""
    staged, write = tmp_path / "blob", os.write
    journal.resume(staged, BLOB)
    monkeypatch.setattr(os, "write", lambda file, data: write(file, bytes(data)[:3]))
    journal.record(staged, [(0, 10), (100, 250)])
    assert journal.resume(staged, BLOB) == [(0, 10), (100, 250)]
