"""Keys that are made, changed and revoked while a gateway answers: over HTTP, and what becomes of what is under way."""

import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from loguru import logger

from app.gateway.auth.live_keys import TRUSTED
from jobs.access.keys.key_records import KeySettings
from jobs.access.keys.key_store import KeyStore
from jobs.access.keys.proofs import hash_of, new_key
from jobs.core.clock import SystemClock
from tests.support.dialects import DIALECTS, OLLAMA, Dialect
from tests.support.gateways import RunningGateway, gateway, held_callers
from tests.support.moved_clock import MovedClock
from tests.support.scripted_server import Connection, HeardRequest, ScriptedServer
from tests.support.waiting import PATIENCE, until

ROOT, LIMITED, CHAT = new_key(), new_key(), new_key()
LINES = f"root {hash_of(ROOT)} chat admin\nlarry {hash_of(LIMITED)} admin models=llama*\ncarl {hash_of(CHAT)}"
KEYS = "/ops/v1/keys"
PUBLIC = "AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"


class Endless:
    """A server whose streams go on until they are left."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self.left = 0

    def __call__(self, _: HeardRequest, line: Connection) -> None:
        line.begin(self._dialect.kind)
        line.chunk(self._dialect.pieces[0])
        line.await_end()
        self.left += 1


@contextmanager
def running(folder: Path, script: Any = None, **more: Any) -> Iterator[RunningGateway]:
    with (
        ScriptedServer(script or (lambda _, line: OLLAMA.play(line))) as server,
        gateway(folder, {"a10g": server.url}, keys=LINES, live_keys=True, **more) as found,
    ):
        yield found


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """For tests that change nothing."""
    with running(tmp_path_factory.mktemp("gateway")) as found:
        yield found


@pytest.fixture
def live(tmp_path: Path) -> Iterator[RunningGateway]:
    with running(tmp_path) as found:
        yield found


def ask(found: RunningGateway, method: str, path: str, key: str = ROOT, **more: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.request(method, f"{found.url}{path}", headers=headers, timeout=PATIENCE, **more)


def lists(found: RunningGateway, key: str) -> int:
    return ask(found, "GET", "/api/tags", key).status_code


# -- over HTTP ---------------------------------------------------------------------------------------------------------


def test_a_key_is_made_used_changed_rotated_and_revoked(live: RunningGateway) -> None:
    """It is told once, counts at once, and is refused as soon as it is revoked."""
    made = ask(live, "POST", KEYS, json={"name": "alice", "models": ["LLAMA*"], "limits": {"rpm": "60"}})
    assert (made.status_code, made.headers["cache-control"]) == (201, "no-store")
    key, entry = made.json()["key"], made.json()["entry"]
    assert (entry["models"], entry["limits"], entry["made_by"], entry["state"]) == (
        ["llama*"],
        {"rpm": "60"},
        "root",
        "active",
    )
    assert lists(live, key) == 200
    changed = ask(live, "PATCH", f"{KEYS}/alice", json={"limits": {"rpm": "", "tpm": "9"}, "scopes": ["admin"]}).json()
    assert (changed["limits"], changed["scopes"], changed["models"]) == ({"tpm": "9"}, ["admin"], ["llama*"])
    rotated = ask(live, "POST", f"{KEYS}/alice/rotate", json={"overlap_seconds": 0}).json()["key"]
    assert (lists(live, key), lists(live, rotated)) == (401, 200)
    revoked = ask(live, "DELETE", f"{KEYS}/alice")
    assert (revoked.status_code, revoked.json()["state"], revoked.json()["revoked_by"]) == (200, "revoked", "root")
    assert lists(live, rotated) == 401
    told = {each["name"]: (each["source"], each["state"]) for each in ask(live, "GET", KEYS).json()["keys"]}
    assert told == {
        "root": ("lines", "active"),
        "larry": ("lines", "active"),
        "carl": ("lines", "active"),
        "alice": ("ledger", "revoked"),
    }
    assert ask(live, "GET", f"{KEYS}/alice").json() == revoked.json()


def test_who_makes_the_key_himself_sends_its_hash_alone(live: RunningGateway) -> None:
    """And may ask twice: it is one key, and the answer tells none."""
    key = new_key()
    body = {"name": "alice", "hash": hash_of(key)}
    answers = [ask(live, "POST", KEYS, json=body) for _ in range(2)]
    assert [(each.status_code, each.json()["key"], each.json()["entry"]["version"]) for each in answers] == [
        (201, None, 1),
        (201, None, 1),
    ]
    assert lists(live, key) == 200


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", KEYS, None),
        ("GET", f"{KEYS}/root", None),
        ("POST", KEYS, {"name": "eve", "scopes": ["admin"]}),
        ("PATCH", f"{KEYS}/carl", {"scopes": ["admin"]}),
        ("POST", f"{KEYS}/carl/rotate", {}),
        ("DELETE", f"{KEYS}/root", None),
    ],
)
def test_only_an_administrator_of_everything_may(
    shared: RunningGateway, method: str, path: str, body: dict[str, Any] | None
) -> None:
    """Neither a key for chat nor an administrator of some models: he could make himself a key for all of them."""
    more = {} if body is None else {"json": body}
    for key in (CHAT, LIMITED):
        answer = ask(shared, method, path, key, **more)
        assert answer.status_code == 403, answer.text
    assert set(shared.facts.keys("key/")) == set()


@pytest.mark.parametrize(
    ("method", "path", "body", "refusal"),
    [
        ("POST", KEYS, {"name": "root"}, (409, "key 'root' stands on a line")),
        ("PATCH", f"{KEYS}/root", {"models": []}, (409, "key 'root' stands on a line")),
        ("DELETE", f"{KEYS}/root", None, (409, "key 'root' stands on a line")),
        ("DELETE", f"{KEYS}/nobody", None, (404, "there is no key 'nobody'")),
        ("POST", KEYS, {"name": "a b"}, (422, "name")),
        ("POST", KEYS, {"name": "a", "scopes": ["god"]}, (422, "scopes")),
        ("POST", KEYS, {"name": "a", "limits": {"rpm": "many"}}, (400, "no number of requests")),
        ("POST", KEYS, {"name": "a", "limits": {"beer": "1"}}, (422, "beer")),
        ("POST", KEYS, {"name": "a", "expires": "2020-01-01"}, (409, "over already")),
        ("POST", KEYS, {"name": "a", "models": ["a b"]}, (422, "models")),
        ("POST", KEYS, {"name": "a", "hash": "omk_secret"}, (422, "hash")),
        ("POST", KEYS, {"name": "a", "public_key": "rsa"}, (422, "public_key")),
        ("POST", KEYS, {"name": "a", "hash": "sha256:" + "0" * 64, "public_key": PUBLIC}, (409, "one proof")),
        ("POST", KEYS, {"name": "a", "key": "omk_secret"}, (422, "key")),
    ],
)
def test_what_makes_no_sense_is_refused(
    shared: RunningGateway, method: str, path: str, body: dict[str, Any] | None, refusal: tuple[int, str]
) -> None:
    """In words that name it; nothing is changed."""
    more: dict[str, Any] = {} if body is None else {"json": body}
    answer = ask(shared, method, path, **more)
    status, words = refusal
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text
    assert "omk_secret" not in answer.text
    assert set(shared.facts.keys("key/")) == set()


def test_no_secret_is_told_kept_or_logged(tmp_path: Path) -> None:
    """Of all that is stored, listed, logged and written down of who did what, nothing lets anybody in."""
    lines: list[str] = []
    sink = logger.add(lines.append, level="TRACE")
    try:
        with running(tmp_path) as live:
            key = ask(live, "POST", KEYS, json={"name": "alice"}).json()["key"]
            other = ask(live, "POST", f"{KEYS}/alice/rotate", json={}).json()["key"]
            lists(live, key)
            told = [ask(live, "GET", path).text for path in (KEYS, f"{KEYS}/alice", "/ops/v1/audit", "/metrics")]
            ask(live, "DELETE", f"{KEYS}/alice")
            kept = json.dumps(list(live.facts.items()))
            acts = [each["act"] for each in ask(live, "GET", "/ops/v1/audit").json()["lines"]]
    finally:
        logger.remove(sink)
    assert acts == ["key-revoke", "key-rotate", "key-new"]
    everything = "".join([*lines, *told, kept])
    assert not [secret for secret in (key, other, ROOT) if secret in everything]
    assert hash_of(key) not in "".join([*lines, *told])
    assert not re.search("omk_[A-Za-z0-9_-]{43}", everything)


# -- what is under way ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda each: each.name)
def test_a_stream_ends_when_its_key_is_revoked(tmp_path: Path, dialect: Dialect) -> None:
    """In the caller's own shape, without a terminator; the server is left, and the stream of another goes on."""
    endless = Endless(dialect)
    with running(tmp_path, endless) as live, httpx.Client(base_url=live.url, timeout=PATIENCE) as client:
        key = ask(live, "POST", KEYS, json={"name": "alice"}).json()["key"]

        def stream(of: str) -> Any:
            headers = {"authorization": f"Bearer {of}"}
            return client.stream("POST", dialect.path, json={**dialect.body, "stream": True}, headers=headers)

        with stream(key) as ended, stream(CHAT) as other:
            pieces, others = ended.iter_raw(), other.iter_raw()
            said = next(pieces)
            next(others)
            ask(live, "DELETE", f"{KEYS}/alice")
            said += b"".join(pieces)
            assert "key 'alice' was revoked" in dialect.error_in(said)
            until(lambda: endless.left == 1)
            assert live.open_exchanges() == 1


