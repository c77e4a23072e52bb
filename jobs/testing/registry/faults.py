"""What the registry double can be told to do wrong, and how fast it may answer."""

import threading
from collections import Counter
from dataclasses import dataclass, fields
from typing import Any, Literal, Self, get_args

from jobs.core.clock import Clock

RegistryRoute = Literal["manifest", "blob", "cdn", "token"]
RegistryFaultKind = Literal["status", "cut", "hang", "silent", "crawl", "flip", "short", "shift", "whole", "expire"]


@dataclass(frozen=True)
class RegistryFault:
    """Something that goes wrong on a route, for the next `times` matching requests, or until cleared when None.

    kind     what happens                                               value
    status   this status instead of an answer                           the status; 429 and 503 carry `retry_after`
    cut      the connection closes inside the body                      after this many bytes
    hang     nothing more comes                                         after this many bytes of the body
    silent   the request is read and never answered                     -
    crawl    the body comes slowly                                      bytes per second
    flip     one byte is wrong                                          its place in this body
    short    the body ends early, and Content-Length agrees             bytes left out
    shift    Content-Range names another place than was asked for       by this many bytes
    whole    Range is ignored: 200 and everything                       -
    expire   this answer is good, then all signed addresses are refused -
    """

    route: RegistryRoute
    kind: RegistryFaultKind
    value: int = 0
    times: int | None = 1
    after: int = 0
    """Matching requests that pass unharmed first."""
    digest: str | None = None
    """Only requests for this blob, or this manifest by digest."""
    retry_after: int | None = None
    challenge: bool = False
    """A 401 says where to get a token."""

    def __post_init__(self) -> None:
        if self.route not in get_args(RegistryRoute) or self.kind not in get_args(RegistryFaultKind):
            raise ValueError(f"no such fault: {self.route!r} {self.kind!r}")

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        unknown = set(document) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"a fault has no {', '.join(sorted(unknown))}")
        return cls(**document)


class RegistryFaults:
    """The faults that are on, each with the requests it has met."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._on: list[tuple[RegistryFault, Counter[str]]] = []

    def add(self, fault: RegistryFault) -> None:
        with self._lock:
            self._on.append((fault, Counter()))

    def clear(self) -> None:
        with self._lock:
            self._on.clear()

    def strike(self, route: str, digest: str | None) -> dict[str, RegistryFault]:
        """The faults that hit this request, by kind, counted as used."""
        struck: dict[str, RegistryFault] = {}
        with self._lock:
            for fault, met in self._on:
                if fault.route != route or (fault.digest or digest) != digest:
                    continue
                met["requests"] += 1
                if met["requests"] > fault.after and (fault.times is None or met["hits"] < fault.times):
                    met["hits"] += 1
                    struck[fault.kind] = fault
        return struck


class Throttle:
    """A rate that all answers of a server share."""

    def __init__(self, bytes_per_second: int | None, clock: Clock) -> None:
        self.bytes_per_second = bytes_per_second
        self._clock = clock
        self._free_at = 0.0
        self._lock = threading.Lock()

    def delay(self, amount: int) -> float:
        """Book `amount` bytes; how long to wait before they may leave."""
        if not self.bytes_per_second:
            return 0.0
        with self._lock:
            now = self._clock.monotonic()
            start = max(now, self._free_at)
            self._free_at = start + amount / self.bytes_per_second
            return self._free_at - now
