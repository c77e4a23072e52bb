"""What somebody with an ordinary key may try: to hear of models that are not his, and to take every place there is.

Each is refused in words, and others are answered meanwhile. What is sent raw is in `test_hostile_heads`.
"""

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.fleet.schema import WindowConfig, load
from app.gateway.auth.fair_shares import SoMany
from app.gateway.auth.keys import Caller
from app.gateway.catalog.state import KnownState
from app.gateway.inference.detached import DetachedRequests
from app.gateway.inference.metrics import Metrics
from app.gateway.inference.route_cache import MOST, RouteCache
from app.gateway.inference.routing import Router
from app.model_server.report import Loaded, Report
from jobs.access.keys.proofs import hash_of
from jobs.core.model_name import ModelName
from jobs.ledger.ledger import Ledger
from jobs.store.keys import NIGHT_RAN
from jobs.telemetry.nightly_report import NightJob, Ran
from jobs.telemetry.usage import Use
from tests.support.dialects import whole_answer
from tests.support.gateways import A10G_TIER, CLOCK, H100_TIER, ModelList, RunningGateway, gateway, model
from tests.support.ops_api import ADMIN_KEY, CHAT_KEY, MODELS, OpsApi, archive_of, ops_api, served
from tests.support.scripted_server import ScriptedServer
from tests.support.stores import Store, open_store
from tests.support.waiting import PATIENCE, until


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer(whole_answer) as scripted:
        yield scripted


# -- what a key may be told --------------------------------------------------------------------------------------------

SECRET = "deepseek-r1:32b"


