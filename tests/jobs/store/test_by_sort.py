"""Promises of the dicts of which each holds one sort of entries, and of the move to them from one that held all."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from jobs.store import keys
from jobs.store.by_sort import LOOK_AGAIN, MOVED_AFTER, DictBySort, sort_of
from jobs.store.prefixes import beginning
from jobs.testing.clock import HandClock
from tests.support.sample_history import Lived
from tests.support.stores import Store


@dataclass
class Part:
    """One dict of several, which notes what is asked of it."""

    kept: dict[Any, Any] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def put(self, key: Any, value: Any, *, skip_if_exists: bool = False) -> bool:
        self.asked.append(f"put {key}")
        if skip_if_exists and key in self.kept:
            return False
        self.kept[key] = value
        return True

    def get(self, key: Any, default: Any = None) -> Any:
        self.asked.append(f"get {key}")
        return self.kept.get(key, default)

    def pop(self, key: Any, default: Any = None) -> Any:
        self.asked.append(f"pop {key}")
        return self.kept.pop(key, default)

    def remove_all(self, keys: Iterable[str], /) -> int:
        return sum(self.pop(key) is not None for key in keys)

    def update(self, other: Mapping[Any, Any], /) -> None:
        self.asked.append(f"update {' '.join(other)}")
        self.kept.update(other)

    def keys(self, *prefixes: str) -> Iterator[Any]:
        self.asked.append("keys")
        return iter(list(beginning(self.kept, prefixes)))

    def items(self, *prefixes: str) -> Iterator[tuple[Any, Any]]:
        self.asked.append("items")
        return iter([(key, self.kept[key]) for key in beginning(self.kept, prefixes)])


@dataclass
class Parts:
    old: Part = field(default_factory=Part)
    sorts: dict[str, Part] = field(default_factory=lambda: {sort: Part() for sort in keys.SORTS})
    clock: HandClock = field(default_factory=HandClock)

    def opened(self) -> DictBySort:
        return DictBySort(self.old, self.sorts, self.clock)

    def moved(self) -> DictBySort:
        """A dict as it is from the second day on."""
        facts = self.opened()
        facts.move()
        self.clock.tick(MOVED_AFTER.total_seconds() + 1)
        facts.move()
        self.clock.tick(LOOK_AGAIN.total_seconds())
        assert facts.get("tick/done") is None
        self.old.asked.clear()
        return facts


@pytest.fixture
def parts() -> Parts:
    return Parts()


def test_a_sort_is_listed_by_itself(parts: Parts) -> None:
    """Reports are listed without a look at the jobs, and jobs without one at the reports."""
    facts = parts.moved()
    facts.put("server/a10g/c1", {"state": "serving"})
    facts.put("job/x-1", {"id": "x-1"})
    parts.old.asked.clear()

    assert dict(facts.items("server/")) == {"server/a10g/c1": {"state": "serving"}}
    assert [*facts.keys("server/a10g/")] == ["server/a10g/c1"]
    assert parts.old.asked == []
    parts.sorts["reports"].asked.clear()
    assert [*facts.keys("job/")] == ["job/x-1"]
    assert parts.sorts["reports"].asked == []


def test_every_entry_is_listed_once(parts: Parts) -> None:
    """Without a prefix all sorts are listed, each entry once, whichever dict it lies in."""
    facts = parts.opened()
    parts.old.kept["seen/job/x"] = 1
    facts.put("usage/2026-01-01/w", 2)
    facts.put("live/pull/m", 3)
    assert dict(facts.items()) == {"seen/job/x": 1, "usage/2026-01-01/w": 2, "live/pull/m": 3}
    assert sorted(facts.keys()) == sorted(dict(facts.items()))


def test_what_an_older_version_stored_is_found_at_once(parts: Parts) -> None:
    """Before anything is moved, entries of every sort are read, listed, overwritten and removed where they were."""
    parts.old.kept.update({"server/a10g/c1": "old", "usage/2026-01-01/w": "old", "incident/job/x/1": "old"})
    facts = parts.opened()
    assert facts.get("server/a10g/c1") == "old"
    assert dict(facts.items("usage/")) == {"usage/2026-01-01/w": "old"}
    assert facts.put("incident/job/x/1", "new", skip_if_exists=True) is False
    assert facts.get("incident/job/x/1") == "old"
    assert facts.put("server/a10g/c1", "new")
    assert facts.get("server/a10g/c1") == "new"
    assert facts.pop("usage/2026-01-01/w") == "old"
    assert [*facts.keys("usage/")] == []


def test_all_that_a_ledger_held_is_moved(store: Store, parts: Parts) -> None:
    """A ledger with an entry of every pattern is moved entry by entry: nothing is lost, jobs stay where they are."""
    Lived(store.facts, store.queue, store.clock.now()).all()
    parts.old.kept.update(store.facts.items())
    before = dict(parts.old.kept)
    facts = parts.opened()
    assert facts.move() == sum(sort_of(key) is not None for key in before)
    assert {**dict(facts.items()), keys.SORTS_MOVING: None} == {**before, keys.SORTS_MOVING: None}
    assert all(sort_of(key) is None for key in parts.old.kept)
    assert all(sort_of(key) == sort for sort, part in parts.sorts.items() for key in part.kept)
    assert facts.move() == 0


@pytest.mark.parametrize("steps", range(1, 8))
def test_a_move_may_be_killed_anywhere(steps: int, parts: Parts) -> None:
    """Whoever moves and is killed leaves each entry in one dict or in both; another move ends it."""
    parts.old.kept.update({f"server/a10g/c{n}": n for n in range(3)})

    class KilledError(Exception):
        pass

    class Mortal(Part):
        def pop(self, key: Any, default: Any = None) -> Any:
            if len(self.asked) >= steps:
                raise KilledError
            return super().pop(key, default)

    old = Mortal(parts.old.kept)
    facts = DictBySort(old, parts.sorts, parts.clock)
    with suppress(KilledError):
        facts.move()
    assert dict(facts.items("server/")) == {f"server/a10g/c{n}": n for n in range(3)}
    parts.opened().move()
    assert len(parts.sorts["reports"].kept) == 3
    assert dict(parts.opened().items("server/")) == {f"server/a10g/c{n}": n for n in range(3)}


def test_a_process_of_the_older_version_may_go_on(parts: Parts) -> None:
    """What an old process writes after the move counts more than what was moved of it, and is moved too."""
    facts = parts.opened()
    parts.old.kept["usage/2026-01-01/w"] = 1
    facts.move()
    parts.old.kept["usage/2026-01-01/w"] = 2
    assert facts.get("usage/2026-01-01/w") == 2
    assert dict(facts.items("usage/")) == {"usage/2026-01-01/w": 2}
    facts.move()
    assert parts.sorts["usage"].kept == {"usage/2026-01-01/w": 2}


def test_the_old_dict_is_left_alone_after_a_quiet_day(parts: Parts) -> None:
    """A day after the last entry was found in the old dict, no read of another sort asks it, in any process."""
    facts = parts.moved()
    for one in (facts, parts.opened()):
        assert one.get("server/a10g/c1") is None
        assert dict(one.items("seen/")) == {}
    assert parts.old.asked == [f"get {keys.SORTS_MOVED}"]


def test_a_listing_reads_what_it_is_asked_for_on_one_machine(store: Store) -> None:
    """On SQLite a prefix is a range of the primary key: no index is scanned, and no entry of another prefix is read."""
    for key in (
        "job/a-1",
        "job/b-1",
        "joc/x",
        "job",
        "jo",
        "job0",
        "usage/2026",
        "\U0010ffff",
        "\U0010ffff\U0010ffffa",
    ):
        store.facts.put(key, key)
    assert sorted(store.facts.keys("job/")) == ["job/a-1", "job/b-1"]
    assert dict(store.facts.items("job/", "job/a", "usage/")) == {
        key: key for key in ("job/a-1", "job/b-1", "usage/2026")
    }
    assert sorted(store.facts.keys("\U0010ffff")) == ["\U0010ffff", "\U0010ffff\U0010ffffa"]
    assert len([*store.facts.keys("", "job/")]) == 9


def test_several_entries_go_to_the_dict_of_each() -> None:
    """Written at once, each entry lands with its sort, by one round trip a dict; what an older version left is gone."""
    parts = Parts()
    parts.old.kept[keys.open("a-1")] = "old"
    facts = parts.opened()
    facts.update({keys.open("a-1"): 1, keys.open("b-1"): 2, keys.job("a-1"): 3})
    assert parts.sorts["open"].kept == {keys.open("a-1"): 1, keys.open("b-1"): 2}
    assert parts.old.kept == {keys.job("a-1"): 3}
    assert facts.get(keys.open("a-1")) == 1

    moved = parts.moved()
    parts.sorts["open"].asked.clear()
    moved.update({keys.open("c-1"): 4, keys.open("d-1"): 5})
    assert parts.sorts["open"].asked == ["update open/c-1 open/d-1"]


def test_a_sort_that_never_was_among_the_jobs_is_not_looked_for_there(parts: Parts) -> None:
    """Keys and who did what cost one trip each from the first day on: the jobs' dict, however large, is not asked."""
    facts = parts.opened()
    parts.old.asked.clear()
    facts.put("key/alice/1", {"v": 1}, skip_if_exists=True)
    facts.update({"key/alice/1": {"v": 1}})
    assert facts.get("key/alice/1") == dict(facts.items("key/"))["key/alice/1"]
    assert (list(facts.keys("key/", "audit/")), facts.pop("key/alice/1")) == (["key/alice/1"], {"v": 1})
    assert parts.old.asked == []
    assert len(parts.sorts["access"].asked) == 6
