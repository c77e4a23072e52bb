"""What a server says of itself in the ledger, under `server/<tier>/<container>`, on Modal and on one machine alike.

Whoever wants to know how the servers are reads these, and asks none of them. A report written by last month's code
still opens: what it does not say is empty here.
"""

from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from app.model_server.gpu import Gpu
from jobs.core import foreign
from jobs.core.clock import isoformat
from jobs.ollama.responses import Running
from jobs.store import keys
from jobs.store.protocols import DictLike
from jobs.telemetry.cold_starts import Progress

FINAL = frozenset({"ended", "failed", "refused"})
"""States that a container never leaves: its report will not change any more."""

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)

CLOCKS_AGREE = timedelta(seconds=5)
"""What a report says of the time of day is believed so far: to write it takes a while."""

REPORT_STALE = timedelta(minutes=3)
"""A server reports every thirty seconds; one whose last word is older than this is gone."""


@dataclass(frozen=True)
class Loaded:
    """A model in the memory of a server; `context` is what it was loaded with."""

    name: str
    size: int
    size_vram: int
    context: int
    digest: str = ""
    expires_at: datetime | None = None

    @classmethod
    def of(cls, running: Running) -> Self:
        return cls(
            running.name, running.size, running.size_vram, running.context_length, running.digest, running.expires_at
        )

    @classmethod
    def from_json(cls, document: Any) -> Self:
        wire = foreign.fields(document)
        return cls(
            name=foreign.text(wire.get("name")),
            size=foreign.count(wire.get("size")),
            size_vram=foreign.count(wire.get("size_vram")),
            context=foreign.count(wire.get("context")),
            digest=foreign.text(wire.get("digest")),
            expires_at=foreign.moment(wire.get("expires_at")),
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"expires_at": self.expires_at and isoformat(self.expires_at)}


@dataclass(frozen=True)
class Report:
    """One server at one moment.

    Args:
        tier: which kind of server.
        container: names this one; on one machine, the server.
        state: waking, serving, silent, ended, failed or refused.
        at: when it was written.
        why: what led to the state, in words.
        started_at: when the server began to start.
        version: of its Ollama; empty while that has not answered yet.
        gpu: what it found, where one was promised.
        models: the names it serves.
        loaded: what it holds in memory.
        served: requests of others that have ended.
        in_flight: connections that others hold to it; None when that cannot be known.
        generation: of the weights it serves.
        pausing_until: it asks for no new request until then, so that it can take in new weights.
        dollars_per_hour: what it costs while it is up, where that is known.
        progress: how far its start and its last load have come, or how they went; empty where nobody tells.
        heard_at: when it was there to be read, by the clock of whoever keeps reading; no part of what is written.

    """

    tier: str
    container: str
    state: str
    at: datetime
    why: str = ""
    started_at: datetime | None = None
    version: str = ""
    gpu: Gpu | None = None
    models: tuple[str, ...] = ()
    loaded: tuple[Loaded, ...] = ()
    served: int = 0
    in_flight: int | None = None
    generation: Any = field(default=None, hash=False)
    pausing_until: datetime | None = None
    dollars_per_hour: float | None = None
    progress: tuple[Progress, ...] = field(default=(), hash=False)
    heard_at: datetime | None = field(default=None, compare=False)

    @property
    def written_at(self) -> datetime:
        """By the reader's clock where that was looked at, else by the server's."""
        return self.heard_at or self.at

    def age(self, now: datetime) -> timedelta:
        return now - self.written_at

    def here(self, moment: datetime) -> datetime:
        """What the server says of the time of day, by the reader's clock, as far as the difference of both is known."""
        try:
            return moment if self.heard_at is None else moment + (self.heard_at - self.at)
        except OverflowError:  # neither says anything that makes sense
            return moment

    def heard(self, before: "Report | None", since: datetime | None, now: datetime) -> "Report":
        """The same, with when it was written by the reader's clock, whatever the server's clock says.

        Args:
            before: what the server had said when it was read last, where it had said something.
            since: when that was; None where this is the first reading, and all that is known is the server's word.
            now: the time.

        """
        if before is not None and before.at == self.at:
            return replace(self, heard_at=before.heard_at)
        then = min(now, max(self.at, since or self.at))
        agree = self.at == _LONG_AGO or abs(then - self.at) < CLOCKS_AGREE  # or it does not say
        return replace(self, heard_at=self.at if agree else then)

    @property
    def key(self) -> str:
        return keys.server(self.tier, self.container)

    @property
    def is_final(self) -> bool:
        return self.state in FINAL

    @classmethod
    def from_json(cls, document: Any) -> Self:
        wire = foreign.fields(document)
        requests = foreign.fields(wire.get("requests"))
        price = wire.get("dollars_per_hour")
        return cls(
            tier=foreign.text(wire.get("tier")),
            container=foreign.text(wire.get("container")),
            state=foreign.text(wire.get("state")),
            at=foreign.moment(wire.get("at")) or _LONG_AGO,
            why=foreign.text(wire.get("why")),
            started_at=foreign.moment(wire.get("started_at")),
            version=foreign.text(wire.get("version")),
            gpu=_gpu(wire.get("gpu")),
            models=foreign.texts(wire.get("models")),
            loaded=tuple(Loaded.from_json(each) for each in foreign.items(wire.get("loaded"))),
            served=foreign.count(requests.get("served")),
            in_flight=None if requests.get("in_flight") is None else foreign.count(requests.get("in_flight")),
            generation=wire.get("generation"),
            pausing_until=foreign.moment(wire.get("pausing_until")),
            dollars_per_hour=float(price) if isinstance(price, int | float) else None,
            progress=tuple(filter(None, map(Progress.from_json, foreign.items(wire.get("progress"))))),
        )

    def as_json(self) -> dict[str, Any]:
        gpu = self.gpu
        return {
            "tier": self.tier,
            "container": self.container,
            "state": self.state,
            "why": self.why,
            "at": isoformat(self.at),
            "started_at": self.started_at and isoformat(self.started_at),
            "version": self.version,
            "gpu": gpu and {"name": gpu.name, "vram_bytes": gpu.vram_bytes, "count": gpu.count},
            "models": list(self.models),
            "loaded": [each.as_json() for each in self.loaded],
            "requests": {"served": self.served, "in_flight": self.in_flight},
            "generation": self.generation,
            "pausing_until": self.pausing_until and isoformat(self.pausing_until),
            "dollars_per_hour": self.dollars_per_hour,
            "progress": [each.as_json() for each in self.progress],
        }


class ReportsOf:
    """The reports of one tier, or of all, as the ledger has them at each call: in one listing, of no other entries."""

    def __init__(self, facts: DictLike, tier: str | None = None) -> None:
        self._facts = facts
        self._prefix = keys.SERVER if tier is None else keys.server(tier, "")

    def __call__(self) -> tuple[Report, ...]:
        return tuple(Report.from_json(value) for _, value in self._facts.items(self._prefix))


def _gpu(document: Any) -> Gpu | None:
    wire = foreign.fields(document)
    name, size, count = foreign.text(wire.get("name")), foreign.count(wire.get("vram_bytes")), wire.get("count")
    return Gpu(name, size, foreign.count(count) or 1) if wire else None
