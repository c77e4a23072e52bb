"""Pages of other origins and programs with pages: who may ask, what a browser is told, and that a real one asks."""

import asyncio
import functools
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.fleet.file import FLEET_FILE, BadFleet, read
from app.fleet.schema import parse
from app.gateway.cross_origin import Origins, allowed_origins
from app.gateway.origin_guard import OriginGuard
from jobs.access.keys.proofs import hash_of
from jobs.core.errors import BadRequest
from tests.app.gateway.test_origin_guard import inside
from tests.support.browser import MISSING, Browser, browser
from tests.support.dialects import OLLAMA, OPENAI, whole_answer
from tests.support.gateways import RunningGateway, gateway
from tests.support.local_stack import Shell, up
from tests.support.scripted_server import ScriptedServer
from tests.support.waiting import PATIENCE

KEY = "omk_k"
LISTED = "https://chat.example.com"

LOCAL = [
    *(
        "http://localhost",
        "http://localhost:3000",
        "https://localhost:8443",
        "http://127.0.0.1:5173",
        "http://[::1]:80",
    ),
    *("app://obsidian.md", "file://", "tauri://localhost", "vscode-webview://1a2b", "vscode-file://vscode-app"),
]

SENT = [
    *("authorization", "content-type", "accept", "user-agent", "x-requested-with", "x-api-key", "x-request-id"),
    *("openai-beta", "openai-organization", "openai-project", "x-stainless-lang", "x-stainless-retry-count"),
    *("anthropic-version", "anthropic-beta", "anthropic-dangerous-direct-browser-access", "last-event-id"),
]
"""What the browser builds of client libraries send."""


# -- who may -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", LOCAL)
def test_ollamas_own_default_may_always(origin: str) -> None:
    """Pages of this machine at any port, and programs with pages of their own."""
    assert Origins().allow(origin)


@pytest.mark.parametrize(
    ("listed", "origin"),
    [
        (LISTED, LISTED),
        ("HTTPS://Chat.Example.com", LISTED),
        ("https://*.example.com", LISTED),
        ("https://chat.example.com:*", "https://chat.example.com:8443"),
        ("chrome-extension://*", "chrome-extension://abcdef"),
        ("*", "https://whoever.example"),
    ],
)
def test_what_is_listed_may(listed: str, origin: str) -> None:
    """Whole, or with one `*` for anything."""
    assert Origins([listed]).allow(origin)


@pytest.mark.parametrize(
    ("listed", "origin"),
    [
        (LISTED, "https://chat.example.com.evil.example"),
        (LISTED, "http://chat.example.com"),
        (LISTED, "https://chat.example.com:8443"),
        ("https://*.example.com", "https://evil.example/.example.org"),
        ("https://*.example.com", "https://example.com"),
        ("https://a*a.example", "https://a.example"),
        (LISTED, "null"),
        (LISTED, "https://localhost.evil.example"),
        (LISTED, "http://192.168.1.1"),
    ],
)
def test_nobody_else_may(listed: str, origin: str) -> None:
    """Another scheme, host or port is another origin."""
    assert not Origins([listed]).allow(origin)


def test_the_fleet_and_the_variable_list_them() -> None:
    """`origins` of [gateway] in the fleet file and OLLAMA_ORIGINS, which Ollama's users have set, count together."""
    fleet = parse({**read(FLEET_FILE), "gateway": {"origins": [LISTED]}}, "fleet.toml")
    origins = allowed_origins({"OLLAMA_ORIGINS": ' "https://a.example, chrome-extension://*,"'}, fleet)
    assert all(origins.allow(each) for each in (LISTED, "https://a.example", "chrome-extension://x"))
    assert not allowed_origins({}, None).allow(LISTED)


