"""Promises of app.log_queue: who logs never waits, what is lost is counted and told, what was taken is written."""

import errno
import os
import threading
from pathlib import Path

import pytest

from app.log_queue import LineQueue, RotatedFile, to_descriptor
from tests.support.waiting import PATIENCE, until


class Gate:
    """A reader who takes lines when he likes, and whose disk is full when we like."""

    def __init__(self) -> None:
        self.is_open = threading.Event()
        self.is_full = False
        self.is_asked = threading.Event()
        self.taken: list[str] = []

    def write(self, text: str) -> None:
        self.is_asked.set()
        assert self.is_open.wait(PATIENCE)
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.taken += text.splitlines(keepends=True)


def missing(count: int) -> str:
    return f"{count} missing\n"


@pytest.fixture
def gate() -> Gate:
    return Gate()


def test_what_finds_no_place_is_dropped_counted_and_told_once_it_flows(gate: Gate) -> None:
    """While nobody reads, writing returns; what was beyond the limit is told as missing, once, when it flows again."""
    queue = LineQueue(gate.write, missing, limit=100)
    queue.write("first\n")
    assert gate.is_asked.wait(PATIENCE)
    for number in range(100):
        queue.write(f"line {number:03}\n")
    assert queue.dropped == 100 - (100 - len("first\n")) // len("line 000\n")
    gate.is_open.set()
    until(lambda: len(gate.taken) > 1)
    queue.write("later\n")
    queue.stop()
    assert gate.taken[0] == "first\n"
    assert gate.taken.count("90 missing\n") == 1
    assert [line for line in gate.taken if line.startswith("line")] == [f"line {number:03}\n" for number in range(10)]
    assert gate.taken[-1] == "later\n"


def test_a_full_disk_costs_lines_and_nothing_else(gate: Gate) -> None:
    """Lines that a full disk refuses are missing and told; the next ones are written."""
    gate.is_open.set()
    gate.is_full = True
    queue = LineQueue(gate.write, missing)
    queue.write("lost\n")
    until(lambda: queue.dropped == 1)
    gate.is_full = False
    queue.write("kept\n")
    queue.stop()
    assert gate.taken == ["kept\n", "1 missing\n"]


def test_an_end_writes_what_is_left_and_waits_for_no_reader(gate: Gate) -> None:
    """Stopping writes what was taken; of a reader who takes nothing it waits the stated time and no longer."""
    queue = LineQueue(gate.write, missing, drain_seconds=0.01)
    queue.write("taken\n")
    queue.stop()
    assert gate.taken == []
    gate.is_open.set()
    until(lambda: gate.taken == ["taken\n"])
    queue.write("too late\n")
    assert queue.dropped == 1


def test_whole_lines_reach_a_pipe_in_their_order() -> None:
    """Many threads' lines, more than a pipe holds, all arrive whole, each thread's in its order."""
    reading, writing = os.pipe()
    queue = LineQueue(to_descriptor(writing), missing, drain_seconds=30)

    def log(name: str) -> None:
        for number in range(2_000):
            queue.write(f"{name} {number} \udcff\n")

    threads = [threading.Thread(target=log, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    said: list[bytes] = []

    def read() -> None:
        with os.fdopen(reading, "rb") as pipe:
            said.extend(pipe.readlines())

    reader = threading.Thread(target=read)
    reader.start()
    for thread in threads:
        thread.join()
    queue.stop()
    os.close(writing)
    reader.join()
    for name in "abc":
        ours = [line for line in said if line.startswith(name.encode())]
        assert ours == [rf"{name} {number} \udcff".encode() + b"\n" for number in range(2_000)]


def test_a_file_is_rotated_and_survives_its_folder(tmp_path: Path) -> None:
    """A file that is full makes place for the next; one that cannot be opened raises, and is written once it can be."""
    log = RotatedFile(tmp_path / "there" / "log", limit=20, keep=2)
    with pytest.raises(OSError, match="No such file"):
        log.write_lines("lost\n")
    (tmp_path / "there").mkdir()
    for number in range(6):
        log.write_lines(f"line {number}\nand {number}\n")
    log.close()
    kept = {path.name: path.read_text() for path in (tmp_path / "there").iterdir()}
    assert kept == {"log": "line 5\nand 5\n", "log.1": "line 4\nand 4\n", "log.2": "line 3\nand 3\n"}


def test_who_writes_closes_what_it_wrote_to(gate: Gate) -> None:
    """The descriptor is closed after the last line and by the thread that writes, so no write meets another's file."""
    closed: list[str] = []
    queue = LineQueue(
        gate.write, missing, close=lambda: closed.append(threading.current_thread().name), drain_seconds=30
    )
    queue.write("last\n")
    assert gate.is_asked.wait(PATIENCE)
    assert closed == []
    gate.is_open.set()
    queue.stop()
    assert (gate.taken, closed) == (["last\n"], ["log"])
