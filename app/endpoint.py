"""The GPU servers: a class for each tier of fleet.toml, port 11434, asleep until somebody asks.

Modal's proxy lets nobody in without a token, so an unauthorised request wakes no GPU. It keeps no queue: at zero
containers the first request is answered 503 at once, and whoever asks tries again. All the numbers stand in fleet.toml.

A container looks its class up by its name in this module, which is run again there: so the classes are made of what was
deployed with it, and one that it would not find there is not deployed.
"""

import os

from app.model_server.starting import engine

ENGINE = engine.begun(os.environ)
"""In a server's container, from before all that follows is imported; None elsewhere."""

from collections.abc import Mapping  # noqa: E402 - from here on, while the engine starts
from typing import TYPE_CHECKING, Any  # noqa: E402

import modal  # noqa: E402

from app.model_server.starting.asked_ahead import AskedAhead  # noqa: E402
from app.resources import (  # noqa: E402
    MODELS,
    OLLAMA_IMAGE,
    PORT,
    app,
    gpu_image,
    ledger,
    server_class,
    weights,
    with_file,
)

AHEAD = AskedAhead.beside(ENGINE, ledger) if ENGINE else None
"""What such a container has to know of the ledger, asked for while what follows is imported."""

from app.deployment.server_container import checked_tier, deployed_tiers, serve  # noqa: E402

if TYPE_CHECKING:
    from app.fleet.schema import Fleet


def server_options(fleet: "Fleet", name: str) -> dict[str, Any]:
    """What is asked of Modal for the servers of a tier."""
    tier = fleet.tier(name)
    return {
        **_mounted(gpu_image),
        "gpu": list(tier.gpu) if isinstance(tier.gpu, tuple) else tier.gpu,
        "cpu": tier.cpu_cores,
        "memory": tier.memory_mib,
        "min_containers": tier.min_containers,
        "max_containers": tier.max_containers,
        "buffer_containers": tier.buffer_containers,
        "scaledown_window": tier.scaledown_window_seconds,
        "target_concurrency": tier.target_concurrency,
        "startup_timeout": tier.startup_timeout_seconds,
        "exit_grace_period": tier.exit_grace_seconds,
    }


def _mounted(image: modal.Image) -> dict[str, Any]:
    """What a container has to say of itself again: the number of its parts is compared."""
    return {"port": PORT, "image": image, "volumes": {MODELS: weights.with_mount_options(read_only=True)}}


def _of_the_fleet() -> dict[str, dict[str, Any]]:
    """What is asked of Modal, by tier, where somebody deploys: what checks is imported here, and in no container."""
    from app.deploy_refusals import refusals_told  # noqa: PLC0415
    from app.fleet.schema import declared  # noqa: PLC0415
    from app.image_pinning import warn_unpinned  # noqa: PLC0415

    with refusals_told():
        fleet = declared()
    warn_unpinned(OLLAMA_IMAGE)
    return {name: {**server_options(fleet, name), "image": _image(fleet, name)} for name in fleet.tiers}


def _image(fleet: "Fleet", name: str) -> modal.Image:
    return with_file(gpu_image, f"/root/{engine.CHECKED.name}", checked_tier(fleet, name))


def _server(tier: str, options: Mapping[str, Any]) -> modal.Server:
    """The class of a tier, as though it were written here under its name."""

    class Server:
        @modal.enter()
        def start(self) -> None:
            self.server = serve(tier, started=ENGINE, ahead=AHEAD)

        @modal.exit()
        def stop(self) -> None:
            self.server.stop()

    Server.__name__ = Server.__qualname__ = server_class(tier)
    return app.server(**options)(Server)


_OPTIONS = _of_the_fleet() if modal.is_local() else {tier: _mounted(gpu_image) for tier in deployed_tiers()}

globals().update({server_class(tier): _server(tier, options) for tier, options in _OPTIONS.items()})
