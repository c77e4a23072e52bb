"""Every name that Modal knows us by, once: app, images, volume, queue, dict, secret.

Nothing here reaches the network: a name is looked up when something that uses it runs. It runs again in every
container, where the images are what they already are, so it stays cheap to import. What is called goes through
`app.platform`, which limits each wait; only what is mounted or declared is Modal's own object.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import modal

from app.image_pinning import pinned
from app.image_requirements import LOCK, runtime_part
from app.model_server.starting import engine
from app.platform.deployment import Deployment
from app.platform.limits import limits_of
from app.platform.store import LimitedDict, LimitedQueue
from app.platform.volume import LimitedVolume, RemoteVolume
from jobs.core.clock import SystemClock
from jobs.registry.mirror import VARIABLE as MIRROR
from jobs.store.by_sort import DictBySort

APP = "ollama-service"
GATEWAY = "Gateway"
"""The class in front of the servers."""


def server_class(tier: str) -> str:
    """The class that serves a tier: `OllamaL40S`, `OllamaH100_2`, `OllamaReasoning`.

    In small letters, and with dashes, it says the tier again. So no two tiers have one, nor one address: Modal makes
    that of the name in small letters.
    """
    parts = (part.upper() if any(map(str.isdigit, part)) else part.capitalize() for part in tier.split("-"))
    return f"Ollama{'_'.join(parts)}"


WEIGHTS_WORKER = "weights_worker"
SERVERS_WORKER = "servers_worker"
BATCHES_WORKER = "batches_worker"
DELIVER_ALERTS = "deliver_alerts"
NIGHTLY = "nightly"
PLAN_NIGHT = "plan_night"
PLAN_PRUNE = "plan_prune"
READ_FLEET = "read_fleet"
PORT, MODELS = engine.PORT, engine.MODELS
BATCHES = "/batches"
"""Where the files of batches are mounted."""

PYTHON = "3.12"

OLLAMA_VERSION = "0.32.15"
"""The one place that says which Ollama the GPUs run."""

OLLAMA_DIGEST = ""
"""The bytes of that version's image, as sha256:…; without it the tag counts, and a tag can be moved. It goes with the
version: whoever changes that changes this."""

OLLAMA_IMAGE = pinned(f"ollama/ollama:{OLLAMA_VERSION}", OLLAMA_DIGEST)

UV_VERSION = "0.8.22"
"""Installs the packages while an image is built; unpinned, each build would fetch the newest."""

app = modal.App(APP)

_LIMITS = limits_of(os.environ)

weights = modal.Volume.from_name("ollama-model-weights", create_if_missing=True, version=2)
"""What is mounted; `volume` commits and reloads it."""

volume = LimitedVolume(weights, _LIMITS)

batches = modal.Volume.from_name("ollama-batches", create_if_missing=True, version=2)
"""What is mounted, by whoever writes files of batches; `batches_volume` commits and reloads it."""

batches_volume = LimitedVolume(batches, _LIMITS)
remote_batches_volume = RemoteVolume(batches, _LIMITS)
queue = LimitedQueue(modal.Queue.from_name("ollama-jobs", create_if_missing=True), _LIMITS)


def _dict(name: str) -> LimitedDict:
    return LimitedDict(modal.Dict.from_name(name, create_if_missing=True), _LIMITS)


DICTS = {
    "open": "ollama-open-jobs",
    "changes": "ollama-changed-jobs",
    "reports": "ollama-reports",
    "usage": "ollama-usage",
    "incidents": "ollama-incidents",
    "audit": "ollama-audit",
    "access": "ollama-access",
    "batches": "ollama-batch-records",
    "schedules": "ollama-schedules",
}
"""The Dict of each sort of `jobs.store.keys.SORTS`: Modal lists a Dict only whole. The jobs' own is `ollama-ledger`."""

ledger = DictBySort(_dict("ollama-ledger"), {sort: _dict(name) for sort, name in DICTS.items()}, SystemClock())
deployment = Deployment(APP, _LIMITS)
"""The Functions and servers that are deployed."""

# For requests to the servers: Modal's proxy in front of them lets nobody in without it.
proxy_token = modal.Secret.from_name(
    "ollama-proxy-token", required_keys=["MODAL_PROXY_TOKEN_ID", "MODAL_PROXY_TOKEN_SECRET"]
)

# Who may ask the gateway: lines that `ollama-modal keys new --line` prints.
api_keys = modal.Secret.from_name("ollama-api-keys", required_keys=["OLLAMA_MODAL_KEYS"])

HF_SECRET = ""
"""The secret that holds HF_TOKEN, for private and gated models of Hugging Face: `modal secret create ollama-hf-token
HF_TOKEN=hf_…`, and its name here. Empty where there is none: everything else works without it."""

hf_token = [modal.Secret.from_name(HF_SECRET, required_keys=["HF_TOKEN"])] if HF_SECRET else []


def with_packages(image: modal.Image) -> modal.Image:
    """The image with what the lock pins for run time, every byte checked, and our own source on top."""
    if modal.is_local():
        image = image.uv_pip_install(
            requirements=[str(_requirements())], extra_options="--require-hashes", uv_version=UV_VERSION
        )
        if mirror := os.environ.get(MIRROR):
            image = image.env({MIRROR: mirror})
    return image.add_local_python_source("jobs")


def with_file(image: modal.Image, path: str, text: str) -> modal.Image:
    """The image with this file in its containers, where somebody deploys."""
    return image.add_local_file(_passing(path.rpartition("/")[2], text), path)


def _requirements() -> Path:
    """A file of a constant name and content, so that the layer is built once and then found again."""
    if not LOCK.exists():
        raise FileNotFoundError(f"{LOCK} is not there: deploy from a checkout, images are built from its pins")
    return _passing("requirements.txt", runtime_part(LOCK.read_text("utf-8")))


def _passing(name: str, text: str) -> Path:
    """A file that is gone with this process."""
    folder = Path(tempfile.mkdtemp(prefix="ollama-modal-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    file = folder / name
    file.write_text(text, "utf-8")
    return file


cpu_image = with_packages(modal.Image.debian_slim(python_version=PYTHON))
gpu_image = with_packages(modal.Image.from_registry(OLLAMA_IMAGE, add_python=PYTHON).entrypoint([]))