@pytest.mark.parametrize("wrong", ["chat.example.com", "https://", "https://a b", "https://*.*.example", "https://a/b"])
def test_what_is_no_origin_is_told(wrong: str) -> None:
    """A list that would let nobody in is refused at the start, with how an origin looks."""
    with pytest.raises(BadRequest, match=r"OLLAMA_ORIGINS: .* is no origin"):
        allowed_origins({"OLLAMA_ORIGINS": wrong}, None)
    with pytest.raises(BadFleet, match=r"gateway\.origins\[0\] = .*: no origin; as in https://chat\.example\.com"):
        parse({**read(FLEET_FILE), "gateway": {"origins": [wrong]}}, "fleet.toml")


# -- what a browser is told --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with (
        ScriptedServer(whole_answer) as server,
        gateway(
            tmp_path_factory.mktemp("gateway"),
            {"a10g": server.url},
            keys=f"page {hash_of(KEY)}",
            origins=[LISTED, "http://my.page.example:*"],
        ) as running,
    ):
        yield running


def preflight(url: str, origin: str, method: str = "POST") -> httpx.Response:
    headers = {
        "origin": origin,
        "access-control-request-method": method,
        "access-control-request-headers": ",".join(SENT),
    }
    return httpx.options(url, headers=headers, timeout=PATIENCE)


@pytest.mark.parametrize("origin", [LISTED, *LOCAL])
@pytest.mark.parametrize("path", ["/api/chat", "/v1/messages", "/ops/v1/jobs", "/api/delete", "/nothing"])
def test_a_preflight_is_answered_without_a_key(keyed: RunningGateway, path: str, origin: str) -> None:
    """A browser sends none with it. It may send what clients send, and ask by any method that is served."""
    answer = preflight(keyed.url + path, origin)
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == origin
    assert set(SENT) == set(answer.headers["access-control-allow-headers"].split(", "))
    assert {"GET", "POST", "DELETE", "HEAD"} <= set(answer.headers["access-control-allow-methods"].split(", "))
    assert "access-control-allow-credentials" not in answer.headers


def test_a_preflight_of_others_is_refused(keyed: RunningGateway) -> None:
    """With what to do, for whoever reads it in the browser's tools, and in the shape of the dialect."""
    answer = preflight(keyed.url + "/v1/chat/completions", "https://evil.example")
    assert answer.status_code == 403
    assert "`origins` of [gateway]" in answer.json()["error"]["message"]
    assert "access-control-allow-origin" not in answer.headers


def test_options_without_a_page_are_no_preflight(keyed: RunningGateway) -> None:
    """They are a method like others, which is served nowhere."""
    headers = {"x-api-key": KEY}
    assert httpx.options(keyed.url + "/api/chat", headers=headers, timeout=PATIENCE).status_code == 405


@pytest.mark.parametrize(
    ("method", "path", "key", "status"),
    [
        ("GET", "/api/tags", KEY, 200),
        ("POST", OLLAMA.path, KEY, 200),
        ("GET", "/api/tags", "", 401),
        ("GET", "/nothing", KEY, 404),
        ("PUT", "/api/chat", KEY, 405),
        ("POST", "/api/pull", KEY, 403),
        ("GET", "/ops/v1/jobs", KEY, 200),
        ("GET", "/ops/v1/jobs", "", 401),
        ("GET", "/healthz", "", 200),
    ],
)
def test_answers_can_be_read_errors_included(
    keyed: RunningGateway, method: str, path: str, key: str, status: int
) -> None:
    """A page may read each answer and the headers that clients make something of; one of others may not."""
    headers = {"origin": LISTED, **({"x-api-key": key} if key else {})}
    body = dict(OLLAMA.body) if method == "POST" else None
    answer = httpx.request(method, keyed.url + path, headers=headers, json=body, timeout=PATIENCE)
    assert answer.status_code == status
    assert answer.headers.get_list("access-control-allow-origin") == [LISTED]
    assert {"x-request-id", "x-served-model", "x-served-tier", "retry-after"} <= set(
        answer.headers["access-control-expose-headers"].split(", ")
    )
    assert "Origin" in answer.headers["vary"]

    other = httpx.request(
        method, keyed.url + path, headers=headers | {"origin": "https://evil.example"}, json=body, timeout=PATIENCE
    )
    assert not [name for name in other.headers if name.startswith("access-control-")]