@pytest.fixture(scope="module")
def narrow(server: ScriptedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway where everything that can name a model names one that two of its keys may not use."""
    window = WindowConfig(tier="h100", start="0 8 * * *", hours=1, models=[SECRET])
    fleet = load().model_copy(update={"windows": [window]})
    keys = "\n".join(
        [
            f"llama {hash_of('omk_l')} chat models=llama*",
            f"boss {hash_of('omk_b')} chat admin models=llama*",
            f"root {hash_of('omk_r')} chat admin",
        ]
    )
    source = ModelList([model("llama3.2"), model(SECRET)])
    folder = tmp_path_factory.mktemp("narrow")
    with gateway(folder, {"a10g": server.url}, keys=keys, source=source, fleet=fleet) as found:
        now = CLOCK.now()
        loaded = (Loaded(SECRET, 1, 1, 1), Loaded("llama3.2:latest", 1, 1, 1))
        report = Report("a10g", "c1", "serving", now, loaded=loaded)
        found.facts.put(report.key, report.as_json())
        found.known_state.refresh()
        store = open_store(folder / "gateway.sqlite", CLOCK)
        ledger = store.ledger()
        jobs = [ledger.post("pull", name, {"model": name}, by="root").job for name in (SECRET, "llama3.2:latest")]
        jobs.append(ledger.post("verify", "*", {"model": None}, by="root").job)
        posted = tuple(NightJob(job.id, job.kind, job.subject, f"why {job.subject}") for job in jobs)
        ran = Ran(now, now, posted, (f"{SECRET} is left alone",))
        found.facts.put(NIGHT_RAN, ran.as_json())
        for key, name in (("root", SECRET), ("root", "llama3.2:latest"), ("llama", "llama3.2:latest")):
            found.composed.usage_recorder.add(Use(now, name, key, "a10g", "success"))
        yield found
        store.close()


def told(running: RunningGateway, key: str, path: str, **more: Any) -> httpx.Response:
    method = more.pop("method", "GET")
    return httpx.request(method, running.url + path, headers={"x-api-key": key}, timeout=PATIENCE, **more)


@pytest.mark.parametrize("key", ["omk_l", "omk_b"], ids=["chat", "admin"])
def test_a_key_for_some_models_hears_of_no_other(narrow: RunningGateway, key: str) -> None:
    """Lists, boards, jobs, nights, usage, cost, routes and what is near: nothing names a model of others."""
    document = told(narrow, "omk_r", "/ops/v1/openapi.json").json()
    paths = [path for path, operations in document["paths"].items() if "get" in operations and "{" not in path]
    paths += ["/api/tags", "/api/ps", "/v1/models", "/metrics", "/readyz", "/ops/v1/jobs?since=2020-01-01T00:00:00Z"]
    assert len(paths) >= 15
    for path in paths:
        mine = told(narrow, key, path)
        assert "deepseek" not in mine.text, path
    for path in ("/api/tags", "/v1/models", "/ops/v1/models", "/ops/v1/board", "/ops/v1/jobs", "/ops/v1/night"):
        assert "llama3.2" in told(narrow, key, path).text, path
        assert "deepseek" in told(narrow, "omk_r", path).text, path
    near = told(narrow, key, "/api/chat", method="POST", json={"model": "llama-deepseek-r1", "messages": []})
    assert (near.status_code, "r1:32b" in near.text) == (404, False)
    near = told(narrow, key, "/ops/v1/route?model=llamaseek-r1:32b")
    assert (near.status_code, "deepseek" in near.text) == (404, False)


@pytest.mark.parametrize("key", ["omk_l", "omk_b"], ids=["chat", "admin"])
def test_a_key_for_some_models_asks_for_no_other(narrow: RunningGateway, key: str) -> None:
    """Its route, its job's story and events, its card: 403, and plans and meters, which name all of them, as well."""
    ids = {job["subject"]: job["id"] for job in told(narrow, "omk_r", "/ops/v1/jobs").json()["jobs"]}
    closed = ["/ops/v1/plan", "/ops/v1/plan/prune", "/metrics", f"/ops/v1/route?model={SECRET}"]
    closed += [f"/ops/v1/jobs/{ids[about]}{more}" for about in (SECRET, "*") for more in ("", "/events")]
    for path in closed:
        assert told(narrow, key, path).status_code == 403, path
    assert told(narrow, key, "/api/show", method="POST", json={"model": SECRET}).status_code == 403
    assert told(narrow, key, f"/v1/models/{SECRET}").status_code == 404
    assert told(narrow, key, f"/ops/v1/jobs/{ids['llama3.2:latest']}").status_code == 200
    assert len(told(narrow, key, "/ops/v1/jobs").json()["jobs"]) == 1
    assert told(narrow, key, "/ops/v1/route?model=llama3.2").json()["tier"] == "a10g"


# -- one key wants every place -----------------------------------------------------------------------------------------


@pytest.fixture
def api(tmp_path: Path) -> Iterator[OpsApi]:
    with ops_api(tmp_path) as found:
        yield found


@pytest.fixture
def ledger(api: OpsApi) -> Ledger:
    return api.ledger()


def follow(stack: ExitStack, url: str, id: str, key: str) -> httpx.Response:
    """Somebody who follows a job, until the stack ends."""
    client = stack.enter_context(httpx.Client(headers={"x-api-key": key}, timeout=PATIENCE))
    return stack.enter_context(client.stream("GET", f"{url}/ops/v1/jobs/{id}/events"))


def test_one_key_never_follows_in_all_places(api: OpsApi, ledger: Ledger) -> None:
    """Of eight places one of three keys has two, by events or by pulls; then it is told when to come again."""
    id = ledger.post("pull", "llama3.2:latest", {"model": "llama3.2"}, by="t").job.id
    with served(api.app(followers=8)) as url, ExitStack() as stack:
        assert follow(stack, url, id, ADMIN_KEY).status_code == 200
        puller = stack.enter_context(httpx.Client(headers={"x-api-key": ADMIN_KEY}, timeout=PATIENCE))
        pull = stack.enter_context(puller.stream("POST", f"{url}/api/pull", json={"model": "qwen3"}))
        assert pull.status_code == 200
        refused = follow(stack, url, id, ADMIN_KEY)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "10")
        assert "key 'root' has 2 followers of jobs" in json.loads(refused.read())["error"]
        with httpx.Client(headers={"x-api-key": ADMIN_KEY}, timeout=PATIENCE) as client:
            again = client.post(f"{url}/api/pull", json={"model": "other"})
            assert (again.status_code, again.headers["retry-after"]) == (429, "10")
            assert client.request("DELETE", f"{url}/api/delete", json={"model": "qwen3"}).status_code == 429
        assert {job.subject for job in ledger.reader.jobs()} == {"llama3.2:latest", "qwen3:latest"}
        assert follow(stack, url, id, CHAT_KEY).status_code == 200


