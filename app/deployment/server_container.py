"""What a Modal container hands to the server it runs: the volume, the ledger, its own name, how to end it.

The fleet is checked where somebody deploys; what it comes to for a tier goes along in a file. So a container that
starts while somebody waits imports nothing that checks.
"""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from loguru import logger

from app.fleet.file import read
from app.logs import in_container
from app.model_server.settings import ServerHost, TierSettings
from app.model_server.starting.asked_ahead import AskedAhead
from app.model_server.starting.engine import CHECKED, StartedEngine, address
from app.model_server.supervisor import ServerSupervisor
from app.resources import MODELS, ledger, volume
from jobs.core.clock import SystemClock
from jobs.http.libraries_alone import import_libraries_alone

if TYPE_CHECKING:
    from app.fleet.schema import Fleet

_SPARE = timedelta(seconds=10)
"""Of the start-up time, so that what we say about a failure is heard before the platform ends the container."""


_LONGEST_IMPORTS = 120.0
"""Seconds. A process that has run for longer than this before it comes to us was restored, or is no container's."""


def serve(
    tier: str,
    environ: Mapping[str, str] = os.environ,
    started: StartedEngine | None = None,
    ahead: AskedAhead | None = None,
) -> ServerSupervisor:
    """A started server of that tier.

    Args:
        tier: its name in the fleet.
        environ: the container's; OLLAMA_HOST and OLLAMA_MODAL_PROBE_SECONDS are read, so that a trial run can have a
            port of its own and probe more often.
        started: its engine, where that was started before.
        ahead: what was asked of the ledger before.

    """
    in_container(environ, tier=tier)
    import_libraries_alone()
    server = ServerSupervisor(_settings(tier, environ), _server_host(environ, started, ahead))
    server.start()
    return server


def _settings(tier: str, environ: Mapping[str, str]) -> TierSettings:
    """As they were checked for this deployment; one that brought no such file reads the fleet."""
    try:
        document = json.loads(CHECKED.read_text("utf-8"))
    except FileNotFoundError:
        from app.fleet.schema import declared  # noqa: PLC0415 - a fifth of a second that most starts need not take

        settings = tier_settings(declared(), tier)
    else:
        settings = TierSettings.from_json(document[tier])
    every = environ.get("OLLAMA_MODAL_PROBE_SECONDS")
    return replace(settings, probe_every=timedelta(seconds=float(every))) if every else settings


def deployed_tiers() -> Sequence[str]:
    """The tiers whose classes a container has to have: its own; where it brought no such file, those of the fleet."""
    try:
        return tuple(json.loads(CHECKED.read_text("utf-8")))
    except FileNotFoundError:
        return tuple(read()["tiers"])


def checked_tier(fleet: "Fleet", name: str) -> str:
    """What `CHECKED` says in the containers of a tier, where somebody deploys."""
    return json.dumps({name: tier_settings(fleet, name).as_json()}, indent=1)


def tier_settings(fleet: "Fleet", name: str) -> TierSettings:
    """What a tier of the fleet asks of its server."""
    tier = fleet.tier(name)
    return TierSettings(
        tier=name,
        gpu_promised=tier.gpu is not None,
        environ=tier.ollama.environ(),
        startup=timedelta(seconds=tier.startup_timeout_seconds) - _SPARE,
        readers_ahead=tier.readers_ahead,
        engine=fleet.engine_of(name),
        dollars_per_hour=fleet.dollars_per_hour(name),
        warmed=tuple(model.parsed for model in fleet.models_of(name) if model.warmed),
        models=fleet.settings_by_model,
    )


def _server_host(environ: Mapping[str, str], started: StartedEngine | None, ahead: AskedAhead | None) -> ServerHost:
    return ServerHost(
        volume=Path(MODELS),
        disk=started.disk if started else Path(tempfile.mkdtemp(prefix="ollama-")),
        container=environ.get("MODAL_TASK_ID", "local"),
        facts=ledger,
        reload=volume.reload,
        end_container=end_container,
        leave=leave_container,
        address=address(environ),
        inherited=environ,
        clock=SystemClock(),
        began_ago=process_age(),
        started=started,
        ahead=ahead,
    )


def process_age() -> float:
    """Seconds that this process has run, by the kernel's account; none where that makes no sense."""
    try:
        stat = Path("/proc/self/stat").read_text("latin-1").rpartition(")")[2].split()
        up = float(Path("/proc/uptime").read_text("ascii").split()[0])
        age = up - int(stat[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0
    return age if 0 <= age < _LONGEST_IMPORTS else 0.0


def end_container() -> None:
    """End this process. Modal does not watch what we start, and an exit handler would end it as if all were well."""
    _exit(1)


def leave_container() -> None:
    """End this process, all being well: everything it started has ended, and it mounts nothing that it writes."""
    _exit(0)


def _exit(code: int) -> None:
    logger.remove()  # which writes what waits to be written, as far as somebody takes it
    os._exit(code)
