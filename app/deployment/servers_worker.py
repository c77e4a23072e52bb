"""What the servers worker does in its container: wake the server of a tier and have it load a model.

It has neither the volume nor a GPU. The servers are asked at their public address, with the token that Modal's proxy
wants; looking an address up wakes nobody.
"""

import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import httpx
from loguru import logger

from app.deployment.addresses import addresses, proxy_headers
from app.deployment.worker_process import work
from app.engines.clients import CLIENTS
from app.fleet.schema import Fleet, declared
from app.model_server.health import of_tier
from app.model_server.report import ReportsOf
from app.model_server.start_failures import refused_starts
from app.model_server.starting.wanted import want
from app.resources import ledger as facts
from app.resources import queue
from app.scheduler.wake_budget import BY_WINDOW, SYNTHETIC, Wakes, opening
from jobs.core.clock import Clock, SystemClock
from jobs.core.errors import Refused, StoreTrouble
from jobs.core.model_name import ModelName
from jobs.core.retry import NEVER, Policy
from jobs.core.units import counted
from jobs.ledger.kinds import SERVERS_LANE
from jobs.ledger.ledger import Ledger
from jobs.models.gguf import MemoryFacts
from jobs.models.placement import place_model
from jobs.ollama.client import OllamaClient
from jobs.registry.client import Registry
from jobs.store import keys
from jobs.store.protocols import DictLike
from jobs.tasks.context import TaskContext
from jobs.tasks.table import perform
from jobs.tasks.warm import why_missing
from jobs.telemetry.container_time import say_warming
from jobs.worker.attempt import RunningAttempt

AT_ONCE = 4

POLL_EVERY = timedelta(seconds=5)
"""Between two requests that may start a server, once it does not come at once; the reports are read before each."""


def run() -> bool:
    """Work the servers lane in this container; false when there is more to do but its time is up."""
    clock, fleet = SystemClock(), declared()
    ledger = Ledger(queue, facts, clock)
    context = TaskContext(
        clock=clock,
        registry=Registry(clock=clock),
        servers=_servers(fleet, os.environ),
        tiers=fleet.catalog_tiers(),
        declared_tier=lambda name: tier_of(name, fleet, facts),
        settings=fleet.settings_of,
    )
    warming = Warming(context, fleet, facts, clock)
    return work(ledger, facts, SERVERS_LANE, warming.perform, clock, concurrency=AT_ONCE)


def _servers(fleet: Fleet, environ: Mapping[str, str]) -> dict[str, OllamaClient]:
    """The servers that are deployed, by tier."""
    client = httpx.Client(headers=proxy_headers(environ), limits=httpx.Limits(max_keepalive_connections=0))
    return {
        tier: CLIENTS[fleet.engine_of(tier)](url, client=client, policy=NEVER)
        for tier, url in addresses(fleet.tiers).items()
    }


def tier_of(name: ModelName, fleet: Fleet, facts: DictLike) -> str | None:
    """The tier that the fleet declares for a model, or the one that what is known of it on the volume leads to."""
    if tier := fleet.declared_tier(name):
        return tier
    known = (facts.get(keys.WEIGHTS_MODELS) or {}).get(str(name.folded()))
    if known is None:
        return None
    return place_model(int(known["size"]), fleet.catalog_tiers(), facts=MemoryFacts.from_json(known["facts"])).tier.name


