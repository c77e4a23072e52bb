"""Cold starts: one waker per tier, and everybody else waits with it.

A load belongs to the gateway, never to a caller: whoever leaves aborts nothing. How many may wait, and for how long, is
limited; beyond that they are told what is happening and when to come again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

Temper = Literal["asleep", "waking", "ready"]


@dataclass(frozen=True)
class Upstream:
    """How the servers of a tier are reached."""

    tier: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What its door wants: Modal's proxy token, or nothing."""
    startup: timedelta = timedelta(seconds=300)
    """How long a cold start may take."""
    parallel: int = 4
    """How many requests one of its servers answers at a time."""


@dataclass(frozen=True)
class TierState:
    """How a tier stands, told without asking it. Asleep is healthy."""

    tier: str
    temper: Temper
    since: datetime
    why: str = ""
    held: int = 0
    """Callers that wait for it now."""
