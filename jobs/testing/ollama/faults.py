"""Things that go wrong in the Ollama simulator, switched on per route while it runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, Literal, Self, get_args

from jobs.core.errors import BadRequest
from jobs.testing.fault_list import FaultList

OllamaFaultKind = Literal["status", "error", "hang", "slow", "cut", "die", "digest", "full", "cpu"]

ENOSPC = "write {path}-partial: no space left on device"
MISMATCH = "digest mismatch, file must be downloaded again: want sha256:{want}, got sha256:{got}"
CRASHED = "an error was encountered while running the model: unexpected EOF"


class SimError(Exception):
    """An error with Ollama's own text. Before the first frame it is a status; later it is a last line after a 200."""

    def __init__(self, text: str, status: int = 500, *, at_the_door: bool = False) -> None:
        super().__init__(text)
        self.text = text
        self.status = status
        self.at_the_door = at_the_door
        """Refused before the native route was reached, which shows in the Content-Type of `/v1` answers."""


@contextmanager
def at_the_door() -> Iterator[None]:
    """What is refused in here is refused before the native route is reached."""
    try:
        yield
    except (SimError, BadRequest) as error:
        raise SimError(str(error), 400, at_the_door=True) from error


@dataclass(frozen=True)
class OllamaFault:
    """One thing that goes wrong, for the next `times` matching requests, or until cleared when None.

    kind     what happens                                        value
    status   this status and `text` instead of an answer         the status
    error    `text` as an error inside the stream                after this many frames
    hang     nothing more comes                                  after this many frames
    slow     a pause before every frame                          seconds
    cut      the connection closes inside the body               after this many bytes of it
    die      the whole process exits                             after this many frames
    digest   a pull ends with a digest mismatch                  -
    full     a pull ends with a full disk                        -
    cpu      a load lands on the CPU: size_vram is 0             -
    """

    route: str
    """A path such as `/api/pull`, or `*` for all of them."""
    kind: OllamaFaultKind
    value: float = 0
    text: str = CRASHED
    times: int | None = 1
    after: int = 0
    """Matching requests that pass unharmed first."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(OllamaFaultKind):
            raise ValueError(f"no such fault: {self.kind!r}; there are {', '.join(get_args(OllamaFaultKind))}")

    @classmethod
    def from_json(cls, document: Any) -> Self:
        known = {field.name for field in fields(cls)}
        if not isinstance(document, dict) or not {"route", "kind"} <= set(document) <= known:
            raise ValueError(f"a fault is an object with route and kind, and perhaps {', '.join(sorted(known))}")
        return cls(**document)


class OllamaFaults(FaultList[OllamaFault]):
    """The faults that are on."""

    def strike(self, route: str) -> dict[OllamaFaultKind, OllamaFault]:
        """The faults that hit this request, by kind, counted as used."""
        return {fault.kind: fault for fault in self.hits(lambda fault: fault.route in {route, "*"})}
