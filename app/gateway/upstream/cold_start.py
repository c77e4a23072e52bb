"""The cold starts of one tier: callers are held until it is awake and has their model loaded.

A load that has begun belongs to the gateway, never to a caller: a caller who leaves aborts nothing. How many may wait,
and for how long, is limited, for all and for each key; beyond that they are told what is happening and when to come
again.
A model that was loaded a moment ago is taken to be there without asking; a request that finds it gone comes back here.

What the servers report of themselves is read as well: a tier that asks for a pause gets no new requests meanwhile, and
one that has the newest weights is believed when it says that it knows no such model.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from loguru import logger

from app.gateway.auth.fair_shares import share_of
from app.gateway.auth.keys import ANYONE, Caller
from app.gateway.protocol.headers import Header
from app.gateway.protocol.request import LoadSettings
from app.gateway.upstream import server_requests
from app.gateway.upstream.cold_records import SETTLE_AFTER
from app.gateway.upstream.cold_wait import ColdWait, Waited
from app.gateway.upstream.cold_words import Coming, coming, reported
from app.gateway.upstream.holding import RETRY_AFTER, Expired, HoldContext, LoadFailed, NotReadyYet
from app.gateway.upstream.loads import Load, Loads, WakeCause
from app.gateway.upstream.tier_state import TierState
from app.gateway.upstream.upstream_client import TierUpstream, UpstreamClient
from app.gateway.upstream.waker import TierWaker
from jobs.core.errors import NetworkTrouble, TooManyRequests
from jobs.telemetry.cold_estimate import Situation, seconds_left
from jobs.telemetry.cold_starts import ColdStart


@dataclass(frozen=True)
class Ready:
    """What a caller waited for is there.

    Args:
        woke: it is this caller who woke the tier.
        session: headers that lead to the server that has loaded the model.
        wait: measures on until the answer begins; None where nobody wants to know.

    """

    woke: bool
    session: tuple[Header, ...] = ()
    wait: ColdWait | None = None


class ColdStarts:
    """Belongs to one event loop; `state` and `waits_for` may be asked in any thread.

    Args:
        upstream: the tier.
        client: the connections to its servers.
        context: what all tiers share.

    """

    def __init__(self, upstream: TierUpstream, client: UpstreamClient, context: HoldContext) -> None:
        self._upstream = upstream
        self._tier = upstream.tier
        self._client = client
        self._servers = context.servers
        self._clock = context.clock
        self._refresh = context.refresh
        self._timing = context.timing
        self._note = context.loaded
        self._cold = context.cold
        self._waker = TierWaker(upstream, client, context)
        self._loaded: dict[str, tuple[LoadSettings, float]] = {}
        """The models that are taken to be in memory, with what settings and since when."""
        #: Changed by the event loop; any thread may go through it, which copies it first.
        self.loads = Loads(self._tier, self._timing.limits, self._clock.monotonic)
        #: Who waits, by key. Changed by the event loop; any thread may add the numbers up.
        self._held: Counter[str] = Counter()

    # For callers

    def is_ready(self, model: str, settings: LoadSettings) -> bool:
        """Whether a request may go out now, as far as is known; without a model, whether the tier answers."""
        if self._servers.pausing_until(self._tier) is not None:
            return False
        if not model:
            return self._waker.has_answered_lately
        known_settings, at = self._loaded.get(model, (None, 0.0))
        return known_settings == settings and self._clock.monotonic() - at < self._timing.trust_seconds

    @property
    def is_asleep(self) -> bool:
        """Whether the next request would have to wake it, as far as is known."""
        return self._waker.task is None and self._waker.up_since() is None

    @property
    def may_have_to_wake(self) -> bool:
        """The same, for whoever must not wake it: what a server has said since it was found away counts as well."""
        return self.is_asleep and not self._waker.was_heard_of

    @property
    def held(self) -> int:
        """How many wait for it now."""
        return self._held.total()

    def is_everywhere(self, model: str, settings: LoadSettings) -> bool:
        """Whether each server that may take a request has a model that is ready: there is one, or all report it."""
        is_only = self._upstream.most_containers == 1
        if is_only and len(self._servers.of(self._tier)) <= 1:  # as on one machine
            return True
        up = self._servers.up(self._tier)
        if len(up) <= 1:
            return len(up) == 1 or is_only
        return not settings and self._servers.all_hold(self._tier, model)

    def is_ready_everywhere(self, model: str) -> bool:
        """Both of a model, with no settings."""
        if self._upstream.most_containers == 1 and not self._servers.of(self._tier):  # as on one machine
            settings, at = self._loaded.get(model, (None, 0.0))
            return settings == () and self._clock.monotonic() - at < self._timing.trust_seconds
        return self.is_ready(model, ()) and self.is_everywhere(model, ())

    async def ready(
        self,
        model: str,
        settings: LoadSettings,
        until: float,
        caller: Caller = ANYONE,
        cause: WakeCause = "request",
    ) -> Ready:
        """Wait until the model is loaded.

        Args:
            model: as the server is asked for it; empty when none is needed in memory.
            settings: the options that a load depends on.
            until: when to give up, on the event loop's clock.
            caller: whose share of those who may wait this takes.
            cause: as whose the wake counts, where this is what wakes the tier.

        Raises:
            NotReadyYet: too many wait already.
            TooManyRequests: too many of this caller's key do, or it asks for too much to be loaded.
            TooManyLoads: all together do.
            Expired: the time is over; a load that has begun goes on.
            CannotStart: its servers refuse to start, and none may be tried now.
            LoadFailed: the server cannot load it, and says why.

        """
        self._insist_on_room(caller)
        is_asleep = self.is_asleep
        if is_asleep:
            self._waker.insist_on_starts()
        woke = is_asleep and not len(self.loads)
        load = self.loads.find(model, settings) or self._begin(self.loads.admit(caller, model, settings), cause)
        assert load.task is not None
        self._held[caller.name] += 1
        load.waiting += 1
        try:
            async with asyncio.timeout_at(until):
                await asyncio.shield(load.task)
        except TimeoutError as error:
            what = f"model {model!r} is not ready on tier {self._tier!r}"
            raise self._not_ready(Expired, what, self.waits_for(model, caller)) from error
        finally:
            self._held[caller.name] -= 1
            load.waiting -= 1
            if not load.is_wanted:
                self.loads.drop(load)
                load.task.cancel()
        return Ready(woke, load.session, load.wait)

    def _insist_on_room(self, caller: Caller) -> None:
        most, own = self._timing.most_held, self._held[caller.name]
        if own >= share_of(most, caller) and own < most:
            raise TooManyRequests(
                f"{own} callers with key {caller.name!r} wait for tier {self._tier!r}, as many as may:"
                f" {self.waits_for('', caller)}",
                hint="ask again soon",
                retry_after=RETRY_AFTER,
            )
        if (held := self._held.total()) >= most:
            what = f"{held} callers wait for tier {self._tier!r} already"
            raise self._not_ready(NotReadyYet, what, self.waits_for("", caller))

    def answered(self, model: str, settings: LoadSettings) -> None:
        """The server has just answered with this model."""
        self._waker.answered()
        self._loaded[model] = (settings, self._clock.monotonic())

    def lost(self, why: str) -> None:
        """The tier turned out not to be there; the next request finds out whether it has to be woken."""
        self._loaded.clear()
        self._waker.lost(why)

    def forget(self, model: str) -> None:
        """The server does not have the model in memory any more, or will not for long."""
        self._loaded.pop(model, None)

    # In any thread

    def state(self) -> TierState:
        held = self._held.total()
        if self._waker.task is not None:
            return TierState(self._tier, "waking", self._waker.since, self._waker.why, held)
        loading = ", ".join(sorted({load.model for load in self.loads}))
        why = f"loading {loading}" if loading else ""
        pauses = f"{self._tier} takes in new weights" if self._servers.pausing_until(self._tier) is not None else ""
        if (since := self._waker.up_since()) is not None:
            return TierState(self._tier, "ready", since, pauses or why, held)
        left_at = self._servers.left_at(self._tier) or self._waker.since
        # A wake that has just failed is told before the load that waits for it hears of that.
        return TierState(self._tier, "asleep", left_at, pauses or self._waker.why or why, held)

    def coming(self, model: str = "") -> Coming | None:
        """The start or load that goes on, by what the servers report, else by what is known here; None where none does.

        Args:
            model: that matters, if several are on their way and no server says which is first.

        """
        now = self._clock.now()
        silent_since = None if self._waker.task is None else self._waker.since
        if (found := reported(self._servers.of(self._tier), now, silent_since)) is not None:
            return coming(self._tier, found, self._history, now)
        is_waking = self._waker.task is not None and bool(self._waker.why)
        own = sorted(self.loads, key=lambda load: (load.model != model, not load.has_begun))
        load = next((each for each in own if each.wait is not None), None)
        if load is None or load.wait is None or not (is_waking or load.has_begun):
            return None
        lasted = load.wait.seconds if is_waking else load.wait.loading_seconds
        situation = Situation(
            kind="start" if is_waking else "load",
            phase="container" if is_waking else "bytes",
            in_phase=lasted,
            size=self._size_of(load.model),
        )
        left = seconds_left(self._history, self._tier, situation)
        return Coming(self._tier, load.model, now - timedelta(seconds=lasted), situation, left)

    def waits_for(self, model: str = "", caller: Caller = ANYONE) -> str:
        """What a held caller waits for, in words.

        Args:
            model: that the caller waits for.
            caller: who is told; of models that are not for that key none is named.

        """
        state, coming = self.state(), self.coming(model)
        if coming is None or (coming.now.phase == "container" and coming.left is None):
            if state.state == "waking":
                return f"waking {self._tier}, {(self._clock.now() - state.since).total_seconds():.0f} s"
            return (state.why if not caller.models else "") or f"waiting for {self._tier}"
        shown = coming.model if caller.may_name(coming.model) else "another model"
        before = None
        if model and model != coming.model:
            own = Situation("load", "bytes", size=self._size_of(model))
            before = seconds_left(self._history, self._tier, own)
        return coming.words(model, shown, before)

    @property
    def _history(self) -> Sequence[ColdStart]:
        return () if self._cold is None else self._cold.history

    def _size_of(self, model: str) -> int | None:
        return None if self._cold is None or not model else self._cold.size_of(model)

    # The loads, which belong to the gateway

    async def close(self) -> None:
        """End what is under way: only now is a load aborted."""
        tasks = [task for task in (*(load.task for load in self.loads), self._waker.task) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @staticmethod
    def _not_ready(kind: type[NotReadyYet], what: str, waits_for: str) -> NotReadyYet:
        """Why a caller is held no longer, and when to ask again."""
        return kind(f"{what}: {waits_for}", hint="ask again soon", retry_after=RETRY_AFTER)

    def _begin(self, load: Load, cause: WakeCause) -> Load:
        load.cause = cause
        load.session = server_requests.session_of(self._upstream)
        load.wait = ColdWait(self._tier, load.model, self._clock, self._settle)
        load.task = asyncio.create_task(self._load(load), name=f"load {load.model} on {self._tier}")

        def ended(task: asyncio.Task[None]) -> None:
            self.loads.drop(load)
            if load.wait is not None and load.wait.is_cold:
                asyncio.get_running_loop().call_later(SETTLE_AFTER.total_seconds(), load.wait.settle)
            if not task.cancelled() and (trouble := task.exception()) is not None:
                logger.warning("{} on tier {}: {}", load.model, self._tier, trouble)

        load.task.add_done_callback(ended)
        return load

    def _settle(self, waited: Waited) -> None:
        if self._cold is not None:
            self._cold.settled(waited, is_remote=self._upstream.is_remote)

    async def _load(self, load: Load) -> None:
        """Have the server load the model, however often it has to be woken for that."""
        assert load.wait is not None
        until = _now() + 2 * self._upstream.startup.total_seconds()
        unseen_at: float | None = None
        pauses = self._waker.pauses()
        was_away = self._is_starting()  # and may answer the first question, which then was what was waited for
        while True:
            woke = await self._waker.wake(load.model, load.session, load.cause)
            load.wait.tier_answers(woke=woke or was_away)
            await self._pause_over()
            if not load.model:
                load.wait.loaded(is_real=False)
                return
            if woke and not load.settings and self._waker.has_loaded(load.model, load.session):
                self._note_loaded(load, 0.0)
                return
            status, text = await self._load_once(load)
            if status == 200:
                return
            now = _now()
            if status in {503, _NO_ANSWER}:
                self.lost(text)
                was_away |= status == _NO_ANSWER  # and may come back while we pause
            elif status == 404:
                unseen_at = unseen_at or now
                await self._refresh()
                if self._servers.have_newest(self._tier) and now - unseen_at >= self._timing.sure_seconds:
                    why = f"model {load.model!r} is listed, but no server of tier {self._tier!r} can serve it: {text}"
                    raise LoadFailed(404, why)
            else:
                raise LoadFailed(status, text)
            if now > until or (unseen_at is not None and now > unseen_at + self._timing.unseen_seconds):
                raise NotReadyYet(
                    f"model {load.model!r} is here, but tier {self._tier!r} does not serve it yet: {text}",
                    hint="ask again soon",
                    retry_after=RETRY_AFTER,
                )
            if not load.is_wanted:
                self.loads.drop(load)  # now, so that no new caller joins it
                return
            await asyncio.sleep(next(pauses))

    def _is_starting(self) -> bool:
        """Whether the tier is not there, and a server of it says that it starts."""
        if self._waker.up_since() is not None:
            return False
        found = reported(self._servers.of(self._tier), self._clock.now())
        return found is not None and found[1].kind == "start"

    async def _load_once(self, load: Load) -> tuple[int, str]:
        """Have the server load it, which goes on though callers leave; status, or `_NO_ANSWER`, and error of that."""
        began = _now()
        load.has_begun = True
        following = asyncio.create_task(self._follow(), name=f"follow {load.model} on {self._tier}")
        try:
            status, text = await server_requests.load(self._client, load.model, load.settings, load.session)
        except NetworkTrouble as trouble:
            status, text = _NO_ANSWER, str(trouble)
        finally:
            load.has_begun = False
            following.cancel()
        if status == 200:
            self._note_loaded(load, _now() - began)
        return status, text

    async def _follow(self) -> None:
        """Have what the server reports read anew while it loads: callers are told how far it has come."""
        while self._upstream.is_remote:
            await asyncio.sleep(self._timing.longest_poll_seconds)
            await self._refresh()

    def _note_loaded(self, load: Load, seconds: float) -> None:
        """What else was in memory may have had to go, unless this was there already."""
        if load.wait is not None:
            load.wait.loaded(is_real=seconds > self._timing.real_load_seconds)
        if seconds > self._timing.real_load_seconds:
            self._loaded.clear()
            logger.info("{} is loaded on tier {}, in {:.1f} s", load.model, self._tier, seconds)
        self._note(self._tier, load.model, dict(load.settings))
        self.answered(load.model, load.settings)

    async def _pause_over(self) -> None:
        """Leave a server alone that takes in new weights, for as long as it asked for."""
        if self._servers.pausing_until(self._tier) is None:
            return
        logger.info("tier {} takes in new weights; new requests wait", self._tier)
        while self._servers.pausing_until(self._tier) is not None:
            self._loaded.clear()  # they are unloaded for that
            await self._refresh()
            await asyncio.sleep(self._timing.longest_poll_seconds)


_NO_ANSWER = 0
"""In place of a status: there was nobody to give one."""


def _now() -> float:
    return asyncio.get_running_loop().time()
