"""The queue of a download's ranges: who may fetch what, and when. No thread and no disk is needed to try it."""

from pathlib import Path

import pytest

from jobs.registry.range_queue import Blob, DownloadStopped, Range, RangeQueue
from jobs.weights.manifest import Layer


def blob(*pending: tuple[int, int], size: int = 30) -> Blob:
    return Blob(Layer("m", f"sha256:{'0' * 64}", size), Path("blob"), list(pending), {})


def taken(queue: RangeQueue) -> Range:
    part = queue.take()
    assert isinstance(part, Range)
    return part


def test_a_range_that_landed_costs_its_permit_until_it_is_kept() -> None:
    """No more ranges are on their way or landed than there are permits; keeping one frees its permit."""
    first = blob((0, 10), (10, 20), (20, 30))
    queue = RangeQueue([first], permits=1)
    part = taken(queue)
    part.at = part.stop
    queue.land(part)
    landed = queue.landed()
    assert [(each.start, each.stop) for each in landed] == [(0, 10)]
    assert queue.bytes_left == 30

    queue.keep(landed)

    assert queue.bytes_left == 20
    assert taken(queue).start == 10


def test_a_range_that_was_cut_short_is_pending_again() -> None:
    """It is given back with its permit, and whoever takes next begins it anew."""
    queue = RangeQueue([blob((0, 10), (10, 20))], permits=1)
    part = taken(queue)
    part.at = 4
    queue.land(part)

    again = taken(queue)

    assert (again.start, again.stop, again.at) == (0, 10, 0)
    assert queue.unkept() == []


def test_a_blob_that_is_read_through_is_one_connections() -> None:
    """Where ranges are ignored one connection takes the blob, needs no permit, and the next blob goes on beside it."""
    whole, other = blob((0, 10), (20, 30)), blob((0, 5))
    whole.is_sequential = True
    queue = RangeQueue([whole, other], permits=1)

    assert queue.take() is whole
    assert taken(queue).blob is other
    skipped = queue.take_from(whole, 5)
    assert skipped is not None
    assert (skipped.start, skipped.has_permit) == (20, False)
    assert queue.take_from(whole, 5) is None
    queue.release(whole)
    assert not whole.is_busy


def test_the_hasher_follows_what_is_kept_in_order() -> None:
    """It is handed at most so many bytes at once, and the rest of a span later."""
    first = blob((10, 20))
    first.kept[0] = 10
    queue = RangeQueue([first], permits=1)

    assert queue.kept_after(first, 0, most=6) == 6
    assert queue.kept_after(first, 6, most=6) == 10


def test_nobody_waits_for_a_queue_that_was_stopped() -> None:
    """Connections have nothing to do, the keeper has nothing to keep, and the hasher is told; halves are remembered."""
    first = blob((0, 10), (10, 20))
    queue = RangeQueue([first], permits=2)
    landed, half = taken(queue), taken(queue)
    landed.at, half.at = 10, 13
    queue.land(landed)
    queue.leave_half(half)

    queue.stop()

    assert queue.take() is None
    assert queue.landed() == []
    with pytest.raises(DownloadStopped):
        queue.kept_after(first, 0, most=10)
    assert [(each.start, each.at) for each in queue.unkept()] == [(0, 10), (10, 13)]


def test_nothing_is_left_when_all_is_kept() -> None:
    """A download of which all was found on disk ends without a request."""
    queue = RangeQueue([blob()], permits=1)

    assert queue.take() is None
    assert queue.landed() == []
