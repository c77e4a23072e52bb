"""Readers ahead bring the blobs of a model into the page cache, no further ahead of the engine than they may."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from loguru import logger

from app.model_server.loading.read_ahead import BLOCK, ReadAhead
from jobs.core.clock import SystemClock
from tests.support.waiting import until


def sparse(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def readers(
    paths: Sequence[Path], *, most_ahead: int = 2**40, taken_in: Callable[[], int] = lambda: 0, count: int = 4
) -> ReadAhead:
    return ReadAhead(paths, SystemClock(), most_ahead=most_ahead, taken_in=taken_in, readers=count)


def open_files(folder: Path) -> list[Path]:
    held = [each.resolve() for each in Path("/proc/self/fd").iterdir()]
    return [each for each in held if each.is_relative_to(folder)]


def test_every_byte_of_every_file_is_read(tmp_path: Path) -> None:
    """All of it is read, however the sizes fall on blocks, and no file is left open."""
    sizes = (3 * BLOCK, BLOCK + 1, 1, 5 * BLOCK - 1)
    ahead = readers([sparse(tmp_path / str(number), size) for number, size in enumerate(sizes)])

    ahead.start()
    ahead.join()

    assert ahead.progress.done == ahead.size == sum(sizes)
    assert not open_files(tmp_path)


def test_readers_wait_for_the_engine(tmp_path: Path) -> None:
    """No more is read ahead than may be; as the engine takes bytes in, as many more are."""
    taken = 0
    ahead = readers([sparse(tmp_path / "blob", 20 * BLOCK)], most_ahead=3 * BLOCK, taken_in=lambda: taken)

    ahead.start()
    until(lambda: ahead.progress.done == 3 * BLOCK)
    assert ahead.progress.done <= 3 * BLOCK
    taken = 4 * BLOCK
    until(lambda: ahead.progress.done == 7 * BLOCK)
    taken = 20 * BLOCK
    ahead.join()

    assert ahead.progress.done == 20 * BLOCK


def test_readers_stop_when_told(tmp_path: Path) -> None:
    """Who loads a model stops them: they end though the engine never took anything in, and their time ends too."""
    ahead = readers([sparse(tmp_path / "blob", 20 * BLOCK)], most_ahead=2 * BLOCK)
    ahead.start()
    until(lambda: ahead.progress.done == 2 * BLOCK)

    ahead.stop()
    ahead.join()

    assert ahead.progress.done == 2 * BLOCK
    assert ahead.progress.seconds == ahead.progress.seconds
    assert not open_files(tmp_path)


def test_what_is_not_there_is_left_to_the_engine(tmp_path: Path) -> None:
    """A blob that is missing is not read, and is no failure: the engine tells it better."""
    ahead = readers([tmp_path / "missing", sparse(tmp_path / "there", BLOCK)])

    ahead.start()
    ahead.join()

    assert ahead.progress.done == ahead.size == BLOCK


@pytest.mark.parametrize("shape", ["gone", "a folder now"])
def test_a_failing_read_ends_reading_ahead(tmp_path: Path, shape: str) -> None:
    """A read that fails is told once in the log, and ends all readers."""
    path = sparse(tmp_path / "blob", 8 * BLOCK)
    ahead = readers([path], count=1)
    path.unlink()
    if shape == "a folder now":
        path.mkdir()

    lines: list[str] = []
    sink = logger.add(lines.append, format="{message}")
    try:
        ahead.start()
        ahead.join()
    finally:
        logger.remove(sink)

    assert ahead.progress.done == 0
    assert len([line for line in lines if "no more is read ahead" in line]) == 1


def test_as_many_read_at_once_as_are_asked_for(tmp_path: Path) -> None:
    """No more readers are started than there are blocks to read."""
    before = threading.active_count()
    ahead = readers([sparse(tmp_path / "blob", 2 * BLOCK)], most_ahead=0, count=32)

    ahead.start()
    assert threading.active_count() == before + 2
    ahead.stop()
    ahead.join()
