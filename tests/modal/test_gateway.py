"""The gateway of a deployment, in Modal's own container entrypoint, with a GPU server behind Modal's proxy."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import modal
import pytest
from modal.client import Client

from jobs.core.clock import isoformat, parse_moment
from jobs.testing.models import LIBRARY
from jobs.testing.registry.server import RegistryDouble
from tests.modal.platform.containers import Container, Settings
from tests.modal.platform.isolation import unshare
from tests.modal.platform.plane import Platform
from tests.modal.platform.proxy import Proxy
from tests.support.deployments import ADMIN_KEY, APP, LEASE, TOKEN, deploy, deployed_facts, with_secrets
from tests.support.processes import free_port, gpu_programs, nvidia_smi
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.skipif(not unshare(), reason="this kernel lets nobody mount, so no volume can be at /models")

LISTS = ("/", "/api/version", "/api/tags", "/api/ps", "/v1/models", "/readyz", "/metrics", "/ui", "/ops/v1/jobs")
READ_PATHS = tuple(f"/ops/v1/{name}" for name in ("models", "tiers", "health", "usage", "board", "days", "cost"))
CHAT = {"model": "llama3.2", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """All of it is deployed; Modal's proxy stands before the A10G's server; no container runs yet."""
    programs = tmp_path_factory.mktemp("bin")
    gpu_programs(programs)
    ollama, gateway = free_port(), free_port()
    environ = {
        **LEASE,
        "OLLAMA_MODAL_PROBE_SECONDS": "1",
        "OLLAMA_MODAL_GATEWAY_PORT": str(gateway),
        "OLLAMA_HOST": f"127.0.0.1:{ollama}",
        "OLLAMA_SIM_TOKENS_PER_SECOND": "40",
        "OLLAMA_MODAL_DEBUG_LOOP": "10s",
    }
    settings = Settings(path_prefix=programs, environ=environ, idle_seconds=20, commit_seconds=0.5)
    with (
        pytest.MonkeyPatch.context() as environment,
        RegistryDouble(LIBRARY) as registry,
        Platform(settings=settings) as platform,
    ):
        environment.setenv("OLLAMA_MODAL_REGISTRY", registry.url)
        with_secrets(platform)
        deploy(platform)
        platform.apps.server_urls[APP, "Gateway"] = f"http://127.0.0.1:{gateway}"
        yield platform


@pytest.fixture(scope="module")
def servers(platform: Platform) -> Proxy:
    """Modal's proxy before the A10G's server."""
    [id_, secret] = TOKEN.values()
    port = int(platform.settings.environ["OLLAMA_HOST"].rpartition(":")[2])
    return platform.open_server(APP, "OllamaA10G", port=port, token=(id_, secret))


@pytest.fixture(scope="module")
def url(platform: Platform, servers: Proxy) -> str:
    """Where the gateway answers. It is the one container that a deployment keeps."""
    assert servers.unserved == 0
    platform.wait_ready(platform.start_server(APP, "Gateway"))
    return platform.apps.server_urls[APP, "Gateway"]


@pytest.fixture
def ask(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, headers={"authorization": f"Bearer {ADMIN_KEY}"}, timeout=PATIENCE) as client:
        yield client


@pytest.fixture(scope="module")
def client(platform: Platform) -> Iterator[Client]:
    with platform.client() as client:
        yield client


def told(ask: httpx.Client, path: str) -> Any:
    answer = ask.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


def gpus(platform: Platform) -> list[Container]:
    return [one for name in ("OllamaA10G", "OllamaH100") for one in platform.containers(name, alive=False)]


def refused(platform: Platform, keys: str) -> str:
    """What a gateway says that does not start with these keys."""
    platform.settings.environ["OLLAMA_MODAL_KEYS"] = keys  # wins over the secret's
    container = platform.start_server(APP, "Gateway")
    platform.wait_exit(container)
    del platform.settings.environ["OLLAMA_MODAL_KEYS"]
    assert not container.was_ready
    assert container.failure is not None
    return container.output


@pytest.mark.parametrize("keys", ["", "# alice left in May\n\n"])
def test_without_keys_it_does_not_start(platform: Platform, servers: Proxy, keys: str) -> None:
    """A secret without a line ends the container before it listens, and the log says what to do."""
    said = refused(platform, keys)

    assert "no keys are configured, and a gateway that lets everybody in does not start" in said
    assert "`ollama-modal keys new NAME --line` prints a line for OLLAMA_MODAL_KEYS of secret `ollama-api-keys`" in said
    assert servers.unserved == 0


def test_a_wrong_line_is_named_and_not_shown(platform: Platform, servers: Proxy) -> None:
    """A line that makes no sense ends the container; its number is told, what stands in it is not."""
    said = refused(platform, "alice sha256:" + "ab" * 32 + "\nbob hunter2hunter2\n")

    assert "line 2 of OLLAMA_MODAL_KEYS: its second word is no hash and no public key" in said
    assert "hunter2" not in said
    assert "ws-test" not in said
    assert servers.unserved == 0


def test_a_pull_over_http_leads_to_a_chat(platform: Platform, servers: Proxy, ask: httpx.Client) -> None:
    """A pull that is posted sends the worker; looking wakes nobody; the first chat wakes the GPU and is answered."""
    posted = ask.post("/ops/v1/jobs", json={"kind": "pull", "model": "llama3.2"})
    assert posted.status_code == 201, posted.text
    until(lambda: told(ask, f"/ops/v1/jobs/{posted.json()['id']}")["state"] == "succeeded")
    until(lambda: [each["name"] for each in told(ask, "/api/tags")["models"]] == ["llama3.2:latest"])
    for _ in range(5):
        for path in (*LISTS, *READ_PATHS, "/ops/v1/route?model=llama3.2"):
            assert ask.get(path).status_code == 200, path
    assert told(ask, "/ops/v1/models")["complaints"] == []
    assert told(ask, "/ops/v1/route?model=llama3.2")["tier"] == "a10g"
    steps = {(row["do"], row["what"]) for row in told(ask, "/ops/v1/plan")["rows"]}
    assert steps == {("pull", "deepseek-r1:32b")}  # what came tonight is left alone
    assert told(ask, "/ops/v1/plan/prune?unused_days=1")["plan"]["throw"] == []
    assert (gpus(platform), servers.unserved) == ([], 0)

    answer = ask.post("/api/chat", json={**CHAT, "stream": False})

    assert answer.status_code == 200, answer.text
    assert answer.json()["message"]["content"]
    assert (answer.headers["x-served-model"], answer.headers["x-served-tier"]) == ("llama3.2:latest", "a10g")
    assert [one.function.name for one in gpus(platform)] == ["OllamaA10G"]
    assert servers.unserved > 0
    assert servers.refused == 0
    metrics = ask.get("/metrics").text
    assert 'ollama_modal_wakes_total{cause="request",tier="a10g"} 1.0' in metrics
    assert "ollama_modal_loop_lag_seconds_count" in metrics
    assert "ollama_modal_loop_blocks_total" in metrics  # as OLLAMA_MODAL_DEBUG_LOOP has it
    states = {tier["tier"]: tier["state"] for tier in told(ask, "/ops/v1/tiers")["tiers"]}
    assert states == {"a10g": "ready", "h100": "asleep"}


def test_without_a_key_nobody_gets_in(platform: Platform, servers: Proxy, url: str) -> None:
    """Modal asks for nothing here, so the gateway does: 401 in the caller's own shape, and nobody is woken."""
    before = len(gpus(platform)), servers.unserved
    ollama = httpx.post(f"{url}/api/chat", json=CHAT, timeout=PATIENCE)
    openai = httpx.post(
        f"{url}/v1/chat/completions", json=CHAT, headers={"authorization": "Bearer omk_wrong"}, timeout=PATIENCE
    )
    anthropic = httpx.post(f"{url}/v1/messages", json={**CHAT, "max_tokens": 5}, timeout=PATIENCE)

    assert [each.status_code for each in (ollama, openai, anthropic)] == [401, 401, 401]
    assert ollama.json()["error"].startswith("no key was sent")
    assert openai.json()["error"]["type"] == "authentication_error"
    assert anthropic.json()["type"] == "error"
    assert httpx.get(f"{url}/healthz", timeout=PATIENCE).json() == {"status": "ok"}
    assert (len(gpus(platform)), servers.unserved) == before


