"""How far one start of a server has come, or one load in it: which phase goes on, and how long those before it took.

Whoever does the work says what has ended, from any thread. Each phase lasts from the end of the one before, by a clock
that never goes back.
"""

import threading
from datetime import timedelta

from jobs.core.clock import Clock
from jobs.telemetry.cold_starts import OF_THE_READ, OF_THE_SERVER, Kind, Phase, Progress


class Phases:
    """Of one start or load. Any thread may tell it something, or ask it.

    Args:
        clock: for what each phase took.
        n: numbers it among those of the server.
        kind: a start begins with the weights, a load with the model's bytes.
        began_ago: seconds that it had lasted before this was made.

    """

    def __init__(self, clock: Clock, n: int, kind: Kind, *, began_ago: float = 0.0) -> None:
        self._clock = clock
        self._n = n
        self._kind = kind
        self._lock = threading.Lock()
        #: All of these under `_lock`.
        self._ended_at = clock.monotonic() - began_ago
        self._seconds: dict[Phase, float] = {}
        self._phase: Phase | None = "weights" if kind == "start" else "bytes"
        self._model = ""
        self._size: int | None = None
        self._read: int | None = None
        self._rate: float | None = None
        #: When it began, by the clock on the wall; never changed.
        self.at = clock.now() - timedelta(seconds=began_ago)

    def ended(self, phase: Phase) -> None:
        """It has ended just now, and with it what was not told of before it; what ended earlier ends once."""
        with self._lock:
            if self._phase is None or OF_THE_SERVER.index(phase) < OF_THE_SERVER.index(self._phase):
                return
            now = self._clock.monotonic()
            self._seconds[phase] = max(0.0, now - self._ended_at)
            self._ended_at = now
            if phase in OF_THE_READ:
                self._read = self._size
            after = OF_THE_SERVER[OF_THE_SERVER.index(phase) + 1 :]
            self._phase = after[0] if after else None

    def over(self) -> None:
        """Nothing more comes: what goes on is not told of."""
        with self._lock:
            self._phase = None

    def of(self, model: str, size: int | None = None) -> None:
        """This model is on its way into memory, of so many bytes where that is known."""
        with self._lock:
            self._model, self._size = model, size or self._size

    def read(self, bytes_read: int, bytes_per_second: float | None = None) -> None:
        """So many of the model's bytes have come in, at this rate where it is measured; it may come before the engine
        answers."""
        with self._lock:
            self._read = max(bytes_read, self._read or 0)
            self._rate = bytes_per_second or self._rate

    @property
    def is_over(self) -> bool:
        with self._lock:
            return self._phase is None

    @property
    def has_model(self) -> bool:
        with self._lock:
            return bool(self._model)

    @property
    def is_reading(self) -> bool:
        """Whether bytes may come that nobody has told of."""
        with self._lock:
            return self._phase == "bytes" and self._rate is None

    def progress(self) -> Progress:
        with self._lock:
            read = self._read if self._size is None or self._read is None else min(self._read, self._size)
            return Progress(
                n=self._n,
                kind=self._kind,
                at=self.at,
                model=self._model,
                phase=self._phase,
                seconds=dict(self._seconds),
                in_phase=max(0.0, self._clock.monotonic() - self._ended_at) if self._phase else 0.0,
                size=self._size,
                read=read,
                bytes_per_second=self._rate,
            )
