"""Puts the gateway together from what differs between one machine and a deployment.

Whoever starts it, `ollama-modal up` or a container, hands in `GatewayParts` and serves what `Composed.app` is.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from fastapi import APIRouter

from app.fleet.schema import Fleet
from app.gateway.app import App, Gateway
from app.gateway.auth.keys import Keys
from app.gateway.auth.rate_limits import RateLimits
from app.gateway.catalog import ollama_lists as lists
from app.gateway.catalog.server_reports import ServerReports
from app.gateway.catalog.state import KnownState
from app.gateway.dashboard import cost as costs
from app.gateway.dashboard import daily as days
from app.gateway.dashboard import nightly as nights
from app.gateway.dashboard import overview as board
from app.gateway.dashboard import plans
from app.gateway.dashboard.page import Page
from app.gateway.dashboard.plans import Plans
from app.gateway.inference.detached import DetachedRequests
from app.gateway.inference.local_routes import handlers
from app.gateway.inference.metrics import Metrics, Readings
from app.gateway.inference.proxy import COMMENT_SECONDS, Proxy, ProxyContext
from app.gateway.inference.request_log import Records
from app.gateway.inference.route_cache import RouteCache
from app.gateway.inference.routing import Router
from app.gateway.ops import app as ops
from app.gateway.ops.context import Document, OpsContext, nobody
from app.gateway.ops.ledger_pool import LedgerPool
from app.gateway.protocol import body as bodies
from app.gateway.upstream import tier_state as tiers
from app.gateway.upstream.cold_start import ColdStarts, HoldTiming, TierUpstream
from app.gateway.upstream.upstream_client import Patience, UpstreamClient
from app.logs import dropped_lines
from jobs.cli.job_commands import no_archive
from jobs.core.clock import Clock
from jobs.home.status import card_complaints
from jobs.ledger.job import Job
from jobs.ledger.ledger import Ledger
from jobs.models.card import bytes_of
from jobs.registry.allowlist import ANYWHERE, Registries
from jobs.store.protocols import DictLike
from jobs.telemetry.usage import UsageRecorder, last_used, usage

LOOK_SECONDS = 2.0
"""Between two looks for a model that somebody misses, or for what the servers of a tier report that somebody waits for;
on a platform each reads the ledger and perhaps the volume."""


LOOK_PATIENCE_SECONDS = 5.0
"""So long whoever misses a model waits for a look; the look itself may last longer, where the store is away."""

THREADS = 32
"""For what waits for the store or a file beside the event loop. Few are needed while all is well; while it hangs, each
is kept for half a minute, and whoever asks for usage or costs must not be in the way of those who chat."""


@dataclass(frozen=True)
class GatewayParts:
    """Everything that differs between one machine and a deployment.

    Args:
        upstreams: the tiers, by name.
        standing: what is known of models and servers.
        router: on which tier a model is answered.
        keys: who may ask.
        facts: the ledger's dict.
        open_ledger: a ledger for the thread that asks.
        clock: the time.
        writer: names this process among all that write usage.
        version: of the Ollama that the servers run, while none has told its own.
        ring: sends a worker to a lane.
        rate_limit: bytes per second for a pull that names none.
        registries: those that may be pulled from.
        patience: how long a server may be silent.
        pace: how callers wait for a server.
        fleet: what is declared; None where nothing is.
        quota_bytes: for the weights; the fleet's when left out.
        rented: servers are paid by the second, as on Modal.
        simulated: the servers only pretend, which the page says.
        complaints: what is wrong with models that are not whole, in lines for people.
        problems: what is wrong with what was started beside the gateway, in lines for people.
        archived: the jobs that have left the ledger, of those posted since a moment.
        past: what has left the ledger's dict for the archive, by the keys that it had there.
        plans: what would be done, by a night or a prune.
        comment_seconds: between two comment lines for those who wait with an event stream.
        body_seconds: how long a body may take that hardly comes.
        look_seconds: between two looks at how things stand for whoever cannot wait for the next.

    """

    upstreams: Mapping[str, TierUpstream]
    standing: KnownState
    router: Router
    keys: Keys
    facts: DictLike
    open_ledger: Callable[[], Ledger]
    clock: Clock
    writer: str
    version: str
    ring: Callable[[str], object] = nobody
    rate_limit: int | None = None
    registries: Registries = ANYWHERE
    patience: Patience = field(default_factory=Patience)
    pace: HoldTiming = field(default_factory=HoldTiming)
    fleet: Fleet | None = None
    quota_bytes: int | None = None
    rented: bool = True
    simulated: bool = False
    complaints: Callable[[], Sequence[str]] = tuple
    problems: Callable[[], Sequence[str]] = tuple
    archived: Callable[[datetime], Iterable[Job]] = no_archive
    past: Callable[[], Mapping[str, Any]] = dict
    plans: Plans = field(default_factory=Plans)
    comment_seconds: float = COMMENT_SECONDS
    body_seconds: float = bodies.SECONDS
    look_seconds: float = LOOK_SECONDS


class Composed:
    """A gateway, and its parts for whoever wants to look at one."""

    def __init__(self, parts: GatewayParts) -> None:
        self._parts = parts
        self._standing = parts.standing
        routes = RouteCache(parts.router, parts.standing)
        self.metrics = Metrics(parts.keys.names, parts.upstreams, routes.is_known)
        self.usage_recorder = UsageRecorder(parts.facts, parts.clock, parts.writer)
        self.wires = {
            name: UpstreamClient(each.url, _encoded(each.headers), parts.patience)
            for name, each in parts.upstreams.items()
        }
        self.waking = ColdStarts(
            parts.upstreams,
            self.wires,
            servers=ServerReports(parts.standing.reports, lambda: parts.standing.generation, parts.clock),
            clock=parts.clock,
            woke=self.metrics.woke,
            look=self._look,
            pace=parts.pace,
        )
        self.limits = RateLimits(parts.clock)
        self.budget = bodies.Budget(keys=len(parts.keys.names))
        self.detached = DetachedRequests(keys=len(parts.keys.names))
        self._looking: asyncio.Task[bool] | None = None
        self._looked_at = float("-inf")
        self._ledger_pool = LedgerPool(parts.open_ledger)
        self.metrics.watch(self._readings())
        records = Records(self.usage_recorder, self.metrics)
        self.proxy = Proxy(
            ProxyContext(
                upstreams=parts.upstreams,
                wires=self.wires,
                waking=self.waking,
                routes=routes,
                look=self._look,
                recorder=records,
                clock=parts.clock,
                detached=self.detached,
                comment_seconds=parts.comment_seconds,
            )
        )
        self.app: App = Gateway(
            keys=parts.keys,
            limits=self.limits,
            passes=self.proxy.pass_on,
            handlers=handlers(parts.standing, self.proxy.pass_on, version=parts.version),
            ops=ops.create(self._ops_context(), ledger_pool=self._ledger_pool, more=self._more()),
            page=Page(),
            recorder=records,
            clock=parts.clock,
            begin=self._begin,
            end=self._end,
            body_seconds=parts.body_seconds,
            budget=self.budget,
        )

    async def _look(self) -> bool:
        """Have all that stands looked up again, by one thread for all who wait for it, and not all the time."""
        now = self._parts.clock.monotonic()
        if self._looking is None and now - self._looked_at < self._parts.look_seconds:
            return False
        if self._looking is None:
            self._looking = asyncio.create_task(asyncio.to_thread(self._standing.refresh))
            self._looking.add_done_callback(self._looked)
        looking = self._looking
        await asyncio.wait({looking}, timeout=LOOK_PATIENCE_SECONDS)
        return looking.done() and looking.result()

    def _looked(self, _: asyncio.Task[bool]) -> None:
        """Whoever comes later, a new look is his, though nobody waited for the end of this one."""
        self._looking, self._looked_at = None, self._parts.clock.monotonic()

    async def _begin(self) -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="aside"))
        bodies.give_memory_back()
        self.usage_recorder.start()

    async def _end(self) -> None:
        await self.detached.close()
        await self.waking.close()
        for wire in self.wires.values():
            wire.close()
        self._ledger_pool.close()
        self.usage_recorder.stop()

    def _readings(self) -> Readings:
        standing, waking = self._standing, self.waking

        def age() -> float | None:
            known = standing.age()
            return None if known is None else known.total_seconds()

        return Readings(
            held=lambda: {state.tier: state.held for state in waking.states()},
            detached=lambda: len(self.detached),
            weights_bytes=lambda: bytes_of(standing.models()),
            usage_dropped=lambda: self.usage_recorder.dropped,
            log_dropped=dropped_lines,
            standing_seconds=age,
        )

    def _ops_context(self) -> OpsContext:
        parts = self._parts

        def used(since: date | None) -> list[Document]:
            self.usage_recorder.flush()  # who asks wants to see what has just happened
            return [row.as_json() for row in usage(parts.facts, since=since)]

        return OpsContext(
            open_ledger=parts.open_ledger,
            keys=parts.keys,
            limits=self.limits,
            clock=parts.clock,
            metrics=self.metrics,
            models=lambda: list(lists.tags(parts.standing)["models"]),
            route=lambda text, context, may_see: parts.router.route(text, context=context, may_see=may_see).as_json(),
            tiers=self._tiers,
            usage=used,
            age=parts.standing.age,
            complaints=lambda: [*parts.complaints(), *card_complaints(parts.standing.models())],
            problems=parts.problems,
            archived=parts.archived,
            ring=parts.ring,
            changed=parts.standing.refresh,
            rate_limit=parts.rate_limit,
            registries=parts.registries,
        )

    def _tiers(self) -> list[Document]:
        standing, now = self._standing, self._parts.clock.now()
        return [tiers.told(state, standing.reports(state.tier), now) for state in self.waking.states()]

    def _board(self) -> board.Overview:
        parts = self._parts
        return board.Overview(
            clock=parts.clock,
            reports=parts.standing.reports,
            last_used=lambda: last_used(parts.facts),
            routes=self._routes,
            fleet=parts.fleet,
            quota_bytes=parts.quota_bytes,
            keyless=parts.keys.is_empty,
            rented=parts.rented,
            simulated=parts.simulated,
        )

    def _more(self) -> tuple[APIRouter, ...]:
        """What the page and `cost` show beside the office's own."""
        parts = self._parts
        fleet = parts.fleet if parts.rented else None

        def entries() -> Mapping[str, Any]:
            self.usage_recorder.flush()  # who asks wants to see what has just happened
            return {**parts.past(), **dict(parts.facts.items())}

        return (
            plans.router(parts.plans, len(parts.keys.names)),
            board.router(self._board()),
            days.router(days.Days(parts.clock, entries, fleet)),
            costs.router(costs.Costs(parts.clock, entries, fleet)),
            nights.router(lambda: dict(parts.facts.items()), self._ledger_pool),
        )

    def _routes(self) -> dict[str, str]:
        """The tier of each model that is here."""
        names = [model.name for model in self._standing.models()]
        return {str(name.folded()): self._parts.router.route(str(name)).tier for name in names}


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]
