"""Whether a tier is up, and waking it: one task wakes it, and all who need it wait for that one.

A tier whose starts are refused is left alone for as long as `app.model_server.start_failures` says.
"""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime

from loguru import logger

from app.engines.engine import ANSWERS_AT, LOADED_AT
from app.gateway.protocol.headers import Header
from app.gateway.upstream.holding import RETRY_AFTER, Expired, HoldContext
from app.gateway.upstream.loads import WakeCause
from app.gateway.upstream.server_requests import Presence, presence
from app.gateway.upstream.upstream_client import TierUpstream, UpstreamClient


class TierWaker:
    """Written by the event loop alone. Any thread may read whether the tier is up: see the attributes.

    Args:
        upstream: the tier.
        client: the connections to its servers.
        context: what all tiers share.

    """

    def __init__(self, upstream: TierUpstream, client: UpstreamClient, context: HoldContext) -> None:
        self._upstream = upstream
        self._client = client
        self._context = context
        self._clock = context.clock
        self._servers = context.servers
        self._timing = context.timing
        #: When the tier began to wake or ceased to. Written by the event loop, before `task`, so that a thread
        #: that sees a task sees when it began; read by any thread.
        self.since = context.clock.now()
        #: Wakes the tier, as long as that takes. Written by the event loop, read by any thread.
        self.task: asyncio.Task[bool] | None = None
        #: The models that this wake is for, and since when. A new one for each wake; grown by the event loop, and
        #: copied by the thread that writes it down.
        self._wanted: dict[str, datetime] = {}
        #: The session of the load that this wake began with, and what its answer told. The event loop's own.
        self._session: tuple[Header, ...] = ()
        self._found = Presence()
        #: Has the reports read anew. The event loop's own.
        self._refresh: asyncio.Future[bool] | None = None
        #: Why it was not there when it was asked last; empty once it answers. Written by the event loop, read by any
        #: thread.
        self.why = ""
        #: When it answered last, on the clock that never goes back. Written by the event loop, read by any thread.
        self._answered_at = float("-inf")

        #: When it was found away last. The event loop's own.
        self._lost_at = datetime.min.replace(tzinfo=UTC)

    # In any thread

    @property
    def has_answered_lately(self) -> bool:
        return self._clock.monotonic() - self._answered_at < self._timing.trust_seconds

    def up_since(self) -> datetime | None:
        """Since when the tier is up, by what it answered or reported lately; None when it is not."""
        if self.has_answered_lately:
            return self.since
        if self.why:  # it was asked, and was not there
            return None
        return self._servers.up_since(self._upstream.tier)

    # On the event loop

    @property
    def was_heard_of(self) -> bool:
        """Whether a server has said that it serves since the tier was found away last."""
        return any(each.at > self._lost_at for each in self._servers.up(self._upstream.tier))

    def answered(self) -> None:
        """It has just answered."""
        self._answered_at = self._clock.monotonic()

    def lost(self, why: str) -> None:
        """It turned out not to be there; the next request finds out whether it has to be woken."""
        self._answered_at = float("-inf")
        self.why = why or "it is gone"
        self._lost_at = self._clock.now()

    def insist_on_starts(self) -> None:
        """Leave a tier alone whose starts are refused.

        Raises:
            CannotStart: the next start has to wait.

        """
        self._servers.insist_on_starts(self._upstream.tier, self._upstream.startup)

    async def wake(self, model: str = "", session: tuple[Header, ...] = (), cause: WakeCause = "request") -> bool:
        """Return when the tier answers; true where it did not at first. One task wakes it for all, and goes on though
        callers leave.

        Args:
            model: that is waited for; the servers are told, so that they load it first.
            session: leads to the server that is met.
            cause: as what it counts, where nothing wakes it yet.

        Raises:
            CannotStart: its servers refuse to start, and none may be tried now.
            Expired: it did not wake in time.
            ServerTrouble: a proxy in front of it refuses the gateway.

        """
        if self.up_since() is not None:
            return False
        if self.task is None:
            self.since = self._clock.now()
            self._wanted = {model: self.since} if model else {}
            self._session, self._found = session, Presence()
            self.task = asyncio.create_task(self._wake(cause), name=f"wake {self._upstream.tier}")
            self.task.add_done_callback(_retrieve)
        elif model and model not in self._wanted:
            self._wanted[model] = self._clock.now()
            task = self.task
            await self._want()
            return await asyncio.shield(task)
        return await asyncio.shield(self.task)

    def has_loaded(self, model: str, session: tuple[Header, ...]) -> bool:
        """Whether the server that the last wake met, and that this session leads to, had the model in memory: it loads
        what is waited for before it answers."""
        return bool(session) and session == self._session and self._found.has(model)

    async def _want(self) -> None:
        """Have the servers know what is waited for, if they look."""
        if self._wanted and self._upstream.is_remote and self._context.cold is not None:
            await self._context.cold.want(self._upstream.tier, self._wanted)

    async def _wake(self, cause: WakeCause) -> bool:
        """Ask until it answers; to ask is to start another server. The reports are read anew beside that."""
        tier, startup = self._upstream.tier, self._upstream.startup.total_seconds()
        until = _now() + startup
        is_first = True
        try:
            self.insist_on_starts()
            if self._upstream.is_remote:
                self._client.connect_ahead()  # to shake hands takes as long as the ledger does
            await self._want()
            while why := (await self._asked()).why_not:
                self.why = why
                if is_first:
                    self._context.woke(tier, cause)
                    logger.info("waking tier {}: {}", tier, why)
                    is_first = False
                if _now() > until:
                    raise Expired(
                        f"tier {tier!r} did not wake within {startup:.0f} s: {why}",
                        hint="ask again; its log tells what it does: `modal app logs ollama-service`",
                        retry_after=RETRY_AFTER,
                    )
                await self._pause()
                self.insist_on_starts()
            self.why = ""
            self.answered()
            return not is_first
        finally:
            self.since = self._clock.now()
            self.task = None
            self._context.near.discard(self._upstream.tier)
            if self._refresh is not None:
                self._refresh.cancel()  # which ends nothing but the waiting for it

    async def _asked(self) -> Presence:
        """A server that tells of its start has loaded something by then, which spares the question for it."""
        path = LOADED_AT if self._upstream.is_remote else ANSWERS_AT
        self._found = await presence(self._client, path=path, session=self._session)
        return self._found

    async def _pause(self) -> None:
        """Until the next question; it comes at once when a server has just said that it serves."""
        ends, had_come = _now() + self._pause_seconds(), self._has_come()
        if self._refresh is None or self._refresh.done():
            self._refresh = asyncio.ensure_future(self._context.refresh())
        await asyncio.wait({self._refresh}, timeout=ends - _now())
        if had_come or not self._has_come():
            await asyncio.sleep(ends - _now())

    def _pause_seconds(self) -> float:
        """Shorter once a server is near; tiers of which one is share the questions that may be asked."""
        timing, near, now = self._timing, self._context.near, self._clock.now()
        ages = [
            (now - (each.started_at or each.at)).total_seconds()
            for each in self._servers.of(self._upstream.tier)
            if each.state == "waking"
        ]
        if not self._has_come() and not any(age < timing.near_seconds for age in ages):
            near.discard(self._upstream.tier)
            return timing.until_next_poke(0)
        near.add(self._upstream.tier)
        return timing.until_next_poke(len(near))

    def _has_come(self) -> bool:
        """Whether a server has said that it serves since this wake began: that may come before its proxy lets us in."""
        return any(each.at > self.since for each in self._servers.up(self._upstream.tier))

    def pauses(self) -> Iterator[float]:
        """Seconds between two tries to load, growing up to a limit."""
        pause = self._timing.first_poll_seconds
        while True:
            yield pause
            pause = min(2 * pause, self._timing.longest_poll_seconds)


def _retrieve(task: asyncio.Task[bool]) -> None:
    """Take its failure, which those who wait are told; asyncio complains of one that nobody took."""
    if not task.cancelled():
        task.exception()


def _now() -> float:
    return asyncio.get_running_loop().time()