def test_who_waits_for_a_cold_start_is_refused_when_his_key_is_revoked(tmp_path: Path) -> None:
    """With 401, before anything was answered; he is held no longer."""
    with (
        ScriptedServer(lambda _, line: OLLAMA.play(line), asleep=10**6) as server,
        gateway(tmp_path, {"a10g": server.url}, keys=LINES, live_keys=True, startup=PATIENCE) as live,
        ThreadPoolExecutor(1) as pool,
    ):
        key = ask(live, "POST", KEYS, json={"name": "alice"}).json()["key"]
        waiting = pool.submit(ask, live, "POST", "/api/chat", key, json=dict(OLLAMA.body))
        until(lambda: held_callers(live) == 1)
        ask(live, "DELETE", f"{KEYS}/alice")
        answer = waiting.result(PATIENCE)
        assert (answer.status_code, "was revoked" in answer.text) == (401, True)
        until(lambda: held_callers(live) == 0)


def test_who_follows_a_job_is_let_go_when_his_key_is_revoked(live: RunningGateway) -> None:
    """The stream of events ends."""
    key = ask(live, "POST", KEYS, json={"name": "alice", "scopes": ["chat", "admin"]}).json()["key"]
    id = ask(live, "POST", "/ops/v1/jobs", json={"kind": "pull", "model": "tiny"}).json()["id"]
    headers = {"authorization": f"Bearer {key}"}
    with (
        httpx.Client(base_url=live.url, headers=headers, timeout=PATIENCE) as client,
        client.stream("GET", f"/ops/v1/jobs/{id}/events") as events,
    ):
        pieces = events.iter_raw()
        assert b"retry" in next(pieces)
        ask(live, "DELETE", f"{KEYS}/alice")
        with pytest.raises(httpx.RemoteProtocolError):
            list(pieces)


