"""What the servers of a tier are told that a batch has woken: since when, and that its batches are over.

Then they need not wait for their idle time to pass: whoever wanted them is done. Each looks for itself, because it
knows best what it is at; and leaves only if nobody else has used the tier since it was woken. One fact for each tier,
`leave/<tier>`, written by whoever works on batches.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

from jobs.core.clock import Clock, isoformat, parse_moment
from jobs.store import keys
from jobs.store.protocols import DictLike, ReadableDict
from jobs.telemetry.usage import usage

LOOKED_FOR = timedelta(minutes=10)
"""So long after its last request a server looks whether it may leave: who is kept longer is kept for another reason."""

CLOCKS_AGREE = timedelta(seconds=5)


@dataclass(frozen=True)
class WokenTier:
    """A tier that a batch has woken, and when its batches were over; None while they go on."""

    woken_at: datetime
    over_at: datetime | None = None

    @classmethod
    def of(cls, facts: ReadableDict, tier: str) -> Self | None:
        fact = facts.get(keys.leave(tier))
        if fact is None:
            return None
        over_at = fact.get("over_at")
        return cls(parse_moment(fact["woken_at"]), parse_moment(over_at) if over_at else None)

    def say(self, facts: DictLike, tier: str) -> None:
        over_at = isoformat(self.over_at) if self.over_at else None
        facts.put(keys.leave(tier), {"v": 1, "woken_at": isoformat(self.woken_at), "over_at": over_at})


class LeaveWatch:
    """Whether a server may leave. Its supervisor's thread asks; none other.

    Args:
        facts: the ledger's dict.
        tier: of the server.
        started_at: when it began to start.
        clock: the time.

    """

    def __init__(self, facts: DictLike, tier: str, started_at: datetime, clock: Clock) -> None:
        self._facts = facts
        self._tier = tier
        self._started_at = started_at
        self._clock = clock
        self._served = -1
        self._quiet_since = clock.monotonic()
        self._declined_at: datetime | None = None

    def is_told(self, served: int, in_flight: int | None) -> bool:
        """Whether the batches that woke it are over. The ledger is asked only while the server is quiet.

        Args:
            served: how many requests the server has answered.
            in_flight: how many connections callers hold to it; some may carry nothing.

        """
        now = self._clock.monotonic()
        if served != self._served:
            self._served, self._quiet_since = served, now
            if in_flight != 0:
                return False
        if now - self._quiet_since > LOOKED_FOR.total_seconds():
            return False
        woken = WokenTier.of(self._facts, self._tier)
        if woken is None or woken.over_at is None or woken.over_at == self._declined_at:
            return False
        return woken.over_at >= self._started_at >= woken.woken_at - CLOCKS_AGREE

    def is_wanted(self) -> bool:
        """Whether a window keeps the tier up, or somebody beside batches has used it since they woke it. Such a server
        stays, whatever those batches said."""
        woken = WokenTier.of(self._facts, self._tier)
        if woken is None or woken.over_at is None:
            return True
        if self._facts.get(keys.window(self._tier)) or _used_by_people(self._facts, self._tier, woken.woken_at):
            self.decline()
            return True
        return False

    def decline(self) -> None:
        """It stays, whatever those batches said."""
        woken = WokenTier.of(self._facts, self._tier)
        self._declined_at = woken.over_at if woken else None


def _used_by_people(facts: DictLike, tier: str, since: datetime) -> bool:
    rows = usage(facts, since=since.astimezone(UTC).date())
    return any(row.about.tier == tier and not row.about.batch and row.sums.last_at >= since for row in rows)
