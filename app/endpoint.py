"""The GPU servers: one class per tier, port 11434, asleep until somebody asks.

Modal's proxy lets nobody in without a token, so an unauthorised request wakes no GPU. It keeps no queue: at zero
containers the first request is answered 503 at once, and whoever asks tries again. All the numbers stand in fleet.toml.
"""

import modal

from app.deployment.server_container import serve
from app.fleet.schema import declared
from app.image_pinning import tell_unpinned
from app.resources import MODELS, OLLAMA_IMAGE, PORT, SERVERS, app, gpu_image, weights

_FLEET = declared()
_A10G = _FLEET.tier("a10g")
_H100 = _FLEET.tier("h100")
_FLEET.expect_tiers(set(SERVERS))

if modal.is_local():
    tell_unpinned(OLLAMA_IMAGE)


@app.server(
    port=PORT,
    image=gpu_image,
    gpu=_A10G.gpu,
    cpu=_A10G.cpu_cores,
    memory=_A10G.memory_mib,
    volumes={MODELS: weights.with_mount_options(read_only=True)},
    min_containers=_A10G.min_containers,
    max_containers=_A10G.max_containers,
    buffer_containers=_A10G.buffer_containers,
    scaledown_window=_A10G.scaledown_window_seconds,
    target_concurrency=_A10G.target_concurrency,
    startup_timeout=_A10G.startup_timeout_seconds,
    exit_grace_period=_A10G.exit_grace_seconds,
)
class OllamaA10G:
    @modal.enter()
    def start(self) -> None:
        self.server = serve("a10g")

    @modal.exit()
    def stop(self) -> None:
        self.server.stop()


@app.server(
    port=PORT,
    image=gpu_image,
    gpu=_H100.gpu,
    cpu=_H100.cpu_cores,
    memory=_H100.memory_mib,
    volumes={MODELS: weights.with_mount_options(read_only=True)},
    min_containers=_H100.min_containers,
    max_containers=_H100.max_containers,
    buffer_containers=_H100.buffer_containers,
    scaledown_window=_H100.scaledown_window_seconds,
    target_concurrency=_H100.target_concurrency,
    startup_timeout=_H100.startup_timeout_seconds,
    exit_grace_period=_H100.exit_grace_seconds,
)
class OllamaH100:
    @modal.enter()
    def start(self) -> None:
        self.server = serve("h100")

    @modal.exit()
    def stop(self) -> None:
        self.server.stop()
