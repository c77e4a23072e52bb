"""Tiers by fleet.toml alone: what a deployment asks of Modal for each, a request to each, one renamed, one removed."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from modal.client import Client

from app.gateway.deployed import OTHER_PORT
from app.resources import server_class
from jobs.core.clock import SystemClock
from jobs.store import keys
from jobs.store.protocols import DictLike
from jobs.telemetry.container_time import Metered
from tests.modal.platform.containers import Settings
from tests.modal.platform.isolation import unshare
from tests.modal.platform.plane import Platform
from tests.support.checkout import ROOT
from tests.support.deployments import (
    ADMIN_KEY,
    APP,
    LEASE,
    TOKEN,
    deploy,
    deployed_facts,
    modal_command,
    publish,
    tick,
    with_secrets,
)
from tests.support.processes import free_port, gpu_programs, nvidia_smi
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.skipif(not unshare(), reason="this kernel lets nobody mount, so no volume can be at /models")

TIER = """
[tiers.{name}]
gpu = {gpu}
cpu_cores = {cpu}
memory_gb = {memory}
min_containers = 0
max_containers = {most}
buffer_containers = 0
scaledown_window_seconds = {window}
startup_timeout_seconds = {startup}
target_concurrency = 2
exit_grace_seconds = 60
own_wakes_per_day = 3

