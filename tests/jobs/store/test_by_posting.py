"""One machine's file finds the requests of jobs by when they were posted, and looks at no others for a page of them."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import groupby
from pathlib import Path

import pytest

from jobs.store import keys
from jobs.store.in_order import InOrder
from jobs.store.sqlite import POSTED_INDEX, SqliteDict
from jobs.store.sqlite_reader import SqliteReader
from tests.support.counting_sqlite import Steps

MOMENTS = [f"2026-06-01T00:00:{second:02}.000Z" for second in range(30)]
EACH = 3


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.sqlite"
    with closing(SqliteDict(path)) as facts:
        for number, at in enumerate(MOMENTS):
            for letter in "abc":
                facts.put(keys.job(f"{letter}{number}-1"), {"posted_at": at})
                facts.put(keys.end(f"{letter}{number}-1", 1), {"at": at})
    return path


@pytest.fixture(params=["written", "read", "read, of an older version"])
def order(path: Path, request: pytest.FixtureRequest) -> Iterator[InOrder]:
    if request.param == "written":
        with closing(SqliteDict(path)) as facts:
            yield facts
        return
    if request.param.endswith("older version"):
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(f"DROP INDEX {POSTED_INDEX}")
    yield SqliteReader(path)


def test_pages_have_every_request_once_the_newest_first(order: InOrder) -> None:
    """Page by page, whatever their size, come all requests, newest first, those of one moment by their keys."""
    for size in (1, 2, 7, 200):
        found, at, key = [], "9999", ""
        while page := order.posted_before(at, key, size):
            assert len(page) <= size
            key, at = page[-1][0], page[-1][1]["posted_at"]
            found += [(request["posted_at"], key) for key, request in page]
        assert len(found) == EACH * len(MOMENTS) == order.count_posted()
        assert found == sorted(set(found), reverse=True)
        assert [len(list(same)) for _, same in groupby(found, lambda each: each[0])] == [EACH] * len(MOMENTS)


def test_a_page_costs_the_same_wherever_it_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first page and one in the middle take as many steps as with twice as many requests."""
    steps = Steps()
    steps.watch(monkeypatch)
    counts = []
    with closing(SqliteDict(path)) as facts:
        for more in (0, 200):
            for number in range(more):
                facts.put(keys.job(f"m{number}-1"), {"posted_at": f"2026-05-01T00:00:{number % 60:02}.000Z"})
            pages = (("9999", ""), (MOMENTS[15], keys.job("b15-1")))
            counts.append([steps.of(lambda: facts.posted_before(at, key, 10)) for at, key in pages])  # noqa: B023
    assert counts[0] == counts[1]
