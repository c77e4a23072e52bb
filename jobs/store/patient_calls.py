"""Asks the ledger's dict and queue: once more when they fail for a moment, and counting how long an answer takes.

One call that fails is asked again here, because a move of the ledger is a dozen calls and would else begin anew for
each of them. What lasts longer than that is for the caller: a worker goes on later, a person is told. A call that is
never answered cannot be ended from here; `heard` tells of it, and who may leave does.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from jobs.core.clock import Clock
from jobs.core.errors import StoreTrouble, StoreUnavailable
from jobs.store.in_order import InOrder, Moment, in_order
from jobs.store.protocols import BatchDict, DictLike, QueueLike, ReadableDict, ShrinkingDict

T = TypeVar("T")

PAUSES = (0.05, 0.2, 0.5)
"""Seconds before the second, third and fourth try."""

WITHIN = timedelta(seconds=2)
"""A call that failed after so long is not asked again: it was no moment."""


@dataclass(frozen=True)
class Heard:
    """How many answers have come, how many seconds ago the last one did, and what has been asked the longest since."""

    answers: int
    seconds: float
    waits_for: str | None


class Calls:
    """The calls of one ledger. Any thread may ask, and any may look."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        #: The calls under way, by number. Each calling thread adds and removes its own; under `_lock`, as all below.
        self._began: dict[int, str] = {}
        self._asked = 0
        self._answers = 0
        self._answered_at = clock.monotonic()

    def _counted(self, what: str, call: Callable[[], T]) -> T:
        """One call. To be told of an empty queue, or of a value that is no JSON, is an answer as well."""
        with self._lock:
            self._asked += 1
            number = self._asked
            self._began[number] = what
        is_answered = True
        try:
            return call()
        except StoreTrouble:
            is_answered = False
            raise
        finally:
            with self._lock:
                del self._began[number]
                if is_answered:
                    self._answers += 1
                    self._answered_at = self._clock.monotonic()

    def heard(self) -> Heard:
        with self._lock:
            waits_for = self._began[min(self._began)] if self._began else None
            return Heard(self._answers, self._clock.monotonic() - self._answered_at, waits_for)

    def again(self, what: str, call: Callable[[], T]) -> T:
        """Its answer, asked for a few times when the store is away for a moment.

        Raises:
            StoreTrouble: it is away for longer, or full, or not to be used.

        """
        deadline = self._clock.monotonic() + WITHIN.total_seconds()
        for pause in PAUSES:
            try:
                return self._counted(what, call)
            except StoreUnavailable:
                if self._clock.monotonic() >= deadline:
                    raise
            self._clock.wait(pause)
        return self._counted(what, call)


class PatientReads:
    """A `ReadableDict`."""

    def __init__(self, real: ReadableDict, calls: Calls) -> None:
        self._real = real
        self._calls = calls

    @property
    def order(self) -> "PatientOrder | None":
        """Entries in their order, where the dict has that."""
        order = in_order(self._real)
        return None if order is None else PatientOrder(order, self._calls)

    def get(self, key: Any, default: Any = None) -> Any:
        return self._calls.again("read", lambda: self._real.get(key, default))

    def keys(self, *prefixes: str) -> Iterator[Any]:
        return iter(self._calls.again("list", lambda: list(self._real.keys(*prefixes))))

    def items(self, *prefixes: str) -> Iterator[tuple[Any, Any]]:
        what = f"read of all {', '.join(prefixes)}" if prefixes else "read of everything"
        return iter(self._calls.again(what, lambda: list(self._real.items(*prefixes))))


class PatientOrder:
    """An `InOrder`."""

    def __init__(self, real: InOrder, calls: Calls) -> None:
        self._real = real
        self._calls = calls

    def by_time(self, prefix: str, after: Moment, until: str, most: int) -> list[Moment]:
        return self._calls.again(f"list of {prefix}", lambda: self._real.by_time(prefix, after, until, most))

    def last(self, prefix: str, before: str, most: int) -> list[tuple[str, Any]]:
        return self._calls.again(f"list of {prefix}", lambda: self._real.last(prefix, before, most))

    def posted_before(self, at: str, key: str, most: int) -> list[tuple[str, Any]]:
        return self._calls.again("list of jobs", lambda: self._real.posted_before(at, key, most))

    def count_posted(self) -> int:
        return self._calls.again("count of jobs", self._real.count_posted)

    def unended(self, since: str) -> list[str]:
        return self._calls.again("list of jobs without an end", lambda: self._real.unended(since))


class PatientDict(PatientReads):
    """A `DictLike`. A conditional put whose first answer was lost says False the second time, as Modal's own may."""

    def __init__(self, real: DictLike, calls: Calls) -> None:
        super().__init__(real, calls)
        self._written = real

    def put(self, key: Any, value: Any, *, skip_if_exists: bool = False) -> bool:
        return self._calls.again("write", lambda: self._written.put(key, value, skip_if_exists=skip_if_exists))


class PatientBatchDict(PatientDict):
    """A `BatchDict`."""

    def __init__(self, real: BatchDict, calls: Calls) -> None:
        super().__init__(real, calls)
        self._batched = real

    def update(self, other: Mapping[Any, Any], /) -> None:
        self._calls.again("write of several", lambda: self._batched.update(other))


class PatientShrinkingDict(PatientBatchDict):
    """A `ShrinkingDict`. A removal whose first answer was lost says the second time that nothing was there."""

    def __init__(self, real: ShrinkingDict, calls: Calls) -> None:
        super().__init__(real, calls)
        self._shrinking = real

    def pop(self, key: Any, default: Any = None) -> Any:
        return self._calls.again("removal", lambda: self._shrinking.pop(key, default))

    def remove_all(self, keys: Iterable[str], /) -> int:
        known = list(keys)
        return self._calls.again("removal of several", lambda: self._shrinking.remove_all(known))


class PatientQueue:
    """A `QueueLike`. An id that is put in twice does no harm, and one that was taken and lost is put in again."""

    def __init__(self, real: QueueLike, calls: Calls) -> None:
        self._real = real
        self._calls = calls

    def put(self, v: Any, block: bool = True, *, partition: str | None = None) -> None:
        self._calls.again("put", lambda: self._real.put(v, block, partition=partition))

    def get(self, block: bool = True, timeout: float | None = None, *, partition: str | None = None) -> Any:
        return self._calls.again("get", lambda: self._real.get(block, timeout, partition=partition))

    def put_many(self, vs: list[Any], block: bool = True, *, partition: str | None = None) -> None:
        self._calls.again("put of several", lambda: self._real.put_many(vs, block, partition=partition))

    def len(self, *, partition: str | None = None) -> int:
        return self._calls.again("count", lambda: self._real.len(partition=partition))