def test_no_two_followers_take_the_last_place(api: OpsApi, ledger: Ledger) -> None:
    """Of twelve who come at once for one key's two places two get one, and each of the others hears so."""
    id = ledger.post("pull", "llama3.2:latest", {"model": "llama3.2"}, by="t").job.id

    async def all_at_once(url: str) -> list[int]:
        async with httpx.AsyncClient(headers={"x-api-key": CHAT_KEY}, timeout=PATIENCE) as client:
            enough = asyncio.Event()
            seen: list[int] = []

            async def one() -> None:
                async with client.stream("GET", f"{url}/ops/v1/jobs/{id}/events") as answer:
                    seen.append(answer.status_code)
                    if len(seen) == 12:
                        enough.set()
                    await enough.wait()

            await asyncio.wait_for(asyncio.gather(*(one() for _ in range(12))), PATIENCE)
            return sorted(seen)

    with served(api.app(followers=8)) as url:
        assert asyncio.run(all_at_once(url)) == [200] * 2 + [429] * 10
        until(lambda: asyncio.run(all_at_once(url)) == [200] * 2 + [429] * 10, "the places given back")


def test_one_key_never_has_all_who_work(api: OpsApi) -> None:
    """A key with its share of requests under way is told to wait; others are worked for meanwhile."""
    gate = threading.Event()

    def slow() -> list[dict[str, Any]]:
        gate.wait(PATIENCE)
        return MODELS

    def asked(key: str, path: str) -> httpx.Response:
        return httpx.get(f"{url}/ops/v1{path}", headers={"x-api-key": key}, timeout=PATIENCE)

    app = api.app(api.ops_context(models=slow))
    with served(app) as url, ThreadPoolExecutor(40) as callers:
        answers = [callers.submit(asked, CHAT_KEY, "/models") for _ in range(40)]
        try:
            refused = until(
                lambda: [each for each in answers if each.done()][23:] and [each for each in answers if each.done()]
            )
            assert {each.result().status_code for each in refused} == {429}
            assert {each.result().headers["retry-after"] for each in refused} == {"1"}
            assert asked(ADMIN_KEY, "/jobs").status_code == 200
            assert asked(CHAT_KEY, "/tiers").status_code == 429
        finally:
            gate.set()
        assert [each.result().status_code for each in answers].count(200) == 16
        assert asked(CHAT_KEY, "/models").status_code == 200


def test_one_key_never_lingers_in_all_places() -> None:
    """Of the requests that go on without a caller a key has a share: what is beyond ends at once, others' goes on."""

    async def trial() -> tuple[list[bool], bool]:
        detached = DetachedRequests(most=8, keys=SoMany(3))
        asking = [asyncio.create_task(asyncio.Event().wait()) for _ in range(6)]
        for each in asking[:5]:
            detached.keep(each, 60, "greedy", lambda: None)  # type: ignore[arg-type]  # it never has an answer
        detached.keep(asking[5], 60, "other", lambda: None)  # type: ignore[arg-type]
        await asyncio.wait(asking, timeout=0.2)
        ended = [each.done() for each in asking]
        await detached.close()
        return ended[:5], ended[5]

    assert asyncio.run(trial()) == ([False, False, True, True, True], False)