def test_answers_stream_through_both_proxies(ask: httpx.Client) -> None:
    """Pieces of an answer arrive one by one, until the one that says that it is done."""

    def read_apart() -> list[bytes] | None:
        with ask.stream("POST", "/api/chat", json=CHAT) as answer:
            assert answer.headers["content-type"] == "application/x-ndjson"
            pieces = list(answer.iter_raw())
        return pieces if len(pieces) > 2 else None  # whoever is kept from reading finds them together

    lines = b"".join(until(read_apart)).splitlines()
    assert [json.loads(line)["done"] for line in lines] == [*[False] * (len(lines) - 1), True]


def test_what_a_container_counted_is_priced(ask: httpx.Client) -> None:
    """The estimate is of the fleet's prices, for what the server itself has counted, shared by who used it."""
    assert ask.post("/api/chat", json={**CHAT, "stream": False}).status_code == 200
    until(lambda: told(ask, "/ops/v1/cost")["dollars"] > 0)
    found = told(ask, "/ops/v1/cost")

    [tier] = found["tiers"]
    assert (tier["tier"], tier["containers"], tier["dollars_per_hour"]) == ("a10g", 1, 1.42)
    assert {(use["model"], use["key"]) for use in found["uses"]} >= {("llama3.2:latest", "root")}


