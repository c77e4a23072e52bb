"""A rate in bytes per second that several threads share."""

import threading

from jobs.core.clock import Clock


class SharedRate:
    """Without `bytes_per_second` nobody waits. It may be set while threads reserve."""

    def __init__(self, bytes_per_second: int | None, clock: Clock) -> None:
        self.bytes_per_second = bytes_per_second
        self._clock = clock
        #: When what was reserved so far has had its time; written by every thread that reserves; guarded by `_lock`.
        self._free_at = 0.0
        self._lock = threading.Lock()

    def reserve(self, amount: int) -> float:
        """Take `amount` bytes from the allowance; how many seconds to wait for them."""
        if not self.bytes_per_second:
            return 0.0
        with self._lock:
            now = self._clock.monotonic()
            self._free_at = max(now, self._free_at) + amount / self.bytes_per_second
            return self._free_at - now
