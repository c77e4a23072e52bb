"""Cold starts: one waker per tier, and everybody else waits with it.

A load belongs to the gateway, never to a caller: whoever leaves aborts nothing. How many may wait, and for how long, is
limited; beyond that they are told what is happening and when to come again. A server that answers need not be asked
again for a while: what was loaded a moment ago is taken to be there, and whoever finds it gone comes back here.
"""

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol

from loguru import logger

from app.gateway.asked import Settings
from app.gateway.dialects import error_text
from app.gateway.wire import Wire
from jobs.clock import Clock
from jobs.errors import NetworkTrouble, ServerTrouble

Temper = Literal["asleep", "waking", "ready"]

RETRY_AFTER = timedelta(seconds=10)
"""For those who are told to come again: a cold start takes some of these."""


@dataclass(frozen=True)
class Upstream:
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
    temper: Temper
    since: datetime
    why: str = ""
    held: int = 0
    """Callers that wait for it now."""


class Loaded(Protocol):
    """A model in a server's memory."""

    @property
    def name(self) -> str: ...
    @property
    def expires_at(self) -> datetime | None: ...


class Report(Protocol):
    """What a server says of itself, as far as it matters here."""

    @property
    def state(self) -> str: ...
    @property
    def at(self) -> datetime: ...
    @property
    def started_at(self) -> datetime | None: ...
    @property
    def loaded(self) -> Sequence[Loaded]: ...


@dataclass(frozen=True)
class Pace:
    """The times and numbers of waiting."""

    first_poke_seconds: float = 0.5
    longest_poke_seconds: float = 2.0
    """Between two looks whether a tier is awake; at zero containers each is answered 503 at once."""
    trust_seconds: float = 60.0
    """So long a model that answered is taken to be loaded; below Ollama's five minutes of keeping one alive."""
    real_load_seconds: float = 0.5
    """A load that took less was none: the model was in memory."""
    unseen_seconds: float = 120.0
    """So long a server may say that it does not know a model which is here: it takes new weights in when idle."""
    report_seconds: float = 90.0
    """So long a report counts: a server writes one every half minute."""
    most_held: int = 512
    """Callers that may wait for one tier."""


class Held(NetworkTrouble):
    """It is not ready yet."""


class Expired(Held):
    """It was not ready in time."""


