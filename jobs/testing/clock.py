"""A clock that stands still until a test moves it."""

import threading
from datetime import UTC, datetime, timedelta


class HandClock:
    """Wall and monotonic time move together by `tick`; `wait` ticks instead of sleeping."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        #: Moved by any thread that ticks or waits, under `_lock`; read without it, each by itself.
        self._now = start
        self._elapsed = 0.0
        self._lock = threading.Lock()

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._elapsed

    def wait(self, seconds: float, wake: threading.Event | None = None) -> bool:
        self.tick(seconds)
        return wake is not None and wake.is_set()

    def tick(self, seconds: float) -> None:
        with self._lock:
            self._now += timedelta(seconds=seconds)
            self._elapsed += max(0.0, seconds)

    def set(self, seconds: float) -> None:
        """Somebody sets the wall clock by so much, forward or back; no time passes."""
        with self._lock:
            self._now += timedelta(seconds=seconds)
