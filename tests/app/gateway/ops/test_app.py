"""The ops API: jobs over HTTP, how things stand, and what is refused; on a real ledger, events on a real socket."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from app.gateway.auth.keys import ANYONE
from app.gateway.ops.schemas import (
    HealthResponse,
    JobResponse,
    JobsResponse,
    ModelsResponse,
    RouteResponse,
    TiersResponse,
    UsageResponse,
)
from jobs.access.keys.proofs import hash_of
from jobs.core.clock import isoformat
from jobs.core.errors import Trouble
from jobs.core.model_name import ModelName
from jobs.core.progress import Reading
from jobs.core.since import EXAMPLES
from jobs.ledger.job import Ending
from jobs.ledger.kinds import KINDS
from jobs.ledger.ledger import Ledger
from jobs.models.near_names import absent
from jobs.testing.clock import HandClock
from tests.support.ops_api import (
    ADMIN_KEY,
    CHAT_KEY,
    ENDED_REQUEST,
    LLAMA_KEY,
    MODELS,
    TIERS,
    USAGE,
    OpsApi,
    archive_of,
    ops_api,
    served,
)
from tests.support.stores import claimed
from tests.support.waiting import PATIENCE

LEASE = timedelta(seconds=30)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[OpsApi]:
    """A ledger whose clock is moved by hand, and an ops API over it."""
    with ops_api(tmp_path, HandClock()) as opened:
        yield opened


@pytest.fixture
def hand(api: OpsApi) -> HandClock:
    assert isinstance(api.clock, HandClock)
    return api.clock


@pytest.fixture
def ledger(api: OpsApi) -> Ledger:
    return api.ledger()


@pytest.fixture
def ask(api: OpsApi) -> TestClient:
    """A client with the key of an administrator."""
    return client(api, ADMIN_KEY)


def client(api: OpsApi, key: str | None) -> TestClient:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return TestClient(api.app(), headers=headers, raise_server_exceptions=False)


# -- posting -----------------------------------------------------------------------------------------------------------


def test_a_post_is_a_job_as_the_command_line_tells_it(ask: TestClient, api: OpsApi, ledger: Ledger) -> None:
    """201 with the job's own JSON, posted in the key's name, and where it is in Location; its lane gets a worker."""
    answer = ask.post("/ops/v1/jobs", json={"kind": "pull", "model": "Llama3.2"})
    assert answer.status_code == 201
    job = ledger.reader.get(answer.json()["id"])
    assert answer.json() == job.as_json()
    assert (job.subject, job.posted_by) == ("llama3.2:latest", "root")
    assert job.request == {"model": "Llama3.2", "way": "auto", "rate_limit": None}
    assert api.sent_lanes == ["weights"]
    assert ask.get(answer.headers["location"]).json() == answer.json()


def test_the_second_post_shares_the_first(ask: TestClient) -> None:
    """200 with the job that is under way, and no second one."""
    first = ask.post("/ops/v1/jobs", json={"kind": "pull", "model": "llama3.2"})
    second = ask.post("/ops/v1/jobs", json={"kind": "pull", "model": "LLAMA3.2:latest", "way": "server"})
    assert (second.status_code, second.json()["id"]) == (200, first.json()["id"])


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            {"kind": "pull", "model": "tiny", "way": "server", "rate_limit": 5, "attempts": 2},
            ("tiny:latest", {"model": "tiny", "way": "server", "rate_limit": 5}, "weights"),
        ),
        ({"kind": "verify"}, ("*", {"model": None}, "weights")),
        ({"kind": "verify", "model": "tiny"}, ("tiny:latest", {"model": "tiny"}, "weights")),
        (
            {"kind": "warm", "model": "tiny", "tier": "a10g"},
            ("tiny:latest", {"model": "tiny", "tier": "a10g"}, "servers"),
        ),
        ({"kind": "delete", "model": "tiny"}, ("tiny:latest", {"model": "tiny"}, "weights")),
        ({"kind": "rollback", "model": "tiny"}, ("tiny:latest", {"model": "tiny"}, "weights")),
        ({"kind": "prune"}, ("*", {"unused_days": None, "empty_trash": None}, "weights")),
        (
            {"kind": "prune", "unused_days": 30, "empty_trash": True},
            ("*", {"unused_days": 30.0, "empty_trash": True}, "weights"),
        ),
    ],
)
def test_each_kind_is_posted_as_the_command_line_does(
    ask: TestClient, api: OpsApi, body: dict[str, Any], expected: tuple[str, dict[str, Any], str]
) -> None:
    """The request in the ledger is the same, so that workers and retries cannot tell who posted."""
    job = ask.post("/ops/v1/jobs", json=body).json()
    subject, request, lane = expected
    assert (job["kind"], job["subject"], job["request"]) == (body["kind"], subject, request)
    assert job["attempts_allowed"] == body.get("attempts", KINDS[body["kind"]].attempts)
    assert api.sent_lanes == [lane]


def test_archived_jobs_are_told_too(ask: TestClient, api: OpsApi) -> None:
    """A list goes on into what has left the ledger, newest first, each once; by its id it is told as well."""
    id = ask.post("/ops/v1/jobs", json={"kind": "pull", "model": "tiny"}).json()["id"]
    new = api.ledger().reader.get(id)
    old = replace(new, id="old-1", posted_at=new.posted_at - timedelta(days=40))
    ops_context = api.ops_context(archive=archive_of(api.folder, old, new))
    then = TestClient(api.app(ops_context), headers={"x-api-key": ADMIN_KEY})

    def listed(**query: str | int) -> list[str]:
        return [job["id"] for job in then.get("/ops/v1/jobs", params=query).json()["jobs"]]

    assert listed() == [id, "old-1"]
    assert listed(since="2000-01-01T00:00:00Z") == [id, "old-1"]
    assert listed(since="2000-01-01T00:00:00Z", kind="warm") == []
    assert listed(since="2000-01-01T00:00:00Z", before=id) == ["old-1"]
    assert (listed(since="7d"), listed(since="60d"), listed(since="2000-01-01")) == ([id], [id, "old-1"], [id, "old-1"])
    assert then.get("/ops/v1/jobs/old-1").json() == old.as_json()
    assert then.get("/ops/v1/jobs/nonesuch-1").status_code == 404


def test_a_worker_that_cannot_be_sent_loses_no_job(api: OpsApi, ledger: Ledger) -> None:
    """What is posted is posted, though the platform refuses to send a worker now."""

    def broken(_: str) -> None:
        raise RuntimeError("the platform is away")

    ask = TestClient(api.app(api.ops_context(send_worker=broken)), headers={"x-api-key": ADMIN_KEY})
    answer = ask.post("/ops/v1/jobs", json={"kind": "pull", "model": "tiny"})
    assert answer.status_code == 201
    assert ledger.reader.get(answer.json()["id"]).kind == "pull"


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"kind": "pull"}, 422, "body.pull.model: Field required"),
        ({"kind": "dance", "model": "tiny"}, 422, "'dance'"),
        ({"model": "tiny"}, 422, "kind"),
        ({"kind": "pull", "model": "tiny", "attempts": 0}, 422, "attempts"),
        ({"kind": "pull", "model": "tiny", "attempts": "3"}, 422, "attempts"),
        ({"kind": "pull", "model": "tiny", "attemps": 3}, 422, "attemps"),
        ({"kind": "pull", "model": "../../etc/passwd"}, 400, "3 slashes"),
        ({"kind": "pull", "model": "a/b/c/d"}, 400, "3 slashes"),
        ({"kind": "delete", "model": "tiny@sha256:00"}, 400, "pins a digest"),
        ({"kind": "warm", "model": "$(reboot)"}, 400, "is not a model name"),
        ({"kind": "pull", "model": "x" * 900}, 422, "at most 700"),
    ],
)
def test_a_wrong_post_is_refused_with_what_is_wrong(
    ask: TestClient, api: OpsApi, body: dict[str, Any], status: int, said: str
) -> None:
    """The failure's one shape, and nothing in the ledger."""
    answer = ask.post("/ops/v1/jobs", json=body)
    assert answer.status_code == status, answer.text
    assert said in answer.json()["error"]
    assert answer.json()["hint"]
    assert api.ledger().reader.ids() == []