class Warming:
    """Wakes the server that a job needs, and has it do what the job asks for.

    Args:
        context: what the tasks work with.
        fleet: declares the tiers.
        facts: where servers report, and where wakes of our own are counted.
        clock: the time.

    """

    def __init__(self, context: TaskContext, fleet: Fleet, facts: DictLike, clock: Clock) -> None:
        self._context = context
        self._fleet = fleet
        self._facts = facts
        self._clock = clock
        self._wakes = Wakes(facts, fleet)
        #: Guards the two below; warm-ups run in threads beside one another.
        self._lock = threading.Lock()
        #: The tiers that a wake of our own was taken for, and until when that one counts.
        self._woken_until: dict[str, datetime] = {}
        #: The warm-ups of each tier, and until when each may last: none of them ends what the others still need.
        self._under_way: dict[str, dict[str, datetime]] = defaultdict(dict)

    def perform(self, run: RunningAttempt) -> dict[str, Any]:
        """Wait until the server is up, then do what the job asks for.

        At zero containers every request is answered 503 at once, and starts one.

        Raises:
            NotFound: the model is not on the volume, since its pull failed.
            Refused: nobody asked for this job, and the tier was woken often enough today.
            CannotStart: the tier's servers refuse to start, and the next start has to wait.

        """
        name = ModelName.parse(run.job.request["model"])
        known = self._facts.get(keys.WEIGHTS_MODELS)
        if known is not None and str(name.folded()) not in known and (why := why_missing(run)):
            raise why  # before a GPU is woken for nothing
        tier, server = self._context.server_for_model(name, run.job.request.get("tier"))
        within = self._fleet.tier(tier.name).longest_start
        require_may_start = self._start_check(run, tier.name, within)
        require_may_start()
        self._allow(run, tier.name, within)
        run.progress.begin(f"waking {tier.name}")
        self._want(tier.name, name)
        waking = Policy(attempts=10_000, within=within, first=timedelta(seconds=1), longest=POLL_EVERY)
        with self._marked_as_warming(run, tier.name, within):
            waking.call(lambda: require_may_start() or server.version(), sleep=run.sleep)
            return perform(run, self._context)

    def _want(self, tier: str, name: ModelName) -> None:
        """Have a server that starts for this job load its model first. A store that fails spoils no warm-up."""
        now = self._clock.now()
        try:
            if not self._is_up(tier):
                want(self._facts, tier, str(name), now, since=now)
        except StoreTrouble as trouble:
            logger.warning("that {} is waited for on tier {} is not told: {}", name, tier, trouble)

    def _start_check(self, run: RunningAttempt, tier: str, within: timedelta) -> Callable[[], None]:
        """To be called before each request that may start a server; it raises while the tier's starts are refused.

        What a person posts by hand may try one at once: perhaps she has just mended it.
        """
        reports, began = ReportsOf(self._facts, tier), self._clock.now()
        is_by_hand = run.job.posted_by not in SYNTHETIC and run.n == 1

        def require_may_start() -> None:
            now = self._clock.now()
            starts = refused_starts(reports(), now, unheard_after=within)
            tried = starts.last_at is not None and starts.last_at >= began
            if starts.must_wait(now) and (tried or not is_by_hand):
                raise starts.trouble(tier, now)

        return require_may_start

    @contextmanager
    def _marked_as_warming(self, run: RunningAttempt, tier: str, within: timedelta) -> Iterator[None]:
        """Have the containers of the tier know that it is being warmed, until the last warm-up of it has ended."""
        try:
            with self._lock:
                self._under_way[tier][run.holder] = self._clock.now() + within
                self._say_warming(tier)
            yield
        finally:
            with self._lock:
                del self._under_way[tier][run.holder]
                if not self._under_way[tier]:
                    self._woken_until.pop(tier, None)
                self._say_warming(tier)

    def _say_warming(self, tier: str) -> None:
        """Accounting only: a store that fails spoils no warm-up. What is written there ends by itself."""
        until = max(self._under_way[tier].values(), default=self._clock.now())
        try:
            say_warming(self._facts, tier, until)
        except StoreTrouble as trouble:
            logger.warning("how long tier {} is being warmed is not told: {}", tier, trouble)

    def _allow(self, run: RunningAttempt, tier: str, within: timedelta) -> None:
        """Take one of the wakes of this day, unless the window, or another warm-up, has taken one for it."""
        if run.job.posted_by not in SYNTHETIC:
            return
        with self._lock:
            now = self._clock.now()
            if self._is_up(tier) or now < self._woken_until.get(tier, now):
                return
            job = run.job
            by_window = job.posted_by == BY_WINDOW
            why = opening(self._fleet, tier, job.posted_at) if by_window else f"{job.id}/{run.n}"
            if self._wakes.is_stopped(now):
                hint = "raise alerts.monthly_budget_dollars in fleet.toml, or warm it by hand: that is always allowed"
                raise Refused(f"tier {tier} was not woken: the month's budget is spent", hint=hint)
            if not self._wakes.take(tier, why, now):
                allowed = self._wakes.budget(tier)
                used = f"its {counted(allowed, 'wake')} of our own for today {'is' if allowed == 1 else 'are'} used up"
                hint = f"raise tiers.{tier}.own_wakes_per_day in fleet.toml, or warm it by hand: that is always allowed"
                raise Refused(f"tier {tier} was not woken: {used}", hint=hint)
            self._woken_until[tier] = now + within

    def _is_up(self, tier: str) -> bool:
        return of_tier(tier, ReportsOf(self._facts, tier)(), self._clock.now()).state in {"ready", "degraded"}