def test_a_key_for_some_models_is_told_of_no_other_keys_limits(shared: RunningGateway) -> None:
    """As of the keys themselves; of its own it is, and an administrator for all models is told of any."""
    asked = "/ops/v1/limits?key=carl"
    assert [ask(shared, "GET", asked, key).status_code for key in (ROOT, LIMITED, CHAT)] == [200, 403, 200]
    assert ask(shared, "GET", "/ops/v1/limits?key=larry", LIMITED).status_code == 200


def test_as_many_tokens_a_minute_as_a_line_takes_are_taken(live: RunningGateway) -> None:
    """Nine digits, over HTTP as on a line."""
    made = ask(live, "POST", KEYS, json={"name": "alice", "limits": {"tpm": "200000000", "tokens": "5000000/month"}})
    assert made.json()["entry"]["limits"] == {"tpm": "200000000", "tokens": "5000000/month"}
    assert lists(live, made.json()["key"]) == 200


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [("POST", "", {}), ("PATCH", "/{}", {}), ("POST", "/{}/rotate", {}), ("DELETE", "/{}", None)],
)
def test_a_key_in_place_of_its_name_is_told_and_kept_nowhere(
    shared: RunningGateway, method: str, path: str, body: Any
) -> None:
    """Whoever takes a key for its name is told so; neither the answer nor any line of the audit has it."""
    key = new_key()
    document = {"name": key} if path == "" else body
    answer = ask(shared, method, KEYS + path.format(key), json=document)
    assert answer.status_code == 400
    assert "that is a key itself, and not its name" in answer.text
    assert key not in answer.text
    assert key not in ask(shared, "GET", "/ops/v1/audit").text


