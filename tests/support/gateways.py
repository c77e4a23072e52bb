"""A gateway over real sockets, in front of servers that a test names."""

import asyncio
import json
import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from app.engines.engine import Engine
from app.engines.ollama import OLLAMA
from app.fleet.schema import Fleet
from app.gateway.auth.key_lines import FixedLines
from app.gateway.auth.keys import Keys
from app.gateway.auth.live_keys import LiveKeys
from app.gateway.batches.parts import BatchParts
from app.gateway.catalog.state import KnownState, ModelsSource
from app.gateway.compose import Composed, GatewayParts
from app.gateway.cross_origin import Origins
from app.gateway.dashboard.plans import Plans, unknown_night
from app.gateway.event_loop.watch import LoopWatch
from app.gateway.http_protocol import ConnectionLimits
from app.gateway.http_server import HttpServer, listening
from app.gateway.inference.routing import Router
from app.gateway.ops.context import send_none
from app.gateway.upstream.holding import HoldTiming
from app.gateway.upstream.upstream_client import Patience, TierUpstream
from jobs.cli.job_commands import Preview
from jobs.core.clock import Clock, SystemClock
from jobs.core.model_name import ModelName
from jobs.ledger.ledger import Ledger
from jobs.models.aliases import Aliases
from jobs.models.card import KnownModel
from jobs.models.model_settings import SettingsOf, unset
from jobs.models.placement import TierCapacity
from jobs.store.sqlite import SqliteDict, SqliteQueue
from jobs.telemetry.usage import Row, usage
from tests.support.dialects import (
    Dialect,
)
from tests.support.failing_stores import Meet, TroubledDict
from tests.support.tiers import A10G, H100
from tests.support.waiting import PATIENCE, until

CLOCK = SystemClock()

QUICK = HoldTiming(poke_seconds=0.02, first_poll_seconds=0.02, longest_poll_seconds=0.05, unseen_seconds=1.0)


def model(text: str) -> KnownModel:
    return KnownModel(ModelName.parse(text), "0" * 64, 1_000_000, datetime(2026, 1, 1, tzinfo=UTC), {})


@dataclass
class ModelList:
    """Where the gateway's models come from: a list."""

    models: Sequence[KnownModel] = field(default_factory=lambda: [model("llama3.2")])

    def stamp(self, _: Any, /) -> Any:
        return tuple(self.models)

    def read(self) -> Sequence[KnownModel]:
        return self.models


@dataclass
class RunningGateway:
    """A gateway that answers."""

    url: str
    composed: Composed
    facts: SqliteDict
    path: Path
    server: HttpServer
    known_state: KnownState

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def rows(self, count: int = 1) -> list[Row]:
        """What was recorded, once so many requests were."""

        def recorded() -> list[Row]:
            self.composed.usage_recorder.flush()
            rows = usage(self.facts)
            return rows if sum(row.sums.count for row in rows) >= count else []

        found: list[Row] = until(recorded, "the record")
        assert sum(row.sums.count for row in found) == count
        return found

    def row(self) -> Row:
        (row,) = self.rows()
        return row

    def open_exchanges(self) -> int:
        return sum(client.open_exchanges for client in self.composed.upstream_clients.values())


