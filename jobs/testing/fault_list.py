"""The faults of a double that are on, each with the requests it has met."""

import threading
from collections import Counter
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class Fault(Protocol):
    @property
    def times(self) -> int | None:
        """How many requests it hits; None for every one until it is cleared."""

    @property
    def after(self) -> int:
        """Matching requests that pass unharmed first."""


F = TypeVar("F", bound=Fault)


class FaultList(Generic[F]):
    """Any thread may add, clear and strike."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: Guarded by `_lock`.
        self._on: list[tuple[F, Counter[str]]] = []

    def add(self, fault: F) -> None:
        with self._lock:
            self._on.append((fault, Counter()))

    def clear(self) -> None:
        with self._lock:
            self._on.clear()

    def hits(self, matches: Callable[[F], bool]) -> list[F]:
        """The faults that hit this request, counted as used."""
        hits: list[F] = []
        with self._lock:
            for fault, met in self._on:
                if not matches(fault):
                    continue
                met["requests"] += 1
                if met["requests"] > fault.after and (fault.times is None or met["hits"] < fault.times):
                    met["hits"] += 1
                    hits.append(fault)
        return hits
