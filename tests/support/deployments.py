"""A deployment on the control plane, and what is asked of it by the real client."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import modal
import pytest
from modal.client import Client

from app.platform.store import LimitedDict, LimitedQueue
from app.resources import DICTS
from jobs.access.keys.proofs import hash_of, new_key
from jobs.core.clock import Clock, SystemClock, isoformat, parse_moment
from jobs.ledger.job import Job
from jobs.ledger.ledger import Ledger
from jobs.store import keys
from jobs.store.by_sort import DictBySort
from jobs.testing.models import SimLayer
from jobs.testing.registry.server import RegistryDouble
from jobs.weights.manifest import Manifest
from jobs.weights.staging import RANGES
from tests.modal.platform.containers import Settings
from tests.modal.platform.plane import Platform
from tests.support.checkout import ROOT
from tests.support.command_server import MODAL, run_command
from tests.support.waiting import PATIENCE, until

if TYPE_CHECKING:
    from subprocess import CompletedProcess

APP = "ollama-service"
ADMIN_KEY = new_key()
KEYS = {"OLLAMA_MODAL_KEYS": f"root {hash_of(ADMIN_KEY)} chat admin\n"}
LEASE = {"OLLAMA_MODAL_LEASE_SECONDS": "30"}
"""Long enough for a container on a busy machine, short enough to hear of progress: a twelfth is from beat to beat."""

TOKEN = {"MODAL_PROXY_TOKEN_ID": "wk-test", "MODAL_PROXY_TOKEN_SECRET": "ws-test"}


@contextmanager
def control_plane(registry: RegistryDouble) -> Iterator[Platform]:
    """A control plane, and the registry as the mirror that whoever deploys or runs has named."""
    settings = Settings(environ=dict(LEASE), idle_seconds=20, commit_seconds=0.5)
    with pytest.MonkeyPatch.context() as environment, Platform(settings=settings) as platform:
        environment.setenv("OLLAMA_MODAL_REGISTRY", registry.url)
        yield platform


def with_secrets(platform: Platform) -> None:
    """What a deployment wants to be there."""
    platform.create_secret("ollama-proxy-token", TOKEN)
    platform.create_secret("ollama-api-keys", KEYS)


def modal_command(platform: Platform, *words: str, folder: Path = ROOT, **more: str) -> "CompletedProcess[str]":
    """What `modal` answers on that control plane, with more variables in its environment."""
    environ = {**os.environ, **platform.environ(), "COLUMNS": "500", **more}
    return run_command(words, environ, "", program=MODAL, folder=folder)


def deploy(platform: Platform, module: str = "app.deploy", *, folder: Path = ROOT) -> None:
    done = modal_command(platform, "deploy", "-m", module, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr


def publish(platform: Platform, client: Client, *models: str) -> None:
    """Have these models on the volume, as a weights worker would bring them."""
    deploy(platform, "tests.modal.platform.sample_apps.publishing")
    function = modal.Function.from_name("publishing", "publish", client=client)
    for generation, name in enumerate(models, 1):
        function.remote(name, generation)


def ask(platform: Platform, command: str, *words: str) -> Any:
    """The JSON that an entrypoint prints."""
    done = modal_command(platform, "run", "-q", "-m", f"app.jobs::{command}", *words, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def published(platform: Platform) -> dict[str, bytes]:
    """What is committed, but for what a pull gathers."""
    files = platform.volume("ollama-model-weights").files()
    return {path: content for path, content in files.items() if path.startswith(("blobs/", "manifests/"))}


def has_whole(platform: Platform, path: str) -> bool:
    """Whether the volume has this manifest, with every blob that it names."""
    files = published(platform)
    found = files.get(f"manifests/registry.ollama.ai/library/{path}")
    return found is not None and all(
        len(files.get(f"blobs/{layer.digest.replace(':', '-')}", b"")) == layer.size
        for layer in Manifest.parse(found).blobs
    )


def are_vouched_for(platform: Platform, layers: Iterable[SimLayer]) -> bool:
    """Whether all of these blobs is committed where a pull gathers them, with the journals that say so."""
    files = platform.volume("ollama-model-weights").files()
    staged = {path.rpartition("/")[2]: content for path, content in files.items() if path.startswith("staging/")}
    for layer in layers:
        name = layer.digest.replace(":", "-")
        spans = [line.split() for line in staged.get(name + RANGES, b"").splitlines()[1:]]
        if sum(int(stop) - int(start) for start, stop in spans) < layer.size:
            return False
        if hashlib.sha256(staged.get(name, b"")).hexdigest() != layer.digest.removeprefix("sha256:"):
            return False
    return True


def deployed_ledger(client: Client) -> Ledger:
    queue = modal.Queue.from_name("ollama-jobs", client=client, create_if_missing=True)
    return Ledger(LimitedQueue(queue), deployed_facts(client), SystemClock())


def deployed_facts(client: Client, clock: Clock | None = None) -> DictBySort:
    """All that the deployment's ledger keeps, as its containers see it."""

    def one(name: str) -> LimitedDict:
        return LimitedDict(modal.Dict.from_name(name, client=client, create_if_missing=True))

    sorts = {sort: one(name) for sort, name in DICTS.items()}
    return DictBySort(one("ollama-ledger"), sorts, clock or SystemClock())


def let_lease_run_out(client: Client, id: str, n: int = 1) -> None:
    """As though the holder of that attempt had given its last sign an hour ago; nobody waits for a lease."""
    facts = deployed_facts(client)
    for key in (keys.claim(id, n), keys.beat(id, n)):
        if fact := facts.get(key):
            facts.put(key, {**fact, "at": isoformat(parse_moment(fact["at"]) - timedelta(hours=1))})


def tick(platform: Platform) -> None:
    platform.result(platform.fire(APP, "tick"))


def finished(ledger: Ledger, id: str, patience: float = PATIENCE) -> Job:
    until(lambda: ledger.reader.get(id).has_ended, patience=patience)
    return ledger.reader.get(id)
