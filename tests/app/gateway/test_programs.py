"""What programs send that were made for Ollama or OpenAI's API, over real sockets, by programs where they are here."""

import json
import shutil
import subprocess
from collections.abc import Iterator

import httpx
import pytest

from jobs.access.keys.proofs import hash_of
from tests.app.gateway.inference.test_proxy import raw
from tests.support.dialects import OLLAMA, Dialect, each_dialect, whole_answer
from tests.support.gateways import RunningGateway, gateway
from tests.support.scripted_server import ScriptedServer
from tests.support.waiting import PATIENCE

CHAT_KEY, ADMIN_KEY = "omk_c", "omk_a"
KEYS = f"chat {hash_of(CHAT_KEY)} chat\nadmin {hash_of(ADMIN_KEY)} chat admin"


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer(whole_answer) as scripted:
        yield scripted


@pytest.fixture(scope="module")
def keyed(server: ScriptedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway with keys; its tests leave nothing behind."""
    with gateway(tmp_path_factory.mktemp("gateway"), {"a10g": server.url}, keys=KEYS) as running:
        yield running


# -- credentials -------------------------------------------------------------------------------------------------------


def with_user(url: str, user: str) -> str:
    return url.replace("://", f"://{user}@")


@pytest.mark.parametrize("path", ["/api/tags", "/v1/models", "/ops/v1/jobs"])
def test_an_address_holds_the_key(keyed: RunningGateway, path: str) -> None:
    """Programs with one field for an address send what stands there as Basic credentials: `https://user:KEY@host`."""
    assert httpx.get(with_user(keyed.url, f"me:{CHAT_KEY}") + path, timeout=PATIENCE).status_code == 200
    refused = httpx.get(with_user(keyed.url, "me:omk_other") + path, timeout=PATIENCE)
    assert refused.status_code == 401
    # Were Basic asked for, a browser would keep what it is given, and send it with the requests of other pages too.
    assert "basic" not in refused.headers["www-authenticate"].lower()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not here")
def test_curl_takes_the_key_from_the_address(keyed: RunningGateway) -> None:
    """As a person types it."""
    address = with_user(keyed.url, f"me:{CHAT_KEY}") + "/api/version"
    done = subprocess.run(["curl", "-sSf", address], capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert "version" in done.stdout


# -- methods, versions, paths ------------------------------------------------------------------------------------------

READ = ["/", "/api/version", "/api/tags", "/api/ps", "/api/status", "/v1/models", "/v1/models/llama3.2"]
OPS = ["/healthz", "/readyz", "/metrics", "/ops/v1/jobs", "/ops/v1/models", "/ops/v1/status", "/ops/v1/openapi.json"]


@pytest.mark.parametrize("path", [*READ, *OPS, "/ui"])
def test_what_is_read_answers_head(keyed: RunningGateway, path: str) -> None:
    """Programs that look whether a server is there ask by HEAD: they get the head of GET's answer, and no body."""
    headers = {"x-api-key": CHAT_KEY}
    head, got = (httpx.request(each, keyed.url + path, headers=headers, timeout=PATIENCE) for each in ("HEAD", "GET"))
    assert (head.status_code, head.content) == (got.status_code, b"")
    assert head.headers["content-type"] == got.headers["content-type"]
    assert "content-length" in head.headers


def test_a_stream_that_is_asked_for_by_head_ends(keyed: RunningGateway) -> None:
    """The head of a job's events is one answer; nobody goes on following the job for it."""
    posted = httpx.post(
        f"{keyed.url}/ops/v1/jobs",
        json={"kind": "pull", "model": "tiny"},
        headers={"x-api-key": ADMIN_KEY},
        timeout=PATIENCE,
    ).json()
    path = f"{keyed.url}/ops/v1/jobs/{posted['id']}/events"
    head = httpx.head(path, headers={"x-api-key": CHAT_KEY}, timeout=PATIENCE)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"].startswith("text/event-stream")


@pytest.mark.parametrize("method", ["BREW", "PROPFIND", "PUT", "TRACE", "X-Y"])
@pytest.mark.parametrize("path", ["/api/chat", "/v1/models", "/healthz", "/ui"])
def test_a_method_that_nobody_knows_is_not_allowed(keyed: RunningGateway, method: str, path: str) -> None:
    """It is 405 wherever it is asked, with the methods that are; the same as for one that is only wrong there."""
    answer = raw(keyed, f"{method} {path} HTTP/1.1\r\nHost: gateway\r\nx-api-key: {CHAT_KEY}\r\n\r\n".encode())
    head = answer.partition(b"\r\n\r\n")[0].lower()
    assert head.startswith(b"http/1.1 405 ")
    assert b"\r\nallow: " in head


def test_another_protocol_is_still_no_request(keyed: RunningGateway) -> None:
    """What only begins like a method is not one: TLS spoken to this port, or lines without a version."""
    assert raw(keyed, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + 64 * b"\x00").startswith(b"HTTP/1.1 400 ")
    assert raw(keyed, b"hello there\r\n\r\n").startswith(b"HTTP/1.1 400 ")


@each_dialect
def test_http_1_0_gets_no_chunks(keyed: RunningGateway, dialect: Dialect) -> None:
    """A caller of HTTP/1.0 knows no chunks: a stream comes as its bytes alone, and ends with the connection."""
    body = json.dumps(dialect.body).encode()
    head = f"POST {dialect.path} HTTP/1.0\r\nx-api-key: {CHAT_KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
    answer = raw(keyed, head.encode() + body)
    head_said, _, said = answer.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head_said.lower()
    assert b"connection: close" in head_said.lower()
    assert said == b"".join(dialect.pieces)


def test_http_1_0_keeps_lengths(keyed: RunningGateway) -> None:
    """An answer whose length is known says it, to HTTP/1.0 as well."""
    answer = raw(keyed, f"GET /api/version HTTP/1.0\r\nx-api-key: {CHAT_KEY}\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}".encode() in head.lower()


@pytest.mark.parametrize(
    ("path", "meant", "base"),
    [
        ("/v1/api/chat", "/api/chat", "the address alone"),
        ("/v1/api/tags", "/api/tags", "the address alone"),
        ("/ollama/api/tags", "/api/tags", "the address alone"),
        ("/api/api/chat", "/api/chat", "the address alone"),
        ("/v1/v1/models", "/v1/models", "/v1 once"),
        ("/v1/v1/chat/completions", "/v1/chat/completions", "/v1 once"),
        ("/v1/chat/completions/chat/completions", "/v1/chat/completions", "/v1 once"),
        ("/chat/completions", "/v1/chat/completions", "/v1 once"),
        ("/api/chat/completions", "/v1/chat/completions", "/v1 once"),
        ("/models", "/v1/models", "/v1 once"),
        ("/openai/v1/embeddings", "/v1/embeddings", "/v1 once"),
        ("/v1/v1/messages", "/v1/messages", "the address alone"),
    ],
)
def test_a_mistyped_base_url_gets_a_hint(keyed: RunningGateway, path: str, meant: str, base: str) -> None:
    """The 404 names the path that was meant and the base URL that leads there, in the shape which that client reads."""
    answer = httpx.post(keyed.url + path, json={}, headers={"x-api-key": CHAT_KEY}, timeout=PATIENCE)
    assert answer.status_code == 404
    error = answer.json()["error"]
    text = error if meant.startswith("/api/") else error["message"]
    assert f"{path!r} is not here; {meant} is; " in text
    assert base in text
    assert ("request_id" in answer.json()) == (meant == "/v1/messages")


def test_a_path_that_is_like_nothing_gets_no_hint(keyed: RunningGateway) -> None:
    """A hint that leads nowhere would be worse than none; a very long path is not searched for one."""
    for path in ("/nothing", "/api", "/v1", "/v1/responses/x", 300 * "/x" + "/api/chat"):
        answer = httpx.get(keyed.url + path, headers={"x-api-key": CHAT_KEY}, timeout=PATIENCE)
        assert answer.status_code == 404
        assert "base URL" not in answer.text


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_a_401_says_why_to_ollamas_own_command(keyed: RunningGateway) -> None:
    """`ollama list` shows of a 401 its field `status` alone; without it, "see the ollama server logs"."""
    told = httpx.get(f"{keyed.url}/api/tags", timeout=PATIENCE)
    assert told.status_code == 401
    assert told.json() == {"error": told.json()["status"], "status": told.json()["status"]}
    assert "no key was sent" in told.json()["status"]
    assert "status" not in httpx.get(f"{keyed.url}/v1/models", timeout=PATIENCE).json()
    assert "status" not in httpx.get(f"{keyed.url}/api/none", headers={"x-api-key": CHAT_KEY}, timeout=PATIENCE).json()


def test_ollamas_own_command_gets_as_far_as_the_401(keyed: RunningGateway) -> None:
    """It first asks HEAD /, whose refusal could not say why: that alone is answered without a key."""
    heartbeat = httpx.head(f"{keyed.url}/", timeout=PATIENCE)
    assert (heartbeat.status_code, heartbeat.text) == (200, "")
    assert httpx.head(f"{keyed.url}/", headers={"x-api-key": "wrong"}, timeout=PATIENCE).status_code == 200
    for path in ("/api/version", "/api/tags", "/v1/models"):
        assert httpx.head(keyed.url + path, timeout=PATIENCE).status_code == 401
    assert httpx.get(f"{keyed.url}/", timeout=PATIENCE).status_code == 401


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/api/push", "nothing is pushed from here"),
        ("/api/me", "this service has no account at ollama.com: nobody signs in to it, and nothing is pushed from it"),
        ("/api/create", "no model is made or saved here; models come from registries by a pull"),
    ],
)
@pytest.mark.parametrize("key", [CHAT_KEY, ADMIN_KEY])
def test_what_is_not_served_says_why(keyed: RunningGateway, path: str, says: str, key: str) -> None:
    """`ollama push`, `signin` (and a push, which signs in first), and `/save` print this, whatever the key."""
    answer = httpx.post(keyed.url + path, json={"model": "x"}, headers={"x-api-key": key}, timeout=PATIENCE)
    assert answer.status_code == 403
    assert f"{path} is not served here: {says}" in answer.json()["error"]


