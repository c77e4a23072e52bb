"""What a Modal container hands to the server it runs: the volume, the ledger, its own name, how to end it."""

import os
import tempfile
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from loguru import logger

from app.fleet.schema import Fleet, declared
from app.logs import in_container
from app.model_server.settings import PROBE_EVERY, ServerHost, TierSettings
from app.model_server.supervisor import ServerSupervisor
from app.resources import MODELS, PORT, ledger, volume
from jobs.core.clock import SystemClock
from jobs.ollama.host import OllamaHost

_SPARE = timedelta(seconds=10)
"""Of the start-up time, so that what we say about a failure is heard before the platform ends the container."""


_LONGEST_IMPORTS = 120.0
"""Seconds. A process that has run for longer than this before it comes to us was restored, or is no container's."""


def serve(tier: str, environ: Mapping[str, str] = os.environ) -> ServerSupervisor:
    """A started server of that tier.

    Args:
        tier: its name in the fleet.
        environ: the container's; OLLAMA_HOST and OLLAMA_MODAL_PROBE_SECONDS are read, so that a trial run can have a
            port of its own and probe more often.

    """
    in_container(environ, tier=tier)
    server = ServerSupervisor(tier_settings(declared(), tier, environ), _server_host(environ))
    server.start()
    return server


def tier_settings(fleet: Fleet, name: str, environ: Mapping[str, str]) -> TierSettings:
    """What a tier of the fleet asks of its server."""
    tier = fleet.tier(name)
    every = environ.get("OLLAMA_MODAL_PROBE_SECONDS")
    return TierSettings(
        tier=name,
        gpu_promised=tier.gpu is not None,
        environ=tier.ollama.environ(),
        startup=timedelta(seconds=tier.startup_timeout_seconds) - _SPARE,
        readers_ahead=tier.readers_ahead,
        dollars_per_hour=fleet.dollars_per_hour(name),
        warmed=tuple(model.parsed for model in fleet.models_of(name) if model.warmed),
        models=fleet.settings_by_model,
        probe_every=timedelta(seconds=float(every)) if every else PROBE_EVERY,
    )


def _server_host(environ: Mapping[str, str]) -> ServerHost:
    return ServerHost(
        volume=Path(MODELS),
        disk=Path(tempfile.mkdtemp(prefix="ollama-")),
        container=environ.get("MODAL_TASK_ID", "local"),
        facts=ledger,
        reload=volume.reload,
        end_container=end_container,
        address=OllamaHost.parse(environ.get("OLLAMA_HOST", f"0.0.0.0:{PORT}")),
        inherited=environ,
        clock=SystemClock(),
        began_ago=process_age(),
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
    logger.remove()  # which writes what waits to be written, as far as somebody takes it
    os._exit(1)
