"""Who did what at the gateway: every route that changes something leaves a line, whoever asks, and no secret in it."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.gateway.protocol.routes import TABLE
from jobs.access.acts import ACTS
from jobs.access.keys.key_records import KeySettings
from jobs.access.keys.key_store import KeyStore
from jobs.access.keys.proofs import hash_of, new_key
from jobs.core.progress import Reading
from jobs.ledger.job import Ending
from jobs.ledger.ledger import Ledger
from jobs.store import keys
from jobs.store.sqlite import SqliteQueue
from tests.support.gateways import CLOCK, RunningGateway, gateway
from tests.support.stores import claimed
from tests.support.waiting import PATIENCE

ADMIN, CHAT, LLAMA = new_key(), new_key(), new_key()
KEYS = "\n".join(
    (
        f"root {hash_of(ADMIN)} admin chat",
        f"chatty {hash_of(CHAT)} chat",
        f"narrow {hash_of(LLAMA)} admin models=llama*",
    )
)
CANARY = "canary-of-a-secret"
SECRETS = {"username": CANARY, "password": CANARY, "prompt": CANARY, "system": CANARY, "messages": [CANARY]}

Line = dict[str, Any]


class Asker:
    """Asks a gateway with a key; every request carries secrets where a client might."""

    def __init__(self, running: RunningGateway, key: str) -> None:
        self.running = running
        self._headers = {"x-api-key": key, "cookie": CANARY, "user-agent": CANARY}

    def __call__(self, method: str, path: str, body: Any = None) -> httpx.Response:
        url = f"{self.running.url}{path}"
        answer = httpx.request(method, url, json=body, headers=self._headers, timeout=PATIENCE)
        assert answer.status_code != 500, answer.text
        return answer

    def first_line(self, method: str, path: str, body: Any) -> httpx.Response:
        """Its answer, of which no more is read than a line."""
        url = f"{self.running.url}{path}"
        with httpx.stream(method, url, json=body, headers=self._headers, timeout=PATIENCE) as answer:
            next(answer.iter_lines(), "")
            return answer

    @contextmanager
    def ledger(self) -> Iterator[Ledger]:
        """The one that the gateway has."""
        with closing(SqliteQueue(self.running.path, clock=CLOCK)) as queue:
            yield Ledger(queue, self.running.facts, CLOCK)

    def failed(self, kind: str = "pull", subject: str = "gone:latest") -> str:
        """The id of a job that failed for good."""
        with self.ledger() as ledger:
            id = ledger.post(kind, subject, {"model": subject}, by="test").job.id
            ledger.end(claimed(ledger, id), Ending("failed", "network", "cut"), Reading())
        return id

    def queued(self) -> str:
        """The id of a job that nobody works on."""
        with self.ledger() as ledger:
            return ledger.post("pull", "slow:latest", {"model": "slow"}, by="test").job.id


Do = Callable[[Asker], httpx.Response]


def of_failed(what: str) -> Do:
    return lambda ask: ask("POST", f"/ops/v1/jobs/{ask.failed()}/{what}", SECRETS)


def of_key(method: str, below: str, body: Any) -> Do:
    def do(ask: Asker) -> httpx.Response:
        found = KeyStore(ask.running.facts, CLOCK)
        found.make("ann", hash_of("omk_ann"), KeySettings(), by="test")
        return ask(method, f"/ops/v1/keys/ann{below}", body)

    return do


def post_job(ask: Asker) -> httpx.Response:
    return ask("POST", "/ops/v1/jobs", {"kind": "pull", "model": "llama3.2"})


def cancel(ask: Asker) -> httpx.Response:
    return ask("POST", f"/ops/v1/jobs/{ask.queued()}/cancel", SECRETS)


def pull(ask: Asker) -> httpx.Response:
    return ask.first_line("POST", "/api/pull", {"model": "llama3.2", **SECRETS})


def delete(ask: Asker) -> httpx.Response:
    """Of an alias, for which nobody waits."""
    ask("POST", "/api/copy", {"source": "llama3.2", "destination": "llama-too"})
    return ask("DELETE", "/api/delete", {"model": "llama-too", **SECRETS})


def copy(ask: Asker) -> httpx.Response:
    return ask("POST", "/api/copy", {"source": "llama3.2", "destination": "llama-two", **SECRETS})


def refused(method: str, path: str) -> Do:
    return lambda ask: ask(method, path, {"model": "llama3.2", **SECRETS})


DONE: dict[str, tuple[Do, str]] = {
    "POST /ops/v1/jobs": (post_job, "posted"),
    "POST /ops/v1/jobs/{id}/cancel": (cancel, "done"),
    "POST /ops/v1/jobs/{id}/retry": (of_failed("retry"), "posted"),
    "POST /ops/v1/jobs/{id}/dismiss": (of_failed("dismiss"), "done"),
    "POST /ops/v1/jobs/retry": (lambda ask: ask("POST", "/ops/v1/jobs/retry?kind=pull&class=network", SECRETS), "done"),
    "POST /ops/v1/jobs/dismiss": (
        lambda ask: ask("POST", "/ops/v1/jobs/dismiss?kind=pull&class=network", SECRETS),
        "done",
    ),
    "POST /ops/v1/keys": (lambda ask: ask("POST", "/ops/v1/keys", {"name": "ann"}), "done"),
    "PATCH /ops/v1/keys/{name}": (of_key("PATCH", "", {"limits": {"rpm": "5"}}), "done"),
    "POST /ops/v1/keys/{name}/rotate": (of_key("POST", "/rotate", {}), "done"),
    "DELETE /ops/v1/keys/{name}": (of_key("DELETE", "", None), "done"),
    "POST /api/pull": (pull, "posted"),
    "DELETE /api/delete": (delete, "done"),
    "POST /api/copy": (copy, "done"),
    "POST /api/create": (refused("POST", "/api/create"), "refused"),
    "POST /api/push": (refused("POST", "/api/push"), "refused"),
    "POST /api/blobs/{digest}": (refused("POST", f"/api/blobs/sha256:{'0' * 64}"), "refused"),
    "HEAD /api/blobs/{digest}": (refused("HEAD", f"/api/blobs/sha256:{'0' * 64}"), "refused"),
}
"""How each route that changes something is asked, and how that ends."""

OWN = {
    "POST /ops/v1/batches/{id}/cancel",
    "DELETE /v1/files/{id}",
    "POST /v1/batches/{id}/cancel",
    "POST /v1/messages/batches/{id}/cancel",
    "DELETE /v1/messages/batches/{id}",
}
"""What any key may do to its own, and an administrator to others'. Only what he does is a line, as the tests of
app/gateway/batches and app/gateway/dashboard/batches show."""

CHANGE_NOTHING = {"POST /ops/v1/batches/estimate"}


@contextmanager
def served(folder: Path) -> Iterator[RunningGateway]:
    with gateway(folder, {"a10g": "http://127.0.0.1:1"}, keys=KEYS) as running:
        yield running


def read(ask: Asker, query: str = "") -> list[Line]:
    answer = ask("GET", f"/ops/v1/audit{query}")
    assert answer.status_code == 200, answer.text
    found: list[Line] = answer.json()["lines"]
    return found


def stored(running: RunningGateway) -> list[Any]:
    running.composed._audit_thread.audit.write_rest()
    return [fact for _, fact in sorted(running.facts.items(keys.AUDIT))]


def test_the_table_has_every_route_that_changes_something(tmp_path: Path) -> None:
    """Each route of the API but the reading ones, and each of Ollama's that wants an admin, has its act, and its way to
    be tried here; and the table names no other."""
    with served(tmp_path) as running:
        paths = httpx.get(f"{running.url}/ops/v1/openapi.json", headers={"x-api-key": ADMIN}, timeout=PATIENCE).json()[
            "paths"
        ]
    changing = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods if method != "get"}
    changing |= {f"{method} {entry.path}" for entry in TABLE if entry.scope == "admin" for method in entry.methods}
    told = {route for recorded in ACTS.values() for route in recorded.routes}
    of_table = {f"{method} {entry.path}" for entry in TABLE for method in entry.methods}
    assert changing | of_table >= OWN
    assert changing - CHANGE_NOTHING | OWN == told == set(DONE) | OWN


@pytest.mark.parametrize("route", DONE)
def test_each_change_is_a_line(tmp_path: Path, route: str) -> None:
    """What an administrator asks for, and how it went, is a line with his key's name and the request's id; no secret of
    the request stands in it."""
    do, outcome = DONE[route]
    with served(tmp_path) as running:
        answer = do(Asker(running, ADMIN))
        line = stored(running)[-1]
    assert route in ACTS[line["act"]].routes
    assert (line["who"], line["outcome"], line["count"]) == ("root", outcome, 1)
    assert line["request"] == answer.headers["x-request-id"]
    assert line["outcome"] != "posted" or line["job"]
    assert not any(secret in json.dumps(line) for secret in (CANARY, ADMIN, hash_of(ADMIN)))


@pytest.mark.parametrize("route", DONE)
def test_who_may_not_is_a_line_as_well(tmp_path: Path, route: str) -> None:
    """A caller without the scope is refused, and told of; a hundred times is one line, and nothing was changed."""
    do, _ = DONE[route]
    with served(tmp_path) as running:
        ask = Asker(running, CHAT)
        assert {do(ask).status_code for _ in range(100 if "blobs" in route else 5)} == {403}
        found = [line for line in stored(running) if route in ACTS[line["act"]].routes]
    (line,) = found
    assert (line["who"], line["outcome"], line["class"], line["subject"]) == ("chatty", "refused", "Forbidden", "")
    assert line["count"] == (100 if "blobs" in route else 5)
    assert not any(secret in json.dumps(line) for secret in (CANARY, CHAT))


REFUSED: dict[str, tuple[Do, str]] = {
    "a registry that is not allowed": (
        lambda ask: ask("POST", "/ops/v1/jobs", {"kind": "delete", "model": "nonesuch"}),
        "NotFound",
    ),
    "a job that there is not": (lambda ask: ask("POST", "/ops/v1/jobs/nonesuch-1/retry"), "NotFound"),
    "a job that has not failed": (
        lambda ask: ask("POST", f"/ops/v1/jobs/{ask.queued()}/dismiss"),
        "Refused",
    ),
    "a group that is never tried again": (
        lambda ask: ask("POST", "/ops/v1/jobs/retry?kind=delete&class=network"),
        "Refused",
    ),
    "a copy of what is not here": (
        lambda ask: ask("POST", "/api/copy", {"source": "nonesuch", "destination": "b"}),
        "NotFound",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_refusal_is_told_with_its_class(tmp_path: Path, what: str) -> None:
    """What an administrator asks for and is refused is a line that says why, by its class."""
    do, why = REFUSED[what]
    with served(tmp_path) as running:
        assert do(Asker(running, ADMIN)).status_code >= 400
        assert [(line["outcome"], line["class"]) for line in stored(running)] == [("refused", why)]


def test_a_job_that_runs_already_is_attached_to(tmp_path: Path) -> None:
    """Whoever asks for what is under way has a line of his own, with the job that he shares."""
    with served(tmp_path) as running:
        for key in (ADMIN, LLAMA):
            post_job(Asker(running, key))
        first, second = stored(running)
    told = [(line["who"], line["outcome"]) for line in (first, second)]
    assert told == [("root", "posted"), ("narrow", "attached")]
    assert first["job"] == second["job"]


def test_the_api_tells_it_to_administrators(tmp_path: Path) -> None:
    """A page, the newest first, of a key or an act or since a time; who has no admin's key hears nothing, and one for
    some models hears of what was done with it."""
    with served(tmp_path) as running:
        ask, narrow = Asker(running, ADMIN), Asker(running, LLAMA)
        post_job(ask)
        cancel(ask)
        post_job(narrow)
        assert [line["act"] for line in read(ask)] == ["pull", "cancel", "pull"]
        first = ask("GET", "/ops/v1/audit?limit=2").json()
        rest = ask("GET", f"/ops/v1/audit?limit=2&before={first['next']}").json()
        assert [len(first["lines"]), len(rest["lines"]), rest["next"]] == [2, 1, None]
        assert [line["act"] for line in read(ask, "?act=cancel&since=1d")] == ["cancel"]
        assert [line["who"] for line in read(ask, "?who=narrow")] == ["narrow"]
        assert [line["who"] for line in read(narrow)] == ["narrow"]
        assert read(narrow, "?who=root") == []
        assert Asker(running, CHAT)("GET", "/ops/v1/audit").status_code == 403
        assert httpx.get(f"{running.url}/ops/v1/audit", timeout=PATIENCE).status_code == 401


def test_a_check_is_no_act(tmp_path: Path) -> None:
    """Who asks whether a job would be refused has done nothing."""
    with served(tmp_path) as running:
        ask = Asker(running, ADMIN)
        assert ask("POST", "/ops/v1/jobs?check=true", {"kind": "pull", "model": "llama3.2"}).status_code == 204
        assert stored(running) == []


def test_what_was_counted_is_written_as_the_gateway_ends(tmp_path: Path) -> None:
    """An end of the gateway loses no line: outcomes and counts that its thread had not written are."""
    with served(tmp_path) as running:
        for _ in range(3):
            post_job(Asker(running, CHAT))
        post_job(Asker(running, ADMIN))
        running.server.stop()
        lines = [fact for _, fact in running.facts.items(keys.AUDIT)]
    assert sorted((line["who"], line["outcome"], line["count"]) for line in lines) == [
        ("chatty", "refused", 3),
        ("root", "posted", 1),
    ]
