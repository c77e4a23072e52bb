"""What other threads see of a tier that wakes."""

import asyncio
from collections.abc import Callable
from datetime import datetime

from app.gateway.catalog.server_reports import ServerReports
from app.gateway.upstream.cold_start import ColdStarts
from app.gateway.upstream.holding import HoldContext
from app.gateway.upstream.tier_state import TierState
from app.gateway.upstream.upstream_client import Patience, TierUpstream, UpstreamClient
from jobs.testing.clock import HandClock
from tests.support.dialects import whole_answer
from tests.support.gateways import QUICK
from tests.support.scripted_server import ScriptedServer
from tests.support.waiting import PATIENCE


class WatchedClock(HandClock):
    """Shows the state of a tier at each moment that its time is asked for, as another thread might see it then."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[TierState] = []
        self._look: Callable[[], TierState] | None = None

    def watch(self, look: Callable[[], TierState]) -> None:
        self._look = look

    def now(self) -> datetime:
        look, self._look = self._look, None  # a state asks for the time as well
        if look is not None:
            self.seen.append(look())
            self._look = look
        return super().now()


async def no_news() -> bool:
    return False


def test_a_tier_that_wakes_is_shown_with_when_that_began() -> None:
    """Whenever another thread looks: a tier that is seen to wake is never seen to have woken since long before."""

    async def waking(server: ScriptedServer, clock: WatchedClock) -> bool:
        upstream = TierUpstream("a10g", server.url)
        client = UpstreamClient(upstream, Patience())
        reports = ServerReports(lambda _: (), lambda: None, clock)
        cold_starts = ColdStarts(upstream, client, HoldContext(reports, clock, lambda *_: None, no_news, QUICK))
        clock.tick(3600)
        clock.watch(cold_starts.state)
        try:
            ready = await cold_starts.ready("llama3.2", (), asyncio.get_running_loop().time() + PATIENCE)
            return ready.woke
        finally:
            await cold_starts.close()
            client.close()

    clock = WatchedClock()
    with ScriptedServer(whole_answer, asleep=1) as server:
        assert asyncio.run(waking(server, clock))
    began = HandClock.now(clock)
    assert {state.since for state in clock.seen if state.state == "waking"} == {began}
