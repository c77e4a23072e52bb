"""Bringing blobs to disk, from a source that lives in memory."""

import hashlib
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.core.clock import SystemClock
from jobs.core.errors import Cancelled, CutShort, DiskFull, Fenced, ServerTrouble
from jobs.core.progress import Progress
from jobs.core.retry import AT_ONCE
from jobs.registry import range_journal as journal
from jobs.registry.download import Fetch
from jobs.registry.range_journal import ByteRange
from jobs.registry.shared_rate import SharedRate
from jobs.testing.clock import HandClock
from jobs.testing.models import SimLayer, weights
from jobs.weights.manifest import Layer
from tests.support.waiting import PATIENCE

CLOCK = SystemClock()


class MemorySource:
    """Serves layers in small chunks; stops for good after `budget` bytes, as a killed process would."""

    def __init__(self, *blobs: SimLayer, budget: int | None = None, ranges: bool = True, chunk: int = 700) -> None:
        self.blobs = {blob.digest: blob for blob in blobs}
        self.budget = budget
        self.ranges = ranges
        self.chunk = chunk
        self.served = 0
        self.asked: list[ByteRange] = []
        self._lock = threading.Lock()

    @contextmanager
    def open(self, layer: Layer, start: int, stop: int) -> Iterator[tuple[ByteRange, Iterator[bytes]]]:
        span = (start, stop) if self.ranges else (0, layer.size)
        with self._lock:
            self.asked.append(span)
        yield span, self._chunks(self.blobs[layer.digest].read(*span))

    def _chunks(self, body: bytes) -> Iterator[bytes]:
        for at in range(0, len(body), self.chunk):
            piece = body[at : at + self.chunk]
            with self._lock:
                if self.budget is not None and self.served + len(piece) > self.budget:
                    raise ServerTrouble("gone")
                self.served += len(piece)
            yield piece

    def hang_up(self) -> None:
        pass


def layer(blob: SimLayer) -> Layer:
    return Layer(blob.media_type, blob.digest, blob.size)


def fetch(
    source: MemorySource, folder: Path, *, range_bytes: int = 4096, connections: int = 3, limit: int | None = None
) -> Fetch:
    return Fetch(
        source,
        [layer(blob) for blob in source.blobs.values()],
        lambda each: folder / each.hex,
        progress=Progress(CLOCK),
        clock=CLOCK,
        policy=AT_ONCE,
        stall=timedelta(seconds=PATIENCE),
        connections=connections,
        range_bytes=range_bytes,
        limit=limit,
    )


def go_on() -> None:
    """A check that has nothing against it."""


