"""Readers ahead bring the blobs of a model into the page cache, no further ahead of the engine than they may."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from loguru import logger

from app.model_server.starting.read_ahead import BLOCK, ReadAhead
from jobs.core.clock import SystemClock
from jobs.testing.clock import HandClock
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
    sizes = (3 * BLOCK, BLOCK + 1, 0, 1, 5 * BLOCK - 1)
    ahead = readers([sparse(tmp_path / str(number), size) for number, size in enumerate(sizes)])

    ahead.start()
    ahead.join()

    assert ahead.progress().done == sum(sizes)
    assert not open_files(tmp_path)


def test_small_weights_have_few_readers(tmp_path: Path) -> None:
    """A reader takes memory for a block, while a server starts: there are no more of them than blocks."""
    ahead = readers([sparse(tmp_path / "blob", BLOCK + 1)], most_ahead=0, count=16)
    before = set(threading.enumerate())
    ahead.start()
    begun = set(threading.enumerate()) - before
    ahead.stop()
    ahead.join()

    assert len(begun) == 2


def test_weights_of_no_bytes_are_read_at_once(tmp_path: Path) -> None:
    """There is nothing to bring, no rate that makes no sense, and nobody waits for the engine."""
    ahead = readers([sparse(tmp_path / "blob", 0)], most_ahead=0)
    ahead.start()
    ahead.join()

    assert ahead.progress().done == 0
    assert not ahead.progress().per_second


def test_readers_wait_for_the_engine(tmp_path: Path) -> None:
    """No more is read ahead than may be; as the engine takes bytes in, as many more are."""
    taken = 0
    ahead = readers([sparse(tmp_path / "blob", 20 * BLOCK)], most_ahead=3 * BLOCK, taken_in=lambda: taken)

    ahead.start()
    until(lambda: ahead.progress().done == 3 * BLOCK)
    assert ahead.progress().done <= 3 * BLOCK
    taken = 4 * BLOCK
    until(lambda: ahead.progress().done == 7 * BLOCK)
    taken = 20 * BLOCK
    ahead.join()

    assert ahead.progress().done == 20 * BLOCK


def test_readers_stop_when_told(tmp_path: Path) -> None:
    """Who loads a model stops them: they end though the engine never took anything in, and their time ends too."""
    ahead = readers([sparse(tmp_path / "blob", 20 * BLOCK)], most_ahead=2 * BLOCK)
    ahead.start()
    until(lambda: ahead.progress().done == 2 * BLOCK)

    ahead.stop()
    ahead.join()

    assert ahead.progress().done == 2 * BLOCK
    assert not open_files(tmp_path)


def test_what_is_not_there_is_left_to_the_engine(tmp_path: Path) -> None:
    """A blob that is missing is not read, and is no failure: the engine tells it better."""
    ahead = readers([tmp_path / "missing", sparse(tmp_path / "there", BLOCK)])

    ahead.start()
    ahead.join()

    assert ahead.progress().done == BLOCK


def test_a_failing_read_ends_reading_ahead(tmp_path: Path) -> None:
    """A read that fails is told once in the log, and ends all readers."""
    folder = tmp_path / "blob"
    folder.mkdir()
    ahead = readers([folder], count=1)
    lines: list[str] = []
    sink = logger.add(lines.append, format="{message}")
    try:
        ahead.start()
        ahead.join()
    finally:
        logger.remove(sink)

    assert ahead.progress().done == 0
    assert len([line for line in lines if "no more is read ahead" in line]) == 1


def test_the_rate_is_that_of_the_reading(tmp_path: Path) -> None:
    """Bytes are told with their rate, and the time that passes after the last byte is not counted in it."""
    clock = HandClock()
    ahead = ReadAhead([sparse(tmp_path / "blob", BLOCK)], clock, most_ahead=BLOCK, taken_in=lambda: 0, readers=1)
    ahead.start()
    ahead.join()
    before = ahead.progress()
    clock.tick(3600)

    assert ahead.progress() == before
    assert before.done == BLOCK


def test_readers_give_up_an_engine_that_takes_nothing(tmp_path: Path) -> None:
    """An engine that failed, or does not tell what it takes in, is waited for during two minutes and no longer."""
    clock = HandClock()
    ahead = ReadAhead([sparse(tmp_path / "blob", 4 * BLOCK)], clock, most_ahead=BLOCK, taken_in=lambda: 0, readers=2)
    ahead.start()
    ahead.join()  # the clock is moved by those who wait

    assert ahead.progress().done == BLOCK
    assert clock.monotonic() >= 120
