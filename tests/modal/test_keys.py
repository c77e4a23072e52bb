"""Keys of a deployment: two gateways on one store, revoked in one, refused in both; what a lost Dict gets back."""

import asyncio
import json
from collections.abc import Iterator

import httpx
import modal
import pytest
from modal.client import Client

from app.gateway.auth.key_lines import FixedLines
from app.gateway.auth.keys import Keys
from app.gateway.auth.live_keys import TRUSTED, LiveKeys
from app.platform.store import LimitedDict
from app.resources import DICTS
from jobs.access.keys.key_records import KeySettings
from jobs.access.keys.key_store import KeyStore, read_keys
from jobs.access.keys.proofs import hash_of, new_key
from jobs.core.errors import Unauthorized
from jobs.testing.clock import HandClock
from jobs.testing.models import LIBRARY
from jobs.testing.registry.server import RegistryDouble
from tests.modal.platform.containers import Settings
from tests.modal.platform.isolation import unshare
from tests.modal.platform.plane import Platform
from tests.support.deployments import ADMIN_KEY, APP, LEASE, TOKEN, deploy, deployed_facts, with_secrets
from tests.support.failing_stores import TroubledDict
from tests.support.processes import free_port
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.skipif(not unshare(), reason="this kernel lets nobody mount, so no volume can be at /models")

COPY = "ops/keys.json"


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    """All of it is deployed; no container runs yet."""
    environ = {**LEASE, "OLLAMA_HOST": f"127.0.0.1:{free_port()}"}
    settings = Settings(environ=environ, idle_seconds=20, commit_seconds=0.5)
    with (
        pytest.MonkeyPatch.context() as environment,
        RegistryDouble(LIBRARY) as registry,
        Platform(settings=settings) as platform,
    ):
        environment.setenv("OLLAMA_MODAL_REGISTRY", registry.url)
        with_secrets(platform)
        deploy(platform)
        id_, secret = TOKEN.values()
        platform.open_server(APP, "OllamaA10G", port=free_port(), token=(id_, secret))
        yield platform


@pytest.fixture(scope="module")
def client(platform: Platform) -> Iterator[Client]:
    with platform.client() as client:
        yield client


def gateway(platform: Platform) -> str:
    """Where another gateway answers."""
    port = free_port()
    platform.settings.environ["OLLAMA_MODAL_GATEWAY_PORT"] = str(port)
    platform.wait_ready(platform.start_server(APP, "Gateway"))
    return f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def urls(platform: Platform) -> tuple[str, str]:
    """Two gateways, as there are during a deployment."""
    return gateway(platform), gateway(platform)


def status(url: str, key: str) -> int:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.get(f"{url}/api/tags", headers=headers, timeout=PATIENCE).status_code


def ask(url: str, method: str, path: str, **more: object) -> httpx.Response:
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    answer = httpx.request(method, f"{url}/ops/v1{path}", headers=headers, timeout=PATIENCE, **more)  # type: ignore[arg-type]
    assert answer.is_success, answer.text
    return answer


def copied(platform: Platform) -> dict[str, bool]:
    """The keys of the volume's copy, and whether each is revoked."""
    text = platform.volume("ollama-model-weights").files().get(COPY, b"{}")
    return {
        key.split("/")[1]: entry["revoked_at"] is not None for key, entry in json.loads(text).get("keys", {}).items()
    }


def test_a_key_that_one_gateway_revokes_is_refused_by_both(platform: Platform, urls: tuple[str, str]) -> None:
    """And one that it makes is let in by both; what is on the volume follows within a minute, whatever happens."""
    one, other = urls
    key = ask(one, "POST", "/keys", json={"name": "alice"}).json()["key"]
    assert [status(url, key) for url in urls] == [200, 200]

    ask(one, "DELETE", "/keys/alice")

    assert status(one, key) == 401
    until(lambda: status(other, key) == 401, "the other gateway's refusal")
    until(lambda: copied(platform) == {"alice": True}, "the copy on the volume")
    assert [status(url, ADMIN_KEY) for url in urls] == [200, 200]
    everything = "".join(container.output for container in platform.containers(alive=False))
    assert key not in everything
    assert hash_of(key) not in everything


def test_within_ten_seconds_by_one_trip_each(client: Client) -> None:
    """With the clock in hand: two gateways that looked just now both refuse the key ten seconds after, each by one
    listing of the Dict of keys, and by nothing else. Where that takes long, who comes meanwhile is let in as before.
    """
    clock, key = HandClock(), new_key()
    entries = modal.Dict.from_name(DICTS["access"], client=client, create_if_missing=True)
    store = KeyStore(LimitedDict(entries), clock)
    store.make("bob", hash_of(key), KeySettings(), by="root")
    trips: list[str] = []
    counted = TroubledDict(LimitedDict(entries), trips.append)
    gateways = [LiveKeys(FixedLines(Keys(is_open=False)), counted, clock) for _ in range(2)]
    headers = [(b"authorization", f"Bearer {key}".encode())]

    def who(keys: LiveKeys) -> str:
        try:
            return asyncio.run(keys.identify(headers, clock.now())).name
        except Unauthorized as refusal:
            return str(refusal)

    assert [who(each) for each in gateways] == ["bob", "bob"]
    store.revoke("bob", by="root")
    trips.clear()
    clock.tick(TRUSTED.total_seconds() + 0.001)

    for each in gateways:
        until(lambda each=each: "was revoked" in who(each))  # type: ignore[misc]
    assert trips == ["items", "items"]


def test_a_dict_that_was_lost_gets_its_keys_back(platform: Platform, client: Client, urls: tuple[str, str]) -> None:
    """From a gateway that runs, or from the volume when none does; what was revoked is not revived, and whoever is on a
    line was never locked out.
    """
    one, _ = urls
    carl, dora = (ask(one, "POST", "/keys", json={"name": name}).json()["key"] for name in ("carl", "dora"))
    ask(one, "DELETE", "/keys/dora")
    until(lambda: copied(platform).get("dora"), "the copy on the volume")
    facts = deployed_facts(client)

    def lose() -> None:
        for key in list(facts.keys("key/")):
            facts.pop(key)

    lose()
    assert status(one, ADMIN_KEY) == 200
    until(lambda: {"carl": 1, "dora": 2}.items() <= read_keys(facts).numbers.items(), "what the gateways knew")
    until(lambda: [status(url, carl) for url in urls] == [200, 200], "whom both know again")
    until(lambda: [status(url, dora) for url in urls] == [401, 401], "whom neither lets in, each by its next look")
    assert read_keys(facts).numbers["dora"] == 2

    for container in platform.containers("Gateway"):
        platform.kill(container)
    lose()
    again = gateway(platform)
    assert [status(again, key) for key in (ADMIN_KEY, carl, dora)] == [200, 200, 401]
    until(lambda: read_keys(facts).numbers.get("dora") == 2, "what the volume knew")
