"""The GPU servers: one class per tier, port 11434, asleep until somebody asks.

Modal's proxy lets nobody in without a token, so an unauthorised request wakes no GPU. It keeps no queue: at zero
containers the first request is answered 503 at once, and whoever asks tries again. All the numbers stand in fleet.toml.
"""

from typing import Any

import modal

from app.deploy_refusals import refusals_told
from app.deployment.server_container import serve
from app.fleet.schema import Fleet, declared
from app.image_pinning import warn_unpinned
from app.resources import MODELS, OLLAMA_IMAGE, PORT, SERVERS, app, gpu_image, weights

with refusals_told():
    _FLEET = declared()
    _FLEET.expect_tiers(set(SERVERS))

if modal.is_local():
    warn_unpinned(OLLAMA_IMAGE)


def server_options(fleet: Fleet, name: str) -> dict[str, Any]:
    """What is asked of Modal for the servers of a tier."""
    tier = fleet.tier(name)
    return {
        "port": PORT,
        "image": gpu_image,
        "gpu": tier.gpu,
        "cpu": tier.cpu_cores,
        "memory": tier.memory_mib,
        "volumes": {MODELS: weights.with_mount_options(read_only=True)},
        "min_containers": tier.min_containers,
        "max_containers": tier.max_containers,
        "buffer_containers": tier.buffer_containers,
        "scaledown_window": tier.scaledown_window_seconds,
        "target_concurrency": tier.target_concurrency,
        "startup_timeout": tier.startup_timeout_seconds,
        "exit_grace_period": tier.exit_grace_seconds,
    }


@app.server(**server_options(_FLEET, "a10g"))
class OllamaA10G:
    @modal.enter()
    def start(self) -> None:
        self.server = serve("a10g")

    @modal.exit()
    def stop(self) -> None:
        self.server.stop()


@app.server(**server_options(_FLEET, "h100"))
class OllamaH100:
    @modal.enter()
    def start(self) -> None:
        self.server = serve("h100")

    @modal.exit()
    def stop(self) -> None:
        self.server.stop()
