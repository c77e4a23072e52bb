"""Servers as a platform would run them, played: containers that start when asked, report, count, and end when idle.

They write what `app.model_server.supervisor` writes, the reports, the meters and how their starts went, on a clock that
somebody else moves.
Models answer through an `httpx.MockTransport`; at zero containers every request is answered 503, and starts one.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import httpx

from app.fleet.schema import Fleet
from app.model_server.gpu import Gpu
from app.model_server.report import Loaded, Report
from app.model_server.settings import PROBE_EVERY
from jobs.core.clock import Clock
from jobs.core.retry import NEVER
from jobs.ollama.client import OllamaClient
from jobs.store.protocols import DictLike
from jobs.telemetry.cold_starts import ColdStart
from jobs.telemetry.container_time import Meter, TimeShare, is_warming

COLD = timedelta(seconds=60)
"""How long a container takes to start."""

SIZE = 4_000_000_000
FOREVER = datetime(2318, 1, 1, tzinfo=UTC)


@dataclass
class Container:
    tier: str
    name: str
    meter: Meter
    began: float
    """By the clock's monotonic seconds, as all times here: whoever sets the wall clock back moves none of them."""
    used: float
    started_at: datetime
    is_ready: bool = False
    served: int = 0
    reported: int = 0
    loaded: set[str] = field(default_factory=set)