@pytest.mark.parametrize(
    ("content", "status"),
    [(b"", 422), (b"{", 422), (b"null", 422), (b"[" * 60_000, 400), (b'{"kind": "pull", "model": "\xff"}', 400)],
)
def test_a_body_that_is_no_json_is_refused(ask: TestClient, content: bytes, status: int) -> None:
    """Empty, cut off, sixty thousand deep, or not UTF-8: said in the one shape, and we are still there."""
    answer = ask.post("/ops/v1/jobs", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]
    assert ask.get("/ops/v1/jobs").status_code == 200


def test_a_body_that_would_fill_our_memory_is_cut_off(ask: TestClient) -> None:
    """More than 64 KiB is 413: what is posted here is a few names."""
    answer = ask.post("/ops/v1/jobs", content=b" " * (2 << 20), headers={"content-type": "application/json"})
    assert answer.status_code == 413
    assert "more than 65,536 bytes" in answer.json()["error"]


@pytest.mark.parametrize("name", ["x" * 10_000, "\x1b[2J" * 20, "a\r\nb", "\u202egnp.exe"])
def test_the_name_of_an_unknown_field_is_not_echoed_whole(ask: TestClient, name: str) -> None:
    """Of a field that nobody knows its place is told: cut, on one line, and with nothing that moves a cursor."""
    answer = ask.post("/ops/v1/jobs", json={"kind": "pull", "model": "llama3.2", name: 1})
    assert answer.status_code == 422
    said = answer.json()["error"]
    assert said.startswith("body.pull.")
    assert len(said) < 600
    assert said.isprintable()
    assert name not in said


