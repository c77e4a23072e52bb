"""Lists of jobs over HTTP: pages, counts, searches, groups of failures, and one reading of the ledger for all."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.gateway.ops.ledger_pool import LedgerPool
from app.gateway.ops.post_jobs import AT_ONCE
from app.gateway.ops.schemas import ChangedJobsResponse, JobsResponse, JobsSummaryResponse
from jobs.core.errors import StoreUnavailable
from jobs.core.progress import Reading
from jobs.ledger.job import Ending
from jobs.ledger.ledger import Ledger
from jobs.listing.looks import Look
from jobs.store.sqlite import SqliteDict
from jobs.testing.clock import HandClock
from tests.support.ops_api import ADMIN_KEY, CHAT_KEY, LLAMA_KEY, OpsApi, ops_api
from tests.support.stores import claimed


@pytest.fixture
def api(tmp_path: Path) -> Iterator[OpsApi]:
    with ops_api(tmp_path, HandClock()) as opened:
        yield opened


@pytest.fixture
def ledger(api: OpsApi) -> Ledger:
    return api.ledger()


@pytest.fixture
def ask(api: OpsApi) -> TestClient:
    return client(api, ADMIN_KEY)


def client(api: OpsApi, key: str) -> TestClient:
    return TestClient(api.app(), headers={"x-api-key": key})


def failed(api: OpsApi, ledger: Ledger, model: str, failure_class: str = "network", kind: str = "pull") -> str:
    assert isinstance(api.clock, HandClock)
    api.clock.tick(1)
    id = ledger.post(kind, f"{model}:latest", {"model": model}, by="t").job.id
    ledger.end(claimed(ledger, id), Ending("failed", failure_class, "cut"), Reading())
    return id


def listed(ask: TestClient, **query: Any) -> dict[str, Any]:
    told: dict[str, Any] = ask.get("/ops/v1/jobs", params=query).json()
    JobsResponse.model_validate(told)
    return told


def ids(told: dict[str, Any]) -> list[str]:
    return [job["id"] for job in told["jobs"]]


def test_pages_stay_as_new_jobs_come(ask: TestClient, api: OpsApi, ledger: Ledger) -> None:
    """`next` reads on where a page ended, whatever was posted since; the last page has none."""
    old = [failed(api, ledger, f"m{number}") for number in range(5)][::-1]
    first = listed(ask, limit=2)
    failed(api, ledger, "late")
    second = listed(ask, limit=2, cursor=first["next"])
    last = listed(ask, limit=2, cursor=second["next"])

    assert [*ids(first), *ids(second), *ids(last)] == old
    assert last["next"] is None


def test_a_search_narrows_a_list(ask: TestClient, api: OpsApi, ledger: Ledger) -> None:
    """By state, by class of failure, and by each word of a text."""
    for number in range(4):
        failed(api, ledger, f"m{number}")
    ledger.post("pull", "a:latest", {}, by="t")
    told = listed(ask, limit=1, state="open")

    assert [job["subject"] for job in told["jobs"]] == ["a:latest"]
    assert len(listed(ask, q="M1")["jobs"]) == 1
    assert [job["subject"] for job in listed(ask, q="m1 pull")["jobs"]] == ["m1:latest"]
    assert len(listed(ask, **{"class": "disk"})["jobs"]) == 0
    assert len(listed(ask, **{"class": "network"})["jobs"]) == 4


def test_many_failures_of_one_kind_are_folded(ask: TestClient, api: OpsApi, ledger: Ledger) -> None:
    """Asked for `folded`, the newest stands for all, with how many there are; `dead` lists each of them."""
    lost = [failed(api, ledger, f"m{number}") for number in range(7)]
    other = failed(api, ledger, "x", "disk")
    told = listed(ask, folded=True)

    assert ids(told) == [other, lost[-1]]
    assert told["groups"][lost[-1]]["count"] == 7
    assert ids(listed(ask, dead=True, kind="pull", **{"class": "network"})) == lost[::-1]
    summary = ask.get("/ops/v1/jobs/summary").json()
    JobsSummaryResponse.model_validate(summary)
    assert (summary["total"], summary["open"], summary["counts"]["failed"]) == (8, 0, 8)
    assert [(each["class"], each["count"], len(each["few"])) for each in summary["dead"]] == [
        ("network", 7, 0),
        ("disk", 1, 1),
    ]
    assert ids(listed(ask, cursor=summary["dead"][0]["newest"]["cursor"]))[0] == lost[-1]


def test_a_key_for_some_models_counts_only_those(api: OpsApi, ledger: Ledger) -> None:
    """Neither counts nor groups tell of jobs about others' models."""
    for name in ("llama3.2", "qwen3", "qwen2.5"):
        failed(api, ledger, name)
    ask = client(api, LLAMA_KEY)
    summary = ask.get("/ops/v1/jobs/summary").json()

    assert (summary["total"], summary["counts"]["failed"], summary["dead"][0]["count"]) == (1, 1, 1)
    assert "qwen" not in json.dumps([summary, listed(ask, folded=True)])


