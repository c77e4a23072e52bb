"""How far an attempt has come: counted by the threads that move bytes, read by the one that beats."""

import threading
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

from jobs.core.clock import Clock

_RATE_WINDOW_SECONDS = 10.0


@dataclass(frozen=True)
class Reading:
    """Bytes done and to do, the rate over the last ten seconds, and what is going on in a few words."""

    completed: int = 0
    total: int = 0
    bytes_per_second: float = 0.0
    status: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Progress:
    """A meter that many threads may move. `moved_at` is when it last did, by the clock's monotonic seconds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        #: These six are written by the threads that move bytes and read by the one that beats; under `_lock`, but for
        #: `_moved_at`, which any thread may also read without it.
        self._completed = 0
        self._total = 0
        self._status = ""
        self._moved_at = clock.monotonic()
        self._moved = 0
        self._trail: deque[tuple[float, int]] = deque(maxlen=256)

    def begin(self, status: str, *, total: int | None = None, completed: int | None = None) -> None:
        """Enter a phase; entering one counts as moving, so a stall is measured inside the phase."""
        with self._lock:
            self._status = status
            if total is not None:
                self._total = total
            if completed is not None:
                self._completed = completed
                self._trail.clear()
            self._moved_at = self._clock.monotonic()

    def advance(self, amount: int) -> None:
        """Count `amount` bytes; a negative amount takes back what has to be fetched again and is no movement."""
        now = self._clock.monotonic()
        with self._lock:
            self._completed += amount
            if amount > 0:
                self._moved += amount
                self._moved_at = now
                if not self._trail or now - self._trail[-1][0] >= 0.05:
                    self._trail.append((now, self._completed))

    def find(self, amount: int) -> None:
        """Count `amount` bytes that were there already: they bring it further, and are no part of the rate."""
        if not amount:
            return
        with self._lock:
            self._completed += amount
            self._moved_at = self._clock.monotonic()
            self._trail = deque(((at, count + amount) for at, count in self._trail), maxlen=self._trail.maxlen)

    def set_completed(self, completed: int) -> None:
        """For sources that report where they are instead of what they added."""
        with self._lock:
            amount = completed - self._completed
        if amount:
            self.advance(amount)

    def set_total(self, total: int) -> None:
        """More to do has become known; that is no movement."""
        with self._lock:
            self._total = total

    @property
    def moved_bytes(self) -> int:
        """How many bytes came in all, in this phase and those before; not those that were found, or are no longer."""
        with self._lock:
            return self._moved

    @property
    def idle_seconds(self) -> float:
        """How long since anything moved."""
        return self._clock.monotonic() - self._moved_at

    def read(self) -> Reading:
        now = self._clock.monotonic()
        with self._lock:
            while len(self._trail) > 1 and now - self._trail[0][0] > _RATE_WINDOW_SECONDS:
                self._trail.popleft()
            rate = 0.0
            if self._trail and now > self._trail[0][0]:
                first_at, first_bytes = self._trail[0]
                rate = max(0.0, (self._completed - first_bytes) / (now - first_at))
            return Reading(self._completed, self._total, round(rate, 1), self._status)
