"""One machine's file finds the requests of jobs by when they were posted, and looks at no others for a page of them."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import groupby
from pathlib import Path

import pytest

from jobs.store import keys
from jobs.store.in_order import InOrder
from jobs.store.sqlite import POSTED_INDEX, SqliteDict, without_end
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


def test_what_has_no_end_is_found_without_reading_the_rest(tmp_path: Path) -> None:
    """Of the requests since a moment those without a final end and without a mark, by ranges of indexes alone."""
    facts = SqliteDict(tmp_path / "l")
    ends = {"a-1": "succeeded", "b-1": "retry", "c-1": None, "d-1": "lost", "e-1": None, "c-10": "failed"}
    for number, (id, outcome) in enumerate(ends.items()):
        facts.put(keys.job(id), {"id": id, "posted_at": f"2026-01-01T00:00:0{number}.000Z"})
        if outcome:
            facts.put(keys.end(id, 1), {"outcome": outcome})
    facts.put(keys.gone("e-1"), {"v": 1})
    assert facts.unended("") == ["b-1", "c-1", "d-1"]
    assert facts.unended("2026-01-01T00:00:02.000Z") == ["c-1", "d-1"]
    sql, *values = without_end("ollama-ledger", "2026")
    with sqlite3.connect(tmp_path / "l") as connection:
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
    connection.close()
    facts.close()
    assert not [step for step in plan if "SCAN" in step and "SUBQUERY" not in step], plan
