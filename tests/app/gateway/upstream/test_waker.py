"""What other threads see of a tier that wakes."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from app.gateway.catalog.server_reports import ServerReports
from app.gateway.upstream.cold_records import ColdRecords
from app.gateway.upstream.cold_start import ColdStarts
from app.gateway.upstream.holding import HoldContext
from app.gateway.upstream.tier_state import TierState
from app.gateway.upstream.upstream_client import Patience, TierUpstream, UpstreamClient
from jobs.core.errors import Unreachable
from jobs.store.sqlite import SqliteDict
from jobs.testing.clock import HandClock
from tests.support.dialects import whole_answer
from tests.support.gateways import QUICK
from tests.support.scripted_server import ScriptedServer
from tests.support.waiting import PATIENCE, until


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


class Telling(SqliteDict):
    """A ledger that takes what is waited for when the tier has been reached, and not before."""

    server: ScriptedServer
    heard: int | None = None

    def put(self, key: Any, value: Any, *, skip_if_exists: bool = False) -> bool:
        until(lambda: self.server.lines, "a connection")
        self.heard = len(self.server.heard)
        return super().put(key, value, skip_if_exists=skip_if_exists)


def test_the_way_is_opened_while_the_ledger_is_told(tmp_path: Path) -> None:
    """To reach a platform's proxy takes as long as its ledger does: both go on at once. Nothing is asked before the
    ledger has it, and the first question goes by the connection that is there."""

    async def waking(server: ScriptedServer, facts: Telling) -> bool:
        clock = HandClock()
        upstream = TierUpstream("a10g", server.url, is_remote=True)
        client = UpstreamClient(upstream, Patience())
        reports = ServerReports(lambda _: (), lambda: None, clock)
        cold = ColdRecords(
            facts,
            clock,
            "test",
            reports=lambda _: (),
            refresh=no_news,
            observe=lambda _: None,
            size_of=lambda _: None,
        )
        context = HoldContext(reports, clock, lambda *_: None, no_news, QUICK, cold=cold)
        cold_starts = ColdStarts(upstream, client, context)
        try:
            ready = await cold_starts.ready("llama3.2", (), asyncio.get_running_loop().time() + PATIENCE)
            return ready.woke
        finally:
            await cold_starts.close()
            await cold.close()
            client.close()

    facts = Telling(tmp_path / "facts.sqlite")
    with ScriptedServer(whole_answer, asleep=1) as server:
        facts.server = server
        assert asyncio.run(waking(server, facts))
        assert facts.heard == 0
        assert server.accepted == 1
    facts.close()


def test_who_asks_is_told_that_the_way_cannot_be_opened() -> None:
    """A connection that was tried ahead fails whoever needs it, and nobody else; the next one is tried anew."""

    async def asking() -> int:
        with ScriptedServer(whole_answer) as server:
            url = server.url
        client = UpstreamClient(TierUpstream("a10g", url, is_remote=True), Patience())
        client.connect_ahead()
        with pytest.raises(Unreachable):
            await client.ask("GET", "/api/ps")
        with ScriptedServer(whole_answer, port=server.port):
            answer = await client.ask("GET", "/api/version")
            answer.close()
        client.connect_ahead()  # and nobody asks
        client.close()
        return answer.status

    assert asyncio.run(asking()) == 200