def test_a_connection_that_is_kept_forgets_its_key(live: RunningGateway) -> None:
    """A head that was decided on before is decided on anew once the keys have changed."""
    key = ask(live, "POST", KEYS, json={"name": "alice"}).json()["key"]
    with httpx.Client(base_url=live.url, headers={"authorization": f"Bearer {key}"}, timeout=PATIENCE) as client:
        assert [client.get("/api/tags").status_code for _ in range(3)] == [200] * 3
        ask(live, "PATCH", f"{KEYS}/alice", json={"scopes": ["admin"]})
        assert client.post("/api/chat", json=dict(OLLAMA.body)).status_code == 403
        ask(live, "DELETE", f"{KEYS}/alice")
        assert client.get("/api/tags").status_code == 401


def test_a_connection_that_is_kept_forgets_what_its_key_might(tmp_path: Path) -> None:
    """A key that another process has narrowed while its connection was quiet may no more than what is left to it, from
    the first request on.
    """
    clock, key = MovedClock(), new_key()
    with running(tmp_path, clock=clock) as live:
        store = KeyStore(live.facts, clock)
        store.make("alice", hash_of(key), KeySettings(("chat", "admin")), by="somebody")
        with httpx.Client(base_url=live.url, headers={"authorization": f"Bearer {key}"}, timeout=PATIENCE) as client:

            def copies() -> int:
                return client.post("/api/copy", json={"source": "llama3.2", "destination": "mine"}).status_code

            assert [copies() for _ in range(3)] == [200] * 3
            store.change("alice", lambda told: replace(told, scopes=("chat",)), by="somebody")
            clock.tick(TRUSTED.total_seconds() + 1)
            assert [copies() for _ in range(3)] == [403] * 3


def test_what_another_process_revoked_ends_here_as_well(tmp_path: Path) -> None:
    """The thread that reads while something is under way ends it: nobody has to ask for that."""
    endless = Endless(OLLAMA)
    with running(tmp_path, endless) as live, httpx.Client(base_url=live.url, timeout=PATIENCE) as client:
        key = new_key()
        store = KeyStore(live.facts, SystemClock())
        store.make("alice", hash_of(key), KeySettings(), by="somebody")
        headers = {"authorization": f"Bearer {key}"}
        with client.stream("POST", "/api/chat", json=dict(OLLAMA.body), headers=headers) as stream:
            pieces = stream.iter_raw()
            next(pieces)
            store.revoke("alice", by="somebody")
            assert b"was revoked" in b"".join(pieces)


def test_keys_that_are_made_at_once_are_all_made(live: RunningGateway) -> None:
    """Racing administrators lose nothing to one another."""
    barrier = threading.Barrier(8)

    def make(number: int) -> int:
        if number < 8:
            barrier.wait(PATIENCE)
        return ask(live, "POST", KEYS, json={"name": f"k{number}"}).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(make, range(24))) == {201}
    assert len(ask(live, "GET", KEYS).json()["keys"]) == 27
