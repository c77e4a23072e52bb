"""The gateway of the one-machine stack: what it is composed of here, and its life from open to close."""

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial

from loguru import logger

from app.accounting.archiving import nothing_to_commit
from app.accounting.spending import Past
from app.fleet.schema import Fleet
from app.gateway.auth.key_lines import KeyFile, KeyLines, texts_of
from app.gateway.auth.keys import VARIABLE
from app.gateway.auth.live_keys import LiveKeys
from app.gateway.batches.parts import BatchParts
from app.gateway.catalog.sources import Directory, Listing
from app.gateway.catalog.state import KnownState
from app.gateway.compose import Composed, GatewayParts
from app.gateway.dashboard.plans import Plans
from app.gateway.event_loop.interpreter import ServingInterpreter
from app.gateway.event_loop.watch import watch_of
from app.gateway.http_server import HttpServer
from app.gateway.inference.routing import Router
from app.gateway.origin_guard import OriginGuard
from app.gateway.protocol import model_defaults
from app.gateway.upstream.upstream_client import TierUpstream
from app.local.coming_night import coming_night
from app.local.plan import StackPlan
from app.local.server_reports import CONTAINER, ServerReporter
from app.local.servers import Servers, process_name
from app.model_server.starting.start_reports import cold_start
from app.scheduler.night_plan import Night
from jobs.access.keys.key_copy import copy_at, keep_keys, read_copy
from jobs.access.keys.key_store import read_keys
from jobs.archive.archived import ArchivedJobs, archive_at
from jobs.archive.audited import archived_lines
from jobs.batches.files.storage import BatchStorage
from jobs.core.clock import Clock
from jobs.core.errors import BadRequest, Refused
from jobs.home.home import Home
from jobs.home.prune_preview import dry_run
from jobs.home.status import complaints
from jobs.ollama.client import OllamaClient
from jobs.registry.allowlist import is_loopback
from jobs.weights import trash
from jobs.weights.layout import Layout
from jobs.weights.survey import survey

REFRESH_EVERY = timedelta(seconds=1)
"""A directory of this machine is read in milliseconds."""

OLLAMA_VERSION = "0.0.0"
"""Answered only for as long as no server has said its own, which the first report does."""


def keys_of(home: Home, environ: Mapping[str, str], host: str, clock: Clock) -> LiveKeys:
    """The keys of this home: those of its file, which is read when it changes, of the environment, and of the ledger.

    Raises:
        BadRequest: a line is wrong, or there is no key though others than this machine could ask.
        NotWritable: the file is not ours to read.
        StoreTrouble: the ledger cannot be read.

    """
    lines: KeyLines = KeyFile(home.keys, texts_of(environ, VARIABLE))
    copy = read_copy(copy_at(home.root))
    has_any = bool(lines.read().all) or copy.is_there or not read_keys(home.read_facts()).is_empty
    if not has_any and not is_loopback(host):
        raise BadRequest(
            f"without keys the gateway answers this machine only, not {host!r}",
            hint="make a key first: `ollama-modal keys new NAME --scope admin`",
        )
    if not has_any:
        logger.info("no keys are configured: whoever is on this machine may ask")
    return LiveKeys(lines, home.facts(), clock, copy=copy, may_be_open=True)


def _next_night(home: Home, fleet: Fleet | None, clock: Clock) -> Night:
    """What the next night would do.

    Raises:
        Refused: nothing is declared.

    """
    if fleet is None:
        raise Refused(
            "no fleet file says what should be here", hint="`ollama-modal up --fleet FILE` sees to it each night"
        )
    return coming_night(home, home.need_stack(), fleet, clock)


