"""Stores that fail and stores that hang, around real ones."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from jobs.core.errors import StoreTrouble, StoreUnavailable
from jobs.store.prefixes import beginning
from jobs.store.protocols import QueueLike, ShrinkingDict
from tests.support.waiting import PATIENCE

T = TypeVar("T")

Meet = Callable[[str], None]
"""Called before each operation with its name; raises, or does not return."""


class TroubledDict:
    def __init__(self, real: ShrinkingDict, meet: Meet) -> None:
        self._real = real
        self._meet = meet

    def put(self, key: Any, value: Any, *, skip_if_exists: bool = False) -> bool:
        self._meet(f"put {key}")
        return self._real.put(key, value, skip_if_exists=skip_if_exists)

    def get(self, key: Any, default: Any = None) -> Any:
        self._meet(f"get {key}")
        return self._real.get(key, default)

    def pop(self, key: Any, default: Any = None) -> Any:
        self._meet(f"pop {key}")
        return self._real.pop(key, default)

    def remove_all(self, keys: Iterable[str], /) -> int:
        return sum(self.pop(key) is not None for key in keys)

    def update(self, other: Mapping[Any, Any], /) -> None:
        self._meet(f"update {' '.join(other)}")
        self._real.update(other)

    def keys(self, *prefixes: str) -> Iterator[Any]:
        self._meet("keys")
        return self._real.keys(*prefixes)

    def items(self, *prefixes: str) -> Iterator[tuple[Any, Any]]:
        self._meet("items")
        return self._real.items(*prefixes)


class TroubledQueue:
    def __init__(self, real: QueueLike, meet: Meet) -> None:
        self._real = real
        self._meet = meet

    def put(self, v: Any, block: bool = True, *, partition: str | None = None) -> None:
        self._meet("enqueue")
        self._real.put(v, block, partition=partition)

    def put_many(self, vs: list[Any], block: bool = True, *, partition: str | None = None) -> None:
        self._meet("enqueue")
        self._real.put_many(vs, block, partition=partition)

    def get(self, block: bool = True, timeout: float | None = None, *, partition: str | None = None) -> Any:
        self._meet("dequeue")
        return self._real.get(block, timeout, partition=partition)

    def len(self, *, partition: str | None = None) -> int:
        self._meet("count")
        return self._real.len(partition=partition)


class EveryNth:
    """Fails every n-th call, whoever makes it; but nobody twice running, for then it is the next call that fails."""

    def __init__(self, n: int, trouble: StoreTrouble | None = None) -> None:
        self.met = 0
        self._n = n
        self._trouble = trouble
        self._lock = threading.Lock()
        self._calls = 0
        #: Whose last call failed, by the numbers of their threads.
        self._failed: set[int] = set()

    def __call__(self, doing: str) -> None:
        thread = threading.get_ident()
        with self._lock:
            self._calls += 1
            fails = self._calls // self._n > self.met and thread not in self._failed
            self.met += fails
            (self._failed.add if fails else self._failed.discard)(thread)
        if fails:
            raise self._trouble or StoreUnavailable(f"{doing}: the store is away")


class While:
    """Fails, or hangs, for as long as it is on, at the operations that are chosen."""

    def __init__(self, chosen: Callable[[str], bool] = lambda _: True, trouble: StoreTrouble | None = None) -> None:
        self.met: list[str] = []
        self._chosen = chosen
        self._trouble = trouble
        self._on = threading.Event()
        self._off = threading.Event()
        self._off.set()

    def begin(self) -> None:
        self._off.clear()
        self._on.set()

    def end(self) -> None:
        self._on.clear()
        self._off.set()

    def __call__(self, doing: str) -> None:
        if not self._on.is_set() or not self._chosen(doing):
            return
        self.met.append(doing)
        if self._trouble is not None:
            raise self._trouble
        assert self._off.wait(PATIENCE), "nobody ended the silence"


class MemoryDict:
    """A dict in memory, so quick that what its users share themselves is what they meet in."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[Any, Any] = {}

    def put(self, key: Any, value: Any, *, skip_if_exists: bool = False) -> bool:
        with self._lock:
            if skip_if_exists and key in self._kept:
                return False
            self._kept[key] = value
            return True

    def get(self, key: Any, default: Any = None) -> Any:
        with self._lock:
            return self._kept.get(key, default)

    def pop(self, key: Any, default: Any = None) -> Any:
        with self._lock:
            return self._kept.pop(key, default)

    def remove_all(self, keys: Iterable[str], /) -> int:
        return sum(self.pop(key) is not None for key in keys)

    def update(self, other: Mapping[Any, Any], /) -> None:
        with self._lock:
            self._kept.update(other)

    def keys(self, *prefixes: str) -> Iterator[Any]:
        with self._lock:
            return iter(list(beginning(self._kept, prefixes)))

    def items(self, *prefixes: str) -> Iterator[tuple[Any, Any]]:
        with self._lock:
            return iter([(key, self._kept[key]) for key in beginning(self._kept, prefixes)])


class DeafQueue:
    """Whatever is put is lost."""

    def put(self, v: Any, block: bool = True, *, partition: str | None = None) -> None: ...

    def put_many(self, vs: list[Any], block: bool = True, *, partition: str | None = None) -> None: ...

    def get(self, block: bool = True, timeout: float | None = None, *, partition: str | None = None) -> Any:
        return None

    def len(self, *, partition: str | None = None) -> int:
        return 0