# -- about jobs --------------------------------------------------------------------------------------------------------


def test_jobs_are_listed_by_what_is_asked(ask: TestClient, ledger: Ledger, hand: HandClock) -> None:
    """By kind, state, subject, time and beginning of the id; newest first."""
    posted = []
    for kind, model in [("pull", "a"), ("pull", "b"), ("delete", "a"), ("warm", "c")]:
        posted.append(ledger.post(kind, f"{model}:latest", {"model": model}, by="t").job)
        hand.tick(60)
    ledger.cancel(posted[1].id, by="t")
    a, b, c, d = (job.id for job in posted)

    def ids(**query: Any) -> list[str]:
        told = ask.get("/ops/v1/jobs", params=query).json()
        JobsResponse.model_validate(told)
        return [job["id"] for job in told["jobs"]]

    assert ids() == [d, c, b, a]
    assert ids(kind="pull") == [b, a]
    assert ids(state="cancelled") == [b]
    assert ids(state="queued", kind="pull") == [a]
    assert ids(subject="a:latest") == [c, a]
    assert ids(since=isoformat(posted[2].posted_at)) == [d, c]
    assert ids(begin=a[:4]) == [a]
    assert ids(limit=2) == [d, c]
    assert ids(limit=2, before=c) == [b, a]
    assert ids(before="nope-1") == []


@pytest.mark.parametrize(
    "query",
    [
        {"kind": "dance"}, {"state": "lost"}, {"limit": "0"}, {"limit": "1001"}, {"limit": "x"}, {"since": "monday"},
        {"since": "2026-01-01T00:00:00"}, {"begin": "../"}, {"before": "%"},
    ],
)  # fmt: skip
def test_a_wrong_filter_is_refused(ask: TestClient, query: dict[str, str]) -> None:
    """A filter that can fit nothing, or a list without end, is a mistake of the caller, and is said to be one."""
    answer = ask.get("/ops/v1/jobs", params=query)
    assert answer.status_code in {400, 422}
    assert set(answer.json()) == {"error", "hint"}


def test_a_job_is_told_with_its_whole_story(ask: TestClient, ledger: Ledger) -> None:
    """Every attempt, as `ollama-modal job ID --json` prints it, and as the document describes it."""
    id = ledger.post("pull", "a:latest", {"model": "a"}, by="t").job.id
    claim = claimed(ledger, id)
    ledger.end(claim, Ending("retry", "network", "the cable", "plug it in", not_before=claim.held_until), Reading())
    told = ask.get(f"/ops/v1/jobs/{id}").json()
    assert told == ledger.reader.get(id).as_json()
    JobResponse.model_validate(told)
    assert told["attempts"][0]["class"] == "network"


