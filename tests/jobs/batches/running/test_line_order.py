"""Which line goes next to a tier."""

import tracemalloc
from array import array
from collections.abc import Iterable
from pathlib import Path

import pytest

from jobs.batches.lines.line_index import IndexWriter, Lines
from jobs.batches.running.line_order import LineOrder, Turn, by_model, only
from tests.support.batch_files import batch_of, line, lines_of, packed, posted, storage_at


def order(*groups: Iterable[int]) -> LineOrder:
    return LineOrder([array("I", each) for each in groups])


def taken(of: LineOrder, now: float = 0.0) -> list[int]:
    found = []
    while (turn := of.next(now)) is not None:
        found.append(turn.line)
    return found


def test_models_go_one_after_the_other() -> None:
    """All lines of one model, then those of the next: models do not push each other out of memory."""
    of = order([1, 4, 5], [], [2, 3])
    assert of.left == 5
    assert taken(of) == [1, 4, 5, 2, 3]


def test_a_line_that_comes_again_waits_its_time_and_goes_first() -> None:
    """With its tries; others go meanwhile."""
    of = order([1, 2, 3])
    first = of.next(0.0)
    assert first == Turn(1, 0)
    of.again(Turn(1, 1), 5.0)
    assert of.next(1.0) == Turn(2, 0)
    assert of.due == 5.0
    assert of.next(5.0) == Turn(1, 1)
    assert taken(of) == [3]
    assert of.due is None


def test_lines_that_stand_together_are_read_together() -> None:
    """As many as follow one another in the file and are to be sent."""
    of = order([1, 2, 3, 7, 8])
    turn = of.next(0.0)
    assert turn is not None
    assert of.following(turn.line, 64) == 3
    assert of.following(turn.line, 2) == 2
    assert [of.next(0.0), of.next(0.0)] == [Turn(2, 0), Turn(3, 0)]
    assert of.following(3, 64) == 1


def test_lines_are_found_by_their_models(tmp_path: Path) -> None:
    """Those that have no result, in the order of the file."""
    storage = storage_at(tmp_path)
    texts = [line(n, body={"model": "ab"[n % 2], "messages": []}) for n in range(1, 8)]
    lines = lines_of(storage, posted(storage, storage.save("ann", "f", packed(texts))))
    groups = by_model(lines, lambda number: number == 3)
    assert {model: list(numbers) for model, numbers in groups.items()} == {"b": [1, 5, 7], "a": [2, 4, 6]}
    assert {model: list(numbers) for model, numbers in only(groups, {4, 5}).items()} == {"b": [5], "a": [4]}
    assert only(groups, set()) == {}


@pytest.mark.parametrize("models", [1, 3])
def test_a_line_takes_four_bytes(tmp_path: Path, models: int) -> None:
    """A million lines take as much more than half a million as their numbers do, and nothing else grows."""
    storage = storage_at(tmp_path)
    record = batch_of(storage, 1)
    index = IndexWriter(storage, record.id)
    most = 1_000_000
    for number in range(most):
        index.add(200 * number, number % models)
    index.finish(200 * most)
    names = [f"m{number}" for number in range(models)]

    def takes(count: int) -> int:
        tracemalloc.start()
        try:
            found = LineOrder(by_model(Lines(storage, record, names, count), lambda _: False).values())
            assert found.left == count
            return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()

    half, whole = takes(most // 2), takes(most)
    assert whole - half < 1.25 * 4 * (most // 2)  # an array grows by an eighth at a time
