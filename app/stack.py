"""Composes the one-machine stack and runs it: servers, workers, the ledger, until somebody asks it to stop.

Order matters: servers first, from the main thread and before any other thread; then the workers; then the word `ready`.
"""

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from loguru import logger

from app.children import Child, stop
from app.crew import Crew
from app.mirror import mirrors
from app.servers import Ground, Servers, Wishes, bring_up
from jobs.clock import Clock
from jobs.errors import Bug, Trouble
from jobs.home import Home, Server, Stack
from jobs.ollama import Ollama
from jobs.pruning import Retention
from jobs.registry import Registry
from jobs.tasks import Workshop
from jobs.tending import around
from jobs.terminal import complain, put, say
from jobs.units import human_bytes
from jobs.weights import Weights

LOOK_SECONDS = 0.1
"""How soon a signal, a dead server or a crashed worker is noticed."""


class Stopped(Exception):
    """Somebody asked us to stop."""


@dataclass(frozen=True)
class Limits:
    retention: Retention
    rate_limit: int | None
    concurrency: int


def live(wishes: Wishes, limits: Limits, home: Home, clock: Clock, asked: Sequence[int]) -> int:
    """Run until a signal (0), or until a server or a worker is lost (1)."""

    def check() -> None:
        if asked:
            raise Stopped(f"stopping on {signal.Signals(asked[0]).name}")

    children: list[Child] = []
    crew: Crew | None = None
    try:
        servers = bring_up(wishes, Ground(home, os.environ, clock, children, check))
        crew = Crew(home, workshop(servers, limits, home, clock), clock, at_weights=limits.concurrency)
        crew.start()
        announce(servers, limits, home, clock)
        while True:
            check()
            for child in children:
                child.require_alive()
            if crew.failure is not None:
                raise Bug(f"a worker crashed: {type(crew.failure).__name__}: {crew.failure}")
            clock.wait(LOOK_SECONDS)
    except Stopped as stopped:
        logger.info("{}", stopped)
        return 0
    except Trouble as trouble:
        logger.error("up ends: {}", trouble)
        if crew is None:
            raise
        complain(trouble)
        say(f"hint: the log is {home.logs / 'up.log'}")
        return 1
    finally:
        if crew is not None:
            crew.stop()
        stop(children, clock)
        logger.info("up has ended")


def workshop(servers: Servers, limits: Limits, home: Home, clock: Clock) -> Workshop:
    """What the tasks work with."""
    weights = None
    if servers.models is not None:
        weights = Weights(servers.models, lock=home.weights_lock, persist=lambda: None, clock=clock)
        weights.prepare()
    mirror = {"*": servers.mirror} if servers.mirror else mirrors(os.environ)
    return Workshop(
        clock=clock,
        registry=Registry(clock=clock, mirrors=mirror),
        weights=weights,
        servers={tier.name: Ollama(url, clock=clock) for tier, url in zip(servers.tiers, servers.urls, strict=True)},
        tiers=servers.tiers,
        retention=limits.retention,
        around=lambda: around(home, named(servers), clock),
    )


def named(servers: Servers) -> tuple[Server, ...]:
    return tuple(Server(tier.name, url) for tier, url in zip(servers.tiers, servers.urls, strict=True))


def announce(servers: Servers, limits: Limits, home: Home, clock: Clock) -> None:
    """Write the stack down for the other commands, and say that it is ready."""
    stack = Stack(
        pid=os.getpid(),
        started_at=clock.now(),
        simulated=servers.simulated,
        servers=named(servers),
        models=servers.models,
        retention=limits.retention,
        rate_limit=limits.rate_limit,
        why_by_server=servers.why_by_server,
    )
    home.write_stack(stack)
    for server in stack.servers:
        logger.info("tier {} answers at {}", server.tier, server.url)
    most = limits.retention.quota_bytes
    quota = f"at most {human_bytes(most)}" if most else "no quota"
    logger.info("models are in {}, {}", servers.models or "the server's own directory", quota)
    put(f"ready {servers.urls[0]}")
