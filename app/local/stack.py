"""Composes the one-machine stack and runs it: servers, workers, gateway, until somebody asks it to stop.

Order matters: the gateway's port first, so that a taken one is told at once; then the servers, from the main thread and
before any other thread; then the workers and the gateway; then the word `ready`.
"""

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NoReturn

from loguru import logger

from app.accounting.archiving import ArchiveThread
from app.engines.clients import CLIENTS
from app.fleet.effect_notes import OneMachine, of_modal, on_one_machine
from app.gateway.dashboard.page import PREFIX as PAGE
from app.gateway.http_server import HttpServer, listening
from app.local.gateway import LocalGateway, keys_of
from app.local.nightly_thread import NightlyThread
from app.local.plan import VARIABLE as PULL_FROM
from app.local.plan import StackPlan
from app.local.processes.batch_worker import BatchWorker
from app.local.processes.server_process import Restarter, ServerProcess, stop
from app.local.servers import ServerLauncher, Servers, find_or_start
from app.local.workers import Workers
from app.logs import SAID
from jobs.access.audit import Audit
from jobs.access.audit_line import HERE
from jobs.cli.job_commands import who
from jobs.cli.output import complain, put, say
from jobs.core.clock import Clock
from jobs.core.errors import Bug, Trouble
from jobs.core.units import human_bytes
from jobs.home.home import Home, LocalServer, Stack
from jobs.home.prune_preview import weights_use
from jobs.home.status import weights_of
from jobs.registry.client import Registry
from jobs.registry.mirror import mirrors, tokens
from jobs.tasks.context import TaskContext

CHECK_SECONDS = 0.1
"""How soon a signal, a server that ended or a gateway that did is noticed."""


class StackStopped(Exception):
    """Somebody asked us to stop."""


def run_stack(plan: StackPlan, home: Home, clock: Clock, signals: Sequence[int]) -> int:
    """Run until a signal (0), or until the gateway is lost (1).

    A server that ends and a worker that crashes are started again, and told of in the gateway's health: the rest of it
    serves without them.
    """

    def check() -> None:
        if signals:
            raise StackStopped(f"stopping on {signal.Signals(signals[0]).name}")

    processes: list[ServerProcess] = []
    is_up = False
    keys = keys_of(home, os.environ, plan.host, clock)

    def has_ended() -> None:
        if is_up:
            logger.info("up has ended")

    with ExitStack() as ending:
        ending.callback(has_ended)  # after all that ends before
        try:
            listener = ending.enter_context(closing(listening(plan.host, plan.port)))
            ending.callback(stop, processes, clock)
            servers = find_or_start(ServerLauncher(plan, home, os.environ, clock, processes, check))
            say_effects(plan, servers)
            problems: list[Callable[[], tuple[str, ...]]] = []  # grown before the gateway opens
            gateway = LocalGateway(
                plan, servers, keys, home, clock, problems=lambda: [problem for each in problems for problem in each()]
            )
            ending.callback(gateway.close)
            restarter = Restarter(processes, clock, gateway.server_began)
            context = task_context(servers, plan, home, clock)
            workers = Workers(home, context, clock, at_weights=plan.concurrency, changed=gateway.refresh)
            ending.callback(workers.stop)
            workers.start()
            archive = ArchiveThread(home, clock)
            ending.callback(archive.stop)
            archive.start()
            batches = BatchWorker(home, clock)
            ending.callback(batches.stop)
            problems += [restarter.problems, workers.problems, archive.problems, batches.problems]
            is_up = True
            server = gateway.open(listener)
            stack = record_stack(servers, plan, server.url, home, clock)
            batches.start()  # once it is written down what it works with
            if plan.fleet is not None:
                nightly = NightlyThread(home, stack, plan.fleet, clock)
                ending.callback(nightly.stop)
                nightly.start()
            _attend([check, restarter.check, batches.check, lambda: _require_running(server)], clock)
        except StackStopped as stopped:  # what led to the end is told before the end
            logger.info("{}", stopped)
            return 0
        except Trouble as trouble:
            logger.bind(**{SAID: True}).error("up ended: {}", trouble)
            if not is_up:
                raise
            complain(trouble)
            say(f"hint: the log is {home.logs / 'up.log'}")
            return 1