# -- names -------------------------------------------------------------------------------------------------------------


@each_dialect
@pytest.mark.parametrize("name", [" llama3.2", "llama3.2 \n", "\tllama3.2:latest "])
def test_blanks_around_a_name_are_forgiven(keyed: RunningGateway, dialect: Dialect, name: str) -> None:
    """Ollama trims a model's name (internal/modelref), so what was pasted with a blank works."""
    body = {**dialect.body, "model": name}
    answer = httpx.post(keyed.url + dialect.path, json=body, headers={"x-api-key": CHAT_KEY}, timeout=PATIENCE)
    assert (answer.status_code, answer.headers["x-served-model"]) == (200, "llama3.2:latest")


def test_blanks_alone_are_no_name(keyed: RunningGateway) -> None:
    """They are refused as a name that is not there."""
    body = {**OLLAMA.body, "model": "  "}
    answer = httpx.post(keyed.url + OLLAMA.path, json=body, headers={"x-api-key": CHAT_KEY}, timeout=PATIENCE)
    assert (answer.status_code, "model is required" in answer.text) == (400, True)


def test_blanks_are_forgiven_where_models_are_named_otherwise(keyed: RunningGateway) -> None:
    """In a pull, a delete, a show and a path."""
    with httpx.Client(base_url=keyed.url, headers={"x-api-key": ADMIN_KEY}, timeout=PATIENCE) as client:
        with client.stream("POST", "/api/pull", json={"model": " small "}) as answer:
            assert answer.status_code == 200
            jobs = client.get("/ops/v1/jobs", params={"subject": "small:latest"}).json()["jobs"]
            assert [job["kind"] for job in jobs] == ["pull"]
        assert client.get("/v1/models/%20llama3.2%20").status_code == 200
