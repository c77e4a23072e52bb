"""A deployment's dicts and queue that count what is asked of them: each call is a round trip, each listing streams."""

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from queue import Empty, Full
from typing import Any, Self

from jobs.core.clock import Clock
from jobs.store import keys
from jobs.store.by_sort import DictBySort
from jobs.store.prefixes import beginning


@dataclass
class Trips:
    """What was asked, one line a round trip, and how many entries the answers to listings had."""

    asked: list[str] = field(default_factory=list)
    listed: int = 0

    def begin(self) -> None:
        self.asked.clear()
        self.listed = 0

    def __len__(self) -> int:
        return len(self.asked)


class CountingDict:
    """One of Modal's: it can only be listed whole. An operation of another thread meanwhile is counted as well."""

    def __init__(self, name: str, trips: Trips) -> None:
        self.kept: dict[str, Any] = {}
        self._name = name
        self._trips = trips

    def put(self, key: Any, value: Any, *, skip_if_exists: bool = False) -> bool:
        self._trips.asked.append(f"put {key}")
        if skip_if_exists and key in self.kept:
            return False
        self.kept[key] = value
        return True

    def get(self, key: Any, default: Any = None) -> Any:
        self._trips.asked.append(f"get {key}")
        return self.kept.get(key, default)

    def pop(self, key: Any, default: Any = None) -> Any:
        self._trips.asked.append(f"pop {key}")
        return self.kept.pop(key, default)

    def remove_all(self, keys: Iterable[str], /) -> int:
        return sum(self.pop(key) is not None for key in keys)

    def update(self, other: Mapping[Any, Any], /) -> None:
        self._trips.asked.append(f"update {' '.join(other)}")
        self.kept.update(other)

    def keys(self, *prefixes: str) -> Iterator[Any]:
        return iter(list(beginning(self._streamed("keys"), prefixes)))

    def items(self, *prefixes: str) -> Iterator[tuple[Any, Any]]:
        return iter([(key, self.kept[key]) for key in beginning(self._streamed("items"), prefixes)])

    def _streamed(self, what: str) -> dict[str, Any]:
        self._trips.asked.append(f"{what} of {self._name}")
        self._trips.listed += len(self.kept)
        return self.kept


class CountingQueue:
    """A queue that never waits."""

    def __init__(self, trips: Trips, most: int = 5_000) -> None:
        self.lanes: dict[str | None, deque[Any]] = {}
        self._trips = trips
        self._most = most

    def put(self, v: Any, block: bool = True, *, partition: str | None = None) -> None:
        self.put_many([v], block, partition=partition)

    def put_many(self, vs: list[Any], block: bool = True, *, partition: str | None = None) -> None:
        self._trips.asked.append(f"enqueue {' '.join(vs)}")
        lane = self.lanes.setdefault(partition, deque())
        if len(lane) + len(vs) > self._most:
            raise Full
        lane.extend(vs)

    def get(self, block: bool = True, timeout: float | None = None, *, partition: str | None = None) -> Any:
        self._trips.asked.append(f"dequeue {partition}")
        lane = self.lanes.setdefault(partition, deque())
        if lane:
            return lane.popleft()
        if block:
            raise Empty
        return None

    def len(self, *, partition: str | None = None) -> int:
        self._trips.asked.append(f"count {partition}")
        return len(self.lanes.get(partition, ()))


class CountingStore:
    """What a deployment keeps its ledger in, from the second day on."""

    def __init__(self, clock: Clock) -> None:
        self.trips = Trips()
        self.jobs = CountingDict("jobs", self.trips)
        self.sorts = {sort: CountingDict(sort, self.trips) for sort in keys.SORTS}
        self.queue = CountingQueue(self.trips)
        self.jobs.put(keys.SORTS_MOVED, {"v": 1, "at": "2026-01-01T00:00:00Z"})
        self.facts = DictBySort(self.jobs, self.sorts, clock)
        self.facts.get(keys.TICK_DONE)  # when it learns that everything is moved
        self.trips.begin()

    def copied(self, clock: Clock) -> Self:
        """Another one that holds the same, and of which nothing was asked yet: what is done to it stays in it."""
        other = type(self)(clock)
        for mine, its in ((self.jobs, other.jobs), *((self.sorts[sort], other.sorts[sort]) for sort in self.sorts)):
            its.kept = json.loads(json.dumps(mine.kept))
        other.queue.lanes = {lane: deque(waiting) for lane, waiting in self.queue.lanes.items()}
        return other
