"""Has the blobs of the model that a server loads read ahead of its engine, from the moment they are visible."""

import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from loguru import logger

from app.model_server.starting.bytes_read import BytesRead
from app.model_server.starting.memory_limit import memory_limit
from app.model_server.starting.read_ahead import ReadAhead, most_ahead
from jobs.core.clock import Clock
from jobs.core.errors import Trouble
from jobs.core.model_name import ModelName
from jobs.weights.layout import Layout
from jobs.weights.manifest import Manifest


class BlobReaders:
    """Those of one server; they read one model at a time. Who asks the ledger and who starts the server begin, the
    thread that reads the engine's output says when it loads, and any thread may ask how far they are.

    Args:
        clock: for the rate.
        volume: where the weights are mounted.
        readers: how many; none where it is 0.
        taken_in: how many bytes the engine has taken in; None where nobody knows.

    """

    def __init__(self, clock: Clock, volume: Path, *, readers: int, taken_in: Callable[[], int | None]) -> None:
        self._clock = clock
        self._volume = Layout(volume)
        self._readers = readers
        self._taken_in = taken_in
        self._lock = threading.Lock()
        #: Under `_lock`: what reads, or read last, and the blobs that it is to bring.
        self._current: ReadAhead | None = None
        self._blobs: frozenset[str] = frozenset()

    def begin(self, names: Iterable[ModelName]) -> None:
        """Read the first of these models that is on the volume, unless it is being read."""
        for name in names if self._readers else ():
            try:
                manifest = Manifest.parse(self._volume.manifest(name).read_bytes())
            except FileNotFoundError:
                continue
            except (OSError, Trouble) as trouble:  # the engine meets the same, and what is told of it decides
                logger.warning("{} is not read ahead: {}", name, trouble)
                continue
            blobs = sorted(manifest.blobs, key=lambda layer: -layer.size)
            self._read([layer.filename for layer in blobs])
            return

    def load_began(self, blob: str) -> None:
        """The engine begins to load this blob; one that is being read already goes on."""
        with self._lock:
            is_known = blob in self._blobs
        if self._readers and not is_known:
            self._read([blob])

    def bytes_are_read(self) -> None:
        """The engine has all of it."""
        self.stop()

    def load_ended(self) -> None:
        """The model is in memory; when it is loaded again, it is read again."""
        self.stop()
        with self._lock:
            self._blobs = frozenset()

    def progress(self) -> BytesRead | None:
        """How far those that read last have come; None where none did."""
        with self._lock:
            current = self._current
        return None if current is None else current.progress()

    def stop(self) -> None:
        """End after the blocks that are being read."""
        with self._lock:
            current = self._current
        if current is not None:
            current.stop()

    def release(self) -> None:
        """Have no file of the volume open, so that it can be reloaded; what is begun after that begins anew."""
        self.stop()
        with self._lock:
            current, self._blobs = self._current, frozenset()
        if current is not None:
            current.join()

    def _read(self, blobs: Sequence[str]) -> None:
        with self._lock:
            if self._blobs == frozenset(blobs):
                return
            if self._current is not None:
                self._current.stop()
            self._blobs = frozenset(blobs)
            self._current = ReadAhead(
                [self._volume.blobs / blob for blob in blobs],
                self._clock,
                most_ahead=most_ahead(memory_limit()),
                taken_in=lambda: self._taken_in() or 0,
                readers=self._readers,
            )
            self._current.start()
