"""Composes the one-machine stack and runs it: servers, workers, gateway, until somebody asks it to stop.

Order matters: the gateway's port first, so that a taken one is told at once; then the servers, from the main thread and
before any other thread; then the workers and the gateway; then the word `ready`.
"""

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from loguru import logger

from app.fleet.schema import Fleet
from app.gateway.http_server import HttpServer, listening
from app.local.gateway import LocalGateway, keys_of
from app.local.nightly_thread import Nights
from app.local.processes import Child, Restarts, stop
from app.local.servers import Ground, Servers, Wishes, bring_up
from app.local.workers import Workers
from jobs.cli.output import complain, put, say
from jobs.core.clock import Clock
from jobs.core.errors import Bug, Trouble
from jobs.core.model_name import ModelName
from jobs.core.units import human_bytes
from jobs.home.home import Home, LocalServer, Stack
from jobs.home.prune_preview import weights_use
from jobs.ollama.client import OllamaClient
from jobs.registry.allowlist import Registries
from jobs.registry.client import Registry
from jobs.registry.mirror import mirrors
from jobs.tasks.context import TaskContext
from jobs.weights.directory import ModelsDirectory
from jobs.weights.prune_plan import Retention

LOOK_SECONDS = 0.1
"""How soon a signal, a server that ended or a gateway that did is noticed."""


class StackStopped(Exception):
    """Somebody asked us to stop."""


@dataclass(frozen=True)
class LocalLimits:
    retention: Retention
    rate_limit: int | None
    concurrency: int


@dataclass(frozen=True)
class Declared:
    """What should be here, and the file that says so."""

    fleet: Fleet
    path: Path


@dataclass(frozen=True)
class StackPlan:
    """What was asked for: servers, limits, where the gateway listens, whence models come, and what should be here."""

    wishes: Wishes
    limits: LocalLimits
    host: str
    port: int
    registries: Registries
    declared: Declared | None = None

    def declared_tier(self, name: ModelName) -> str | None:
        """The tier that is declared for a model, if one is."""
        return self.declared.fleet.declared_tier(name) if self.declared else None


def live(plan: StackPlan, home: Home, clock: Clock, asked: Sequence[int]) -> int:
    """Run until a signal (0), or until the gateway is lost (1).

    A server that ends and a worker that crashes are started again, and told of in the gateway's health: the rest of it
    serves without them.
    """

    def check() -> None:
        if asked:
            raise StackStopped(f"stopping on {signal.Signals(asked[0]).name}")

    children: list[Child] = []
    is_up = False
    keys = keys_of(home, os.environ, plan.host)
    try:
        with ExitStack() as ending:
            ending.callback(logger.info, "up has ended")
            listener = ending.enter_context(closing(listening(plan.host, plan.port)))
            ending.callback(stop, children, clock)
            servers = bring_up(plan.wishes, Ground(home, os.environ, clock, children, check))
            restarts = Restarts(children, clock)
            tell: list[Callable[[], tuple[str, ...]]] = [restarts.problems]
            gateway = LocalGateway(
                servers,
                keys,
                home,
                clock,
                declared_tier=plan.declared_tier,
                rate_limit=plan.limits.rate_limit,
                registries=plan.registries,
                fleet=plan.declared.fleet if plan.declared else None,
                quota_bytes=plan.limits.retention.quota_bytes,
                problems=lambda: [problem for told in tuple(tell) for problem in told()],
            )
            ending.callback(gateway.close)
            context = task_context(servers, plan, home, clock)
            workers = Workers(home, context, clock, at_weights=plan.limits.concurrency, changed=gateway.look)
            ending.callback(workers.stop)
            workers.start()
            tell.append(workers.problems)
            is_up = True
            door = gateway.open(listener)
            stack = announce(servers, plan, door, home, clock)
            if plan.declared is not None:
                nights = Nights(home, stack, plan.declared.fleet, clock)
                ending.callback(nights.stop)
                nights.start()
            while True:
                check()
                restarts.look()
                _require(door)
                clock.wait(LOOK_SECONDS)
    except StackStopped as stopped:
        logger.info("{}", stopped)
        return 0
    except Trouble as trouble:
        logger.error("up ended: {}", trouble)
        if not is_up:
            raise
        complain(trouble)
        say(f"hint: the log is {home.logs / 'up.log'}")
        return 1


def _require(door: HttpServer) -> None:
    """Insist that the gateway runs: without it nobody is served, and nobody is told.

    Raises:
        Bug: it has ended.

    """
    if door.has_ended:
        raise Bug(f"the gateway ended by itself: {door.failure or 'the log tells why'}")


def task_context(servers: Servers, plan: StackPlan, home: Home, clock: Clock) -> TaskContext:
    """What the tasks work with."""
    weights = None
    if servers.models is not None:
        weights = ModelsDirectory(servers.models, lock=home.weights_lock, persist=lambda: None, clock=clock)
        weights.prepare()
    mirror = {"*": servers.mirror} if servers.mirror else mirrors(os.environ)
    return TaskContext(
        clock=clock,
        registry=Registry(clock=clock, mirrors=mirror, registries=plan.registries),
        weights=weights,
        servers={
            tier.name: OllamaClient(url, clock=clock) for tier, url in zip(servers.tiers, servers.urls, strict=True)
        },
        tiers=servers.tiers,
        declared_tier=plan.declared_tier,
        retention=plan.limits.retention,
        weights_use=lambda: weights_use(home, named(servers), clock),
    )


def named(servers: Servers) -> tuple[LocalServer, ...]:
    return tuple(LocalServer(tier.name, url) for tier, url in zip(servers.tiers, servers.urls, strict=True))


def announce(servers: Servers, plan: StackPlan, door: HttpServer, home: Home, clock: Clock) -> Stack:
    """Write the stack down for the other commands, and say that it is ready."""
    limits = plan.limits
    stack = Stack(
        pid=os.getpid(),
        started_at=clock.now(),
        simulated=servers.simulated,
        servers=named(servers),
        models=servers.models,
        gateway=door.url,
        retention=limits.retention,
        rate_limit=limits.rate_limit,
        why_by_server=servers.why_by_server,
        fleet=plan.declared.path if plan.declared else None,
        mirror=servers.mirror,
    )
    home.write_stack(stack)
    for server in stack.servers:
        logger.info("tier {} answers at {}", server.tier, server.url)
    most = limits.retention.quota_bytes
    quota = f"at most {human_bytes(most)}" if most else "no quota"
    logger.info("models are in {}, {}", servers.models or "the server's own directory", quota)
    logger.info("the gateway answers at {}", door.url)
    put(f"ready {door.url}")
    return stack
