"""Cold starts: one waker per tier, and everybody else waits with it.

A load that has begun belongs to the gateway, never to a caller: whoever leaves aborts nothing. How many may wait, and
for how long, is limited, for all and for each key; beyond that they are told what is happening and when to come again.
A server that answers need not be asked again for a while: what was loaded a moment ago is taken to be there, and
whoever finds it gone comes back here.

What the servers report of themselves is read as well: a tier whose starts are refused is left alone for as long as
`app.model_server.start_failures` says, one that asks for a pause gets no new requests meanwhile, and one that has the
newest weights is believed when it says that it knows no such model.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from loguru import logger

from app.gateway.auth.fair_shares import share_of
from app.gateway.auth.keys import ANYONE, Caller
from app.gateway.catalog.server_reports import ServerReports
from app.gateway.protocol.request import LoadSettings
from app.gateway.upstream.loads import Load, LoadLimits, Loads
from app.gateway.upstream.server_requests import absence, loaded
from app.gateway.upstream.upstream_client import UpstreamClient
from jobs.core.clock import Clock
from jobs.core.errors import NetworkTrouble, ServerTrouble, TooManyRequests

TierStateName = Literal["asleep", "waking", "ready"]

RETRY_AFTER = timedelta(seconds=10)
"""For those who are told to come again: a cold start takes some of these."""


@dataclass(frozen=True)
class TierUpstream:
    """How the servers of a tier are reached."""

    tier: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What its door wants: Modal's proxy token, or nothing."""
    startup: timedelta = timedelta(seconds=300)
    """How long a cold start may take, and a load after it."""
    most_containers: int = 1
    """How many servers may stand behind the url; any of them may take a request."""


@dataclass(frozen=True)
class TierState:
    """How a tier stands, told without asking it. Asleep is healthy."""

    tier: str
    temper: TierStateName
    since: datetime
    why: str = ""
    held: int = 0
    """Callers that wait for it now."""


@dataclass(frozen=True)
class HoldTiming:
    """The times and numbers of waiting."""

    first_poke_seconds: float = 0.5
    longest_poke_seconds: float = 2.0
    """Between two looks whether a tier is awake; at zero containers each is answered 503 at once."""
    trust_seconds: float = 60.0
    """So long a model that answered is taken to be loaded; below Ollama's five minutes of keeping one alive."""
    real_load_seconds: float = 0.5
    """A load that took less was none: the model was in memory."""
    unseen_seconds: float = 600.0
    """So long a server may say that it does not know a model which is here, when nobody can tell what it has taken in.
    One that is never left alone takes two minutes to ask for a pause, and may need some pauses."""
    sure_seconds: float = 5.0
    """So long one that has the newest weights may: what it reports, and what is here, are not read at one moment."""
    most_held: int = 512
    """Callers that may wait for one tier; each key its share of them."""
    bounds: LoadLimits = field(default_factory=LoadLimits)
    """How much may be loaded for those who wait."""


class HeldCaller(NetworkTrouble):
    """It is not ready yet."""


class Expired(HeldCaller):
    """It was not ready in time."""


