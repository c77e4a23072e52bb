"""The simple alternative, deployable on its own: one class, a web server, Modal's token in front, no gateway.
It is of the first tier of fleet.toml.

    modal deploy -m app.endpoint_v2

Requests queue while a container starts, where the servers of `app.endpoint` answer 503. The price: an answer that has
not begun after 150 s becomes a redirect, and streams that are not `text/event-stream` may arrive in lumps.
"""

import modal

from app.deploy_refusals import refusals_told
from app.deployment.server_container import serve
from app.fleet.schema import declared
from app.image_pinning import warn_unpinned
from app.resources import MODELS, OLLAMA_IMAGE, PORT, gpu_image, weights

LONGEST_ANSWER_SECONDS = 3600

with refusals_told():
    TIER, _TIER = next(iter(declared().tiers.items()))

app = modal.App("ollama-simple")

if modal.is_local():
    warn_unpinned(OLLAMA_IMAGE)


@app.cls(
    image=gpu_image,
    gpu=list(_TIER.gpu) if isinstance(_TIER.gpu, tuple) else _TIER.gpu,
    cpu=_TIER.cpu_cores,
    memory=_TIER.memory_mib,
    volumes={MODELS: weights.with_mount_options(read_only=True)},
    max_containers=_TIER.max_containers,
    scaledown_window=_TIER.scaledown_window_seconds,
    startup_timeout=_TIER.startup_timeout_seconds,
    timeout=LONGEST_ANSWER_SECONDS,
)
@modal.concurrent(max_inputs=4 * _TIER.target_concurrency, target_inputs=_TIER.target_concurrency)
class Ollama:
    @modal.enter()
    def start(self) -> None:
        self.server = serve(TIER)

    @modal.web_server(PORT, requires_proxy_auth=True)
    def web(self) -> None:
        """The port that Ollama listens on since `start`."""

    @modal.exit()
    def stop(self) -> None:
        self.server.stop()
