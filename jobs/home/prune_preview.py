"""The upkeep of the weights on one machine: who uses them here, and what a prune would do now. It only looks."""

from collections.abc import Iterator, Sequence
from typing import Any

from jobs.core.clock import Clock
from jobs.core.errors import Unsupported
from jobs.home.home import Home, LocalServer
from jobs.home.status import tier_now, weights_of
from jobs.weights.history import recall
from jobs.weights.prune_plan import PrunePlan, WeightsUse


def weights_use(home: Home, servers: Sequence[LocalServer], clock: Clock) -> WeightsUse:
    """Who uses the weights, and who is at work on them.

    The servers are asked what they have loaded: they are on this machine, and asking wakes nobody.
    """
    jobs = home.reader(clock).jobs()
    return recall(home.read_facts(), jobs).weights_use(jobs, loaded(servers, clock))


def loaded(servers: Sequence[LocalServer], clock: Clock) -> Iterator[str]:
    """The models that these servers have in memory, as far as they answer."""
    for server in servers:
        yield from (each.name for each in tier_now(server, clock).loaded)


def dry_run(home: Home, clock: Clock, request: dict[str, Any]) -> PrunePlan:
    """What a prune that is asked for in these words would do now.

    Raises:
        Unsupported: the models directory is not ours.

    """
    from jobs.tasks.prune import plan_request  # noqa: PLC0415 - brings httpx; a plan of a night needs neither
    from jobs.weights.trash_moves import require_models_directory  # noqa: PLC0415

    stack = home.need_stack()
    if stack.models is None:
        raise Unsupported(f"the models directory is not ours to prune: {stack.why_by_server}")
    weights = weights_of(stack.models, home, clock)
    require_models_directory(weights.layout)
    return plan_request(
        weights.survey(), weights_use(home, stack.servers, clock), stack.retention, clock.now(), request
    )
