"""Whether a tier is up, and waking it: one task wakes it, and everybody who needs it waits for that one.

A tier whose starts are refused is left alone for as long as `app.model_server.start_failures` says.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime

from loguru import logger

from app.gateway.catalog.server_reports import ServerReports
from app.gateway.upstream.holding import RETRY_AFTER, Expired, HoldTiming
from app.gateway.upstream.server_requests import absence
from app.gateway.upstream.upstream_client import TierUpstream, UpstreamClient
from jobs.core.clock import Clock


class TierWaker:
    """Written by the event loop alone. Any thread may read whether the tier is up: see the attributes.

    Args:
        upstream: the tier.
        client: the connections to its servers.
        servers: what the servers reported of themselves.
        clock: for the times that are shown.
        woke: called at each wake with the tier and the cause.
        refresh: has the reports read anew, unless that was done just now.
        timing: how often to ask, and for how long to believe an answer.

    """

    def __init__(
        self,
        upstream: TierUpstream,
        client: UpstreamClient,
        *,
        servers: ServerReports,
        clock: Clock,
        woke: Callable[[str, str], object],
        refresh: Callable[[], Awaitable[bool]],
        timing: HoldTiming,
    ) -> None:
        self._upstream = upstream
        self._client = client
        self._servers = servers
        self._clock = clock
        self._woke = woke
        self._refresh = refresh
        self._timing = timing
        #: When the tier began to wake or ceased to. Written by the event loop before `task` is, so that whoever sees a
        #: task sees its beginning; read by any thread.
        self.since = clock.now()
        #: Wakes the tier, while somebody has to. Written by the event loop, read by any thread.
        self.task: asyncio.Task[None] | None = None
        #: Why it was not there when it was asked last; empty once it answers. Written by the event loop, read by any
        #: thread.
        self.why = ""
        #: When it answered last, on the clock that never goes back. Written by the event loop, read by any thread.
        self._answered_at = float("-inf")

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

    def answered(self) -> None:
        """It has just answered."""
        self._answered_at = self._clock.monotonic()

    def lost(self, why: str) -> None:
        """It turned out not to be there; whoever asks next finds out whether it has to be woken."""
        self._answered_at = float("-inf")
        self.why = why or "it is gone"

    def insist_on_starts(self) -> None:
        """Leave a tier alone whose starts are refused.

        Raises:
            CannotStart: the next start has to wait.

        """
        self._servers.insist_on_starts(self._upstream.tier, self._upstream.startup)

    async def wake(self) -> None:
        """Return when the tier answers. Waking it takes one task, whoever leaves meanwhile.

        Raises:
            CannotStart: its servers refuse to start, and none may be tried now.
            Expired: it did not wake in time.
            ServerTrouble: a proxy in front of it refuses the gateway.

        """
        if self.up_since() is not None:
            return
        if self.task is None:
            self.since = self._clock.now()
            self.task = asyncio.create_task(self._wake(), name=f"wake {self._upstream.tier}")
            self.task.add_done_callback(_retrieve)
        await asyncio.shield(self.task)

    async def _wake(self) -> None:
        """Ask until it answers. Each time the reports are read before: to ask is to start another server."""
        tier, startup = self._upstream.tier, self._upstream.startup.total_seconds()
        until = _now() + startup
        polls = self.pauses()
        is_first = True
        try:
            self.insist_on_starts()
            while (why := await absence(self._client)) is not None:
                self.why = why
                if is_first:
                    self._woke(tier, "request")
                    logger.info("waking tier {}: {}", tier, why)
                    is_first = False
                if _now() > until:
                    raise Expired(
                        f"tier {tier!r} did not wake within {startup:.0f} s: {why}",
                        hint="ask again; its log tells what it does: `modal app logs ollama-service`",
                        retry_after=RETRY_AFTER,
                    )
                await asyncio.sleep(next(polls))
                await self._refresh()
                self.insist_on_starts()
            self.why = ""
            self.answered()
        finally:
            self.since = self._clock.now()
            self.task = None

    def pauses(self) -> Iterator[float]:
        """Seconds between two questions, growing up to a limit."""
        pause = self._timing.first_poll_seconds
        while True:
            yield pause
            pause = min(2 * pause, self._timing.longest_poll_seconds)


def _retrieve(task: asyncio.Task[None]) -> None:
    """Take its failure, which those who wait are told; asyncio complains of one that nobody took."""
    if not task.cancelled():
        task.exception()


def _now() -> float:
    return asyncio.get_running_loop().time()
