"""The gateway of a deployment: the same ASGI app as on one machine, on a CPU, always there.

It has keys of its own, so Modal's token is not asked for in front of it; without a key it does not start. Limits of
keys and callers who wait for a cold start are counted in its one process.
"""

import os
import socket
import threading
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path

import modal
from loguru import logger

from app import resources
from app.deploy_refusals import refusals_told
from app.deployment.addresses import addresses, proxy_headers
from app.deployment.batches.storage import mounted_storage
from app.deployment.server_container import end_container
from app.deployment.spawn_worker import spawn_worker
from app.fleet.effect_notes import in_a_deployment
from app.fleet.schema import Fleet, declared
from app.gateway.auth.key_lines import FixedLines
from app.gateway.auth.keys import VARIABLE, Keys
from app.gateway.auth.live_keys import LiveKeys
from app.gateway.batches.parts import BatchParts
from app.gateway.catalog.state import KnownState
from app.gateway.catalog.volume import VolumeModels
from app.gateway.compose import Composed, GatewayParts
from app.gateway.cross_origin import allowed_origins
from app.gateway.dashboard.plans import Plans
from app.gateway.event_loop.interpreter import ServingInterpreter
from app.gateway.event_loop.watch import watch_of
from app.gateway.http_server import HttpServer, listening
from app.gateway.inference.proxy import COMMENT_SECONDS
from app.gateway.inference.routing import Router
from app.gateway.upstream.holding import HoldTiming
from app.gateway.upstream.upstream_client import TierUpstream
from app.logs import in_container
from app.scheduler.absence import note_old_archive
from jobs.access.keys.key_copy import KeysCopy, copy_at, read_copy
from jobs.archive.archived import archive_at
from jobs.core.clock import Clock, SystemClock
from jobs.core.errors import BadRequest, Refused, Trouble
from jobs.core.units import counted
from jobs.ledger.kinds import WEIGHTS_LANE
from jobs.ledger.ledger import Ledger

PORT = 8000
OTHER_PORT = "OLLAMA_MODAL_GATEWAY_PORT"
OTHER_REFRESH = "OLLAMA_MODAL_REFRESH_SECONDS"
OTHER_TRUST = "OLLAMA_MODAL_TRUST_SECONDS"
OTHER_COMMENT = "OLLAMA_MODAL_COMMENT_SECONDS"
"""So that a trial run can have a port of its own, and times of its own."""

CPU_CORES = 0.25
MEMORY_MIB = 512
"""What is kept, and so what is paid all day. More is used, and paid, when there is more to do."""

REFRESH_EVERY = timedelta(seconds=10)
"""Each refresh reads the ledger across the network. A model that a request misses is looked for at once."""

with refusals_told():
    _FLEET = declared()


@resources.app.server(
    port=PORT,
    image=resources.cpu_image,
    cpu=CPU_CORES,
    memory=MEMORY_MIB,
    volumes={
        resources.MODELS: resources.weights.with_mount_options(read_only=True),
        resources.BATCHES: resources.batches,
    },
    secrets=[resources.api_keys, resources.proxy_token],
    unauthenticated=True,
    # Without a target for concurrency nothing is scaled: there is one, and during a deployment, for as long as answers
    # of the one before go on, two. A maximum of one would have the new one wait for the end of the old.
    min_containers=1,
    startup_timeout=120,
    exit_grace_period=max(tier.exit_grace_seconds for tier in _FLEET.tiers.values()),
)
class Gateway:
    @modal.enter()
    def start(self) -> None:
        self.service = serve()

    @modal.exit()
    def stop(self) -> None:
        self.service.stop()


def serve(environ: Mapping[str, str] = os.environ) -> "Service":
    """A gateway that answers.

    Raises:
        BadRequest: no keys are configured, or a line of them is wrong.
        Refused: a tier is not deployed, or the port is taken.

    """
    in_container(environ)
    for note in in_a_deployment(declared()):
        logger.warning("{}", note)
    try:
        service = Service(environ, SystemClock())
        service.start()
    except Trouble as trouble:
        logger.error("the gateway cannot start: {}{}", trouble, f"; {trouble.hint}" if trouble.hint else "")
        raise
    return service


def keys_of(environ: Mapping[str, str]) -> Keys:
    """The keys of the secret.

    Raises:
        BadRequest: a line is wrong, or there is none: anybody who knows the address could ask.

    """
    keys = Keys.parse(environ.get(VARIABLE, ""))
    if keys.is_empty:
        raise BadRequest(
            "no keys are configured, and a gateway that lets everybody in does not start",
            hint=f"`ollama-modal keys new NAME --line` prints a line for {VARIABLE} of secret `ollama-api-keys`;"
            " then deploy",
        )
    return keys