class Servers:
    """
    Args:
        facts: where they report.
        fleet: declares the tiers.
        clock: moved by others; call `settle` when it was.
    """

    def __init__(self, facts: DictLike, fleet: Fleet, clock: Clock) -> None:
        self._facts = facts
        self._fleet = fleet
        self._clock = clock
        self._kept: dict[str, int] = {}
        self._up: list[Container] = []
        self._names = 0
        self._marked = clock.monotonic()
        self.on_cpu: set[str] = set()
        """Tiers whose next model runs beside the GPU."""
        self.billed: dict[str, float] = defaultdict(float)
        """Seconds of containers, by tier: what a bill would rest on."""
        self.kept_seconds: dict[str, float] = defaultdict(float)
        self.starts: list[tuple[str, datetime]] = []

    def ollamas(self) -> dict[str, OllamaClient]:
        client = httpx.Client(transport=httpx.MockTransport(self._answer))
        return {
            name: OllamaClient(f"http://{name}", client=client, policy=NEVER, clock=self._clock)
            for name in self._fleet.tiers
        }

    # What the platform is asked for

    def keep(self, tier: str, least: int) -> None:
        self._count()
        self._kept[tier] = least
        self.settle()

    def call(self, tier: str) -> Container | None:
        """A request: the container that answers it, or None, and one is starting."""
        found = next((each for each in self._up if each.tier == tier), None) or self._start(tier)
        if not found.is_ready:
            return None
        found.served += 1
        found.used = self._clock.monotonic()
        return found

    def kill(self, tier: str) -> None:
        """A container goes without a word."""
        self._leave(next(each for each in self._up if each.tier == tier))
        self.settle()

    def leave(self, tier: str) -> None:
        """Those of a tier end, as they do when the batches that woke them are over."""
        for each in [each for each in self._up if each.tier == tier]:
            self._end(each)

    def is_up(self, tier: str) -> bool:
        return any(each.tier == tier for each in self._up)

    def is_ready(self, tier: str) -> bool:
        return any(each.tier == tier and each.is_ready for each in self._up)

    def redeploy(self) -> None:
        """All containers end, and what was asked to be kept is forgotten."""
        self._count()
        self._kept.clear()
        for each in list(self._up):
            self._end(each)

    # What happens by itself

    @property
    def next_in(self) -> float | None:
        """Seconds until something does."""
        now = self._clock.monotonic()
        return min((self._due(each) - now for each in self._up), default=None)

    def settle(self) -> None:
        """Let all happen that is due."""
        self._count()
        for each in list(self._up):
            if self._clock.monotonic() < self._due(each):
                continue
            if each.is_ready:
                self._end(each)
            else:
                self._become_ready(each)
        for tier, least in self._kept.items():
            if least and not any(each.tier == tier for each in self._up):
                self._start(tier)

    def report(self) -> None:
        """Their keepers look, as they do every half minute."""
        for each in self._up:
            self._report(each)

    # How

    def _due(self, each: Container) -> float:
        if not each.is_ready:
            return each.began + COLD.total_seconds()
        if self._kept.get(each.tier, 0):
            return float("inf")
        return each.used + self._fleet.tier(each.tier).scaledown_window_seconds

    def _start(self, tier: str) -> Container:
        self._names += 1
        name, now = f"ta-{self._names}", self._clock.monotonic()
        meter = Meter(self._facts, self._clock, tier, name)
        found = Container(tier, name, meter, now, now, self._clock.now())
        self._up.append(found)
        self.starts.append((tier, self._clock.now()))
        self._report(found)
        return found

    def _become_ready(self, each: Container) -> None:
        each.meter.note("cold")
        each.is_ready = True
        each.used = self._clock.monotonic()
        start = ColdStart(each.tier, each.name, 1, "start", each.started_at, seconds={"engine": COLD.total_seconds()})
        self._facts.put(start.key, start.as_json())
        each.loaded = {model.name for model in self._fleet.models_of(each.tier) if model.warmed}
        self._report(each)

    def _end(self, each: Container) -> None:
        self._report(each, "ended")
        self._leave(each)

    def _leave(self, each: Container) -> None:
        self._up.remove(each)
        self.billed[each.tier] += self._clock.monotonic() - each.began

    def _count(self) -> None:
        now = self._clock.monotonic()
        for tier, least in self._kept.items():
            self.kept_seconds[tier] += least * (now - self._marked)
        self._marked = now

    def _report(self, each: Container, state: str = "", why: str = "") -> None:
        fell = each.tier in self.on_cpu
        told = Report(
            tier=each.tier,
            container=each.name,
            state=state or ("serving" if each.is_ready else "waking"),
            at=self._clock.now(),
            why=why,
            started_at=each.started_at,
            version="0.32.15",
            gpu=Gpu(self._fleet.tier(each.tier).gpu_text or "", 24_000_000_000, 1),
            loaded=tuple(Loaded(name, SIZE, 0 if fell else SIZE, 8192) for name in sorted(each.loaded)),
            served=each.served,
            in_flight=0,
            dollars_per_hour=self._fleet.dollars_per_hour(each.tier),
        )
        self._facts.put(told.key, told.as_json())
        each.meter.note(self._share(each))

    def _share(self, each: Container) -> TimeShare:
        before, each.reported = each.reported, each.served
        if not each.is_ready:
            return "cold"
        if is_warming(self._facts, each.tier, self._clock.now(), PROBE_EVERY):
            return "warming"
        return "serving" if each.served > before else "idle"

    # What a model answers

    def _answer(self, request: httpx.Request) -> httpx.Response:
        tier = request.url.host
        found = self.call(tier)
        if found is None:
            return httpx.Response(503, text="modal-http: no container")
        match request.url.path:
            case "/api/version":
                return httpx.Response(200, json={"version": "0.32.15"})
            case "/api/ps":
                return httpx.Response(200, json={"models": list(self._running(found))})
            case "/api/show":
                return httpx.Response(200, json={"capabilities": ["completion"]})
            case "/api/generate":
                asked = json.loads(request.content)
                found.loaded.add(asked["model"])
                return httpx.Response(200, json={"model": asked["model"], "response": "", "done": True})
        return httpx.Response(404)

    def _running(self, found: Container) -> Iterator[dict[str, object]]:
        in_vram = 0 if found.tier in self.on_cpu else SIZE
        for name in sorted(found.loaded):
            yield {"name": name, "size": SIZE, "size_vram": in_vram, "expires_at": FOREVER.isoformat()}

    def take_out(self, tier: str) -> None:
        """The keeper sees that a model runs on the CPU, says so, and takes its container out."""
        for each in [each for each in self._up if each.tier == tier]:
            self._report(each, "failed", f"{', '.join(sorted(each.loaded))} runs on the CPU, though a GPU was promised")
            self._leave(each)
        self.on_cpu.discard(tier)
