"""Bring blobs to disk in ranges over several connections, hashed as they land, resumable after any kind of death.

    source ──range──▶ connection threads ──pwrite──▶ keeper: fdatasync, journal ──▶ hasher: reads back, in order

Who does what next is for `range_queue` to say; here bytes are moved. Knows nothing of HTTP or registries. Memory use
depends on the number of connections, never on a blob's size.
"""

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from jobs.core.clock import Clock
from jobs.core.errors import Corrupt, CutShort, Fenced, NetworkTrouble, ServerTrouble, Stalled, os_trouble
from jobs.core.progress import Progress
from jobs.core.retry import Policy
from jobs.registry import range_journal as journal
from jobs.registry.range_journal import ByteRange
from jobs.registry.range_queue import Blob, DownloadStopped, Range, RangeQueue
from jobs.registry.shared_rate import SharedRate
from jobs.weights.manifest import Layer

_CHECK_SECONDS = 0.1
"""How often the caller's `check` is asked while threads work."""

_HASH_PIECE = 1 << 20
"""Large enough that hashing lets other threads run, small enough to stay in the CPU's cache."""

LEAST_RATE = 1_000
"""Bytes per second, over the time of a stall and all connections together: a byte now and then would keep a worker busy
for ever. The worst lines that anybody pulls a model over bring ten times as much."""

_CHUNK = 256 * 1024
"""What one read of a connection brings at most, as `jobs.registry.bulk_transport` reads."""

_sync_data: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)  # macOS has the second only


class BlobSource(Protocol):
    """Where ranges come from. Called from several threads."""

    def open(self, layer: Layer, start: int, stop: int) -> AbstractContextManager[tuple[ByteRange, Iterator[bytes]]]:
        """The bytes from `start` to `stop`, as they come.

        - answers the span that will come: the one asked for, or the whole blob when the other side ignores ranges
        - fewer bytes than that may come
        - raises Trouble; a NetworkTrouble is tried again
        """

    def hang_up(self) -> None:
        """Cut every connection, so that no thread stays blocked in a read, and open no other."""


