"""Puts the gateway together from what differs between one machine and a deployment.

What starts it, `ollama-modal up` or a container, hands in `GatewayParts` and serves `Composed.app`.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import partial
from typing import Any

import uvloop
from fastapi import APIRouter
from loguru import logger

from app.fleet.schema import Fleet
from app.gateway.admission_parts import admission
from app.gateway.app import GatewayApp
from app.gateway.auth.keys import Caller
from app.gateway.auth.live_keys import LiveKeys
from app.gateway.batches.handlers import batch_handlers
from app.gateway.batches.parts import BatchContext, BatchParts
from app.gateway.catalog import ollama_lists as lists
from app.gateway.catalog.loaded_models import KEEP, LoadedModels
from app.gateway.catalog.made_aliases import MadeAliases
from app.gateway.catalog.server_reports import ServerReports
from app.gateway.catalog.shared_refresh import SharedRefresh
from app.gateway.catalog.state import KnownState
from app.gateway.cross_origin import CrossOrigin, Origins
from app.gateway.dashboard import audit, cold, cost, daily, keys, limits, nightly, overview, plans, windows
from app.gateway.dashboard.batches import batch_list, estimates
from app.gateway.dashboard.page import Page
from app.gateway.dashboard.plans import Plans
from app.gateway.direct.heads import DirectAnswers
from app.gateway.event_loop.lag import LagMeter
from app.gateway.event_loop.watch import LoopWatch
from app.gateway.inference.detached import DetachedRequests
from app.gateway.inference.local_routes import handlers
from app.gateway.inference.metrics import Metrics, Readings
from app.gateway.inference.prompt_truncation import LengthsLeft
from app.gateway.inference.proxy import COMMENT_SECONDS, Proxy
from app.gateway.inference.request_log import Records
from app.gateway.inference.route_cache import RouteCache
from app.gateway.inference.routing import Router
from app.gateway.lines.line_gate import LineGate
from app.gateway.lines.tier_room import ReportedRoom
from app.gateway.ops import app as ops
from app.gateway.ops.context import Document, OpsContext, send_none
from app.gateway.ops.ledger_pool import LedgerPool
from app.gateway.protocol import body as bodies
from app.gateway.shared_reads import SharedReads
from app.gateway.upstream import server_requests, tier_state
from app.gateway.upstream.cold_records import ColdRecords
from app.gateway.upstream.cold_start import ColdStarts
from app.gateway.upstream.holding import HoldContext, HoldTiming
from app.gateway.upstream.upstream_client import Patience, TierUpstream, UpstreamClient
from app.logs import dropped_lines
from app.scheduler.batch_starts import OwnTiers, RentedTiers
from jobs.access.audit_thread import AuditThread
from jobs.access.limits import NO_LIMITS
from jobs.archive.audited import Archived, AuditPage, AuditQuery, no_archive, page
from jobs.batches.estimate import Where
from jobs.batches.limits import USUAL as USUAL_BATCHES
from jobs.core.clock import Clock
from jobs.core.errors import NotFound
from jobs.core.model_name import ModelName
from jobs.home.status import card_complaints
from jobs.ledger.kinds import Kind
from jobs.ledger.ledger import Ledger
from jobs.listing.newest import EmptyArchive, JobArchive
from jobs.models import aliases
from jobs.models.card import bytes_of
from jobs.models.near_names import absent
from jobs.registry.allowlist import ANYWHERE, Registries
from jobs.store.protocols import ShrinkingDict
from jobs.telemetry.usage import UsageRecorder, usage_in

REFRESH_SECONDS = 2.0
"""Between two look-ups of what is known, for a model that is missed or a tier that is waited for; on a platform each
reads the ledger and perhaps the volume."""

THREADS = 32
"""For what waits for the store or a file beside the event loop. Few are needed while all is well; while it hangs, each
is kept for half a minute, and requests for usage or costs must not be in the way of inference."""


@dataclass(frozen=True)
class GatewayParts:
    """Everything that differs between one machine and a deployment. Callables are called in threads beside the event
    loop, but for `problems`, which must not wait.

    Args:
        upstreams: the tiers, by name.
        known_state: what is known of models and servers.
        router: on which tier a model is answered.
        keys: who may ask.
        facts: the ledger's dict.
        open_ledger: a ledger for the thread that calls it.
        clock: the time.
        writer: names this process among all that write usage.
        version: of the Ollama that the servers run, while none has reported its own.
        send_worker: starts a worker for a lane.
        rate_limit: bytes per second for a pull that names none.
        registries: those that may be pulled from.
        origins: of pages that may ask.
        patience: how long a server may be silent.
        hold_timing: how callers wait for a server.
        fleet: what is declared; None where nothing is.
        quota_bytes: for the weights; the fleet's when left out.
        rented: servers are paid by the second, as on Modal.
        simulated: the servers only pretend, which the page says.
        settings_in_manifests: the servers know by themselves what is set for models, whatever the dialect.
        notes: what of the fleet has no effect here, in lines for people.
        complaints: what is wrong with models that are not whole, in lines for people.
        thrown: the name, in small letters, and the digest of each version in the trash.
        names_here: the models that are here, whole or not, and if so asked those of which the trash has a version; None
            where the files are not ours to read.
        problems: what is wrong with what was started beside the gateway, in lines for people.
        archive: the jobs that have left the ledger.
        past: what has left the ledger's dict for the archive, by the keys that it had there.
        copy_keys: has the copy of the keys brought up to date.
        audited: the lines of who did what that have left it.
        plans: what would be done, by a night or a prune.
        batches: what it has for batches; None where it takes none.
        loop_watch: reports what holds the event loop up; None where nobody wants to know.
        comment_seconds: between two comment lines for callers who wait with an event stream.
        body_seconds: how long a body may take beside the time for its bytes.
        refresh_seconds: between two look-ups of what is known, for callers who cannot wait for the next refresh.

    """

    upstreams: Mapping[str, TierUpstream]
    known_state: KnownState
    router: Router
    keys: LiveKeys
    facts: ShrinkingDict
    open_ledger: Callable[[], Ledger]
    clock: Clock
    writer: str
    version: str
    send_worker: Callable[[str], object] = send_none
    rate_limit: int | None = None
    registries: Registries = ANYWHERE
    origins: Origins = field(default_factory=Origins)
    patience: Patience = field(default_factory=Patience)
    hold_timing: HoldTiming = field(default_factory=HoldTiming)
    fleet: Fleet | None = None
    quota_bytes: int | None = None
    rented: bool = True
    simulated: bool = False
    settings_in_manifests: bool = False
    notes: Sequence[str] = ()
    complaints: Callable[[], Sequence[str]] = tuple
    thrown: Callable[[], Collection[tuple[str, str]]] = tuple
    names_here: Callable[[bool], Sequence[ModelName]] | None = None
    problems: Callable[[], Sequence[str]] = tuple
    archive: JobArchive = field(default_factory=EmptyArchive)
    past: Callable[[], Mapping[str, Any]] = dict
    copy_keys: Callable[[], object] = lambda: None
    audited: Archived = no_archive
    plans: Plans = field(default_factory=Plans)
    batches: BatchParts | None = None
    loop_watch: LoopWatch | None = None
    comment_seconds: float = COMMENT_SECONDS
    body_seconds: float = bodies.SECONDS
    refresh_seconds: float = REFRESH_SECONDS


class Composed:
    """A gateway, and its parts.

    The event loop of the server owns the parts. Threads, which wait for the store beside it, use only `GatewayParts`,
    `metrics`, `usage_recorder`, and the states of `cold_starts`, each of which says what any thread may do.
    """

    def __init__(self, parts: GatewayParts) -> None:
        self._parts = parts
        self._known_state = parts.known_state
        self._audit_thread = AuditThread(parts.facts, parts.clock)
        self._made_aliases = MadeAliases(parts.facts, parts.known_state, parts.clock, self._audit_thread.audit)
        route_cache = RouteCache(parts.router, parts.known_state)
        self.metrics = Metrics(lambda: parts.keys.names, parts.upstreams, route_cache.is_known)
        self.usage_recorder = UsageRecorder(parts.facts, parts.clock, parts.writer)
        self._reads = SharedReads(parts.facts, parts.past, self.usage_recorder.flush)
        self.upstream_clients = {name: UpstreamClient(each, parts.patience) for name, each in parts.upstreams.items()}
        refresh = SharedRefresh(parts.known_state.refresh, parts.clock, parts.refresh_seconds)
        servers = ServerReports(parts.known_state.reports, lambda: parts.known_state.generation, parts.clock)
        self._loaded = self._loaded_models()
        self._cold_records = ColdRecords(
            parts.facts,
            parts.clock,
            parts.writer,
            reports=parts.known_state.reports,
            refresh=refresh,
            observe=self.metrics.cold,
            size_of=self._size_of,
        )
        holding = HoldContext(
            servers, parts.clock, self._woke, refresh, parts.hold_timing, self._loaded.loaded, self._cold_records
        )
        self.cold_starts = {
            name: ColdStarts(each, self.upstream_clients[name], holding) for name, each in parts.upstreams.items()
        }
        parts.keys.limit(parts.fleet.default_limits(rented=parts.rented) if parts.fleet else NO_LIMITS)
        self.admission = admission(
            parts.facts,
            parts.clock,
            writer=parts.writer,
            fleet=parts.fleet,
            rented=parts.rented,
            past=parts.past,
            write_usage=self.usage_recorder.flush,
        )
        self.line_gates = {name: LineGate(name, self._room(name, servers), parts.clock) for name in parts.upstreams}
        self.budget = bodies.Budget(keys=parts.keys)
        self.detached = DetachedRequests(keys=parts.keys)
        self._ledger_pool = LedgerPool(parts.open_ledger, clock=parts.clock)
        self._lag_meter = LagMeter(self.metrics.loop_lag)
        self.metrics.watch(self._readings())
        self._records = Records(self.usage_recorder, self.metrics)
        proxy = Proxy(
            upstreams=parts.upstreams,
            upstream_clients=self.upstream_clients,
            cold_starts=self.cold_starts,
            known=parts.known_state,
            loaded=self._loaded,
            route_cache=route_cache,
            refresh=refresh,
            recorder=self._records,
            clock=parts.clock,
            detached=self.detached,
            admission=self.admission,
            line_gates=self.line_gates,
            lengths_left=LengthsLeft(parts.known_state).of,
            comment_seconds=parts.comment_seconds,
            settings_in_manifests=parts.settings_in_manifests,
        )
        self._batches = self._batch_context()
        self._ops = ops.create(self._ops_context(), ledger_pool=self._ledger_pool, more=self._more())
        gateway = GatewayApp(
            keys=parts.keys,
            admission=self.admission,
            passes=proxy.pass_on,
            direct=DirectAnswers(proxy, parts.keys, self.budget),
            handlers={
                **handlers(
                    parts.known_state,
                    self._loaded,
                    proxy.pass_on,
                    self._made_aliases,
                    parts.router.settings,
                    version=parts.version,
                ),
                **batch_handlers(self._batches),
            },
            ops=self._ops,
            page=Page(),
            recorder=self._records,
            audit=self._audit_thread.audit,
            clock=parts.clock,
            begin=self._begin,
            end=self._end,
            body_seconds=parts.body_seconds,
            budget=self.budget,
        )
        self.app = CrossOrigin(gateway, parts.origins)
        #: Makes the event loop that serves this.
        self.new_loop = parts.loop_watch.new_loop if parts.loop_watch else uvloop.new_event_loop

    def prepare(self) -> None:
        """Make now what would hold up the first requests: for a thread without an event loop, before it is served."""
        self._parts.keys.refresh()
        asyncio.run(ops.prepare(self._ops))

    async def _begin(self) -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="gateway"))
        bodies.give_memory_back()
        for note in self._parts.notes:
            logger.warning("{}", note)
        self.usage_recorder.start()
        self._audit_thread.start()
        self._lag_meter.start()
        if self._parts.loop_watch is not None:
            self._parts.loop_watch.start()
        self._cold_records.begin()
        self.admission.begin()
        self._parts.keys.begin()

    async def _end(self) -> None:
        self._lag_meter.stop()
        self._parts.keys.end()
        if self._parts.loop_watch is not None:
            self._parts.loop_watch.stop()
        await self.detached.close()
        for cold_starts in self.cold_starts.values():
            await cold_starts.close()
        await self._cold_records.close()
        await self.admission.end()
        for client in self.upstream_clients.values():
            client.close()
        if self._batches is not None:
            self._batches.close()
        self._ledger_pool.close()
        self._audit_thread.stop()
        self._records.pass_on()
        self.usage_recorder.stop()

    def _loaded_models(self) -> LoadedModels:
        parts = self._parts

        def keep(tier: str) -> timedelta:
            declared = parts.fleet.tiers.get(tier) if parts.fleet else None
            return timedelta(seconds=declared.ollama.keep_alive_seconds) if declared else KEEP

        ask = {name: partial(server_requests.loaded, client) for name, client in self.upstream_clients.items()}
        return LoadedModels(
            parts.known_state,
            parts.clock,
            lambda name, context: parts.router.route(str(name), context=context).weighed,
            {name: keep(name) for name in parts.upstreams},
            {} if parts.rented else ask,
        )

    def _room(self, tier: str, servers: ServerReports) -> ReportedRoom:
        """What a tier has room for, lines of batches beside its people. What the fleet says of how servers are told
        what they may do is in the models' weights already."""
        parts, cold_starts = self._parts, self.cold_starts[tier]
        declared = parts.fleet.tiers.get(tier) if parts.fleet else None
        return ReportedRoom(
            tier,
            servers,
            self._loaded.reports,
            weigh=lambda model: parts.router.route(model).weighed,
            asleep=lambda: cold_starts.may_have_to_wake,
            waiting=lambda: cold_starts.held,
            at_once=declared.target_concurrency if declared and parts.rented else None,
            most_loaded=declared.ollama.max_loaded_models if declared else None,
        )

    def _woke(self, tier: str, cause: str) -> None:
        self.metrics.woke(tier, cause)
        self._loaded.absent(tier)

    def _readings(self) -> Readings:
        known_state, watch = self._known_state, self._parts.loop_watch

        def age() -> float | None:
            known_for = known_state.age()
            return None if known_for is None else known_for.total_seconds()

        return Readings(
            held=lambda: {tier: each.state().held for tier, each in self.cold_starts.items()},
            detached=lambda: len(self.detached),
            weights_bytes=lambda: bytes_of(known_state.models()),
            usage_dropped=lambda: self.usage_recorder.dropped,
            log_dropped=dropped_lines,
            known_state_seconds=age,
            loop_blocks=lambda: watch.blocks if watch is not None else None,
            lines=lambda: {tier: each.figures() for tier, each in self.line_gates.items()},
        )

    def _ops_context(self) -> OpsContext:
        parts = self._parts

        async def used(since: date | None) -> list[Document]:
            entries = await self._reads.of_cost()
            return await asyncio.to_thread(lambda: [row.as_json() for row in usage_in(entries, since=since)])

        return OpsContext(
            open_ledger=parts.open_ledger,
            keys=parts.keys,
            limits=self.admission.rates,
            told=self.admission.told,
            clock=parts.clock,
            audit=self._audit_thread.audit,
            metrics=self.metrics,
            models=lambda: lists.models(parts.known_state),
            aliases=lambda may_see: lists.aliases(parts.known_state, may_see),
            notes=lambda: [*parts.notes, *aliases.notes(parts.known_state.aliases, self._is_here)],
            remove_alias=self._made_aliases.remove,
            subject=parts.router.subject,
            route=lambda text, context, may_see: parts.router.route(text, context=context, may_see=may_see).as_json(),
            tiers=self._tiers,
            usage=used,
            age=parts.known_state.age,
            complaints=self._complaints,
            problems=lambda: (*parts.problems(), *parts.keys.problems()),
            archive=parts.archive,
            send_worker=parts.send_worker,
            changed=parts.known_state.refresh,
            rate_limit=parts.rate_limit,
            registries=parts.registries,
            absent=self._absent,
            thrown=parts.thrown,
        )

    def _batch_context(self) -> BatchContext | None:
        parts = self._parts
        if parts.batches is None:
            return None
        return BatchContext(
            parts=parts.batches,
            facts=parts.facts,
            ledger_pool=self._ledger_pool,
            clock=parts.clock,
            audit=self._audit_thread.audit,
            send_worker=parts.send_worker,
            keys=parts.keys,
            body_seconds=parts.body_seconds,
        )

    def _complaints(self) -> list[str]:
        parts, known_state = self._parts, self._known_state
        wrong_aliases = aliases.complaints(known_state.aliases, self._is_here)
        return [*parts.complaints(), *card_complaints(known_state.models()), *wrong_aliases]

    def _size_of(self, model: str) -> int | None:
        known = self._known_state.find(ModelName.parse(model))
        return known.size if known else None

    def _is_here(self, name: ModelName) -> bool:
        return self._known_state.find(name) is not None

    def _absent(self, kind: Kind, name: ModelName, may_see: Callable[[ModelName], bool]) -> NotFound | None:
        known_state = self._known_state
        model, alias = known_state.resolve(name)
        if model is not None and alias is None:
            return None
        if alias is not None and may_see(alias.target):
            return aliases.no_model(name, alias, kind.name)
        if self._parts.names_here is not None:
            return absent(name, self._parts.names_here(kind.needs == "model or trash"), may_see)
        is_fresh = known_state.refresh()
        return absent(name, (each.name for each in known_state.models()), may_see) if is_fresh else None

    def _tiers(self) -> list[Document]:
        now, reports = self._parts.clock.now(), self._known_state.reports
        return [
            {
                **tier_state.as_json(each.state(), reports(tier), now, each.coming()),
                "engine": self._parts.upstreams[tier].engine.name,
            }
            for tier, each in self.cold_starts.items()
        ]

    def _overview(self) -> overview.Overview:
        parts = self._parts
        return overview.Overview(
            clock=parts.clock,
            reports=self._loaded.reports,
            refresh=self._loaded.refresh,
            routes=self._routes,
            fleet=parts.fleet,
            quota_bytes=parts.quota_bytes,
            keyless=lambda: parts.keys.is_open,
            rented=parts.rented,
            simulated=parts.simulated,
        )

    def _more(self) -> tuple[APIRouter, ...]:
        """What the page and `cost` show beside the ops API's own."""
        parts = self._parts
        fleet = parts.fleet if parts.rented else None

        return (
            plans.router(parts.plans, parts.keys),
            overview.router(self._overview(), self._reads.last_used),
            daily.router(daily.Days(parts.clock, fleet), self._reads.of_days),
            cost.router(cost.Costs(parts.clock, fleet), self._reads.of_cost),
            nightly.router(self._reads.night, self._ledger_pool),
            cold.router(cold.Cold(parts.clock), self._reads.of_cost),
            limits.router(self.admission.as_json, parts.keys.named),
            keys.router(
                keys.KeyActs(parts.keys, parts.facts, self._audit_thread.audit, parts.clock, parts.copy_keys),
                self._ledger_pool.changed_elsewhere,
            ),
            estimates.router(self._estimates(), self._reads.of_batches),
            batch_list.router(
                batch_list.BatchList(
                    parts.facts, self._ledger_pool, parts.clock, self._audit_thread.audit, parts.send_worker
                )
            ),
            audit.router(self._audited, parts.clock, lambda: self._ledger_pool.changes),
            *((windows.router(windows.Windows(parts.clock, parts.fleet), self._reads.of_cost),) if parts.fleet else ()),
        )

    def _estimates(self) -> estimates.Estimates:
        parts = self._parts

        def where(caller: Caller) -> Where:
            def found(model: str) -> tuple[str, str]:
                name = ModelName.parse(model)
                caller.need_model(parts.router.subject(name), asked_as=name)
                route = parts.router.route(model, may_see=caller.may_use)
                return str(route.model), route.tier

            return found

        return estimates.Estimates(
            clock=parts.clock,
            fleet=parts.fleet,
            rented=parts.rented,
            limits=parts.fleet.batches.limits if parts.fleet else USUAL_BATCHES,
            where=where,
            tiers=(
                RentedTiers(parts.facts, parts.fleet) if parts.rented and parts.fleet else OwnTiers(parts.fleet)
            ).now,
        )

    def _audited(self, query: AuditQuery) -> AuditPage:
        """Who did what; what was done here until now is in it."""
        self._audit_thread.audit.write_rest()
        return page(self._parts.facts, self._parts.audited, query, self._parts.clock.now())

    def _routes(self) -> dict[str, str]:
        """The tier of each model that is here."""
        names = [model.name for model in self._known_state.models()]
        return {str(name.folded()): self._parts.router.route(str(name)).tier for name in names}
