"""How much one key may ask for: requests in a minute, and at once. Counted in this process.

The minute slides: what counts is the last sixty seconds, so there is no edge at which twice as much gets through. With
several gateways each counts for itself.
"""

from collections import defaultdict, deque
from collections.abc import Callable
from datetime import timedelta

from app.gateway.auth.keys import Caller
from jobs.core.clock import Clock
from jobs.core.errors import TooManyRequests
from jobs.core.units import counted

MINUTE = 60.0

BUSY = timedelta(seconds=1)
"""When to ask again while others are being answered. It cannot be known; a second is polite."""


class RateLimits:
    """Belongs to one event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._recent: dict[str, deque[float]] = defaultdict(deque)
        self._present: dict[str, int] = defaultdict(int)

    def enter(self, caller: Caller) -> Callable[[], None]:
        """Count a request that begins; call what is returned when it has ended, once or more often.

        Raises:
            TooManyRequests: the key has used up its minute, or has as many requests under way as it may.

        """
        if caller.limits.concurrent is not None and self._present[caller.name] >= caller.limits.concurrent:
            raise TooManyRequests(
                f"key {caller.name!r} has {counted(caller.limits.concurrent, 'request')} under way, as many as it may",
                hint="wait for one of them to end",
                retry_after=BUSY,
            )
        if caller.limits.rpm is not None:
            self._count(caller, caller.limits.rpm)
        self._present[caller.name] += 1
        left = False

        def leave() -> None:
            nonlocal left
            if not left:
                left = True
                self._present[caller.name] -= 1

        return leave

    def _count(self, caller: Caller, rpm: int) -> None:
        now = self._clock.monotonic()
        recent = self._recent[caller.name]
        while recent and now - recent[0] >= MINUTE:
            recent.popleft()
        if len(recent) >= rpm:
            wait = timedelta(seconds=MINUTE - (now - recent[0]))
            raise TooManyRequests(
                f"key {caller.name!r} has asked {counted(rpm, 'time')} within a minute, as often as it may",
                hint="ask more slowly",
                retry_after=wait,
            )
        recent.append(now)