def test_a_job_is_cancelled_and_tried_again(ask: TestClient, ledger: Ledger, api: OpsApi) -> None:
    """Cancel answers with the job as it is then; retry posts it anew, and only when it has ended."""
    id = ledger.post("pull", "a:latest", {"model": "a", "way": "registry"}, by="t", attempts=5).job.id
    early = ask.post(f"/ops/v1/jobs/{id}/retry")
    assert (early.status_code, "only an ended job is retried" in early.json()["error"]) == (400, True)
    assert ask.post(f"/ops/v1/jobs/{id}/cancel").json()["state"] == "cancelled"
    assert ask.post(f"/ops/v1/jobs/{id}/cancel").json()["state"] == "cancelled"
    again = ask.post(f"/ops/v1/jobs/{id}/retry")
    assert again.status_code == 201
    assert again.json()["id"] != id
    assert again.json()["request"] == {"model": "a", "way": "registry"}
    assert again.json()["attempts_allowed"] == 5
    assert api.sent_lanes == ["weights"]


@pytest.mark.parametrize("kind", ["delete", "verify", "rollback", "warm"])
def test_a_job_about_nothing_is_404(api: OpsApi, ledger: Ledger, kind: str) -> None:
    """What is not here is told with the names that come near, and not posted; what is being pulled is."""
    known = [ModelName.parse("llama3.2")]
    context = api.ops_context(absent=lambda _, name, may_see: absent(name, known, may_see))
    ask = TestClient(api.app(context), headers={"authorization": f"Bearer {ADMIN_KEY}"})
    answer = ask.post("/ops/v1/jobs", json={"kind": kind, "model": "lama3.2"})
    assert (answer.status_code, "did you mean llama3.2:latest" in answer.json()["hint"]) == (404, True)
    assert ledger.reader.jobs() == []
    assert ask.post("/ops/v1/jobs", json={"kind": kind, "model": "LLAMA3.2"}).status_code == 201
    ledger.post("pull", "lama3.2:latest", {"model": "lama3.2"}, by="t")
    assert ask.post("/ops/v1/jobs", json={"kind": kind, "model": "lama3.2"}).status_code == 201


def test_a_version_in_the_trash_can_come_back(api: OpsApi) -> None:
    """A model says whether the trash has a version of it that is not the one published now."""
    digest = str(MODELS[0]["digest"])
    for thrown, expected in ((digest, False), ("0" * 64, True)):
        context = api.ops_context(thrown=lambda thrown=thrown: {("llama3.2:latest", thrown)})
        ask = TestClient(api.app(context), headers={"authorization": f"Bearer {ADMIN_KEY}"})
        assert [each["can_roll_back"] for each in ask.get("/ops/v1/models").json()["models"]] == [expected]


def test_what_failed_is_dismissed(ask: TestClient, ledger: Ledger) -> None:
    """A job that failed for good is dismissed and says so; one that goes on is refused."""
    id = ledger.post("pull", "a:latest", {"model": "a"}, by="t").job.id
    assert ask.post(f"/ops/v1/jobs/{id}/dismiss").status_code == 400
    ledger.end(claimed(ledger, id), Ending("failed", "not_found", "no such model"), Reading())
    told = ask.post(f"/ops/v1/jobs/{id}/dismiss")
    assert (told.status_code, told.json()["dismissed"]) == (200, True)
    JobResponse.model_validate(told.json())


def test_a_superseded_delete_is_posted_only_anyway(ask: TestClient, ledger: Ledger) -> None:
    """A retry of a delete is refused with what was done since to that model; with `anyway` it is posted."""
    deleted = ledger.post("delete", "a:latest", {"model": "a"}, by="t").job.id
    ledger.end(claimed(ledger, deleted), Ending("failed", "network", "cut"), Reading())
    pulled = ledger.post("pull", "a:latest", {"model": "a"}, by="t").job.id
    refused = ask.post(f"/ops/v1/jobs/{deleted}/retry")
    assert refused.status_code == 400
    assert f"since then came pull a:latest (queued, job {pulled})" in refused.json()["error"]
    assert "--anyway" in refused.json()["hint"]
    again = ask.post(f"/ops/v1/jobs/{deleted}/retry", params={"anyway": "true"})
    assert (again.status_code, again.json()["kind"]) == (201, "delete")


@pytest.mark.parametrize("path", ["nope-1", "nope-1/events", "nope-1/cancel", "nope-1/retry"])
def test_a_job_that_is_not_there_is_404(ask: TestClient, path: str) -> None:
    """In the one shape, with what to do."""
    method = "GET" if path.endswith(("1", "events")) else "POST"
    answer = ask.request(method, f"/ops/v1/jobs/{path}")
    assert answer.status_code == 404
    assert answer.json() == {"error": "there is no job 'nope-1'", "hint": "`ollama-modal jobs` lists them"}


