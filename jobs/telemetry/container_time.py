"""What the seconds of one container went to. It counts for itself, under a key of its own: `meter/<tier>/<container>`.

    cold      from its start until it could answer
    warming   while somebody warmed a model on its tier
    serving   a request of a caller was in flight, or had ended since the last look
    idle      the rest: the wait for whoever comes next

A look sets the whole time since the look before down under one of these. What comes after the last look of a container
that was killed is not counted.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, Self, get_args

from jobs.core.clock import Clock, isoformat, parse_moment
from jobs.store import keys
from jobs.store.protocols import DictLike

TimeShare = Literal["cold", "warming", "serving", "idle"]
SHARES: tuple[TimeShare, ...] = get_args(TimeShare)


@dataclass(frozen=True)
class Metered:
    """The seconds of one container so far, and its price, where it had one: its tier may be gone when that is asked."""

    tier: str
    container: str
    started_at: datetime
    at: datetime
    seconds: Mapping[TimeShare, float] = field(hash=False)
    dollars_per_hour: float | None = None

    @property
    def key(self) -> str:
        return keys.meter(self.tier, self.container)

    def as_json(self) -> dict[str, Any]:
        return {
            "v": 1,
            "tier": self.tier,
            "container": self.container,
            "started_at": isoformat(self.started_at),
            "at": isoformat(self.at),
            "seconds": {share: round(self.seconds.get(share, 0.0), 3) for share in SHARES},
            "dollars_per_hour": self.dollars_per_hour,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        seconds = document.get("seconds", {})
        return cls(
            tier=str(document["tier"]),
            container=str(document["container"]),
            started_at=parse_moment(document["started_at"]),
            at=parse_moment(document["at"]),
            seconds={share: float(seconds.get(share, 0.0)) for share in SHARES},
            dollars_per_hour=None if (price := document.get("dollars_per_hour")) is None else float(price),
        )


class Meter:
    """Counts in one container, called by one thread. What it wrote last is the whole count, so writing twice changes
    nothing."""

    def __init__(
        self, facts: DictLike, clock: Clock, tier: str, container: str, dollars_per_hour: float | None = None
    ) -> None:
        self._facts = facts
        self._clock = clock
        self._tier = tier
        self._container = container
        self._dollars_per_hour = dollars_per_hour
        self._started_at = clock.now()
        self._last = clock.monotonic()
        self._seconds: dict[TimeShare, float] = dict.fromkeys(SHARES, 0.0)

    def note(self, share: TimeShare) -> None:
        """Set the time since the last note down under `share`, and write the count."""
        now = self._clock.monotonic()
        self._seconds[share] += max(0.0, now - self._last)
        self._last = now
        count = Metered(
            tier=self._tier,
            container=self._container,
            started_at=self._started_at,
            at=self._clock.now(),
            seconds=self._seconds,
            dollars_per_hour=self._dollars_per_hour,
        )
        self._facts.put(count.key, count.as_json())


def metered(entries: Mapping[str, Any]) -> list[Metered]:
    """The counts among these entries; one that makes no sense is left out."""
    found = []
    for key, value in entries.items():
        if key.startswith(keys.METER):
            try:
                found.append(Metered.from_json(value))
            except (AttributeError, KeyError, TypeError, ValueError):
                continue
    return found


# -- who warms ---------------------------------------------------------------------------------------------------------


def say_warming(facts: DictLike, tier: str, until: datetime) -> None:
    """Tell the containers of a tier that a model is being warmed there."""
    facts.put(keys.warming(tier), {"v": 1, "until": isoformat(until)})


def is_warming(facts: DictLike, tier: str, now: datetime, lag: timedelta) -> bool:
    """Whether a model was being warmed on the tier within the last `lag`."""
    fact = facts.get(keys.warming(tier))
    return fact is not None and now < parse_moment(fact["until"]) + lag