@contextmanager
def gateway(
    folder: Path,
    servers: Mapping[str, str],
    *,
    keys: str = "",
    live_keys: bool = False,
    source: ModelsSource | None = None,
    startup: float = 60.0,
    patience: Patience | None = None,
    pace: HoldTiming = QUICK,
    tiers: Sequence[TierCapacity] | None = None,
    comment_seconds: float = PATIENCE,
    headers: Mapping[str, str] | None = None,
    fleet: Fleet | None = None,
    most_containers: int = 1,
    is_remote: bool = False,
    body_seconds: float = PATIENCE,
    limits: ConnectionLimits | None = None,
    plan: Callable[[], Preview] = unknown_night,
    refresh_seconds: float = 2.0,
    origins: Sequence[str] = (),
    rented: bool = True,
    aliases: Mapping[str, str] | None = None,
    settings: SettingsOf = unset,
    settings_in_manifests: bool = False,
    notes: Sequence[str] = (),
    loop_watch: LoopWatch | None = None,
    new_loop: Callable[[], asyncio.AbstractEventLoop] | None = None,
    engines: Mapping[str, Engine] | None = None,
    declared: Mapping[str, str] | None = None,
    meet: Meet | None = None,
    clock: Clock = CLOCK,
    writer: str = "test",
    batches: BatchParts | None = None,
    send_worker: Callable[[str], object] = send_none,
) -> Iterator[RunningGateway]:
    """A gateway in front of these servers, by tier. What it asks of its store, `meet` is told before."""
    path = folder / "gateway.sqlite"
    facts = SqliteDict(path)
    asked = TroubledDict(facts, meet) if meet else facts
    known_state = KnownState(facts, source or ModelList(), CLOCK, aliases=Aliases(aliases or {}))
    known = tiers or [TierCapacity(name, None, gpu_promised=False) for name in servers]
    parts = GatewayParts(
        upstreams={
            name: TierUpstream(
                name,
                url,
                headers or {},
                timedelta(seconds=startup),
                most_containers,
                is_remote,
                (engines or {}).get(name, OLLAMA),
            )
            for name, url in servers.items()
        },
        known_state=known_state,
        router=Router(
            known_state, known, lambda name: (declared or {}).get(str(name.folded())), settings, engines=engines
        ),
        keys=LiveKeys(FixedLines(Keys.parse(keys)), asked, clock, may_be_open=not keys)
        if live_keys
        else LiveKeys.fixed(Keys.parse(keys)),
        facts=asked,
        open_ledger=lambda: Ledger(SqliteQueue(path, clock=CLOCK), SqliteDict(path), CLOCK),
        clock=clock,
        writer=writer,
        version="0.0.1",
        patience=patience or Patience(),
        hold_timing=pace,
        comment_seconds=comment_seconds,
        fleet=fleet,
        rented=rented,
        plans=Plans(night=plan),
        body_seconds=body_seconds,
        refresh_seconds=refresh_seconds,
        origins=Origins(origins),
        settings_in_manifests=settings_in_manifests,
        notes=notes,
        loop_watch=loop_watch,
        batches=batches,
        send_worker=send_worker,
    )
    known_state.refresh()
    composed = Composed(parts)
    loop = new_loop or composed.new_loop
    server = HttpServer(composed.app, listening("127.0.0.1", 0), CLOCK, limits, loop)
    server.start()
    try:
        yield RunningGateway(server.url, composed, facts, path, server, known_state)
    finally:
        server.stop()
        facts.close()


def asked(running: RunningGateway, dialect: Dialect, **more: Any) -> httpx.Response:
    """A client's request and its whole answer."""
    body = {**dialect.body, **more}
    return httpx.post(running.url + dialect.path, json=body, timeout=PATIENCE)


def caller_of(running: RunningGateway, dialect: Dialect, **more: Any) -> socket.socket:
    """Somebody who has asked and has not read yet."""
    body = json.dumps({**dialect.body, **more}).encode()
    caller = socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE)
    head = f"POST {dialect.path} HTTP/1.1\r\nHost: gateway\r\nContent-Length: {len(body)}\r\n\r\n"
    caller.sendall(head.encode() + body)
    return caller


def held_callers(running: RunningGateway, tier: str = "a10g") -> int:
    return running.composed.cold_starts[tier].state().held


def tier_entry(running: RunningGateway, tier: str = "a10g") -> dict[str, object]:
    tiers = httpx.get(f"{running.url}/ops/v1/tiers", timeout=PATIENCE).json()["tiers"]
    (found,) = (each for each in tiers if each["tier"] == tier)
    return dict(found)


H100_TIER = replace(H100, context=16384, parallel=4, cache_type="q8_0", dollars_per_hour=4.84)
A10G_TIER = replace(A10G, context=8192, parallel=4, cache_type="q8_0", dollars_per_hour=1.42)


def is_whole(got: bytes) -> bool:
    """Whether a last answer is there, to its end."""
    head, _, body = got.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").partition(b"\r\n\r\n")
    told = re.search(rb"content-length: (\d+)", head.lower())
    return len(body) >= int(told[1]) if told else body.endswith(b"0\r\n\r\n")
