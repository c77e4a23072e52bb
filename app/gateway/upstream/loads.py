"""The loads of one tier that are wanted or under way, and the kinds of settings that its models are loaded with.

A load belongs to the gateway once it has begun: then it goes on though callers leave. Before, it ends when the last
caller who waits for it leaves. How many there are is bounded, for all and for each key, and so is what is remembered of
them: each setting is a load, so a key that asks with ever new ones would have the server load for it alone.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from app.gateway.auth.fair_shares import share_of
from app.gateway.auth.keys import Caller
from app.gateway.protocol.headers import Header
from app.gateway.protocol.request import LoadSettings
from app.gateway.upstream.cold_wait import ColdWait
from jobs.core.errors import NetworkTrouble, TooManyRequests
from jobs.core.units import counted

WakeCause = Literal["request", "batch"]
"""For whom a tier is woken by the gateway: for a person, or for a line of a batch."""

AGAIN = timedelta(seconds=10)
"""When it is worth asking again: some of the loads have ended by then."""


class TooManyLoads(NetworkTrouble):
    """The tier has as many loads before it as it may."""


@dataclass(frozen=True)
class LoadLimits:
    """How much may be loaded. A key may have its share of each (`shares`)."""

    most_loads: int = 32
    """That wait or are under way. An Ollama loads one model at a time, so this is minutes of work."""
    most_kinds: int = 16
    """Of settings beside the usual ones that a model is loaded with within `kind_seconds`."""
    kind_seconds: float = 300.0
    """So long a kind of settings counts after it was last asked for: as long as Ollama keeps a model by itself."""


@dataclass(eq=False)
class Load:
    """One model on its way into memory, with one kind of settings."""

    model: str
    settings: LoadSettings
    owner: str
    """The key that it counts for: whose request made it."""
    cause: WakeCause = "request"
    """Who would wake the tier for it: whoever made it."""
    waiting: int = 0
    has_begun: bool = False
    """The server has been asked for it, and has not answered yet."""
    session: tuple[Header, ...] = ()
    """Leads its request, and those that waited for it, to the same server where there are several."""
    wait: ColdWait | None = field(default=None, repr=False)
    """Measures it, where somebody wants to know."""
    task: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def is_wanted(self) -> bool:
        return self.waiting > 0 or self.has_begun


@dataclass
class _Kind:
    owner: str
    at: float


class Loads:
    """Belongs to one event loop, but that any thread may go through the loads: it is given a copy of them.

    Args:
        tier: named in what callers are told.
        limits: how many.
        now: the seconds of a clock that never goes back.

    """

    def __init__(self, tier: str, limits: LoadLimits, now: Callable[[], float]) -> None:
        self._tier = tier
        self._limits = limits
        self._now = now
        #: Changed by the event loop; `__iter__` and `__len__`, which any thread may call, are one step each.
        self._loads: dict[tuple[str, LoadSettings], Load] = {}
        self._kinds: dict[str, dict[LoadSettings, _Kind]] = defaultdict(dict)

    def __len__(self) -> int:
        return len(self._loads)

    def __iter__(self) -> Iterator[Load]:
        return iter(list(self._loads.values()))

    @property
    def kinds(self) -> int:
        """How many kinds of settings are remembered, of all models."""
        return sum(map(len, self._kinds.values()))

    def find(self, model: str, settings: LoadSettings) -> Load | None:
        return self._loads.get((model, settings))

    def admit(self, caller: Caller, model: str, settings: LoadSettings) -> Load:
        """A load that this caller wants and that is not there yet.

        Raises:
            TooManyRequests: the key has as many loads, or kinds of settings, as it may.
            TooManyLoads: all together have.

        """
        own = sum(load.owner == caller.name for load in self._loads.values())
        if own >= share_of(self._limits.most_loads, caller):
            raise TooManyRequests(
                f"key {caller.name!r} has {own} loads before tier {self._tier!r}, as many as it may",
                hint="wait for them; each model and each kind of options is a load of its own",
                retry_after=AGAIN,
            )
        if len(self._loads) >= self._limits.most_loads:
            raise TooManyLoads(
                f"{counted(len(self._loads), 'load waits', 'loads wait')} for tier {self._tier!r} already",
                hint="ask again soon",
                retry_after=AGAIN,
            )
        if settings:
            self._note_kind(caller, model, settings)
        load = self._loads[model, settings] = Load(model, settings, caller.name)
        return load

    def drop(self, load: Load) -> None:
        """Forget it: it has ended, or is to end. Another load of the same model and settings that came since stays."""
        if self._loads.get((load.model, load.settings)) is load:
            del self._loads[load.model, load.settings]

    def _note_kind(self, caller: Caller, model: str, settings: LoadSettings) -> None:
        kinds, now = self._kinds[model], self._now()
        for old in [each for each, kind in kinds.items() if now - kind.at >= self._limits.kind_seconds]:
            del kinds[old]
        if (known := kinds.get(settings)) is not None:
            known.at = now
            return
        own = [each for each, kind in kinds.items() if kind.owner == caller.name]
        wait = timedelta(seconds=self._limits.kind_seconds)
        if len(own) >= share_of(self._limits.most_kinds, caller):
            raise TooManyRequests(
                f"key {caller.name!r} has asked for {model!r} with {counted(len(own), 'kind')} of options"
                " that it has to be loaded anew for, as many as it may",
                hint=f"use one of these again: {'; '.join(map(_shown, own[:4]))}; or none of them",
                retry_after=wait,
            )
        if len(kinds) >= self._limits.most_kinds:
            raise TooManyLoads(
                f"{model!r} is asked for with {counted(len(kinds), 'kind')} of options"
                " that it has to be loaded anew for already",
                hint=f"use one of these: {'; '.join(map(_shown, list(kinds)[:4]))}; or none of them",
                retry_after=wait,
            )
        kinds[settings] = _Kind(caller.name, now)


def _shown(settings: LoadSettings) -> str:
    return ", ".join(f"{name}={str(value)[:20]}" for name, value in settings)
