"""The journal of a pull on a disk that fills while it is written."""

import errno
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs.registry import range_journal as journal
from jobs.weights.manifest import Layer


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """Files may have so many bytes at most: the system takes a part of a write, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_half_a_line_of_the_journal_spoils_nothing(tmp_path: Path, small_files: Callable[[int], None]) -> None:
    """A line for which there is room in part is taken back whole, so what the journal said before still counts, and so
    does what it says once there is room."""
    layer = Layer("m", f"sha256:{'a' * 64}", 1_000_000)
    staged = tmp_path / "sha256-a"
    assert journal.resume(staged, layer) == []
    journal.record(staged, [(0, 1000)])
    size = journal.journal_of(staged).stat().st_size
    small_files(size + 5)
    with pytest.raises(OSError, match="File too large") as refused:
        journal.record(staged, [(1000, 200_000)])
    assert refused.value.errno == errno.EFBIG
    assert journal.journal_of(staged).stat().st_size == size
    small_files(1 << 30)
    journal.record(staged, [(2000, 3000)])
    assert journal.resume(staged, layer) == [(0, 1000), (2000, 3000)]
