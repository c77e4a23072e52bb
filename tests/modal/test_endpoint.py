"""The GPU servers as they are deployed, and as they run in Modal's own container entrypoint on a simulated Ollama."""

import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import modal
import pytest
from modal.client import Client
from modal_proto import api_pb2

from app.fleet.schema import declared
from app.image_pinning import pinned, warn_unpinned
from app.image_requirements import LOCK, runtime_part
from app.resources import OLLAMA_DIGEST, OLLAMA_IMAGE, OLLAMA_VERSION
from jobs.core.errors import BadRequest
from tests.modal.platform.containers import Container, Settings
from tests.modal.platform.isolation import unshare
from tests.modal.platform.plane import Platform
from tests.support.checkout import ROOT
from tests.support.deployments import deployed_facts, modal_command
from tests.support.processes import free_port, gpu_programs, is_running, nvidia_smi, running_with
from tests.support.waiting import PATIENCE, until

PORT = free_port()
OLLAMA = f"http://127.0.0.1:{PORT}"


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bin")
    gpu_programs(folder)
    return folder


@pytest.fixture(scope="module")
def platform(programs: Path) -> Iterator[Platform]:
    environ = {"OLLAMA_HOST": f"127.0.0.1:{PORT}", "OLLAMA_MODAL_PROBE_SECONDS": "1"}
    settings = Settings(path_prefix=programs, environ=environ, idle_seconds=30)
    with Platform(settings=settings) as platform:
        yield platform


@pytest.fixture(scope="module")
def client(platform: Platform) -> Iterator[Client]:
    with platform.client() as client:
        yield client


@pytest.fixture(scope="module")
def deployed(platform: Platform) -> Platform:
    for module in ("app.endpoint", "app.endpoint_v2", "tests.modal.platform.sample_apps.publishing"):
        done = modal_command(platform, "deploy", "-m", module)
        assert done.returncode == 0, done.stdout + done.stderr
        assert (f"docker buildx imagetools inspect ollama/ollama:{OLLAMA_VERSION}" in done.stderr) == (
            module.startswith("app.") and not OLLAMA_DIGEST
        )
    return platform


# What is asked for


@pytest.mark.parametrize(("name", "tier", "gpu"), [("OllamaA10G", "a10g", "A10"), ("OllamaH100", "h100", "H100")])
def test_servers_ask_for_what_the_fleet_declares(deployed: Platform, name: str, tier: str, gpu: str) -> None:
    """Each tier is a server on 11434, behind Modal's token, asleep by default, its volume read-only, no secrets."""
    numbers = {"a10g": (300, 600, 3), "h100": (900, 1800, 2)}[tier]
    asked = deployed.function("ollama-service", name).definition

    assert asked.is_server
    assert (asked.resources.gpu_config.gpu_type, asked.resources.gpu_config.count) == (gpu, 1)
    assert asked.http_config.port == 11434
    assert not asked.http_config.unauthenticated
    scaling = asked.autoscaler_settings
    times = (asked.http_config.startup_timeout, asked.http_config.exit_grace_period)
    assert (*times, scaling.max_containers) == numbers
    assert (scaling.min_containers, scaling.scaledown_window) == (0, 300)
    assert scaling.target_concurrency_float == declared().tiers[tier].ollama.num_parallel
    [mount] = asked.volume_mounts
    assert (deployed.volume_name(mount.volume_id), mount.mount_path) == ("ollama-model-weights", "/models")
    assert mount.read_only
    assert deployed.volumes.metadata(mount.volume_id).version == api_pb2.VOLUME_FS_VERSION_V2
    assert not asked.secret_ids
    files = deployed.mounts.files(asked.mount_ids)
    assert {"/root/app/fleet.toml", "/root/app/endpoint.py", "/root/jobs/ollama/client.py"} <= set(files)


def test_gpu_image_is_pinned(deployed: Platform) -> None:
    """The GPU image is a release of Ollama by its version, with packages by hash, and runs no script from afar."""
    commands = "\n".join(deployed.image(deployed.function("ollama-service", "OllamaH100")).commands)

    assert f"FROM {OLLAMA_IMAGE}\n" in commands
    assert re.fullmatch(r"\d+\.\d+\.\d+", OLLAMA_VERSION)
    assert "--require-hashes" in commands
    assert not re.search(r":latest|curl|\| *sh\b", commands)


