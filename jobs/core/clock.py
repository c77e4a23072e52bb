"""The time, handed in. Nothing below the entry points asks the machine what time it is.

`SystemClock` is the machine's; `jobs.testing.clock.HandClock` is moved by a test's hand.
"""

import threading
import time
from datetime import UTC, datetime
from functools import partial
from typing import Protocol


class Clock(Protocol):
    def now(self) -> datetime:
        """Aware UTC wall time, for what is written down and compared between machines."""

    def monotonic(self) -> float:
        """Seconds that never go back, for how long something has lasted in this process."""

    def wait(self, seconds: float, wake: threading.Event | None = None) -> bool:
        """Let `seconds` pass, or less when `wake` is set; true when it was."""


class SystemClock:
    now = staticmethod(partial(datetime.now, UTC))
    monotonic = staticmethod(time.monotonic)

    def wait(self, seconds: float, wake: threading.Event | None = None) -> bool:
        if wake is not None:
            return wake.wait(max(0.0, seconds))
        time.sleep(max(0.0, seconds))
        return False


def isoformat(moment: datetime) -> str:
    """RFC 3339 in UTC with milliseconds, as every record and answer shows a time."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_moment(text: str) -> datetime:
    """The moment an `isoformat` text names."""
    return datetime.fromisoformat(text).astimezone(UTC)


def moment_of(timestamp: float) -> datetime:
    """The moment that a file's time names; the nearest that every timezone has, where a damaged disk names another."""
    first, last = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)
    return datetime.fromtimestamp(min(max(timestamp, first.timestamp()), last.timestamp()), UTC)