def attend(futures: Sequence[Future[Any]], *, check: Callable[[], None], hang_up: Callable[[], None]) -> None:
    """Wait for all of them while asking `check`; whatever ends the wait early hangs up first.

    Raises:
        Exception: the first that a future or `check` raised.

    """
    try:
        pending: set[Future[Any]] = set(futures)
        while pending:
            check()
            done, pending = wait(pending, timeout=_CHECK_SECONDS, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
    except BaseException:
        hang_up()
        raise


class Fetch:
    """One fetch of several blobs. `run` it once.

    Args:
        source: asked for ranges by `connections` threads.
        layers: in the order to fetch and hash them, each digest once.
        staged: where a blob's bytes belong; the journal lies beside it.
        progress: bytes found on disk and bytes fetched are added to it; its total is the caller's.
        stall: no byte for this long ends the fetch, or so few that it would never end.
        limit: bytes per second, all connections together.
        verified: told each blob whose digest matched.

    """

    def __init__(
        self,
        source: BlobSource,
        layers: Sequence[Layer],
        staged: Callable[[Layer], Path],
        *,
        progress: Progress,
        clock: Clock,
        policy: Policy,
        stall: timedelta,
        connections: int,
        range_bytes: int,
        limit: int | None = None,
        verified: Callable[[Layer], None] = lambda _: None,
    ) -> None:
        self._source = source
        self._progress = progress
        self._clock = clock
        self._policy = policy
        self._stall = stall
        self._range_bytes = range_bytes
        self._verified = verified
        self._rate = SharedRate(limit, clock)
        #: Held by whoever takes bytes back or adds those that were found: a connection, or the hasher.
        self._recounting = threading.Lock()
        self._blobs = [self._prepared(layer, staged(layer)) for layer in layers]
        if limit:  # a chunk must pass within seconds, or slowness would look like a stall
            connections = min(connections, max(1, limit // _CHUNK))
        self._connections = max(1, min(connections, sum(len(blob.pending) for blob in self._blobs)))
        self._queue = RangeQueue(self._blobs, permits=self._connections)
        #: Written by every connection, read by the thread that runs it; no lock, because any of the last is as good.
        self._moved_at = clock.monotonic()
        #: Bytes; every connection adds to it, and one that is lost between two of them makes no difference.
        self._came = 0
        self._least = min(LEAST_RATE, (limit or LEAST_RATE) / 2) * stall.total_seconds()
        #: When the rate was measured last, and how many bytes had come by then; for the thread that runs it alone.
        self._last_measured = (self._moved_at, 0)

    def run(self, check: Callable[[], None]) -> None:
        """Fetch everything, or raise with all threads ended; what came is kept for the next time.

        Raises:
            Trouble: what the source raised when trying again did not help; Stalled; Corrupt; DiskFull; NotWritable.
            Interrupted: what `check` raised, or Fenced when the staging folder is gone.

        """

        def checked() -> None:
            check()
            idle = self._clock.monotonic() - self._moved_at
            if self._queue.bytes_left and idle > self._stall.total_seconds():
                raise Stalled(f"no byte came for {idle:.0f} seconds", hint="what was fetched so far is kept")
            self._need_rate()

        with ThreadPoolExecutor(self._connections + 2, thread_name_prefix="fetch") as pool:
            threads = [pool.submit(each) for each in (self._hash, self._keep, *[self._connect] * self._connections)]
            try:
                attend(threads, check=checked, hang_up=self._hang_up)
            finally:
                wait(threads)
                self._leave()

    def _need_rate(self) -> None:
        """Insist on more than drops.

        Raises:
            Stalled: since a stall's time ago hardly anything came.

        """
        now, came = self._clock.monotonic(), self._came
        since, had = self._last_measured
        if came - had >= self._least or not self._queue.bytes_left:
            self._last_measured = (now, came)
        elif now - since > 2 * self._stall.total_seconds():
            raise Stalled(
                f"only {came - had:,} bytes came within {now - since:.0f} seconds",
                hint="what was fetched so far is kept",
            )

    def _prepared(self, layer: Layer, path: Path) -> Blob:
        with _on_disk(f"preparing {layer.digest}"):
            had = journal.resume(path, layer)
        self._recount(sum(stop - start for start, stop in had))
        return Blob(layer, path, list(journal.missing(had, layer.size, self._range_bytes)), dict(had))

    def _hang_up(self) -> None:
        self._queue.stop()
        self._source.hang_up()

    def _leave(self) -> None:
        """Keep what landed last, even halves of ranges. The trouble that led here is the one to tell."""
        with suppress(OSError):
            self._sync(self._queue.unkept())
        for blob in self._blobs:
            blob.close()

    def _recount(self, amount: int) -> None:
        """Bytes found on disk, or taken back: no movement, and no part of the rate."""
        if amount:
            with self._recounting:
                reading = self._progress.read()
                self._progress.begin(reading.status, completed=reading.completed + amount)

    def _sleep(self, seconds: float) -> None:
        if self._queue.stopped.is_set() or (seconds > 0 and self._clock.wait(seconds, self._queue.stopped)):
            raise DownloadStopped

    # Connection threads: from the source to the file

    def _connect(self) -> None:
        while (work := self._queue.take()) is not None:
            if isinstance(work, Range):
                self._fetch(work)
            else:
                self._read_through(work)

    def _fetch(self, part: Range) -> None:
        """A range, in as many requests as it takes."""
        try:
            while part.at < part.stop and not part.blob.is_sequential:
                self._policy.call(partial(self._request, part), sleep=self._sleep)
        except BaseException:
            self._queue.leave_half(part)
            raise
        self._land(part)

    def _request(self, part: Range) -> None:
        """One request for what is left. Being cut after some bytes is no failure: it moved, and goes on from there."""
        before = part.at
        try:
            self._pour(part)
        except NetworkTrouble:
            if part.at == before:
                raise
            self._sleep(self._policy.first.total_seconds())

    def _pour(self, part: Range) -> None:
        layer = part.blob.layer
        asked = part.at, part.stop
        with self._source.open(layer, *asked) as (span, chunks):
            if span != asked:
                part.blob.is_sequential = True
                return
            for chunk in chunks:
                if part.at + len(chunk) > part.stop:
                    raise ServerTrouble(f"more bytes of {layer.digest} came than were asked for")
                self._write(part, chunk)
        if part.at < part.stop:
            raise CutShort(f"{layer.digest} ended {part.stop - part.at} bytes early")

    def _read_through(self, blob: Blob) -> None:
        """The whole blob on one connection, for a source that ignores ranges; writes only what is missing."""

        def once() -> None:
            before = len(blob.pending)
            try:
                self._skim(blob)
            except NetworkTrouble:
                if len(blob.pending) == before:
                    raise
                self._sleep(self._policy.first.total_seconds())

        try:
            while blob.pending:
                self._policy.call(once, sleep=self._sleep)
        finally:
            self._queue.release(blob)

    def _skim(self, blob: Blob) -> None:
        at = 0
        with self._source.open(blob.layer, 0, blob.layer.size) as (_, chunks):
            part = self._queue.take_from(blob, at)
            try:
                for chunk in chunks:
                    view = memoryview(chunk)
                    self._moved_at = self._clock.monotonic()
                    self._came += len(chunk)
                    while part and view:
                        skipped = min(len(view), part.start - at) if at < part.start else 0
                        piece = view[skipped : skipped + part.stop - max(at, part.start)]
                        self._write(part, piece)
                        at += skipped + len(piece)
                        view = view[skipped + len(piece) :]
                        if part.at == part.stop:
                            self._land(part)
                            part = self._queue.take_from(blob, at)
                    if part is None:
                        return
            finally:
                if part:
                    self._land(part)
        raise CutShort(f"{blob.layer.digest} ended early")

    def _write(self, part: Range, chunk: bytes | memoryview) -> None:
        """What has come is written even when the fetch was stopped meanwhile: the next one need not ask for it."""
        view = memoryview(chunk)
        with _on_disk(f"writing {part.blob.layer.digest}"):
            while view:
                written = os.pwrite(part.blob.fd, view, part.at)
                part.at += written
                view = view[written:]
        self._moved_at = self._clock.monotonic()
        self._came += len(chunk)
        self._progress.advance(len(chunk))
        self._sleep(self._rate.reserve(len(chunk)))

    def _land(self, part: Range) -> None:
        if part.at < part.stop:
            self._recount(part.start - part.at)
        self._queue.land(part)

    # The keeper: from the file to the disk and the journal

    def _keep(self) -> None:
        while landed := self._queue.landed():
            with _on_disk("keeping what was fetched"):
                self._sync(landed)
            self._queue.keep(landed)

    def _sync(self, landed: list[Range]) -> None:
        """One fdatasync and one line of journal for all that landed of a blob since the last time."""
        spans: dict[Path, list[ByteRange]] = {}
        for part in landed:
            spans.setdefault(part.blob.path, []).append((part.start, part.at))
        fds = {part.blob.path: part.blob.fd for part in landed}
        for path, fd in fds.items():
            _sync_data(fd)
            journal.record(path, spans[path])

    # The hasher: follows what is kept, in order

    def _hash(self) -> None:
        buffer = memoryview(bytearray(_HASH_PIECE))
        for blob in self._blobs:
            sha = hashlib.sha256()
            at = 0
            while at < blob.layer.size:
                stop = self._queue.kept_after(blob, at, most=self._range_bytes)
                if not self._queue.bytes_left:
                    self._progress.begin("verifying sha256 digest")
                with _on_disk(f"hashing {blob.layer.digest}"):
                    while at < stop:
                        amount = os.preadv(blob.fd, [buffer[: stop - at]], at)
                        if not amount:
                            raise Corrupt(f"{blob.path} was cut to {at} bytes while it was hashed")
                        sha.update(buffer[:amount])
                        at += amount
            blob.close()
            self._compare(blob, f"sha256:{sha.hexdigest()}")

    def _compare(self, blob: Blob, got: str) -> None:
        layer = blob.layer
        if got == layer.digest:
            self._verified(layer)
            return
        with _on_disk(f"removing {layer.digest}"):
            journal.discard(blob.path)
        self._recount(-layer.size)
        raise Corrupt(
            f"the bytes fetched for {layer.digest} have digest {got}",
            hint="they were removed and are fetched again; when it happens twice, the registry's copy is damaged",
        )


@contextmanager
def _on_disk(doing: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:  # the staging folder was renamed away: that is the fence
        raise Fenced(f"{error.filename} is gone while {doing}") from error
    except OSError as error:
        raise os_trouble(error, doing=doing) from error