[tiers.{name}.ollama]
context_length = 4096
num_parallel = 2
max_loaded_models = 1
flash_attention = true
kv_cache_type = "q8_0"
keep_alive_seconds = -1
load_timeout_seconds = 300
"""

MODEL = """
[[models]]
name = "{model}"
tier = "{tier}"
"""

WINDOW = """
[[windows]]
tier = "{tier}"
start = "0 * * * *"  # open at any time
hours = 24
models = ["{model}"]
"""


@dataclass(frozen=True)
class Declared:
    """A tier as its tables say it, and the model that is declared for it."""

    gpu: str
    model: str
    cards: str
    cpu: int = 4
    memory: int = 16
    most: int = 2
    window: int = 120
    startup: int = 240

    def tables(self, name: str) -> str:
        numbers = {"cpu": self.cpu, "memory": self.memory, "most": self.most}
        times = {"window": self.window, "startup": self.startup}
        tier = TIER.format(name=name, gpu=self.gpu, **numbers, **times)
        return tier + MODEL.format(model=self.model, tier=name)


L4 = Declared('"L4"', "llama3.2", "NVIDIA L4, 23034", most=5)
L40S = Declared('"L40S"', "tiny", "NVIDIA L40S, 46068", memory=48, window=60)
TWO = Declared('"H100:2"', "deepseek-r1:32b", "NVIDIA H100 80GB HBM3, 81559\nNVIDIA H100 80GB HBM3, 81559", 8, 64)
EITHER = Declared('["H100", "A100-80GB"]', "qwen2.5:0.5b", "NVIDIA A100-SXM4-80GB, 81920", 6, startup=600)

FLEET = {"l4": L4, "l40s": L40S, "h100-2": TWO, "either": EITHER}
RENAMED = {"l4": L4, "mid-size": L40S, "h100-2": TWO, "either": EITHER}
REMOVED = {"l4": L4, "mid-size": L40S, "either": EITHER}


class Deployment:
    """A checkout whose fleet file is edited, the control plane that it is deployed on, and a person before both."""

    def __init__(self, platform: Platform, folder: Path) -> None:
        self.platform = platform
        self.folder = folder
        self.ports: dict[str, int] = {}
        shipped = (ROOT / "app/fleet.toml").read_text("utf-8")
        self._rest = shipped[shipped.index("\n[volume]") :]

    def edit(self, tiers: dict[str, Declared], more: str = "") -> None:
        text = "".join(each.tables(name) for name, each in tiers.items()) + more + self._rest
        (self.folder / "app/fleet.toml").write_text(text, "utf-8")

    def deploy(self, tiers: dict[str, Declared], more: str = "") -> None:
        """Edit the file and deploy; a server that is new gets an address, and there is a gateway of the new fleet."""
        self.edit(tiers, more)
        deploy(self.platform, folder=self.folder)
        for name in tiers:
            if name not in self.ports:
                self.ports[name] = free_port()
                token = (TOKEN["MODAL_PROXY_TOKEN_ID"], TOKEN["MODAL_PROXY_TOKEN_SECRET"])
                self.platform.open_server(APP, server_class(name), port=self.ports[name], token=token)
        for old in self.platform.containers("Gateway"):
            self.platform.kill(old)
        self.platform.settings.environ[OTHER_PORT] = str(free_port())
        self.platform.apps.server_urls[APP, "Gateway"] = (
            f"http://127.0.0.1:{self.platform.settings.environ[OTHER_PORT]}"
        )
        self.platform.wait_ready(self.platform.start_server(APP, "Gateway"))

    def ask(self) -> httpx.Client:
        url = self.platform.apps.server_urls[APP, "Gateway"]
        return httpx.Client(base_url=url, headers={"authorization": f"Bearer {ADMIN_KEY}"}, timeout=PATIENCE)

    def chat(self, model: str, tier: str, cards: str) -> str:
        """Have a request served by a tier's server, which starts for it with these cards; the tier that served it."""
        self.platform.settings.environ["OLLAMA_HOST"] = f"127.0.0.1:{self.ports[tier]}"
        assert self.platform.settings.path_prefix is not None
        nvidia_smi(self.platform.settings.path_prefix, f"cat <<END\n{cards}\nEND")
        with self.ask() as asking:
            answer = asking.post("/api/chat", json={"model": model, "stream": False, "messages": [MESSAGE]})
        assert answer.status_code == 200, answer.text
        assert answer.json()["message"]["content"]
        return answer.headers["x-served-tier"]

    def command(self, name: str, *words: str) -> Any:
        done = modal_command(
            self.platform, "run", "-q", "-m", f"app.jobs::{name}", *words, "--json", folder=self.folder
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def servers(self) -> set[str]:
        """The servers that are deployed."""
        return {name for name, each in self.platform.functions(APP).items() if each.definition.is_server}


MESSAGE = {"role": "user", "content": "hello"}
SERVED: Any = {"cold": 0.0, "warming": 0.0, "serving": 300.0, "idle": 0.0}


def has_reported(facts: DictLike, tier: str, gpus: int) -> bool:
    """Whether the one server of a tier says that it serves, with so many GPUs."""
    [(_, report)] = facts.items(f"{keys.SERVER}{tier}/")
    return report["state"] == "serving" and (report["gpu"] or {}).get("count") == gpus


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    programs, folder = tmp_path_factory.mktemp("bin"), tmp_path_factory.mktemp("checkout")
    gpu_programs(programs)
    for name in ("app", "jobs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "requirements.lock", folder)
    environ = {
        **LEASE,
        "OLLAMA_MODAL_PROBE_SECONDS": "1",
        "OLLAMA_MODAL_REFRESH_SECONDS": "1",
        "OLLAMA_SIM_TOKENS_PER_SECOND": "200",
    }
    settings = Settings(path_prefix=programs, environ=environ, idle_seconds=20, commit_seconds=0.5)
    with Platform(settings=settings) as platform:
        with_secrets(platform)
        found = Deployment(platform, folder)
        found.deploy(FLEET, WINDOW.format(tier="h100-2", model="deepseek-r1:32b"))
        yield found


@pytest.fixture(scope="module")
def client(deployment: Deployment) -> Iterator[Client]:
    with deployment.platform.client() as client:
        publish(deployment.platform, client, *(each.model for each in FLEET.values()))
        yield client


@pytest.mark.parametrize(
    ("tier", "name", "gpus"),
    [
        ("l4", "OllamaL4", [("L4", 1)]),
        ("l40s", "OllamaL40S", [("L40S", 1)]),
        ("h100-2", "OllamaH100_2", [("H100", 2)]),
        ("either", "OllamaEither", [("H100", 1), ("A100-80GB", 1)]),
    ],
)
def test_each_tier_asks_for_what_it_declares(
    deployment: Deployment, tier: str, name: str, gpus: list[tuple[str, int]]
) -> None:
    """Its GPUs in their order, its cores, memory and limits, behind Modal's token on Ollama's port, and the weights
    read-only; of a list each choice is asked for alike."""
    function, declared = deployment.platform.function(APP, name), FLEET[tier]
    asked_for = [each.resources for each in function.ranked]

    assert [(each.gpu_config.gpu_type, each.gpu_config.count) for each in asked_for] == gpus
    assert {(each.milli_cpu, each.memory_mb) for each in asked_for} == {(declared.cpu * 1000, declared.memory * 1024)}
    for definition in function.ranked:
        assert definition.is_server
        assert (definition.module_name, definition.function_name) == ("app.endpoint", name)
        assert (definition.http_config.port, definition.http_config.unauthenticated) == (11434, False)
        times = (definition.http_config.startup_timeout, definition.http_config.exit_grace_period)
        assert times == (declared.startup, 60)
        scaling = definition.autoscaler_settings
        assert (scaling.min_containers, scaling.max_containers) == (0, declared.most)
        assert (scaling.scaledown_window, scaling.target_concurrency_float) == (declared.window, 2)
        [mount] = definition.volume_mounts
        assert (deployment.platform.volume_name(mount.volume_id), mount.read_only) == ("ollama-model-weights", True)


def test_a_request_is_served_by_each(deployment: Deployment, client: Client) -> None:
    """A container of each finds its class by the name that was made for it, and has its tier's GPUs and price."""
    facts = deployed_facts(client)
    for tier, declared in FLEET.items():
        assert deployment.chat(declared.model, tier, declared.cards) == tier
        until(partial(has_reported, facts, tier, len(declared.cards.splitlines())))

    with deployment.ask() as asking:
        states = {each["tier"]: each["state"] for each in asking.get("/ops/v1/tiers").json()["tiers"]}
        board = asking.get("/ops/v1/board").json()["tiers"]
        routed = asking.get("/ops/v1/route", params={"model": "deepseek-r1:32b"}).json()
    assert states == dict.fromkeys(FLEET, "ready")
    assert {tier: (each["gpu"], each["vram_gb"]) for tier, each in board.items()} == {
        "l4": ("L4", 24),
        "l40s": ("L40S", 48),
        "h100-2": ("H100:2", 160),
        "either": ("H100 or A100-80GB", 80),
    }
    assert (routed["tier"], routed["vram_bytes"]) == ("h100-2", 160_000_000_000)
    until(lambda: {each["tier"] for each in deployment.command("cost")["tiers"]} == set(FLEET))


def test_a_window_keeps_a_tier_of_any_name_up(deployment: Deployment, client: Client) -> None:
    """The tick that opens it asks Modal to keep one container of that tier's server, and of no other."""
    tick(deployment.platform)
    kept = {
        pool.function.name: pool.override.min_containers
        for pool in deployment.platform.calls.pools.values()
        if pool.override.ListFields()
    }

    assert kept == {"OllamaH100_2": 1}
    assert deployed_facts(client).get(keys.window("h100-2")) is True


def test_a_renamed_tier_is_a_new_server(deployment: Deployment, client: Client) -> None:
    """The old name's server is gone, and the model that is declared for the new one is served there."""
    deployment.deploy(RENAMED)

    assert deployment.servers() == {"Gateway", *map(server_class, RENAMED)}
    assert deployment.chat(L40S.model, "mid-size", L40S.cards) == "mid-size"


def test_a_model_of_a_removed_tier_is_refused(deployment: Deployment) -> None:
    """Before anything is deployed, with the tiers that there are."""
    before = deployment.servers()
    deployment.edit(REMOVED, MODEL.format(model=TWO.model, tier="h100-2"))

    done = modal_command(deployment.platform, "deploy", "-m", "app.deploy", folder=deployment.folder)

    assert done.returncode == 2
    assert "models[3].tier = 'h100-2': there is no such tier; one of l4, mid-size, either" in done.stderr
    assert deployment.servers() == before


@pytest.mark.timeout(600)  # it deploys, ticks, and types commands, each of which starts Modal's client
def test_a_removed_tier_is_told_and_ends(deployment: Deployment, client: Client) -> None:
    """Its server is gone, its models go where the file says, and its window is shut. What was recorded of it is told
    by every list and command; whoever asks for it by name hears which tiers there are."""
    facts = deployed_facts(client)
    began = SystemClock().now() - timedelta(minutes=5)
    meter = Metered("h100-2", "ta-9", began, SystemClock().now(), SERVED, 8.79)
    facts.put(meter.key, meter.as_json())
    facts.put(keys.window("h100-2"), True)
    tick(deployment.platform)
    for container in deployment.platform.containers(server_class("h100-2")):
        deployment.platform.kill(container)

    deployment.deploy(REMOVED, MODEL.format(model=TWO.model, tier="either"))
    tick(deployment.platform)

    assert deployment.servers() == {"Gateway", *map(server_class, REMOVED)}
    assert facts.get(keys.window("h100-2")) is False
    assert deployment.chat(TWO.model, "either", EITHER.cards) == "either"
    last = {key.split("/")[1]: value["state"] for key, value in sorted(facts.items(keys.HEALTH))}
    assert {tier for tier, state in last.items() if state == "gone"} == {*last} - {*REMOVED}
    assert [each["tier"] for each in deployment.command("status")["tiers"]] == list(REMOVED)
    spent = {each["tier"]: each["dollars_per_hour"] for each in deployment.command("cost")["tiers"]}
    assert spent["h100-2"] == pytest.approx(8.79, abs=0.01)
    with deployment.ask() as asking:
        for path in ("tiers", "board", "days", "cost", "cold", "usage", "health", "windows"):
            assert asking.get(f"/ops/v1/{path}").status_code == 200, path
        assert [asking.get(path).status_code for path in ("/metrics", "/api/ps", "/api/tags")] == [200] * 3
        posted = asking.post("/ops/v1/jobs", json={"kind": "warm", "model": L4.model, "tier": "h100-2"}).json()
        path = f"/ops/v1/jobs/{posted['id']}"
        until(lambda: asking.get(path).json()["state"] == "failed")
        [attempt] = asking.get(path).json()["attempts"]
    assert attempt["message"] == "there is no tier 'h100-2' for 'llama3.2:latest'"
    assert attempt["hint"] == "tiers are l4, mid-size, either"
