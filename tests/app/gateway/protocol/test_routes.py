"""The table of routes: complete against Ollama's, true to its document, and the same as what is answered."""

import json
import re
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engines.llama_server import LLAMA_SERVER
from app.engines.ollama import OLLAMA
from app.gateway.batches.handlers import PATHS
from app.gateway.protocol.routes import TABLE, RouteEntry, clean, find, speech_of
from jobs.access.keys.proofs import hash_of
from jobs.testing.ollama.http import ROUTES
from tests.support.checkout import ROOT
from tests.support.dialects import TALK
from tests.support.gateways import gateway
from tests.support.scripted_server import ScriptedServer
from tests.support.waiting import PATIENCE

README = ROOT / "app" / "README.md"

REGISTERED = """
GET HEAD / | GET HEAD /api/version | GET /api/status | POST /api/pull | POST /api/push | GET HEAD /api/tags
POST /api/show | DELETE /api/delete | POST /api/me | POST /api/signout | DELETE /api/user/keys/{key} | POST /api/create
POST HEAD /api/blobs/{digest} | POST /api/copy | POST /api/experimental/web_search | POST /api/experimental/web_fetch
GET /api/experimental/model-recommendations | GET /api/ps | POST /api/generate | POST /api/chat | POST /api/embed
POST /api/embeddings | POST /v1/chat/completions | POST /v1/completions | POST /v1/embeddings | GET /v1/models
GET /v1/models/{model} | POST /v1/responses | POST /v1/audio/transcriptions | POST /v1/messages
"""
"""What ollama 0.32.15 registers (server/routes.go:1876-1926)."""


def registered() -> set[tuple[str, frozenset[str]]]:
    routes = [each.split() for line in REGISTERED.strip().splitlines() for each in line.split(" | ")]
    return {(path, frozenset(methods)) for *methods, path in routes}


def _is_read(path: str, methods: frozenset[str]) -> bool:
    return "GET" in methods and not path.startswith("/api/experimental/")  # which is refused


def test_the_table_is_complete() -> None:
    """Every route that Ollama registers is in the table, with its methods and HEAD beside GET; what else is there is
    spoken by another engine, or by none, or is about batches."""
    with_head = {(path, methods | {"HEAD"} if _is_read(path, methods) else methods) for path, methods in registered()}
    others = LLAMA_SERVER.routes - OLLAMA.routes
    served = [entry for entry in TABLE if entry.action != "unserved" and entry.path not in {*others, *PATHS}]
    assert {(entry.path, frozenset(entry.methods)) for entry in served} == with_head
    assert set(ROUTES) <= {entry.path for entry in TABLE}


def test_the_document_shows_the_table() -> None:
    """app/README.md shows the table as the code has it, line by line."""
    row = r"^\| ([A-Z, ]+) \| `(/[^`]*)` \| (\w+) \| (\w+) \| (.*?) ?\|$"
    told = re.findall(row, README.read_text("utf-8"), re.MULTILINE)
    assert told == [(", ".join(entry.methods), entry.path, entry.action, entry.scope, entry.why) for entry in TABLE]


def test_whatever_is_refused_says_why() -> None:
    """Each route that is refused has its reason, and whatever changes something needs the admin scope."""
    assert all(entry.why for entry in TABLE if entry.action in {"refused", "unserved"})
    changing = {"/api/pull", "/api/delete", "/api/copy", "/api/create", "/api/push", "/api/blobs/{digest}"}
    assert {entry.path for entry in TABLE if entry.scope == "admin"} == changing


@given(st.text(alphabet="/ab.", max_size=12))
def test_cleaning_ends(path: str) -> None:
    """A clean path has no doubled slash and none at its end, and cleaning it again changes nothing."""
    cleaned = clean(path)
    assert clean(cleaned) == cleaned
    assert "//" not in cleaned
    assert cleaned == "/" or not cleaned.endswith("/")


@pytest.mark.parametrize("path", ["", "/api", "/api/chat/x", "/v1", "/v2/models", "/api/chat.", "/etc/passwd"])
def test_strange_paths_find_nothing(path: str) -> None:
    """What is not in the table is nowhere."""
    assert find(path) is None