def test_a_digest_pins_the_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    """With a digest the image is that one and nothing is said; without, a deployment says how the digest is found; what
    is none is refused with what one looks like."""
    tag, digest = "ollama/ollama:1.2.3", f"sha256:{'0f' * 32}"
    warn_unpinned(pinned(tag, digest))
    assert pinned(tag, digest) == f"{tag}@{digest}"
    assert capsys.readouterr().err == ""

    warn_unpinned(pinned(tag, ""))
    assert capsys.readouterr().err == (
        f"warning: the image {tag} is found by its tag, and a tag can be moved\n"
        f"hint: to pin its bytes, `docker buildx imagetools inspect {tag}` prints the digest: "
        "write it into OLLAMA_DIGEST in app/resources.py\n"
    )
    for wrong in ("0f" * 32, f"sha256:{'0f' * 31}", f"sha256:{'0F' * 32}", f"{digest}\n"):
        with pytest.raises(BadRequest, match=r"is no digest of ollama/ollama:1\.2\.3") as refused:
            pinned(tag, wrong)
        assert "sha256:" in str(refused.value.hint)


def test_images_get_the_runtime_part_of_the_lock() -> None:
    """What images install is the lock's own lines: all that the project needs, no development tool, no modal."""
    part = runtime_part(LOCK.read_text("utf-8"))
    names = set(re.findall(r"^([a-z0-9-]+)==", part, flags=re.MULTILINE))

    assert {"httpx", "httpcore", "certifi", "loguru", "pydantic", "pydantic-core", "tenacity", "tzdata"} <= names
    assert not names & {"modal", "grpclib", "pytest", "hypothesis", "mypy", "ruff"}
    assert part.count("--hash=") > len(names)
    assert all(line in LOCK.read_text("utf-8").splitlines() for line in part.splitlines())


def test_simple_alternative_stands_alone(deployed: Platform) -> None:
    """The alternative is one class in an app of its own: a web server on 11434, Modal's token in front."""
    [(_, function)] = deployed.functions("ollama-simple").items()
    asked = function.definition
    web = asked.method_definitions["web"].webhook_config

    assert (web.web_server_port, web.requires_proxy_auth) == (11434, True)
    assert asked.resources.gpu_config.gpu_type == "A10"
    assert (asked.max_concurrent_inputs, asked.target_concurrent_inputs) == (16, 4)
    assert asked.volume_mounts[0].read_only