# -- who may -----------------------------------------------------------------------------------------------------------

READS = [
    "/ops/v1/jobs", "/ops/v1/jobs/summary", "/ops/v1/models", "/ops/v1/tiers", "/ops/v1/route?model=llama3.2",
    "/ops/v1/usage", "/ops/v1/health", "/ops/v1/openapi.json", "/readyz",
]  # fmt: skip
ADMINS = ["/metrics", "/ops/v1/plan", "/ops/v1/plan/prune"]
CHANGES = [
    ("POST", "/ops/v1/jobs"), ("POST", "/ops/v1/jobs/x-1/cancel"), ("POST", "/ops/v1/jobs/x-1/retry"),
    ("POST", "/ops/v1/jobs/x-1/dismiss"),
    ("POST", "/ops/v1/jobs/retry?kind=pull&class=network"), ("POST", "/ops/v1/jobs/dismiss?kind=pull&class=network"),
    ("POST", "/api/pull"), ("DELETE", "/api/delete"),
]  # fmt: skip


@pytest.mark.parametrize("path", [*READS, *ADMINS, "/ops/v1/jobs/x-1/events", "/nowhere", "/docs", "/ops/v1/jobs/"])
@pytest.mark.parametrize("key", [None, "omk_wrong", "root"])
def test_without_a_good_key_nothing_is_told(api: OpsApi, key: str | None, path: str) -> None:
    """Not even which paths there are: 401, and how to send a key."""
    answer = client(api, key).get(path)
    assert answer.status_code == 401
    assert set(answer.json()) == {"error", "hint"}
    assert "Bearer" in answer.headers["www-authenticate"]


def test_healthz_needs_no_key_and_touches_nothing(api: OpsApi) -> None:
    """It answers though there is no ledger to ask."""

    def gone() -> Ledger:
        raise AssertionError("nobody may open the ledger for this")

    answer = TestClient(api.app(api.ops_context(open_ledger=gone))).get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize("path", READS)
def test_chat_may_read(api: OpsApi, path: str) -> None:
    """A key for chat sees how things stand."""
    assert client(api, CHAT_KEY).get(path).status_code == 200


@pytest.mark.parametrize("path", ADMINS)
def test_what_names_everything_is_for_administrators_of_all(api: OpsApi, path: str) -> None:
    """Meters and plans name all models and keys: 403 for a key for chat, and for an administrator of some models."""
    assert client(api, ADMIN_KEY).get(path).status_code == 200
    for key, said in ((CHAT_KEY, "this needs admin"), (LLAMA_KEY, "all models at once")):
        answer = client(api, key).get(path)
        assert (answer.status_code, said in answer.json()["error"]) == (403, True)


@pytest.mark.parametrize(("method", "path"), CHANGES)
def test_chat_may_change_nothing(api: OpsApi, method: str, path: str) -> None:
    """403 before anything of the request is looked at, and the ledger stays empty."""
    answer = client(api, CHAT_KEY).request(method, path, content=b"nonsense")
    assert answer.status_code == 403
    assert "key 'alice' has the scope chat; this needs admin" in answer.json()["error"]
    assert api.ledger().reader.ids() == []


def test_a_key_for_some_models_changes_only_those(api: OpsApi, ledger: Ledger) -> None:
    """Posting, cancelling and retrying a job about another model, or about all, is refused."""
    ask = client(api, LLAMA_KEY)
    other = ledger.post("pull", "qwen3:latest", {"model": "qwen3"}, by="t").job.id
    assert ask.post("/ops/v1/jobs", json={"kind": "delete", "model": "llama3.2"}).status_code == 201
    for refused in (
        ask.post("/ops/v1/jobs", json={"kind": "delete", "model": "qwen3"}),
        ask.post("/ops/v1/jobs", json={"kind": "verify"}),
        ask.post(f"/ops/v1/jobs/{other}/cancel"),
        ask.post(f"/ops/v1/jobs/{other}/retry"),
        ask.post("/api/pull", json={"model": "qwen3"}),
    ):
        assert refused.status_code == 403
        assert "key 'larry' may not use" in refused.json()["error"]
    assert not ledger.reader.get(other).cancel_asked


