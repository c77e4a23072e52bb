"""What the registry double can be told to do wrong."""

from dataclasses import dataclass, fields
from typing import Any, Literal, Self, get_args

from jobs.testing.fault_list import FaultList

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
    expire   this answer is good, then the blob's addresses are refused -
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


class RegistryFaults(FaultList[RegistryFault]):
    """The faults that are on."""

    def strike(self, route: str, digest: str | None) -> dict[str, RegistryFault]:
        """The faults that hit this request, by kind, counted as used."""

        def matches(fault: RegistryFault) -> bool:
            return fault.route == route and (fault.digest or digest) == digest

        return {fault.kind: fault for fault in self.hits(matches)}