class LoadFailed(ServerTrouble):
    """The server said why it cannot load a model."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class _Tier:
    """What is known of one tier, and who waits for it."""

    def __init__(self, upstream: Upstream, wire: Wire, now: datetime) -> None:
        self.upstream = upstream
        self.wire = wire
        self.loaded: dict[str, tuple[Settings, float]] = {}
        self.loads: dict[tuple[str, Settings], asyncio.Task[None]] = {}
        self.wake: asyncio.Task[None] | None = None
        self.why = ""
        self.since = now
        self.heard_at = float("-inf")
        self.held = 0


class Waking:
    """Belongs to one event loop.

    Args:
        upstreams: the tiers.
        wires: the ways to them.
        reports: what the servers of a tier said last.
        clock: for the times that are shown.
        woke: told of each wake: the tier and the cause.
        pace: times and numbers.

    """

    def __init__(
        self,
        upstreams: Mapping[str, Upstream],
        wires: Mapping[str, Wire],
        *,
        reports: Callable[[str], Iterable[Report]],
        clock: Clock,
        woke: Callable[[str, str], object],
        pace: Pace | None = None,
    ) -> None:
        self._reports = reports
        self._clock = clock
        self._woke = woke
        self._pace = pace or Pace()
        self._tiers = {name: _Tier(each, wires[name], clock.now()) for name, each in upstreams.items()}

    # For callers

    def is_ready(self, tier: str, model: str, settings: Settings) -> bool:
        """Whether a request may go out now, as far as is known; without a model, whether the tier answers."""
        if not model:
            return self._clock.monotonic() - self._tiers[tier].heard_at < self._pace.trust_seconds
        found = self._tiers[tier].loaded.get(model)
        return (
            found is not None and found[0] == settings and self._clock.monotonic() - found[1] < self._pace.trust_seconds
        )

    def is_everywhere(self, tier: str, model: str, settings: Settings) -> bool:
        """Whether each server that may take a request has a model that is ready: there is one, or all report it."""
        place = self._tiers[tier]
        up = [each for each in self._reports(tier) if self._is_fresh(each)]
        if len(up) <= 1:
            return len(up) == 1 or place.upstream.most_containers == 1
        now = self._clock.now()
        return not settings and all(
            any(one.name == model and (one.expires_at or now) >= now for one in each.loaded) for each in up
        )

    async def ready(self, tier: str, model: str, settings: Settings, until: float) -> bool:
        """Wait until the model is loaded on its tier; true for the caller who woke it.

        Args:
            tier: where.
            model: as the server is asked for it; empty when none is needed in memory.
            settings: the options that a load depends on.
            until: when to give up, on the event loop's clock.

        Raises:
            Held: too many wait already.
            Expired: the time is over; the load goes on.
            LoadFailed: the server cannot load it, and says why.

        """
        place = self._tiers[tier]
        if place.held >= self._pace.most_held:
            raise self._still(Held, place, f"{place.held} callers wait for tier {tier!r} already")
        woke = place.wake is None and not place.loads and not self._is_up(place)
        load = place.loads.get((model, settings)) or self._begin(place, model, settings)
        place.held += 1
        try:
            async with asyncio.timeout_at(until):
                await asyncio.shield(load)
        except TimeoutError as error:
            raise self._still(Expired, place, f"model {model!r} is not ready on tier {tier!r}") from error
        finally:
            place.held -= 1
        return woke

    def answered(self, tier: str, model: str, settings: Settings) -> None:
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
        if place.wake is not None:
            return TierState(tier, "waking", place.since, place.why, place.held)
        loading = ", ".join(sorted({model for model, _ in list(place.loads)}))
        why = f"loading {loading}" if loading else ""
        if (began := self._up_since(place)) is not None:
            return TierState(tier, "ready", began, why, place.held)
        return TierState(tier, "asleep", self._left_at(place), why or place.why, place.held)

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
        tasks = [task for place in self._tiers.values() for task in (*place.loads.values(), place.wake) if task]
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
        fresh = [each for each in self._reports(place.upstream.tier) if self._is_fresh(each)]
        return min((each.started_at or each.at for each in fresh), default=None)

    def _is_fresh(self, report: Report) -> bool:
        return report.state == "serving" and self._seconds_since(report.at) < self._pace.report_seconds

    def _left_at(self, place: _Tier) -> datetime:
        return max((each.at for each in self._reports(place.upstream.tier)), default=place.since)

    def _seconds_since(self, moment: datetime) -> float:
        return (self._clock.now() - moment).total_seconds()

    def _still(self, kind: type[Held], place: _Tier, what: str) -> Held:
        """What somebody is told who waits no longer."""
        return kind(f"{what}: {self.waits_for(place.upstream.tier)}", hint="ask again soon", retry_after=RETRY_AFTER)

    # The work, which is nobody's but ours

    def _begin(self, place: _Tier, model: str, settings: Settings) -> asyncio.Task[None]:
        load = asyncio.create_task(self._load(place, model, settings), name=f"load {model} on {place.upstream.tier}")
        place.loads[model, settings] = load

        def ended(task: asyncio.Task[None]) -> None:
            del place.loads[model, settings]
            if not task.cancelled() and (trouble := task.exception()) is not None:
                logger.warning("{} on tier {}: {}", model, place.upstream.tier, trouble)

        load.add_done_callback(ended)
        return load

    async def _load(self, place: _Tier, model: str, settings: Settings) -> None:
        """Have the server load the model, however often it has to be woken for that."""
        until = _now() + 2 * place.upstream.startup.total_seconds()
        unseen_until: float | None = None
        pauses = self._pauses()
        while True:
            await self._up(place)
            if not model:
                return
            began = _now()
            try:
                status, text = await _loaded(place.wire, model, settings)
            except NetworkTrouble as trouble:
                status, text = 503, str(trouble)
            if status == 200:
                self._is_loaded(place, model, settings, _now() - began)
                return
            if status == 503:
                self.lost(place.upstream.tier, text)
            elif status == 404:
                unseen_until = unseen_until or _now() + self._pace.unseen_seconds
            else:
                raise LoadFailed(status, text)
            if _now() > min(until, unseen_until or until):
                raise Held(
                    f"model {model!r} is here, but tier {place.upstream.tier!r} does not serve it yet: {text}",
                    hint="ask again soon",
                    retry_after=RETRY_AFTER,
                )
            await asyncio.sleep(next(pauses))

    def _is_loaded(self, place: _Tier, model: str, settings: Settings, seconds: float) -> None:
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
            place.since = self._clock.now()
        await asyncio.shield(place.wake)

    async def _wake(self, place: _Tier) -> None:
        tier, until = place.upstream.tier, _now() + place.upstream.startup.total_seconds()
        pauses = self._pauses()
        is_first = True
        try:
            while (why := await _absence(place.wire)) is not None:
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


async def _absence(wire: Wire) -> str | None:
    """Why the tier cannot be used yet; None when it answers. Asking is what wakes it.

    Raises:
        ServerTrouble: somebody on the way lets us in to nobody, which no waiting changes.

    """
    try:
        answer = await wire.ask("GET", "/api/version")
    except NetworkTrouble as trouble:
        return str(trouble)
    try:
        text = await answer.whole(_MOST_TEXT)
    except NetworkTrouble as trouble:
        return str(trouble)
    finally:
        answer.close()
    said = f"it answers {answer.status} {error_text(text)[:200]}".strip()
    if answer.status in {401, 403, 407}:
        raise ServerTrouble(
            f"the way to {wire.url} is closed to the gateway: {said}",
            hint="Modal's proxy wants a token that is allowed in this environment: secret `ollama-proxy-token`",
        )
    return None if answer.status == 200 else said


async def _loaded(wire: Wire, model: str, settings: Settings) -> tuple[int, str]:
    """Ask for an answer to nothing, which loads the model; status and error of it."""
    options = {"options": dict(settings)} if settings else {}
    status, text = await _asked(wire, "/api/generate", {"model": model, "stream": False, **options})
    if status == 400 and "does not support" in text:  # it only embeds
        status, text = await _asked(wire, "/api/embed", {"model": model, "input": [], **options})
    return status, text


async def _asked(wire: Wire, path: str, body: Mapping[str, Any]) -> tuple[int, str]:
    answer = await wire.ask("POST", path, [(b"content-type", b"application/json")], json.dumps(body).encode())
    try:
        text = await answer.whole(_MOST_TEXT)
    finally:
        answer.close()
    return answer.status, "" if answer.status == 200 else error_text(text)


_MOST_TEXT = 64 * 1024


def _now() -> float:
    return asyncio.get_running_loop().time()
