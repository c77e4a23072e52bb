"""Promises of jobs.core.progress: what is counted, and at which rate."""

from jobs.core.progress import Progress
from jobs.testing.clock import HandClock


def test_what_was_there_is_no_part_of_the_rate() -> None:
    """Bytes that were found bring it further; the rate, and what came in all, are those that moved."""
    clock = HandClock()
    progress = Progress(clock)
    progress.begin("pulling", total=10_000, completed=0)
    progress.find(6_000)
    for _ in range(4):
        progress.advance(100)
        clock.tick(1)
    progress.find(2_000)

    reading = progress.read()
    assert (reading.completed, reading.bytes_per_second) == (8_400, 75.0)  # the first hundred is where it begins
    assert progress.moved_bytes == 400


def test_what_is_taken_back_had_come() -> None:
    """What has to be fetched again is no movement, and what was fetched of it is counted all the same."""
    progress = Progress(HandClock())
    progress.advance(500)
    progress.advance(-500)
    assert (progress.read().completed, progress.moved_bytes) == (0, 500)
