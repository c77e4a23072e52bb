"""What batches of this machine work with, by what `up` has written down of itself."""

import os
from collections.abc import Callable
from functools import partial

from app.accounting.batch_prices import BatchPrices
from app.fleet.file import parsed
from app.fleet.schema import Fleet, parse
from app.gateway.catalog.sources import Directory, Listing
from app.gateway.catalog.state import KnownState
from app.gateway.cross_origin import allowed_origins
from app.gateway.inference.routing import FreshRouter, Router
from app.gateway.lines.line_shape import wrong_shape
from app.local.plan import StackPlan
from app.scheduler.batch_starts import OwnStarts
from jobs.batches.batch_store import BatchStore
from jobs.batches.files.storage import BatchStorage
from jobs.batches.lines.line_check import Checked
from jobs.batches.records import BatchRecord, Estimate
from jobs.batches.running.batch_context import BatchContext, LinesAtOnce, ModelRoute
from jobs.core.clock import Clock
from jobs.core.errors import NotFound, Refused, StoreTrouble
from jobs.home.home import Home, Stack
from jobs.home.status import weights_of
from jobs.ledger.job import Job
from jobs.ledger.kinds import WEIGHTS_LANE
from jobs.models.placement import LOCAL
from jobs.ollama.client import OllamaClient
from jobs.registry.client import Registry
from jobs.store import keys
from jobs.tasks.context import TaskContext
from jobs.weights.layout import Layout
from jobs.weights.staging import staging_subject

FRESH_SECONDS = 2.0
"""What is known of the models is looked at again after so long."""

MEASURED = (keys.BATCH_SPEED, keys.USAGE)
"""What estimates rest on here, where nothing is paid by the second."""


def plan_of(stack: Stack) -> StackPlan:
    """What `up` was asked for, as far as it says where models go."""
    fleet = _fleet_of(stack)
    names = tuple(each.tier for each in stack.servers)
    return StackPlan(
        simulate=stack.simulated,
        tiers=() if names == (LOCAL.name,) else names,
        models=stack.models,
        host="127.0.0.1",
        port=0,
        registries=stack.registries,
        origins=allowed_origins({}, fleet),
        retention=stack.retention,
        rate_limit=stack.rate_limit,
        concurrency=1,
        fleet=fleet,
        fleet_file=stack.fleet,
        fleet_text=stack.fleet_text,
    )


def _fleet_of(stack: Stack) -> Fleet | None:
    if stack.fleet is None or stack.fleet_text is None:
        return None
    return parse(parsed(stack.fleet_text, stack.fleet), str(stack.fleet))


class LocalRoutes:
    """Where lines go, by the same rules as the gateway's. Threads may share one."""

    def __init__(self, home: Home, stack: Stack, plan: StackPlan, clock: Clock) -> None:
        listing = OllamaClient(stack.servers[0].url, clock=clock)
        source = Directory(Layout(stack.models)) if stack.models else Listing(listing)
        known = KnownState(home.facts(), source, clock, aliases=plan.aliases)
        tiers = list(plan.capacities(os.environ))
        engines = {tier.name: plan.engine(tier.name) for tier in tiers}
        router = Router(known, tiers, plan.declared_tier, plan.settings_of, engines)
        self._router = FreshRouter(known, router, clock, FRESH_SECONDS)

    def route(self, model: str) -> ModelRoute:
        """Where lines of this model go.

        Raises:
            Trouble: it is not here.
            StoreUnavailable: that cannot be known now.

        """
        found = self._router.route(model)
        return ModelRoute(str(found.model), found.tier)


def batch_context(home: Home, stack: Stack, clock: Clock) -> BatchContext:
    """What batches work with.

    Raises:
        Refused: `up` has no gateway.

    """
    if stack.gateway is None:
        raise Refused("`up` has not written down where its gateway answers", hint="start `up` again")
    plan, facts, ledger = plan_of(stack), home.facts(), home.ledger(clock)
    limits, routes = stack.batches, LocalRoutes(home, stack, plan, clock)
    prices = BatchPrices(lambda: dict(facts.items(*MEASURED)), plan.fleet, clock, rented=False)
    return BatchContext(
        clock=clock,
        storage=BatchStorage(home.batches, clock, quota_bytes=limits.quota_bytes),
        store=BatchStore(facts, ledger, clock),
        facts=facts,
        gateway=stack.gateway,
        route=routes.route,
        shape=wrong_shape,
        estimate=partial(_estimated, prices, routes.route),
        starts=OwnStarts(plan.fleet, clock),
        keep=limits.keep,
        at_once=LinesAtOnce(limits.at_once),
        most_lines=limits.most_lines,
    )


def _estimated(
    prices: BatchPrices, route: Callable[[str], ModelRoute], record: BatchRecord, checked: Checked
) -> Estimate | None:
    try:
        return prices.estimate(checked.models, route, record.endpoint)[0]
    except (NotFound, StoreTrouble):
        return None


def task_context(home: Home, stack: Stack, clock: Clock) -> TaskContext:
    """What the tasks of the lane work with."""
    return TaskContext(clock=clock, registry=Registry(clock=clock), batches=batch_context(home, stack, clock))


def fence(home: Home, stack: Stack, clock: Clock, job: Job) -> None:
    """Take the staging of a lost pull from its holder: a sweep of this lane, too, may come first."""
    if job.lane == WEIGHTS_LANE and stack.models is not None:
        weights_of(stack.models, home, clock).release(staging_subject(job))