def test_broken_fleet_is_refused_before_anything_is_created(tmp_path: Path) -> None:
    """A deployment with a wrong fleet file ends with the key, the value and the remedy, and has created nothing."""
    for folder in ("app", "jobs"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(LOCK, tmp_path)
    fleet = tmp_path / "app/fleet.toml"
    fleet.write_text(fleet.read_text("utf-8").replace("scaledown_window_seconds = 300", "scaledown_window_seconds = 1"))
    with Platform() as platform:
        for module in ("app.endpoint", "app.endpoint_v2"):
            done = modal_command(platform, "deploy", "-m", module, folder=tmp_path, COLUMNS="60")

            assert done.returncode == 2
            assert done.stderr.splitlines()[-3:] == [
                f"error: {fleet} is refused:",
                "  tiers.a10g.scaledown_window_seconds = 1: too small; at least 2",
                "  tiers.h100.scaledown_window_seconds = 1: too small; at least 2",
            ]
        assert not platform.running_apps()
        assert not platform.requests("VolumeGetOrCreate")


# How it runs


def start(platform: Platform, name: str = "OllamaA10G") -> Container:
    if not unshare():
        pytest.skip("this kernel lets nobody mount, so no container can have its volume at /models")
    container = platform.start_server("ollama-service", name)
    try:
        platform.wait_ready(container)
    except AssertionError:
        print(container.output)
        raise
    return container


def ask(path: str, body: Any = None) -> Any:
    answer = httpx.request("GET" if body is None else "POST", f"{OLLAMA}{path}", json=body, timeout=PATIENCE)
    assert answer.status_code == 200, answer.text
    return answer.json()


def listed() -> list[str]:
    return sorted(model["name"] for model in ask("/api/tags")["models"])


def chat(model: str) -> str:
    messages = [{"role": "user", "content": "hello"}]
    return str(ask("/api/chat", {"model": model, "messages": messages, "stream": False})["message"]["content"])


def report(client: Client, container: Container) -> dict[str, Any]:
    found: dict[str, Any] = deployed_facts(client).get(f"server/a10g/{container.id}")
    return found


def published(platform: Platform) -> dict[str, bytes]:
    """What is committed, but for the staging that the publishing container may still be clearing away."""
    files = platform.volume("ollama-model-weights").files()
    return {path: content for path, content in files.items() if not path.startswith("staging/")}


def ollamas() -> list[int]:
    return running_with(OLLAMA_HOST=f"127.0.0.1:{PORT}", OLLAMA_NOPRUNE="1")


def test_server_lives_from_an_empty_volume_to_its_drain(deployed: Platform, client: Client) -> None:
    """It comes up on an empty volume, serves what others commit there, answers, reports, and drains on SIGTERM."""
    server = start(deployed)
    assert listed() == []
    publish = modal.Function.from_name("publishing", "publish", client=client)

    publish.remote("llama3.2", 1)
    until(lambda: listed() == ["llama3.2:latest"])
    assert chat("llama3.2")
    publish.remote("tiny", 2)
    until(lambda: listed() == ["llama3.2:latest", "tiny:latest"])
    until(lambda: report(client, server)["generation"] == 2)
    until(lambda: [model["name"] for model in report(client, server)["loaded"]] == ["llama3.2:latest"])

    seen = report(client, server)
    assert (seen["state"], seen["tier"], seen["gpu"]["name"]) == ("serving", "a10g", "NVIDIA A10G")
    assert seen["dollars_per_hour"] == declared().dollars_per_hour("a10g")
    assert seen["models"] == ["llama3.2:latest", "tiny:latest"]
    [ollama] = ollamas()
    deployed.drain(server)
    assert deployed.wait_exit(server) == 0
    assert not is_running(ollama)
    assert report(client, server)["state"] == "ended"


def test_answer_in_flight_is_finished_before_the_end(deployed: Platform, client: Client) -> None:
    """An answer that streams when SIGTERM comes is streamed to its end."""
    modal.Function.from_name("publishing", "publish", client=client).remote("llama3.2", 3)
    deployed.settings.environ["OLLAMA_SIM_TOKENS_PER_SECOND"] = "8"
    server = start(deployed)
    del deployed.settings.environ["OLLAMA_SIM_TOKENS_PER_SECOND"]
    body = {"model": "llama3.2", "messages": [{"role": "user", "content": "hello"}]}
    with httpx.stream("POST", f"{OLLAMA}/api/chat", json=body, timeout=PATIENCE) as answer:
        lines = answer.iter_lines()
        next(lines)
        deployed.drain(server)
        assert '"done":true' in list(lines)[-1].replace(" ", "")

    assert deployed.wait_exit(server) == 0


def test_killed_ollama_takes_the_container_out(deployed: Platform, client: Client) -> None:
    """When ollama dies under it, the container reports that and ends with a code that is not zero."""
    server = start(deployed)
    [ollama] = ollamas()

    os.kill(ollama, signal.SIGKILL)

    assert deployed.wait_exit(server) == 1
    seen = report(client, server)
    assert (seen["state"], seen["why"]) == ("failed", "ollama ended by itself with -9")


def test_server_without_its_gpu_refuses_to_start(deployed: Platform, programs: Path) -> None:
    """Where the GPU that was asked for is missing, the container does not start, and its log says why."""
    nvidia_smi(programs, "echo 'No devices were found' >&2; exit 6")
    server = deployed.start_server("ollama-service", "OllamaA10G")
    deployed.wait_exit(server)
    nvidia_smi(programs, "echo 'NVIDIA A10G, 23028'")

    assert not server.was_ready
    assert "a GPU was promised, but nvidia-smi ended with 6: No devices were found" in server.output
    assert server.failure is not None


def test_read_only_weights_stay_as_they_are(deployed: Platform, client: Client) -> None:
    """Whoever gets through to a server can neither pull into the volume nor delete from it."""
    modal.Function.from_name("publishing", "publish", client=client).remote("llama3.2", 4)
    server = start(deployed)
    before = published(deployed)
    pulled = httpx.post(f"{OLLAMA}/api/pull", json={"model": "qwen2.5:0.5b", "stream": False}, timeout=PATIENCE)
    httpx.request("DELETE", f"{OLLAMA}/api/delete", json={"model": "llama3.2"}, timeout=PATIENCE)
    deployed.drain(server)
    deployed.wait_exit(server)

    assert pulled.status_code == 500
    assert published(deployed) == before
    assert before
