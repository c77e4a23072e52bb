"""One machine's file finds ends and marks by their time, from its B-tree, and gives back what it does not need."""

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobs.core.clock import isoformat
from jobs.core.errors import Bug
from jobs.store import keys
from jobs.store.in_order import Moment, in_order
from jobs.store.sqlite import SPARE_PAGES, SqliteDict, in_time, listing
from tests.support.failing_stores import MemoryDict

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def facts(tmp_path: Path) -> Iterator[SqliteDict]:
    facts = SqliteDict(tmp_path / "l")
    yield facts
    facts.close()


def at(number: int) -> str:
    return isoformat(BEGAN + timedelta(seconds=number))


def test_entries_are_found_by_their_time(facts: SqliteDict) -> None:
    """Some after others, from where the last ones ended: those of one moment, too, each once and in their order."""
    for number in range(40):
        facts.put(keys.end(f"j{number * 7 % 40:02}", 1), {"at": at(number // 4)})
    facts.put(keys.gone("j00"), {"at": at(3)})
    facts.put(keys.beat("j00", 1), {"at": at(3)})
    seen, place = [], Moment("")
    while some := facts.by_time(keys.END, place, at(8), 3):
        seen += some
        place = some[-1]
    assert seen == sorted(seen)
    assert len(set(seen)) == len(seen) == 9 * 4
    assert facts.by_time(keys.GONE, Moment(at(2)), at(3), 10) == [Moment(at(3), keys.gone("j00"))]
    with pytest.raises(Bug, match="not kept by their time"):
        facts.by_time(keys.BEAT, Moment(""), at(8), 3)
    assert in_order(MemoryDict()) is None


@pytest.mark.parametrize("prefix", keys.BY_TIME)
def test_the_b_tree_answers(facts: SqliteDict, tmp_path: Path, prefix: str) -> None:
    """Whether by prefix or by time, SQLite searches a range of an index, and scans nothing."""
    facts.put(keys.job("j"), {})
    asked = [in_time("ollama-ledger", prefix, Moment(at(1), "k"), at(2), 5)]
    asked += [(sql, *values) for sql, values in [listing("key, value", "ollama-ledger", keys.OF_JOBS)]]
    with sqlite3.connect(tmp_path / "l") as connection:
        for sql, *values in asked:
            steps = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
            reads = [step for step in steps if "entries" in step]
            assert reads
            assert all(step.startswith("SEARCH") and "dict=? AND" in step for step in reads), steps
            assert sum("_by_time" in step for step in reads) == (2 if "INDEXED" in sql else 0)
    connection.close()


@pytest.mark.parametrize("make", [MemoryDict, None])
def test_many_entries_are_one_step(facts: SqliteDict, make: type[MemoryDict] | None) -> None:
    """Many are written whatever stood there, and of many that are removed those that were there are counted."""
    some = make() if make else facts
    some.put("a", 1)
    some.update({"a": 2, "b": 2})
    assert dict(some.items()) == {"a": 2, "b": 2}
    assert [some.remove_all(["a", "c"]), some.remove_all([]), some.remove_all(["b"])] == [1, 0, 1]
    assert dict(some.items()) == {}


@pytest.mark.parametrize("is_older", [True, False])
def test_room_is_given_back_some_at_a_time(tmp_path: Path, is_older: bool) -> None:
    """When most of a file is free it shrinks, whichever version made it, and what is left in it is as it was."""
    path = tmp_path / "l"
    if is_older:
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE older (one)")
        connection.close()
    facts = SqliteDict(path)
    facts.update({f"k{number}": "x" * 3_000 for number in range(3_500)})
    facts.put("stays", "there")
    assert facts.give_back() == 0
    facts.remove_all(f"k{number}" for number in range(3_500))
    steps_back = []
    while given := facts.give_back():
        steps_back.append(given)
    assert steps_back
    assert sum(steps_back) > 1_000
    assert is_older or max(steps_back) <= SPARE_PAGES
    assert path.stat().st_size < (SPARE_PAGES + 500) * 4_096
    assert dict(facts.items()) == {"stays": "there"}
    facts.close()