def test_over_the_limit_is_429(api: OpsApi, hand: HandClock) -> None:
    """With when to come again; then it passes."""
    app = api.app(api.ops_context(keys=f"bob {hash_of(CHAT_KEY)} rpm=2"))
    ask = TestClient(app, headers={"x-api-key": CHAT_KEY})
    assert [ask.get("/ops/v1/tiers").status_code for _ in range(3)] == [200, 200, 429]
    wait = int(ask.get("/nowhere").headers["retry-after"])
    hand.tick(wait)
    assert ask.get("/ops/v1/tiers").status_code == 200


def test_whoever_the_gateway_let_in_is_not_asked_again(api: OpsApi) -> None:
    """A caller that stands in the scope is let in; no header can put one there."""
    app = api.app()

    async def let_in(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope.setdefault("state", {})["caller"] = ANYONE
        await app(scope, receive, send)

    assert TestClient(let_in).get("/ops/v1/jobs").status_code == 200
    assert TestClient(app, headers={"caller": "anyone", "state": "anyone"}).get("/ops/v1/jobs").status_code == 401


# -- how things stand --------------------------------------------------------------------------------------------------


def test_what_stands_is_told(ask: TestClient, api: OpsApi) -> None:
    """Models, tiers, routes and usage, as they are known here, in the shapes of the document."""
    models = ask.get("/ops/v1/models").json()
    tiers = ask.get("/ops/v1/tiers").json()
    route = ask.get("/ops/v1/route", params={"model": "Llama3.2", "context": 4096}).json()
    usage = ask.get("/ops/v1/usage").json()
    known = [{**each, "can_roll_back": False} for each in MODELS]
    assert (models["models"], tiers["tiers"], usage["usage"]) == (known, TIERS, USAGE)
    assert (route["tier"], route["facts"]) == ("a10g", ["asked for a context of 4096"])
    for shape, told in (
        (ModelsResponse, models),
        (TiersResponse, tiers),
        (RouteResponse, route),
        (UsageResponse, usage),
    ):
        shape.model_validate(told)
    assert ask.get("/ops/v1/usage", params={"since": "2026-09-16"}).json() == {"usage": []}
    assert ask.get("/ops/v1/usage", params={"since": "90d"}).status_code == 200


@pytest.mark.parametrize("path", ["jobs", "usage"])
def test_since_is_what_it_is_in_the_shell(ask: TestClient, path: str) -> None:
    """What the shell refuses is a 400 in the shell's words, with what would be right."""
    answer = ask.get(f"/ops/v1/{path}", params={"since": "soon"})
    assert answer.status_code == 400
    assert answer.json()["error"] == "since 'soon' is no time"
    assert answer.json()["hint"] == EXAMPLES


def test_a_key_for_chat_sees_its_own_usage(api: OpsApi) -> None:
    """What others use is for administrators."""
    assert [row["key"] for row in client(api, CHAT_KEY).get("/ops/v1/usage").json()["usage"]] == ["alice"]


def test_an_unknown_model_has_no_route(ask: TestClient) -> None:
    """404 with how to get it; a name that is none is 400."""
    answer = ask.get("/ops/v1/route", params={"model": "nope"})
    assert (answer.status_code, answer.json()["hint"]) == (404, "pull it: `ollama-modal pull nope:latest`")
    assert ask.get("/ops/v1/route", params={"model": "a b"}).status_code == 400


def test_health_says_ok_or_what_is_wrong(ask: TestClient, api: OpsApi, ledger: Ledger) -> None:
    """It counts jobs and models; what is known being too old is trouble, and not ready."""
    ledger.post("pull", "a:latest", {"model": "a"}, by="t")
    told = ask.get("/ops/v1/health").json()
    HealthResponse.model_validate(told)
    assert (told["status"], told["problems"], told["jobs"]["queued"]) == ("ok", [], 1)
    assert told["models"] == {"count": 1, "bytes": MODELS[0]["size"]}
    assert ask.get("/readyz").json() == {"status": "ready"}
    api.age = timedelta(minutes=3)
    assert ask.get("/ops/v1/health").json()["problems"] == ["the models and servers were last looked at 180 s ago"]
    answer = ask.get("/readyz")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    api.age = None
    assert "not been looked at yet" in ask.get("/readyz").json()["error"]


def test_a_ledger_that_cannot_be_reached_is_not_ready(api: OpsApi) -> None:
    """The probe says so instead of failing itself, and a request is 503 or 500, never silence."""

    def away() -> Ledger:
        raise ConnectionError("the store is away")

    ops_context = api.ops_context(open_ledger=away)
    ask = TestClient(api.app(ops_context), headers={"x-api-key": ADMIN_KEY}, raise_server_exceptions=False)
    answer = ask.get("/readyz")
    assert (answer.status_code, answer.json()["error"]) == (503, "the ledger cannot be reached: ConnectionError")
    broken = ask.get("/ops/v1/jobs")
    assert (broken.status_code, broken.json()) == (500, {"error": "this is our mistake; the log tells more"})


def test_metrics_have_no_open_labels(api: OpsApi, ledger: Ledger) -> None:
    """Requests of unknown models and keys are counted as `other`; jobs, bytes and wakes are there from the start."""
    ops_context = api.ops_context()
    for model in ("llama3.2:latest", *(f"made-up-{n}" for n in range(50))):
        ops_context.metrics.add(replace(ENDED_REQUEST, model=model, key="alice" if model.startswith("l") else model))
    ledger.post("pull", "a:latest", {"model": "a"}, by="t")
    answer = TestClient(api.app(ops_context), headers={"x-api-key": ADMIN_KEY}).get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = answer.text.splitlines()
    ok = 'ollama_modal_requests_total{ending="success",key="alice",model="llama3.2:latest",tier="a10g"} 1.0'
    assert ok in lines
    assert 'ollama_modal_requests_total{ending="success",key="other",model="other",tier="a10g"} 50.0' in lines
    assert 'ollama_modal_jobs{kind="pull",state="queued"} 1.0' in lines
    assert 'ollama_modal_wakes_total{cause="request",tier="a10g"} 0.0' in lines
    assert "ollama_modal_weights_bytes 2.019393189e+09" in lines
    assert "made-up" not in answer.text


# -- the document ------------------------------------------------------------------------------------------------------


def test_the_document_describes_every_operation(ask: TestClient) -> None:
    """Each has a summary, its failures, and how to send a key; the bodies have examples."""
    document = ask.get("/ops/v1/openapi.json").json()
    operations = [
        operation for path in document["paths"].values() for operation in path.values() if isinstance(operation, dict)
    ]
    assert len(operations) == 32
    for operation in operations:
        assert operation["description"]
        assert {"401", "403", "422"} <= set(operation["responses"])
        assert {"HTTPBearer": []} in operation["security"]
    assert "HTTPValidationError" not in json.dumps(document)
    assert document["components"]["schemas"]["JobResponse"]["examples"]
    JobResponse.model_validate(document["components"]["schemas"]["JobResponse"]["examples"][0])


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json", "/ops/v1", "/ops/v1/jobs/", "/ops/v2/jobs"])
def test_unknown_paths_are_404_in_the_one_shape(ask: TestClient, path: str) -> None:
    """There is no page that loads scripts from elsewhere, and nothing but what the document says."""
    answer = ask.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"] == f"there is nothing at {path!r}"


def test_a_wrong_method_is_405(ask: TestClient) -> None:
    """With those that are allowed."""
    answer = ask.put("/ops/v1/jobs")
    assert answer.status_code == 405
    assert "POST" in answer.headers["allow"] or "GET" in answer.headers["allow"]


def test_no_trouble_shows_a_key(api: OpsApi) -> None:
    """Whatever is refused, the answer does not repeat what was sent as a key."""
    secret = "omk_" + "s" * 43
    for path in (*READS, "/nowhere"):
        assert secret not in client(api, secret).get(path).text
    with pytest.raises(Trouble) as refused:
        api.ops_context(keys=f"alice {secret}")
    assert secret not in f"{refused.value}{refused.value.hint}"


def test_it_is_served_on_a_socket(api: OpsApi) -> None:
    """Under uvicorn it answers as it does in tests, sixty thousand deep body included."""
    with (
        served(api.app()) as url,
        httpx.Client(base_url=url, headers={"x-api-key": ADMIN_KEY}, timeout=PATIENCE) as ask,
    ):
        assert ask.get("/healthz").status_code == 200
        assert ask.get("/ops/v1/tiers").json() == {"tiers": TIERS}
        deep = ask.post("/ops/v1/jobs", content=b"[" * 60_000, headers={"content-type": "application/json"})
        assert deep.status_code == 400
