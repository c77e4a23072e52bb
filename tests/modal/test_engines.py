"""A tier whose engine is llama-server, deployed: what is asked of Modal, what its container runs, and who is woken."""

import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from modal.client import Client

from app.resources import server_class
from jobs.testing.toy_weights import PHRASE
from tests.modal.platform.containers import Container, Settings
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
    with_secrets,
)
from tests.support.llama_hosts import needs_engine
from tests.support.processes import free_port, gpu_programs, nvidia_smi, running_with
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.skipif(not unshare(), reason="this kernel lets nobody mount, so no volume can be at /models")

TOYS = ("toy", "toy-embed", "toy-rerank")
MODELS = "".join(f'[[models]]\nname = "{name}"\ntier = "l4"\n' for name in TOYS)
SERVER = server_class("l4")


def llama_server(folder: Path) -> None:
    """What Ollama's image brings along: the engine, here that of the wheel, which says that it has a GPU."""
    program = folder / "llama-server"
    program.write_text(
        "#!/bin/sh\ncase $1 in --version) ;; *) echo 'load_tensors: offloaded 2/2 layers to GPU' ;; esac\n"
        f'PYTHONPATH={shlex.quote(str(ROOT))} exec {shlex.quote(sys.executable)} -m app.llama_host.llama_server "$@"\n'
    )
    program.chmod(0o755)


class Deployment:
    """A checkout whose fleet has one tier more, on a control plane, and a person before its gateway."""

    def __init__(self, platform: Platform, folder: Path, port: int, url: str) -> None:
        self.platform, self.folder, self.port, self.url = platform, folder, port, url

    def post(self, path: str, **body: object) -> httpx.Response:
        key = {"authorization": f"Bearer {ADMIN_KEY}"}
        return httpx.post(f"{self.url}{path}", json=body, headers=key, timeout=PATIENCE)

    def servers(self) -> list[Container]:
        return self.platform.containers(SERVER)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    programs, folder = tmp_path_factory.mktemp("bin"), tmp_path_factory.mktemp("checkout")
    gpu_programs(programs)
    llama_server(programs)
    nvidia_smi(programs, "echo 'NVIDIA L4, 23034'")
    for name in ("app", "jobs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "requirements.lock", folder)
    fleet = folder / "app/fleet.toml"
    text = fleet.read_text("utf-8")
    tables = text[text.index("[tiers.a10g]") : text.index("[tiers.h100]")].replace("tiers.a10g", "tiers.l4")
    tier = re.sub('^gpu = "A10".*$', 'gpu = "L4"\nengine = "llama-server"', tables, flags=re.MULTILINE)
    rest = re.sub("^warmed = true.*$", "", text[text.index("[tiers.a10g]") :], flags=re.MULTILINE)
    fleet.write_text(tier + MODELS + rest, "utf-8")
    port, gateway = free_port(), free_port()
    environ = {
        **LEASE,
        "OLLAMA_HOST": f"127.0.0.1:{port}",
        "OLLAMA_MODAL_GATEWAY_PORT": str(gateway),
        "OLLAMA_MODAL_PROBE_SECONDS": "1",
        "OLLAMA_MODAL_REFRESH_SECONDS": "1",
    }
    settings = Settings(path_prefix=programs, environ=environ, idle_seconds=60, commit_seconds=0.5)
    with Platform(settings=settings) as platform, platform.client() as client:
        with_secrets(platform)
        deploy(platform, folder=folder)
        publish(platform, client, *TOYS)
        url = platform.apps.server_urls[APP, "Gateway"] = f"http://127.0.0.1:{gateway}"
        [id_, secret] = TOKEN.values()
        platform.open_server(APP, SERVER, port=port, token=(id_, secret))
        platform.wait_ready(platform.start_server(APP, "Gateway"))
        yield Deployment(platform, folder, port, url)


@pytest.fixture
def client(deployment: Deployment) -> Iterator[Client]:
    with deployment.platform.client() as client:
        yield client


def test_it_is_deployed_as_any_tier(deployment: Deployment) -> None:
    """It asks for its GPU and the same image as an Ollama, on the same port behind Modal's token, with the weights
    read-only."""
    asked, ollama = (deployment.platform.function(APP, name).definition for name in (SERVER, "OllamaA10G"))
    [mount] = asked.volume_mounts

    assert asked.resources.gpu_config.gpu_type == "L4"
    assert asked.image_id == ollama.image_id
    assert (asked.http_config.port, asked.http_config.unauthenticated) == (11434, False)
    assert (deployment.platform.volume_name(mount.volume_id), mount.read_only) == ("ollama-model-weights", True)


def test_what_it_does_not_speak_wakes_nobody(deployment: Deployment) -> None:
    """A route of Ollama's own is refused in Ollama's shape, with what to ask instead and the tiers that could, and no
    container starts."""
    answer = deployment.post("/api/chat", model="toy", messages=[{"role": "user", "content": "hi"}])

    assert answer.status_code == 501
    assert answer.json() == {
        "error": "'toy:latest' is declared for tier 'l4', whose engine llama-server does not speak /api/chat; ask"
        " /v1/chat/completions; or tier 'a10g' or 'h100' speaks it: declare the model for that in the fleet file"
    }
    assert not deployment.servers()


@needs_engine
def test_a_container_of_it_answers(deployment: Deployment, client: Client) -> None:
    """Woken by a request it runs the host and no Ollama, loads what is asked for from the volume, and answers chats,
    vectors, rankings and counts of tokens; it reports which engine it is and what it has loaded, and a warm-up proves
    what a model can do."""
    chatted = deployment.post("/v1/chat/completions", model="toy", messages=[{"role": "user", "content": "hi"}])
    assert chatted.status_code == 200, chatted.text
    assert chatted.json()["choices"][0]["message"]["content"] == PHRASE
    assert chatted.headers["x-served-tier"] == "l4"
    embedded = deployment.post("/v1/embeddings", model="toy-embed", input="hi").json()
    ranked = deployment.post("/v1/rerank", model="toy-rerank", query="a", documents=["a", "b"]).json()
    tokens = deployment.post("/tokenize", model="toy", content="hello hello").json()

    assert len(embedded["data"][0]["embedding"]) == 64
    assert {each["index"] for each in ranked["results"]} == {0, 1}
    assert tokens["tokens"]
    [server] = deployment.servers()
    commands = {
        Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        for pid in running_with(OLLAMA_HOST=f"127.0.0.1:{deployment.port}")
    }
    assert any("-m app.llama_host --llama-server" in each for each in commands)
    assert not any("ollama serve" in each or "jobs.testing.ollama" in each for each in commands)
    facts = deployed_facts(client)

    def report() -> bool:
        found = facts.get(f"server/l4/{server.id}")
        loaded = {each["name"] for each in found["loaded"] if each["size_vram"] == each["size"] > 0}
        return (found["engine"], found["state"]) == ("llama-server", "serving") and "toy-rerank:latest" in loaded

    until(report, "a report of what is loaded")
    done = modal_command(
        deployment.platform, "run", "-q", "-m", "app.jobs::warm", "--model", "toy-rerank", folder=deployment.folder
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "and ranks" in done.stdout + done.stderr