def test_one_key_makes_one_plan_at_a_time(tmp_path: Path, server: ScriptedServer) -> None:
    """A second plan of the same key is refused while the first is made, in the words of the ops API."""
    made, gate = threading.Event(), threading.Event()
    keys = "\n".join(f"k{number} {hash_of(f'omk_{number}')} admin" for number in range(4))

    def night() -> Any:
        made.set()
        gate.wait(PATIENCE)
        raise AssertionError("nobody reads it")

    with gateway(tmp_path, {"a10g": server.url}, keys=keys, plan=night) as running, ThreadPoolExecutor(2) as callers:
        first = callers.submit(told, running, "omk_0", "/ops/v1/plan")
        try:
            assert made.wait(PATIENCE)
            assert told(running, "omk_0", "/ops/v1/tiers").status_code == 200
            second = told(running, "omk_0", "/ops/v1/plan")
            assert second.status_code == 429
            assert (second.headers["retry-after"], "plans being made" in second.json()["error"]) == ("10", True)
        finally:
            gate.set()
        first.result()


# -- one key asks for what nobody has, and for all kinds of it ---------------------------------------------------------


def test_one_key_never_makes_another_wait_for_its_way(store: Store) -> None:
    """Of each key the ways used last are kept: who asks for thousands of contexts takes none from anybody."""
    weighed: list[ModelName] = []

    def declared_tier(name: ModelName) -> None:
        weighed.append(name)

    known_state = KnownState(store.facts, ModelList([model("llama3.2")]), store.clock)
    known_state.refresh()
    routes = RouteCache(Router(known_state, [A10G_TIER, H100_TIER], declared_tier), known_state)
    patient, greedy = (Caller(name, frozenset()) for name in ("patient", "greedy"))
    routes.route(patient, "llama3.2", None)
    for context in range(1, 3 * MOST):
        routes.route(greedy, "llama3.2", context)
        routes.route(greedy, "llama3.2", 1)  # which it goes on using
    before = len(weighed)
    routes.route(patient, "llama3.2", None)
    routes.route(greedy, "llama3.2", 1)
    assert len(weighed) == before
    assert max(len(each.routes) for each in routes._routes.values()) == MOST


def test_scrapes_at_once_see_all_jobs() -> None:
    """Whoever scrapes while others do sees every kind of job that was counted for him, each with its number."""
    metrics = Metrics(lambda: ["k"], ["a10g"], lambda _: True)
    counts = {("pull", f"state{number}"): number for number in range(50)}

    def scrape(_: int) -> int:
        return metrics.render(counts).decode().count("ollama_modal_jobs{")

    with ThreadPoolExecutor(8) as scrapers:
        assert set(scrapers.map(scrape, range(100))) == {50}


# -- what has left the ledger ------------------------------------------------------------------------------------------


def test_an_archived_job_is_as_good_as_another(api: OpsApi, ledger: Ledger) -> None:
    """Over HTTP it is told, followed to its end, tried again, and stays as it is when it is cancelled."""
    job = ledger.cancel(
        ledger.post("pull", "llama3.2:latest", {"model": "llama3.2"}, by="t", attempts=5).job.id, by="t"
    )
    old = replace(job, id="old-1", posted_at=job.posted_at - timedelta(days=40))
    ops_context = api.ops_context(archive=archive_of(api.folder, old))
    with served(api.app(ops_context)) as url:

        def ask(method: str, path: str, key: str = ADMIN_KEY) -> httpx.Response:
            return httpx.request(method, f"{url}/ops/v1/jobs/{path}", headers={"x-api-key": key}, timeout=PATIENCE)

        events = ask("GET", "old-1/events").text
        assert events.count("event: move") == 3
        cancelled = ask("POST", "old-1/cancel")
        assert (cancelled.status_code, cancelled.json()) == (200, old.as_json())
        again = ask("POST", "old-1/retry")
        assert (again.status_code, again.json()["request"]) == (201, {"model": "llama3.2"})
        assert again.json()["attempts_allowed"] == 5
        assert again.json()["id"] not in {"old-1", job.id}
        assert ask("POST", "old-2/retry").status_code == 404
        assert ask("POST", "old-1/retry", CHAT_KEY).status_code == 403