def test_the_next_caller_wakes_another_server(platform: Platform, servers: Proxy, ask: httpx.Client) -> None:
    """A server that died is found gone by whoever asks next; another one is woken for him, and he is answered."""
    assert ask.post("/api/chat", json={**CHAT, "stream": False}).status_code == 200
    [server] = platform.containers("OllamaA10G")
    platform.kill(server)
    unserved = servers.unserved

    answer = ask.post("/api/chat", json={**CHAT, "stream": False})

    assert answer.status_code == 200, answer.text
    assert len(gpus(platform)) == 2
    assert servers.unserved > unserved
    assert servers.refused == 0


def test_what_was_used_outlives_the_gateway(platform: Platform, client: Client, ask: httpx.Client) -> None:
    """A gateway that is taken away lets go of its port, ends well, and has written down who used what."""
    assert ask.post("/api/chat", json={**CHAT, "stream": False}).status_code == 200
    [container] = platform.containers("Gateway")
    platform.drain(container)

    assert platform.wait_exit(container) == 0
    facts = deployed_facts(client)
    written = [json.dumps(value) for key, value in facts.items("usage/") if container.id in key]
    assert written
    assert any("root" in text and "llama3.2:latest" in text for text in written)
    assert ADMIN_KEY not in container.output
    assert "ws-test" not in container.output
    lines = [json.loads(line) for line in container.lines if line.startswith('{"')]
    ended = [line for line in lines if "/api/chat llama3.2:latest on a10g for root: success 200" in line["message"]]
    assert {(line["container"], line["tier"], line["key"]) for line in ended} == {(container.id, "a10g", "root")}
    assert all(line["request"] for line in ended)
    for server in gpus(platform):
        told = [json.loads(line) for line in server.lines if line.startswith('{"')]
        assert {(line["container"], line["tier"]) for line in told} == {(server.id, "a10g")}


def test_servers_that_cannot_start_are_left_alone(
    platform: Platform, servers: Proxy, client: Client, ask: httpx.Client
) -> None:
    """After some starts that refused, callers are told the server's own reason and no GPU is paid for, until its time;
    the next tick opens an incident."""
    platform.wait_ready(platform.start_server(APP, "Gateway"))
    for server in platform.containers("OllamaA10G"):
        platform.kill(server)
    assert platform.settings.path_prefix is not None
    nvidia_smi(platform.settings.path_prefix, "echo 'No devices were found' >&2; exit 9")
    before = len(gpus(platform))

    first = ask.post("/api/chat", json={**CHAT, "stream": False})
    started = len(gpus(platform)) - before
    second = ask.post("/v1/chat/completions", json=CHAT)

    assert (first.status_code, second.status_code) == (503, 503)
    reason = "a GPU was promised, but nvidia-smi ended with 9: No devices were found"
    assert f"starts in a row were refused: {reason}" in first.json()["error"]
    assert reason in second.json()["error"]["message"]
    assert int(second.headers["retry-after"]) > 0
    assert started >= 3  # one that begins before the third has said why may come as well
    assert len(gpus(platform)) - before == started
    [tier] = [each for each in told(ask, "/ops/v1/tiers")["tiers"] if each["tier"] == "a10g"]
    assert (tier["state"], tier["why"]) == ("lost", f"its starts are refused: {reason}")
    facts = deployed_facts(client)
    for key, value in facts.items("server/a10g/"):  # a minute and more after the last server was killed
        if value["state"] == "serving":
            facts.put(key, {**value, "at": isoformat(parse_moment(value["at"]) - timedelta(seconds=100))})
    modal.Function.from_name(APP, "tick", client=client).remote()
    assert facts.get("incident/tier/a10g/1")["message"] == f"tier a10g is lost: its starts are refused: {reason}"