def upstreams(fleet: Fleet, environ: Mapping[str, str]) -> dict[str, TierUpstream]:
    """The tiers, and how each is reached.

    Raises:
        Refused: one is not deployed.

    """
    urls, headers = addresses(fleet.tiers), proxy_headers(environ)
    if missing := sorted(set(fleet.tiers) - set(urls)):
        raise Refused(
            f"there is no server of {', '.join(missing)}", hint="deploy all of it: `modal deploy -m app.deploy`"
        )
    return {
        name: TierUpstream(
            name,
            urls[name],
            headers,
            tier.longest_start,
            tier.max_containers,
            is_remote=True,
            engine=fleet.engine_of(name),
        )
        for name, tier in fleet.tiers.items()
    }


def refresh_every(environ: Mapping[str, str]) -> timedelta:
    """How often the ledger is read; a trial run may be in more of a hurry."""
    seconds = environ.get(OTHER_REFRESH)
    return timedelta(seconds=float(seconds)) if seconds else REFRESH_EVERY


def hold_timing(environ: Mapping[str, str]) -> HoldTiming:
    """How callers are held; in a trial run a tier may count as asleep sooner after its last answer."""
    seconds = environ.get(OTHER_TRUST)
    return HoldTiming(trust_seconds=float(seconds)) if seconds else HoldTiming()


def comment_seconds(environ: Mapping[str, str]) -> float:
    """How often a caller who waits is told what for; in a trial run nobody waits five seconds for that."""
    return float(environ.get(OTHER_COMMENT) or COMMENT_SECONDS)


class Service:
    """A gateway in its container, from its start to its end."""

    def __init__(self, environ: Mapping[str, str], clock: Clock, leave: Callable[[], None] = end_container) -> None:
        keys, fleet = keys_of(environ), declared()
        models = VolumeModels(Path(resources.MODELS), resources.volume.reload, clock)
        self._interpreter = ServingInterpreter()
        self._known_state = KnownState(
            resources.ledger,
            models,
            clock,
            every=refresh_every(environ),
            aliases=fleet.named,
            learnt=self._interpreter.keep,
        )
        self._clock, self._leave = clock, leave
        #: Set by the thread that stops it, read by the one that watches the server.
        self._stopping = threading.Event()
        self._composed = Composed(
            GatewayParts(
                upstreams=upstreams(fleet, environ),
                known_state=self._known_state,
                router=Router(
                    self._known_state,
                    fleet.catalog_tiers(),
                    fleet.declared_tier,
                    fleet.settings_of,
                    {name: fleet.engine_of(name) for name in fleet.tiers},
                ),
                keys=LiveKeys(FixedLines(keys), resources.ledger, clock, copy=_copy()),
                facts=resources.ledger,
                open_ledger=lambda: Ledger(resources.queue, resources.ledger, clock),
                clock=clock,
                writer=environ.get("MODAL_TASK_ID", "gateway"),
                version=resources.OLLAMA_VERSION,
                send_worker=spawn_worker,
                registries=fleet.may_pull_from(),
                origins=allowed_origins(environ, fleet),
                fleet=fleet,
                hold_timing=hold_timing(environ),
                comment_seconds=comment_seconds(environ),
                settings_in_manifests=True,
                complaints=models.complaints,
                thrown=models.thrown,
                names_here=models.names_here,
                archive=models.archived,
                past=models.past,
                audited=models.audited,
                copy_keys=lambda: spawn_worker(WEIGHTS_LANE),
                batches=BatchParts(
                    mounted_storage(fleet.batches.limits, clock), fleet.batches.limits, fleet.schedule.zone
                ),
                loop_watch=watch_of(environ, clock),
                plans=Plans(
                    night=lambda: resources.deployment.ask(resources.PLAN_NIGHT),
                    prune=lambda request: resources.deployment.ask(resources.PLAN_PRUNE, request),
                ),
            )
        )
        self._http_server = HttpServer(self._composed.app, _listener(environ), clock, new_loop=self._composed.new_loop)

    def start(self) -> None:
        """Return when requests are answered."""
        self._known_state.start()
        self._composed.prepare()
        self._interpreter.start()
        self._http_server.start()
        note_old_archive(resources.ledger, archive_at(Path(resources.MODELS)), self._clock.now())
        threading.Thread(target=self._watch, name="watch", daemon=True).start()
        logger.info("the gateway answers, with {}", counted(len(self._known_state.models()), "model"))

    def stop(self) -> None:
        """Take no more, and let what is under way end if it is quick: it has had its grace before."""
        self._stopping.set()
        self._http_server.stop()
        self._known_state.stop()
        self._interpreter.stop()

    def _watch(self) -> None:
        """A gateway that crashed takes its container out: the platform looks at the port, and that is still bound."""
        self._http_server.wait_end()
        if not self._stopping.is_set():
            logger.error("taking this container out: the gateway ended by itself")
            self._leave()


def _copy() -> KeysCopy:
    """What the volume knows of the keys; nothing where it cannot be read now, as of a store that was never lost."""
    try:
        return read_copy(copy_at(Path(resources.MODELS)))
    except Trouble as trouble:
        logger.warning("the copy of the keys is not read: {}", trouble)
        return KeysCopy(is_there=True)


def _listener(environ: Mapping[str, str]) -> socket.socket:
    return listening("0.0.0.0", int(environ.get(OTHER_PORT, PORT)))  # noqa: S104 - Modal's proxy comes from outside
