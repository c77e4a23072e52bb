"""How much one key may ask for: requests and tokens in a minute, and requests at once. Counted in this process.

The minute slides: what counts is the last sixty seconds, so there is no edge at which twice as much gets through. Of
tokens those count of requests that have ended. With several gateways each counts for itself.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from app.gateway.auth.keys import Caller
from jobs.access.limits import Unit
from jobs.core.clock import Clock
from jobs.core.errors import TooManyRequests
from jobs.core.units import counted

MINUTE = 60.0

BUSY = timedelta(seconds=1)
"""When to ask again while others are being answered. It cannot be known; a second is polite."""


@dataclass(frozen=True)
class Left:
    """So much of a limit is left, and all of it again in so many seconds."""

    unit: Unit
    limit: float
    left: float
    seconds: float


class RateLimits:
    """Belongs to one event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._recent: dict[str, deque[float]] = defaultdict(deque)
        self._tokens: dict[str, deque[tuple[float, int]]] = defaultdict(deque)
        self._present: dict[str, int] = defaultdict(int)
        self._lines: dict[str, int] = defaultdict(int)

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
        self.begin(caller.name)
        left = False

        def leave() -> None:
            nonlocal left
            if not left:
                left = True
                self.end(caller.name)

        return leave

    def enter_line(self, caller: Caller) -> None:
        """Count a line of a batch that begins; `leave_line` when it has ended. Of what its key may have under way,
        lines take what people leave, and people never find it taken by lines.

        Raises:
            TooManyRequests: as for people.

        """
        name, concurrent = caller.name, caller.limits.concurrent
        if concurrent is not None and self._present[name] + self._lines[name] >= concurrent:
            raise TooManyRequests(
                f"key {name!r} has {counted(concurrent, 'request')} under way, as many as it may",
                hint="lines of batches begin when others have ended",
                retry_after=BUSY,
            )
        if caller.limits.rpm is not None:
            self._count(caller, caller.limits.rpm)
        self._lines[name] += 1

    def leave_line(self, caller: Caller) -> None:
        """It has ended."""
        self._lines[caller.name] -= 1

    def begin(self, name: str) -> None:
        """Count a request of a key without limits that begins."""
        self._present[name] += 1

    def end(self, name: str) -> None:
        """Count that it has ended, once."""
        self._present[name] -= 1

    def need_tokens(self, caller: Caller) -> None:
        """Insist on some of the minute's tokens being left; how many a request takes is known when it has ended.

        Raises:
            TooManyRequests: there are none.

        """
        if (tpm := caller.limits.tpm) is None:
            return
        recent, now = self._tokens_of(caller.name), self._clock.monotonic()
        over = sum(count for _, count in recent) - tpm
        if over < 0:
            return
        until = now
        for at, count in recent:
            until, over = at + MINUTE, over - count
            if over < 0:
                break
        raise TooManyRequests(
            f"key {caller.name!r} has used {counted(tpm, 'token')} within a minute, as many as it may",
            hint="ask more slowly",
            retry_after=timedelta(seconds=until - now),
        )

    def used_tokens(self, caller: Caller, count: int) -> None:
        """A request of this key has ended, and so many tokens were in it."""
        if caller.limits.tpm is not None and count:
            self._tokens_of(caller.name).append((self._clock.monotonic(), count))

    def left(self, caller: Caller) -> list[Left]:
        """What is left of the minute."""
        limits, now, found = caller.limits, self._clock.monotonic(), []
        if limits.rpm is not None:
            recent = self._recent_of(caller.name)
            found.append(Left("requests", limits.rpm, max(0, limits.rpm - len(recent)), _resets(recent, now)))
        if limits.tpm is not None:
            tokens = self._tokens_of(caller.name)
            used = sum(count for _, count in tokens)
            found.append(Left("tokens", limits.tpm, max(0, limits.tpm - used), _resets([at for at, _ in tokens], now)))
        return found

    def _count(self, caller: Caller, rpm: int) -> None:
        recent, now = self._recent_of(caller.name), self._clock.monotonic()
        if len(recent) >= rpm:
            wait = timedelta(seconds=MINUTE - (now - recent[0]))
            raise TooManyRequests(
                f"key {caller.name!r} has asked {counted(rpm, 'time')} within a minute, as often as it may",
                hint="ask more slowly",
                retry_after=wait,
            )
        recent.append(now)

    def _recent_of(self, key: str) -> deque[float]:
        """When a key asked within the last minute."""
        recent, since = self._recent[key], self._clock.monotonic() - MINUTE
        while recent and recent[0] <= since:
            recent.popleft()
        return recent

    def _tokens_of(self, key: str) -> deque[tuple[float, int]]:
        """What its requests took that ended within the last minute."""
        recent, since = self._tokens[key], self._clock.monotonic() - MINUTE
        while recent and recent[0][0] <= since:
            recent.popleft()
        return recent


def _resets(recent: Sequence[float], now: float) -> float:
    """In so many seconds nothing of this counts any more."""
    return max(0.0, recent[-1] + MINUTE - now) if recent else 0.0