class LocalGateway:
    """The gateway of this machine. The main thread opens and closes it; `refresh` is any thread's to call."""

    def __init__(
        self,
        plan: StackPlan,
        servers: Servers,
        keys: LiveKeys,
        home: Home,
        clock: Clock,
        *,
        problems: Callable[[], Sequence[str]],
    ) -> None:
        self._clock = clock
        self._keys = keys
        self._origins = plan.origins
        self._facts = home.facts()
        self._archive = ArchivedJobs(archive_at(home.root))
        self._served = servers.served
        urls = {tier.name: url for tier, url in zip(servers.tiers, servers.urls, strict=True)}
        self._listing = OllamaClient(servers.urls[0], clock=clock)
        layout = Layout(servers.models) if servers.models else None
        source = Directory(layout) if layout else Listing(self._listing)
        self._starts = servers.starts
        self._tier_of = {process_name(tier, servers.engine(tier)): tier for tier in urls}
        self._reporter = ServerReporter(urls, self._facts, clock, servers.starts, servers.engines)
        self._interpreter = ServingInterpreter()
        self._known_state = KnownState(
            self._facts,
            source,
            clock,
            every=REFRESH_EVERY,
            aliases=plan.aliases,
            learnt=self._interpreter.keep,
        )
        self.composed = Composed(
            GatewayParts(
                upstreams={
                    tier: TierUpstream(tier, url, startup=plan.startup(tier), engine=servers.engine(tier))
                    for tier, url in urls.items()
                },
                known_state=self._known_state,
                router=Router(self._known_state, servers.tiers, plan.declared_tier, plan.settings_of, servers.engines),
                keys=keys,
                facts=self._facts,
                open_ledger=lambda: home.ledger(clock),
                clock=clock,
                writer=f"up-{os.getpid()}",
                version=OLLAMA_VERSION,
                rate_limit=plan.rate_limit,
                registries=plan.registries,
                origins=plan.origins,
                fleet=plan.fleet,
                settings_in_manifests=servers.served is not None,
                notes=model_defaults.notes(plan.fleet.settings_by_model) if plan.fleet and not servers.served else (),
                quota_bytes=plan.retention.quota_bytes,
                rented=False,
                simulated=servers.simulated,
                loop_watch=watch_of(os.environ, clock),
                plans=Plans(
                    night=lambda: _next_night(home, plan.fleet, clock),
                    prune=lambda request: dry_run(home, clock, request),
                ),
                problems=problems,
                archive=self._archive,
                past=Past(archive_at(home.root), clock),
                copy_keys=lambda: keep_keys(self._facts, copy_at(home.root), clock.now(), nothing_to_commit),
                audited=partial(archived_lines, archive_at(home.root)),
                batches=BatchParts(
                    BatchStorage(home.batches, clock, quota_bytes=plan.batches.quota_bytes),
                    plan.batches,
                    plan.fleet.schedule.zone if plan.fleet else None,
                ),
                complaints=(lambda: tuple(complaints(survey(layout)))) if layout else tuple,
                thrown=(lambda: trash.versions(layout)) if layout else tuple,
                names_here=(lambda with_trash: survey(layout).names(trash=with_trash)) if layout else None,
            )
        )
        #: The main thread's alone.
        self._http_server: HttpServer | None = None

    def open(self, listener: socket.socket) -> HttpServer:
        """Answer there."""
        self._reporter.start()
        for tier, phases in self._starts.items():
            self.composed.metrics.cold(cold_start(tier, CONTAINER, phases.progress()))
        if self._served is not None:
            self._served.watch()
        self._known_state.start()
        self.composed.prepare()
        self._interpreter.start()
        app = OriginGuard(self.composed.app, self._origins, lambda: self._keys.is_open)
        self._http_server = HttpServer(app, listener, self._clock, new_loop=self.composed.new_loop)
        self._http_server.start()
        return self._http_server

    def refresh(self) -> None:
        """Read again what has just changed, before anybody is told that it has."""
        if self._served is not None:
            self._served.refresh_or_warn()
        self._known_state.refresh()

    def server_began(self, process: str) -> None:
        """A server that had ended is started again. From the main thread."""
        if (tier := self._tier_of.get(process)) is not None:
            self._reporter.began(tier)

    def close(self) -> None:
        if self._http_server is not None:
            self._http_server.stop()
        if self._served is not None:
            self._served.stop()
        self._known_state.stop()
        self._interpreter.stop()
        self._reporter.stop()
        self._listing.close()
        self._facts.close()