class LoadFailed(ServerTrouble):
    """The server said why it cannot load a model."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class _Tier:
    """What is known of one tier, and who waits for it."""

    def __init__(self, upstream: TierUpstream, wire: UpstreamClient, now: datetime, loads: Loads) -> None:
        self.upstream = upstream
        self.wire = wire
        self.loaded: dict[str, tuple[LoadSettings, float]] = {}
        self.loads = loads
        self.wake: asyncio.Task[None] | None = None
        self.why = ""
        self.since = now
        self.heard_at = float("-inf")
        self.held: Counter[str] = Counter()
        """Who waits, by key."""


async def _nobody_looks() -> bool:
    return False


class ColdStarts:
    """Belongs to one event loop.

    Args:
        upstreams: the tiers.
        wires: the ways to them.
        servers: what the servers said of themselves.
        clock: for the times that are shown.
        woke: told of each wake: the tier and the cause.
        look: has the reports read anew, unless that was done just now.
        pace: times and numbers.

    """

    def __init__(
        self,
        upstreams: Mapping[str, TierUpstream],
        wires: Mapping[str, UpstreamClient],
        *,
        servers: ServerReports,
        clock: Clock,
        woke: Callable[[str, str], object],
        look: Callable[[], Awaitable[bool]] = _nobody_looks,
        pace: HoldTiming | None = None,
    ) -> None:
        self._look = look
        self._servers = servers
        self._clock = clock
        self._woke = woke
        self._pace = pace or HoldTiming()
        bounds = self._pace.bounds
        self._tiers = {
            name: _Tier(each, wires[name], clock.now(), Loads(name, bounds, clock.monotonic))
            for name, each in upstreams.items()
        }

    # For callers

    def is_ready(self, tier: str, model: str, settings: LoadSettings) -> bool:
        """Whether a request may go out now, as far as is known; without a model, whether the tier answers."""
        place = self._tiers[tier]
        if self._servers.pausing_until(place.upstream.tier) is not None:
            return False
        if not model:
            return self._clock.monotonic() - place.heard_at < self._pace.trust_seconds
        found = place.loaded.get(model)
        return (
            found is not None and found[0] == settings and self._clock.monotonic() - found[1] < self._pace.trust_seconds
        )

    def is_everywhere(self, tier: str, model: str, settings: LoadSettings) -> bool:
        """Whether each server that may take a request has a model that is ready: there is one, or all report it."""
        place = self._tiers[tier]
        up = self._servers.up(tier)
        if len(up) <= 1:
            return len(up) == 1 or place.upstream.most_containers == 1
        return not settings and self._servers.all_hold(tier, model)

    async def ready(self, tier: str, model: str, settings: LoadSettings, until: float, caller: Caller = ANYONE) -> bool:
        """Wait until the model is loaded on its tier; true for the caller who woke it.

        Args:
            tier: where.
            model: as the server is asked for it; empty when none is needed in memory.
            settings: the options that a load depends on.
            until: when to give up, on the event loop's clock.
            caller: whose share of the places this takes.

        Raises:
            Held: too many wait already.
            TooManyRequests: too many of this caller's key do, or it asks for too much to be loaded.
            TooManyLoads: all together do.
            Expired: the time is over; a load that has begun goes on.
            CannotStart: its servers refuse to start, and none may be tried now.
            LoadFailed: the server cannot load it, and says why.

        """
        place = self._tiers[tier]
        self._insist_on_room(place, caller)
        is_up = self._is_up(place)
        if not is_up and place.wake is None:
            self._servers.insist_on_starts(place.upstream.tier, place.upstream.startup)
        woke = place.wake is None and not len(place.loads) and not is_up
        load = place.loads.find(model, settings) or self._begin(place, place.loads.admit(caller, model, settings))
        assert load.task is not None
        place.held[caller.name] += 1
        load.waiting += 1
        try:
            async with asyncio.timeout_at(until):
                await asyncio.shield(load.task)
        except TimeoutError as error:
            raise self._still(Expired, place, f"model {model!r} is not ready on tier {tier!r}") from error
        finally:
            place.held[caller.name] -= 1
            load.waiting -= 1
            if not load.is_wanted:
                place.loads.drop(load)
                load.task.cancel()
        return woke

    def _insist_on_room(self, place: _Tier, caller: Caller) -> None:
        most, tier, own = self._pace.most_held, place.upstream.tier, place.held[caller.name]
        if own >= share_of(most, caller) and own < most:
            raise TooManyRequests(
                f"{own} callers with key {caller.name!r} wait for tier {tier!r}, as many as may:"
                f" {self.waits_for(tier)}",
                hint="ask again soon",
                retry_after=RETRY_AFTER,
            )
        if (held := place.held.total()) >= most:
            raise self._still(HeldCaller, place, f"{held} callers wait for tier {tier!r} already")

    def answered(self, tier: str, model: str, settings: LoadSettings) -> None:
        """The server has just answered with this model."""
        place = self._tiers[tier]
        place.heard_at = self._clock.monotonic()
        place.loaded[model] = (settings, place.heard_at)

    def lost(self, tier: str, why: str) -> None:
        """The tier turned out not to be there; whoever asks next finds out whether it has to be woken."""
        place = self._tiers[tier]
        place.loaded.clear()
        place.heard_at = float("-inf")
        place.why = why or "it is gone"

    def forget(self, tier: str, model: str) -> None:
        """The server does not have the model in memory any more, or will not for long."""
        self._tiers[tier].loaded.pop(model, None)

    # For those who only look, in any thread

    def state(self, tier: str) -> TierState:
        place = self._tiers[tier]
        held = place.held.total()
        if place.wake is not None:
            return TierState(tier, "waking", place.since, place.why, held)
        loading = ", ".join(sorted({load.model for load in place.loads}))
        why = f"loading {loading}" if loading else ""
        if self._servers.pausing_until(place.upstream.tier) is not None:
            why = f"{tier} takes in new weights"
        if (began := self._up_since(place)) is not None:
            return TierState(tier, "ready", began, why, held)
        return TierState(tier, "asleep", self._left_at(place), why or place.why, held)

    def states(self) -> tuple[TierState, ...]:
        return tuple(self.state(tier) for tier in self._tiers)

    def waits_for(self, tier: str) -> str:
        """What a caller who is held may be told."""
        state = self.state(tier)
        if state.temper == "waking":
            return f"waking {tier}, {self._seconds_since(state.since):.0f} s"
        return state.why or f"waiting for {tier}"

    async def close(self) -> None:
        """End what is under way: only now is a load aborted."""
        places = self._tiers.values()
        tasks = [task for place in places for task in (*(load.task for load in place.loads), place.wake) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # What is known

    def _is_up(self, place: _Tier) -> bool:
        return self._up_since(place) is not None

    def _up_since(self, place: _Tier) -> datetime | None:
        """Since when the tier is up, by what it answered or reported lately."""
        if self._clock.monotonic() - place.heard_at < self._pace.trust_seconds:
            return place.since
        if place.why:  # it was asked, and was not there
            return None
        return self._servers.up_since(place.upstream.tier)

    def _left_at(self, place: _Tier) -> datetime:
        return self._servers.left_at(place.upstream.tier) or place.since

    def _seconds_since(self, moment: datetime) -> float:
        return (self._clock.now() - moment).total_seconds()

    def _still(self, kind: type[HeldCaller], place: _Tier, what: str) -> HeldCaller:
        """What somebody is told who waits no longer."""
        return kind(f"{what}: {self.waits_for(place.upstream.tier)}", hint="ask again soon", retry_after=RETRY_AFTER)

    # The work, which is nobody's but ours

    def _begin(self, place: _Tier, load: Load) -> Load:
        load.task = asyncio.create_task(self._load(place, load), name=f"load {load.model} on {place.upstream.tier}")

        def ended(task: asyncio.Task[None]) -> None:
            place.loads.drop(load)
            if not task.cancelled() and (trouble := task.exception()) is not None:
                logger.warning("{} on tier {}: {}", load.model, place.upstream.tier, trouble)

        load.task.add_done_callback(ended)
        return load

    async def _load(self, place: _Tier, load: Load) -> None:
        """Have the server load the model, however often it has to be woken for that."""
        tier = place.upstream.tier
        until = _now() + 2 * place.upstream.startup.total_seconds()
        unseen_at: float | None = None
        pauses = self._pauses()
        while True:
            await self._up(place)
            await self._pause_over(place)
            if not load.model:
                return
            status, text = await self._asked(place, load)
            if status == 200:
                return
            now = _now()
            if status == 503:
                self.lost(tier, text)
            elif status == 404:
                unseen_at = unseen_at or now
                await self._look()
                if self._servers.have_newest(tier) and now - unseen_at >= self._pace.sure_seconds:
                    raise LoadFailed(
                        404, f"model {load.model!r} is listed, but no server of tier {tier!r} can serve it: {text}"
                    )
            else:
                raise LoadFailed(status, text)
            if now > until or (unseen_at is not None and now > unseen_at + self._pace.unseen_seconds):
                raise HeldCaller(
                    f"model {load.model!r} is here, but tier {tier!r} does not serve it yet: {text}",
                    hint="ask again soon",
                    retry_after=RETRY_AFTER,
                )
            if not load.is_wanted:
                place.loads.drop(load)  # before anybody finds it who would wait for it
                return
            await asyncio.sleep(next(pauses))

    async def _asked(self, place: _Tier, load: Load) -> tuple[int, str]:
        """Have the server load it, whoever leaves meanwhile; status and error of that."""
        began = _now()
        load.has_begun = True
        try:
            status, text = await loaded(place.wire, load.model, load.settings)
        except NetworkTrouble as trouble:
            status, text = 503, str(trouble)
        finally:
            load.has_begun = False
        if status == 200:
            self._is_loaded(place, load.model, load.settings, _now() - began)
        return status, text

    async def _pause_over(self, place: _Tier) -> None:
        """Leave a server alone that takes in new weights, for as long as it asked for."""
        if self._servers.pausing_until(place.upstream.tier) is None:
            return
        logger.info("tier {} takes in new weights; new requests wait", place.upstream.tier)
        while self._servers.pausing_until(place.upstream.tier) is not None:
            place.loaded.clear()  # it is unloaded for that
            await self._look()
            await asyncio.sleep(self._pace.longest_poke_seconds)

    def _is_loaded(self, place: _Tier, model: str, settings: LoadSettings, seconds: float) -> None:
        """What else was in memory may have had to go, unless this was there already."""
        if seconds > self._pace.real_load_seconds:
            place.loaded.clear()
            logger.info("{} is loaded on tier {}, in {:.1f} s", model, place.upstream.tier, seconds)
        self.answered(place.upstream.tier, model, settings)

    async def _up(self, place: _Tier) -> None:
        """Be sure that the tier answers, waking it if it does not; all who need it wait for the one who wakes."""
        if self._is_up(place):
            return
        if place.wake is None:
            place.wake = asyncio.create_task(self._wake(place), name=f"wake {place.upstream.tier}")
            place.wake.add_done_callback(_seen)
            place.since = self._clock.now()
        await asyncio.shield(place.wake)

    async def _wake(self, place: _Tier) -> None:
        """Ask until it answers. Each time the reports are read before: to ask is to start another server."""
        tier, until = place.upstream.tier, _now() + place.upstream.startup.total_seconds()
        pauses = self._pauses()
        is_first = True
        try:
            self._servers.insist_on_starts(place.upstream.tier, place.upstream.startup)
            while (why := await absence(place.wire)) is not None:
                place.why = why
                if is_first:
                    self._woke(tier, "request")
                    logger.info("waking tier {}: {}", tier, why)
                    is_first = False
                if _now() > until:
                    seconds = place.upstream.startup.total_seconds()
                    raise Expired(
                        f"tier {tier!r} did not wake within {seconds:.0f} s: {why}",
                        hint="ask again; its log tells what it does: `modal app logs ollama-service`",
                        retry_after=RETRY_AFTER,
                    )
                await asyncio.sleep(next(pauses))
                await self._look()
                self._servers.insist_on_starts(place.upstream.tier, place.upstream.startup)
            place.why = ""
            place.heard_at = self._clock.monotonic()
        finally:
            place.since = self._clock.now()
            place.wake = None

    def _pauses(self) -> Iterator[float]:
        pause = self._pace.first_poke_seconds
        while True:
            yield pause
            pause = min(2 * pause, self._pace.longest_poke_seconds)


def _seen(task: asyncio.Task[None]) -> None:
    """Whoever waited for it is told; when nobody does any more, its failure is nobody's."""
    if not task.cancelled():
        task.exception()


def _now() -> float:
    return asyncio.get_running_loop().time()
