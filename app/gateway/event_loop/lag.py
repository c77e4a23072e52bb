"""How late the event loop comes to a timer: so long it keeps everybody waiting. It costs a timer now and then."""

import asyncio
import time
from collections.abc import Callable

EVERY_SECONDS = 0.25


class LagMeter:
    """Belongs to one event loop.

    Args:
        observe: takes a lag, in seconds; uvloop's timers know milliseconds, so less than one says nothing.
        every_seconds: how often.

    """

    def __init__(self, observe: Callable[[float], object], every_seconds: float = EVERY_SECONDS) -> None:
        self._observe = observe
        self._every_seconds = every_seconds
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Measure from now on, in the loop that runs."""
        loop = asyncio.get_running_loop()
        due = time.monotonic() + self._every_seconds  # uvloop's own time stands still while a callback runs

        def come() -> None:
            self._observe(max(0.0, time.monotonic() - due))
            self.start()

        self._timer = loop.call_later(self._every_seconds, come)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
