"""What the batches worker does in its container: read files through, have lines answered by the gateway, keep results.

It asks the gateway at its public address, as a caller does, with the pass of the batch. The weights are mounted so that
it tells where models go by the same rules as the gateway.
"""

from datetime import timedelta
from pathlib import Path

from loguru import logger

from app.accounting.batch_prices import BatchPrices
from app.deployment.batches.storage import mounted_storage
from app.deployment.worker_process import work
from app.fleet.schema import Fleet, declared
from app.gateway.catalog.state import KnownState
from app.gateway.catalog.volume import VolumeModels
from app.gateway.inference.routing import FreshRouter, Router
from app.gateway.lines.line_shape import wrong_shape
from app.model_server.health import of_tier
from app.model_server.report import ReportsOf
from app.resources import GATEWAY, MODELS, deployment, queue, volume
from app.resources import ledger as facts
from app.scheduler.batch_starts import RentedStarts
from jobs.batches.batch_store import BatchStore
from jobs.batches.lines.line_check import Checked
from jobs.batches.records import BatchRecord, Estimate
from jobs.batches.running.batch_context import BatchContext, LinesAtOnce, ModelRoute, Pace
from jobs.core.clock import Clock, SystemClock
from jobs.core.errors import NotFound, ServerTrouble, StoreTrouble
from jobs.ledger.kinds import BATCHES_LANE
from jobs.ledger.ledger import Ledger
from jobs.registry.client import Registry
from jobs.store import keys
from jobs.tasks.context import TaskContext
from jobs.tasks.table import perform

DEPLOY = "deploy it: `modal deploy -m app.deploy`"

AT_ONCE = 8
"""Batches side by side: each is a thread and an event loop, and they share the room that their tiers have."""

PACE = Pace(look=timedelta(seconds=1), say=timedelta(seconds=5))
"""What is said of a batch is a round trip or two across the network."""

FRESH_SECONDS = 10.0
"""What is known of the models is looked at again after so long."""

MEASURED = (keys.BATCH_SPEED, *keys.SORTS["usage"])
"""What prices rest on."""


def run() -> bool:
    """Work the batches lane in this container; false when there is more to do but its time is up.

    Raises:
        ServerTrouble: no gateway is deployed.

    """
    clock, fleet = SystemClock(), declared()
    ledger = Ledger(queue, facts, clock)
    context = TaskContext(
        clock=clock, registry=Registry(clock=clock), batches=batch_context(ledger, fleet, gateway_url(), clock)
    )
    return work(
        ledger,
        facts,
        BATCHES_LANE,
        lambda attempt: perform(attempt, context),
        clock,
        concurrency=AT_ONCE,
        early=True,
    )


def gateway_url() -> str:
    """Where the gateway answers.

    Raises:
        ServerTrouble: it is not deployed.

    """
    url = deployment.url(GATEWAY)
    if url is None:
        raise ServerTrouble(
            "no gateway is deployed that could answer lines", hint="deploy: `modal deploy -m app.deploy`"
        )
    return url


class MountedRoutes:
    """Where lines go, by the same rules as the gateway's. Threads may share one."""

    def __init__(self, fleet: Fleet, clock: Clock) -> None:
        models = VolumeModels(Path(MODELS), volume.reload, clock)
        known = KnownState(facts, models, clock, aliases=fleet.named)
        router = Router(
            known,
            fleet.catalog_tiers(),
            fleet.declared_tier,
            fleet.settings_of,
            {name: fleet.engine_of(name) for name in fleet.tiers},
        )
        self._router = FreshRouter(known, router, clock, FRESH_SECONDS)

    def __call__(self, model: str) -> ModelRoute:
        """Where lines of this model go.

        Raises:
            Trouble: it is not here.
            StoreUnavailable: that cannot be known now.

        """
        found = self._router.route(model)
        return ModelRoute(str(found.model), found.tier)


def batch_context(ledger: Ledger, fleet: Fleet, gateway: str, clock: Clock) -> BatchContext:
    """What batches work with in a container that mounts both volumes."""
    limits, route = fleet.batches.limits, MountedRoutes(fleet, clock)
    prices = BatchPrices(lambda: dict(facts.items(*MEASURED)), fleet, clock, rented=True)
    return BatchContext(
        clock=clock,
        storage=mounted_storage(limits, clock),
        store=BatchStore(facts, ledger, clock),
        facts=facts,
        gateway=gateway,
        route=route,
        shape=wrong_shape,
        estimate=lambda record, checked: _estimated(prices, route, record, checked),
        starts=RentedStarts(ledger, facts, fleet, clock),
        dollars_per_second=prices.dollars_per_second(),
        shared_times=lambda batch: lambda since: prices.shared_times(batch, since),
        keep=limits.keep,
        at_once=LinesAtOnce(limits.at_once),
        most_lines=limits.most_lines,
        pace=PACE,
    )


def _estimated(prices: BatchPrices, route: MountedRoutes, record: BatchRecord, checked: Checked) -> Estimate | None:
    try:
        return prices.estimate(checked.models, route, record.endpoint, wakes=_sleeps)[0]
    except (NotFound, StoreTrouble) as trouble:
        logger.warning("what batch {} will take is not known: {}", record.id, trouble)
        return None


def _sleeps(tier: str) -> bool:
    now = SystemClock().now()
    return of_tier(tier, ReportsOf(facts, tier)(), now).state not in {"ready", "degraded"}
