"""The machine's clock, moved on by a test's hand: what must outlast a lease need not wait for one."""

import asyncio
from datetime import datetime, timedelta

from jobs.core.clock import SystemClock


class MovedClock(SystemClock):
    """Goes on by itself, and further when it is told to. Waits are real: threads give each other their turns."""

    def __init__(self) -> None:
        #: Moved by the test alone, read by the threads of its workers, each by itself.
        self._set_by = timedelta(0)
        self._passed = 0.0

    def now(self) -> datetime:
        return super().now() + self._set_by + timedelta(seconds=self._passed)

    def monotonic(self) -> float:
        return super().monotonic() + self._passed

    @property
    def passed(self) -> float:
        """Seconds that passed by a hand."""
        return self._passed

    def tick(self, seconds: float) -> None:
        """So much time passes at once."""
        self._passed += seconds

    def set(self, seconds: float) -> None:
        """Somebody sets the wall clock by so much, forward or back; no time passes."""
        self._set_by += timedelta(seconds=seconds)


class StandingClock(SystemClock):
    """One on which nothing ever lasts, however slow the machine is. Waits are real, and so is the wall clock."""

    def monotonic(self) -> float:
        return 1_000.0


class HandLoop(asyncio.SelectorEventLoop):
    """An event loop whose time moves when it is moved: a busy machine takes seconds for what is asked at once."""

    ahead = 0.0

    def time(self) -> float:
        return self.ahead

    async def pass_seconds(self, seconds: float) -> None:
        """So much passes at once, and whoever waited for it gets his turn."""
        self.ahead += seconds
        for _ in range(3):
            await asyncio.sleep(0)