def test_a_group_is_tried_again_some_at_a_time(ask: TestClient, api: OpsApi, ledger: Ledger) -> None:
    """Each request posts so many; asked until none is left, each job is posted once, and other failures stay."""
    for number in range(AT_ONCE + 7):
        failed(api, ledger, f"m{number}")
    other = failed(api, ledger, "x", "disk")
    query = {"kind": "pull", "class": "network"}

    told = [ask.post("/ops/v1/jobs/retry", params=query).json() for _ in range(3)]

    assert [ChangedJobsResponse.model_validate(each).changed for each in told] == [AT_ONCE, 7, 0]
    assert [each["left"] for each in told] == [7, 0, 0]
    jobs = ledger.reader.jobs()
    assert len([job for job in jobs if not job.has_ended]) == AT_ONCE + 7
    assert [group["newest"]["id"] for group in ask.get("/ops/v1/jobs/summary").json()["dead"]] == [other]


@pytest.mark.parametrize("kind", ["delete", "rollback", "prune"])
def test_what_takes_weights_away_is_never_tried_again_among_others(
    ask: TestClient, api: OpsApi, ledger: Ledger, kind: str
) -> None:
    """A group of deletes, rollbacks or prunes is refused, and nothing is posted; it can be dismissed."""
    id = failed(api, ledger, "a", kind=kind)
    query = {"kind": kind, "class": "network"}

    refused = ask.post("/ops/v1/jobs/retry", params=query)

    assert (refused.status_code, "takes weights away" in refused.json()["error"]) == (400, True)
    assert len(ledger.reader.jobs()) == 1
    assert ask.post("/ops/v1/jobs/dismiss", params=query).json() == {"changed": 1, "left": 0, "refused": []}
    assert ledger.reader.get(id).dismissed


def test_what_may_not_be_posted_again_is_told_and_stops_nothing(api: OpsApi, ledger: Ledger) -> None:
    """A key for some models changes only jobs about those, and the rest of a group stays as it is."""
    mine, others = failed(api, ledger, "llama3.2"), failed(api, ledger, "qwen3")
    told = client(api, LLAMA_KEY).post("/ops/v1/jobs/dismiss", params={"kind": "pull", "class": "network"}).json()

    assert told == {"changed": 1, "left": 0, "refused": []}
    assert [ledger.reader.get(id).dismissed for id in (mine, others)] == [True, False]
    assert client(api, CHAT_KEY).post("/ops/v1/jobs/dismiss?kind=pull&class=network").status_code == 403


@pytest.mark.parametrize(
    "query", [{"kind": "dance", "class": "network"}, {"kind": "pull", "class": "x"}, {"kind": "pull"}]
)
def test_a_group_that_cannot_be_is_refused(ask: TestClient, query: dict[str, str]) -> None:
    """A kind or class that does not exist is a mistake of the caller, for each thing that is done with a group."""
    for verb in ("retry", "dismiss"):
        assert ask.post(f"/ops/v1/jobs/{verb}", params=query).status_code in {400, 422}


# -- one reading for all -----------------------------------------------------------------------------------------------


@dataclass
class Reads:
    """Opens ledgers, and counts how often all that is in them is read."""

    api: OpsApi
    count: int = 0
    is_away: bool = False

    def __call__(self) -> Ledger:
        store, reads = self.api.store(), self

        class Counted(SqliteDict):
            def items(self, *prefixes: str) -> Any:
                reads.count += 1
                if reads.is_away:
                    raise StoreUnavailable("the store is away")
                return super().items(*prefixes)

        store.facts.close()
        store.facts = Counted(store.path)
        return store.ledger()


def subjects(look: Look) -> list[str]:
    return [subject for _, subject, _ in look.counts]


def test_all_viewers_share_one_reading(api: OpsApi) -> None:
    """Whoever lists jobs within two seconds shares one reading; after a change made here comes a new one."""
    reads = Reads(api)

    async def look() -> None:
        pool = LedgerPool(reads, listed_for=timedelta(seconds=60))
        api.ledger_pool.append(pool)
        seen = await asyncio.gather(*(pool.look() for _ in range(50)))
        first = reads.count
        assert len({id(each) for each in seen}) == 1
        await pool.do(lambda ledger: ledger.post("pull", "a:latest", {}, by="t"))
        assert subjects(await pool.look()) == ["a:latest"]
        assert reads.count == first + 2  # those that are open, and what has changed

    asyncio.run(look())


def test_a_reading_is_let_go_when_it_is_old(api: OpsApi) -> None:
    """After its time the next one who asks has a new one, and a failed one is nobody's but theirs who waited for it."""
    reads = Reads(api)

    async def look() -> None:
        pool = LedgerPool(reads, listed_for=timedelta(0))
        api.ledger_pool.append(pool)
        await pool.look()
        first = reads.count
        await pool.look()
        assert reads.count == first + 2
        reads.is_away = True
        with pytest.raises(StoreUnavailable):
            await pool.look()
        reads.is_away = False
        assert subjects(await pool.look()) == []

    asyncio.run(look())