def _attend(checks: Sequence[Callable[[], None]], clock: Clock) -> NoReturn:
    """Do these over and over, until one raises."""
    while True:
        for check in checks:
            check()
        clock.wait(CHECK_SECONDS)


def say_effects(plan: StackPlan, servers: Servers) -> None:
    """Say of which keys of the fleet file nothing comes here, and what counts in their place."""
    if plan.fleet is None:
        return
    machine = OneMachine(
        environ=os.environ,
        tiers=[tier.name for tier in servers.tiers],
        found=servers.urls[0] if servers.found else None,
        simulated=servers.simulated,
        quota=plan.retention.quota_bytes != plan.fleet.volume.quota_bytes,
        pull_from=PULL_FROM if os.environ.get(PULL_FROM, "").strip() else None,
        not_ours=None if servers.models else servers.why_by_server,
    )
    logger.info("{}", of_modal(plan.fleet, machine))
    for note in on_one_machine(plan.fleet, machine):
        logger.warning("{}", note)


def _require_running(server: HttpServer) -> None:
    """Insist that the gateway runs: without it nobody is served, and nobody is told.

    Raises:
        Bug: it has ended.

    """
    if server.has_ended:
        raise Bug(f"the gateway ended by itself: {server.failure or 'the log tells why'}")


def task_context(servers: Servers, plan: StackPlan, home: Home, clock: Clock) -> TaskContext:
    """What the tasks work with."""
    weights = None
    if servers.models is not None:
        weights = weights_of(servers.models, home, clock)
        weights.prepare()
    mirror = {"*": servers.mirror} if servers.mirror else mirrors(os.environ)
    return TaskContext(
        clock=clock,
        registry=Registry(clock=clock, mirrors=mirror, tokens=tokens(os.environ), registries=plan.registries),
        weights=weights,
        servers={
            tier.name: CLIENTS[servers.engine(tier.name)](url, clock=clock)
            for tier, url in zip(servers.tiers, servers.urls, strict=True)
        },
        tiers=servers.tiers,
        declared_tier=plan.declared_tier,
        settings=plan.settings_of,
        retention=plan.retention,
        weights_use=lambda: weights_use(home, local_servers(servers), clock),
    )


def local_servers(servers: Servers) -> tuple[LocalServer, ...]:
    return tuple(LocalServer(tier.name, url) for tier, url in zip(servers.tiers, servers.urls, strict=True))


def note_settings(fleet_file: Path | None, fleet_text: str | None, home: Home, clock: Clock) -> None:
    """Write down who started with another fleet file, or the same with other words in it, than the last time."""
    before = home.read_stack()
    if fleet_text == (before.fleet_text if before else None):
        return
    named = fleet_file.name if fleet_file is not None else "no fleet file"
    with closing(home.facts()) as facts:
        Audit(facts, clock).record(who=who(), request=f"{HERE} up", act="settings", subject=named)


def record_stack(servers: Servers, plan: StackPlan, gateway: str, home: Home, clock: Clock) -> Stack:
    """Write the stack down for the other commands, and say that it is ready."""
    note_settings(plan.fleet_file, plan.fleet_text, home, clock)
    stack = Stack(
        pid=os.getpid(),
        started_at=clock.now(),
        simulated=servers.simulated,
        servers=local_servers(servers),
        models=servers.models,
        gateway=gateway,
        retention=plan.retention,
        batches=plan.batches,
        rate_limit=plan.rate_limit,
        why_by_server=servers.why_by_server,
        fleet=plan.fleet_file,
        fleet_text=plan.fleet_text,
        mirror=servers.mirror,
        registries=plan.registries,
        aliases=plan.aliases.declared,
    )
    home.write_stack(stack)
    for each in stack.servers:
        logger.info("tier {} answers at {}", each.tier, each.url)
    most = plan.retention.quota_bytes
    quota = f"at most {human_bytes(most)}" if most else "no quota"
    logger.info("models are in {}, {}", servers.models or "the server's own directory", quota)
    logger.info("the gateway answers at {}", gateway)
    put(f"ready {gateway}")  # alone on its line: scripts read it
    put(f"page {gateway}{PAGE}")
    return stack
