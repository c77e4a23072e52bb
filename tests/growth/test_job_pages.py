"""A page of jobs over HTTP, on one machine: what it asks of SQLite and of the archive, counted at N jobs and at 2N.

The gateway has not listed any before.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from jobs.archive.archive import archiving_jobs
from jobs.archive.archived import AFTER, ArchivedJobs, archive_at
from jobs.core.clock import SystemClock
from jobs.ledger.all_jobs import cursor_of
from jobs.ledger.expiry import clearing
from jobs.ledger.job import Job, Place
from jobs.listing.dead_memory import look_and_remember
from jobs.listing.newest import LOOKED_AT
from tests.support.counting_sqlite import Steps
from tests.support.ops_api import ADMIN_KEY, OpsApi, ops_api
from tests.support.past_jobs import MODELS, write_past

N = 5 * MODELS
assert N > LOOKED_AT
DEEP = 150
SPARE = 1.15
"""A B-tree that is one page deeper."""
OPENED = 600
"""Another thread has opened the file: a row takes ten."""


class Counted(ArchivedJobs):
    """Counts the jobs that are read of it."""

    read = 0

    @contextmanager
    def newest(self, before: Place | None = None) -> Iterator[Iterator[Job]]:
        with super().newest(before) as jobs:
            yield self._counted(jobs)

    def _counted(self, jobs: Iterator[Job]) -> Iterator[Job]:
        for job in jobs:
            self.read += 1
            yield job


class Past:
    """A home with so many jobs in its ledger, a few of which failed, and a fifth as many that have left it."""

    def __init__(self, folder: Path, ended: int) -> None:
        now, path = datetime.now(UTC), folder / "ledger.sqlite"
        clock = SystemClock()
        write_past(path, ended // 5, now - AFTER - timedelta(hours=1), models="old", failed_each=0)
        with ops_api(folder, clock) as api:
            store = api.store()
            ledger, archive = store.ledger(), archive_at(folder)
            for _ in archiving_jobs(ledger, store.facts, archive, now, lambda: None):
                pass
            for _ in clearing(store.facts, now + timedelta(hours=2)):
                pass
            write_past(path, 6, now - timedelta(minutes=20), models="broken", failed_each=1)
            self.ids = write_past(path, ended, now - timedelta(minutes=5), failed_each=0)
            ledger.index_all(ledger.reader.jobs())
            look_and_remember(ledger.reader, store.facts, now)
            self.deep = cursor_of(ledger.reader.get(self.ids[-DEEP]))
            self.last = cursor_of(ledger.reader.get(self.ids[0]))
        self.archived = Counted(archive)
        self.folder = folder


QUERIES: dict[str, tuple[dict[str, Any], int]] = {
    "the newest": ({}, 20),
    "folded, as the page asks": ({"folded": "true", "limit": 15}, 15),
    "from a cursor on": ({"cursor": "deep"}, 20),
    "where the ledger ends": ({"cursor": "last"}, 20),
    "before a job": ({"before": "id"}, 20),
    "since": ({"since": "90d"}, 20),
    "q": ({"q": "pull library-1"}, 20),
    "q that nothing fits": ({"q": "nothing"}, 0),
    "a state": ({"state": "succeeded"}, 20),
    "a state of few": ({"state": "cancelled"}, 0),
    "open": ({"state": "open"}, 0),
    "dead": ({"dead": "true"}, 6),
    "begin": ({"begin": "id"}, 1),
}
"""What is asked, and how many jobs the page has."""


@pytest.fixture(scope="module")
def pasts(tmp_path_factory: pytest.TempPathFactory) -> list[Past]:
    return [Past(tmp_path_factory.mktemp(f"past-{ended}"), ended) for ended in (N, 2 * N)]


def asked(api: OpsApi, past: Past, query: dict[str, Any]) -> int:
    """Ask for a page; how many jobs it has."""
    places = {"deep": past.deep, "last": past.last, "id": past.ids[-DEEP]}
    known = {name: places.get(value, value) for name, value in query.items()}
    client = TestClient(api.app(api.ops_context(archive=past.archived)), headers={"x-api-key": ADMIN_KEY})
    answer = client.get("/ops/v1/jobs", params={"limit": 20} | known)
    assert answer.is_success, answer.text
    return len(answer.json()["jobs"])


@pytest.mark.parametrize("what", QUERIES)
def test_a_page_costs_what_it_shows(what: str, pasts: list[Past], monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of jobs takes no more of SQLite, and reads no more of the archive, with twice as many jobs in both."""
    query, count = QUERIES[what]
    counts = []
    for past in pasts:
        past.archived.read = 0
        with monkeypatch.context() as patch, ops_api(past.folder, SystemClock()) as api:
            steps = Steps()
            steps.watch(patch)
            found = []
            took = steps.of(lambda: found.append(asked(api, past, query)))  # noqa: B023 - called at once
            assert found == [count]
        counts.append((took, past.archived.read))
    (once, read), (twice, read_more) = counts
    assert 0 < twice <= SPARE * once + OPENED, (once, twice)
    assert read_more == read