def sha(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(0, 30_000),
    range_bytes=st.integers(500, 9_000),
    later_range_bytes=st.integers(500, 9_000),
    connections=st.integers(1, 5),
    budget=st.integers(0, 30_000),
    ranges=st.booleans(),
)
def test_whatever_ends_a_fetch_the_next_completes_it(
    *, size: int, range_bytes: int, later_range_bytes: int, connections: int, budget: int, ranges: bool
) -> None:
    """A fetch cut anywhere, resumed with any other range size, ends with the right bytes, and keeps what had come."""
    unique = {blob.digest: blob for blob in (weights("odd", size), weights("other", size // 3 + 1))}
    blobs = tuple(unique.values())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first = MemorySource(*blobs, budget=budget, ranges=ranges)
        try:
            fetch(first, folder, range_bytes=range_bytes, connections=connections).run(go_on)
        except ServerTrouble:
            had = sum(
                stop - start for blob in blobs for start, stop in journal.resume(folder / layer(blob).hex, layer(blob))
            )
        else:
            had = sum(blob.size for blob in blobs)
        second = MemorySource(*blobs, ranges=ranges)
        fetch(second, folder, range_bytes=later_range_bytes, connections=connections).run(go_on)
        assert [sha(folder / layer(blob).hex) for blob in blobs] == [blob.digest for blob in blobs]
        if ranges:
            assert second.served == sum(blob.size for blob in blobs) - had
            assert had == first.served


def test_many_small_blobs_are_fetched_side_by_side(tmp_path: Path) -> None:
    """A hundred small blobs come in one fetch, each asked for once."""
    source = MemorySource(*[weights(f"small {index}", 100 + index) for index in range(100)])
    fetch(source, tmp_path, connections=8).run(go_on)
    assert len(source.asked) == 100
    assert all(sha(tmp_path / digest.removeprefix("sha256:")) == digest for digest in source.blobs)


def test_a_check_that_raises_ends_the_fetch_and_keeps_what_came(tmp_path: Path) -> None:
    """A cancelled fetch joins its threads, and its bytes need not be fetched again."""
    blob = weights("cancelled", 400_000)
    source = MemorySource(blob)
    limited = fetch(source, tmp_path, limit=200_000)
    before = threading.active_count()

    def cancel() -> None:
        if source.served > 20_000:
            raise Cancelled

    with pytest.raises(Cancelled):
        limited.run(cancel)
    assert threading.active_count() == before
    had = journal.resume(tmp_path / layer(blob).hex, layer(blob))
    assert sum(stop - start for start, stop in had) == source.served


def test_what_came_while_a_fetch_was_stopped_is_kept(tmp_path: Path) -> None:
    """Bytes that one connection has in hand as another one's trouble ends the fetch are written, and vouched for."""
    blob = weights("late", 8_000)
    left, in_hand = threading.Event(), threading.Event()

    class Late(MemorySource):
        def _chunks(self, body: bytes) -> Iterator[bytes]:
            if body != blob.read(0, 4_000):
                assert in_hand.wait(PATIENCE)
                raise ServerTrouble("gone")
            for piece in super()._chunks(body):
                in_hand.set()
                assert left.wait(PATIENCE)
                yield piece

        def hang_up(self) -> None:
            left.set()

    source = Late(blob)
    with pytest.raises(ServerTrouble, match="gone"):
        fetch(source, tmp_path, range_bytes=4_000, connections=2).run(go_on)
    assert journal.resume(tmp_path / layer(blob).hex, layer(blob)) == [(0, source.chunk)]
    assert source.served == source.chunk


def test_bytes_beyond_what_was_asked_for_are_refused(tmp_path: Path) -> None:
    """A source that sends too much cannot write over the ranges beside its own."""
    blob = weights("greedy", 10_000)
    source = MemorySource(blob)

    @contextmanager
    def greedy(layer: Layer, start: int, stop: int) -> Iterator[tuple[ByteRange, Iterator[bytes]]]:
        yield (start, stop), iter([bytes(stop - start + 1)])

    source.open = greedy  # type: ignore[method-assign]
    with pytest.raises(ServerTrouble, match="more bytes"):
        fetch(source, tmp_path).run(go_on)


def test_a_source_that_moves_is_never_given_up(tmp_path: Path) -> None:
    """A range cut twenty times completes, though the policy allows three tries: each one brought bytes."""
    blob = weights("choppy", 20_000)
    source = MemorySource(blob)
    whole = source.open

    @contextmanager
    def choppy(layer: Layer, start: int, stop: int) -> Iterator[tuple[ByteRange, Iterator[bytes]]]:
        with whole(layer, start, min(stop, start + 1000)) as (_, chunks):
            yield (start, stop), chunks

    source.open = choppy  # type: ignore[method-assign]
    fetch(source, tmp_path, range_bytes=20_000, connections=1).run(go_on)
    assert sha(tmp_path / layer(blob).hex) == blob.digest
    assert source.served == blob.size


def test_a_source_that_stands_still_is_given_up(tmp_path: Path) -> None:
    """A range that never brings a byte ends the fetch after the policy's tries."""
    source = MemorySource(weights("empty", 5_000), chunk=1000)

    @contextmanager
    def nothing(layer: Layer, start: int, stop: int) -> Iterator[tuple[ByteRange, Iterator[bytes]]]:
        source.asked.append((start, stop))
        yield (start, stop), iter(())

    source.open = nothing  # type: ignore[method-assign]
    with pytest.raises(CutShort, match="5000 bytes early"):
        fetch(source, tmp_path, range_bytes=5000, connections=1).run(go_on)
    assert len(source.asked) == AT_ONCE.attempts


def test_a_staging_folder_taken_away_fences(tmp_path: Path) -> None:
    """A holder whose folder was renamed by the next one stops as fenced."""
    folder = tmp_path / "mine"
    folder.mkdir()
    holder = fetch(MemorySource(weights("fenced", 9_000)), folder)
    folder.rename(tmp_path / "theirs")
    with pytest.raises(Fenced):
        holder.run(go_on)


def test_a_full_disk_is_told_as_such() -> None:
    """ENOSPC while writing ends the fetch as DiskFull."""
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full, which Linux has")
    blob = weights("full", 9_000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        blocked = fetch(MemorySource(blob), folder)
        staged = folder / layer(blob).hex
        staged.unlink()
        staged.symlink_to(full)
        with pytest.raises(DiskFull, match="writing sha256:"):
            blocked.run(go_on)


def test_a_rate_is_shared_by_whoever_reserves() -> None:
    """Bytes reserved by any connection push the next one's turn back; idle time is not saved up."""
    clock = HandClock()
    pace = SharedRate(1000, clock)
    assert pace.reserve(500) == pytest.approx(0.5)
    assert pace.reserve(500) == pytest.approx(1.0)
    clock.tick(10)
    assert pace.reserve(100) == pytest.approx(0.1)
    assert SharedRate(None, clock).reserve(10**9) == 0