def test_what_no_page_asks_is_answered_as_before(keyed: RunningGateway) -> None:
    """A program sends no origin, and the gateway's own page has the gateway's."""
    for headers in ({}, {"origin": keyed.url}):
        answer = httpx.get(keyed.url + "/api/tags", headers={"x-api-key": KEY, **headers}, timeout=PATIENCE)
        assert answer.status_code == 200
        assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_without_keys_a_listed_page_may_ask() -> None:
    """Where no key keeps pages out, the list lets in those that Ollama would let in for the same OLLAMA_ORIGINS."""

    async def asked_by(origin: str) -> int:
        transport = httpx.ASGITransport(app=OriginGuard(inside, Origins([LISTED])))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:11500") as client:
            return (await client.get("/api/tags", headers={"origin": origin})).status_code

    assert asyncio.run(asked_by(LISTED)) == 200
    assert asyncio.run(asked_by("https://evil.example")) == 403


def test_up_reads_the_variable(tmp_path: Path) -> None:
    """`ollama-modal up` without keys lets in the pages that OLLAMA_ORIGINS lists, and lets them read."""
    with up(Shell(tmp_path, {"OLLAMA_ORIGINS": LISTED}), "--simulate") as running:
        answer = httpx.get(f"{running.url}/api/tags", headers={"origin": LISTED}, timeout=PATIENCE)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, LISTED)
        assert preflight(f"{running.url}/api/chat", LISTED).status_code == 204
        assert preflight(f"{running.url}/api/chat", "https://evil.example").status_code == 403


# -- a real browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a web server with an empty page, which the browser knows by several names."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "index.html").write_text("<!doctype html><title>A chat</title>")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Nobody reads it."""

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser(arguments=["--host-resolver-rules=MAP *.example 127.0.0.1"]) as opened:
        yield opened


ASK = """
const [url, method, headers, body] = arguments;
return fetch(url, { method, headers, body: body ?? undefined })
  .then(async (got) => [got.status, got.headers.get("x-served-model"), await got.text()])
  .catch((error) => [0, null, String(error)]);
"""


def asked_in(
    window: Browser, origin: str, url: str, dialect: Any = None, key: str = KEY
) -> tuple[int, str | None, str]:
    """Status, served model and text of what a page of this origin is answered; 0 where the browser does not let it."""
    window.open(f"{origin}/index.html")
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json", "x-stainless-lang": "js"}
    body = None if dialect is None else json.dumps(dialect.body)
    status, model, text = window.run(ASK, url, "GET" if dialect is None else "POST", headers, body)
    return status, model, text


in_a_browser = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))


@in_a_browser
@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "my.page.example"])
def test_a_page_in_a_browser_chats(window: Browser, keyed: RunningGateway, page: int, name: str) -> None:
    """A page of this machine or a listed one asks with its key, streams, and reads headers and errors."""
    origin = f"http://{name}:{page}"
    for dialect in (OLLAMA, OPENAI):
        status, model, text = asked_in(window, origin, keyed.url + dialect.path, dialect)
        assert (status, model) == (200, "llama3.2:latest"), text
        assert text.encode() == b"".join(dialect.pieces)
    status, _, text = asked_in(window, origin, keyed.url + "/api/tags", key="omk_wrong")
    assert (status, "not known here" in text) == (401, True)


@in_a_browser
def test_a_page_of_others_in_a_browser_reads_nothing(window: Browser, keyed: RunningGateway, page: int) -> None:
    """Though it has a key."""
    status, _, text = asked_in(window, f"http://evil.example:{page}", keyed.url + "/api/tags")
    assert status == 0
    assert "Failed to fetch" in text
