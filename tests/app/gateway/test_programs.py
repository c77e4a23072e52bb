"""What programs send that were made for Ollama or OpenAI's API, over real sockets, by programs where they are here."""

import shutil
import subprocess
from collections.abc import Iterator

import httpx
import pytest

from app.gateway.auth.keys import hash_of
from tests.app.gateway.inference.test_proxy import played
from tests.support.gateways import PATIENCE, Running, Scripted, gateway

CHAT_KEY, ADMIN_KEY = "omk_c", "omk_a"
KEYS = f"chat {hash_of(CHAT_KEY)} chat\nadmin {hash_of(ADMIN_KEY)} chat admin"


@pytest.fixture(scope="module")
def server() -> Iterator[Scripted]:
    with Scripted(played) as scripted:
        yield scripted


@pytest.fixture(scope="module")
def keyed(server: Scripted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A gateway with keys; its tests leave nothing behind."""
    with gateway(tmp_path_factory.mktemp("gateway"), {"a10g": server.url}, keys=KEYS) as running:
        yield running


# -- credentials -------------------------------------------------------------------------------------------------------


def with_user(url: str, user: str) -> str:
    return url.replace("://", f"://{user}@")


@pytest.mark.parametrize("path", ["/api/tags", "/v1/models", "/ops/v1/jobs"])
def test_an_address_holds_the_key(keyed: Running, path: str) -> None:
    """Programs with one field for an address send what stands there as Basic credentials: `https://user:KEY@host`."""
    assert httpx.get(with_user(keyed.url, f"me:{CHAT_KEY}") + path, timeout=PATIENCE).status_code == 200
    refused = httpx.get(with_user(keyed.url, "me:omk_other") + path, timeout=PATIENCE)
    assert refused.status_code == 401
    # Were Basic asked for, a browser would keep what it is given, and send it with the requests of other pages too.
    assert "basic" not in refused.headers["www-authenticate"].lower()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not here")
def test_curl_takes_the_key_from_the_address(keyed: Running) -> None:
    """As a person types it."""
    address = with_user(keyed.url, f"me:{CHAT_KEY}") + "/api/version"
    done = subprocess.run(["curl", "-sSf", address], capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert "version" in done.stdout