def test_a_model_with_slashes_is_found() -> None:
    """`/v1/models/` takes all that follows for the model, which Ollama does not."""
    found = find("/v1/models/hf.co/user/repo:Q4_K_M")
    assert found is not None
    assert (found[0].path, found[1]) == ("/v1/models/{model}", "hf.co/user/repo:Q4_K_M")


@pytest.mark.parametrize(
    ("path", "entry", "below"),
    [
        ("/v1/files/file-a", "/v1/files/{id}", "file-a"),
        ("/v1/files/file-a/content", "/v1/files/{id}/content", "file-a"),
        ("/v1/files/content", "/v1/files/{id}", "content"),
        ("/v1/batches/batch_a/cancel", "/v1/batches/{id}/cancel", "batch_a"),
        ("/v1/messages/batches/msgbatch_a", "/v1/messages/batches/{id}", "msgbatch_a"),
        ("/v1/messages/batches/msgbatch_a/results", "/v1/messages/batches/{id}/results", "msgbatch_a"),
    ],
)
def test_what_stands_between_is_found(path: str, entry: str, below: str) -> None:
    """An id is one segment, with or without something behind it."""
    found = find(path)
    assert found is not None
    assert (found[0].path, found[1]) == (entry, below)


@pytest.mark.parametrize(
    "path", ["/v1/files/a/b", "/v1/files/a/b/content", "/v1/batches/a/b", "/v1/batches/a/cancel/b"]
)
def test_an_id_has_no_slash(path: str) -> None:
    """What has more segments than the table says is nowhere."""
    assert find(path) is None


def test_every_entry_does_what_it_says(tmp_path: Path) -> None:
    """Over the wire each route is passed, answered, made a job or refused as the table says, and needs its scope."""
    keys = f"chat {hash_of('omk_c')} chat\nboth {hash_of('omk_a')} chat admin"
    copy = {"source": "llama3.2", "destination": "copy"}
    asks = {
        "model": "llama3.2",
        "messages": TALK,
        "max_tokens": 1,
        "input": "hi",
        "prompt": "hi",
        "stream": False,
    } | copy
    body = json.dumps(asks).encode()

    def asked(entry: RouteEntry, method: str, key: str, content: bytes = body) -> httpx.Response:
        path = re.sub(r"\{.*\}", "llama3.2", entry.path)
        headers = {"authorization": f"Bearer {key}"}
        return httpx.request(method, f"{running.url}{path}", content=content, headers=headers, timeout=PATIENCE)

    with (
        ScriptedServer(lambda _, line: line.document({"done": True})) as server,
        gateway(tmp_path, {"a10g": server.url}, keys=keys) as running,
    ):
        for entry in TABLE:
            for method in entry.methods:
                before = len(server.asked)
                content = b"{}" if entry.action == "job" else body
                answer = asked(entry, method, "omk_a", content)
                wanted = {"passed": 200, "here": 200, "job": 400, "refused": 403, "unserved": 501}[entry.action]
                if entry.path == "/v1/audio/transcriptions":
                    wanted = 400  # this body is no form
                if entry.path in PATHS or (entry.action == "passed" and not OLLAMA.speaks(entry.path)):
                    wanted = 501
                assert answer.status_code == wanted, (entry.path, answer.text)
                passed = entry.action == "passed" and wanted == 200
                # `show` of a model whose files are not here is the one that falls back to a server.
                assert len(server.asked) - before == (passed or entry.path == "/api/show"), entry.path
                if entry.scope == "admin":
                    assert asked(entry, method, "omk_c").status_code == 403
                is_open = (method, entry.path) == ("HEAD", "/")  # by which Ollama's command asks who is there
                assert asked(entry, method, "omk_x").status_code == (200 if is_open else 401)
            wrong = asked(entry, "PUT", "omk_a")
            assert wrong.status_code == 405
            assert wrong.headers["allow"] == ", ".join(entry.methods)


def test_errors_follow_the_path() -> None:
    """The shape of an error is that of the interface whose path was asked, known or not."""
    assert [speech_of(path) for path in ("/api/x", "/nowhere", "/v1/x", "/v1/messages/count_tokens")] == [
        "ollama",
        "ollama",
        "openai",
        "anthropic",
    ]
