"""One server in one container, from its start to its end: a GPU, a view of the weights, `ollama serve`, a keeper.

The keeper is a thread that looks every half minute: it reports to the ledger from inside, so that nobody has to wake a
server to learn how it is; it takes in new weights when nothing is in use; and when the server cannot do its work any
more, it takes the container out. The platform is handed in.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from loguru import logger

from app import gpu
from app.connections import callers_of
from app.daemon import COMMAND, Daemon, environ
from app.freshness import GENERATION, MISSES_ALLOWED, Look, Step, next_step
from app.view import View
from jobs.clock import Clock, isoformat
from jobs.errors import CpuFallback, ServerTrouble, Trouble
from jobs.names import ModelName
from jobs.ollama import Ollama
from jobs.ollama_host import OllamaHost
from jobs.ollama_shapes import Running
from jobs.protocols import DictLike
from jobs.retrying import NEVER

PROBE_EVERY = timedelta(seconds=30)

_PROBE_STALL = timedelta(seconds=30)
_DRAIN_SECONDS = 10
"""After SIGTERM the platform allows 30 s for everything; what is in flight has had its own grace before."""

_RELOAD_PAUSES = (0.0, 0.5, 1.0, 2.0)
"""A runner that was told to end needs a moment to close its files."""

_UNKNOWN = object()


@dataclass(frozen=True)
class Place:
    """What a container offers to its server.

    Args:
        volume: where the weights are mounted, read-only.
        disk: a directory of its own on local disk.
        container: names it in the ledger.
        facts: the ledger's dict.
        reload: brings in what others committed to the volume; RuntimeError while a file there is open.
        take_out: ends this container, so that the next request gets another one.
        host: where the server shall listen.
        inherited: the container's environment.
        clock: for times and pauses.
        command: starts the server.

    """

    volume: Path
    disk: Path
    container: str
    facts: DictLike
    reload: Callable[[], None]
    take_out: Callable[[], None]
    host: OllamaHost
    inherited: Mapping[str, str]
    clock: Clock
    command: tuple[str, ...] = field(default=COMMAND)


@dataclass(frozen=True)
class Wanted:
    """What a tier asks of its server."""

    tier: str
    gpu_promised: bool
    settings: Mapping[str, str]
    startup: timedelta
    warmed: tuple[ModelName, ...] = ()
    probe_every: timedelta = PROBE_EVERY


class Server:
    def __init__(self, wanted: Wanted, place: Place) -> None:
        self._wanted = wanted
        self._place = place
        self._view = View(place.volume, place.disk / "models")
        home = place.disk / "home"
        home.mkdir(parents=True, exist_ok=True)
        self._daemon = Daemon(
            environ(place.inherited, wanted.settings, host=place.host, models=self._view.layout.root, home=home),
            place.host,
            place.clock,
            on_death=self._died,
            command=place.command,
        )
        self._gpu: gpu.Gpu | None = None
        self._version = ""
        self._started_at = place.clock.now()
        self._known: Any = _UNKNOWN
        self._before: Look | None = None
        self._misses = 0
        self._own_requests = 0
        self._is_ready = False
        self._stopping = threading.Event()
        self._leaving = threading.Lock()
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)

    # From start to end

    def start(self) -> None:
        """Be ready to answer, with the tier's warmed models in memory as far as they are there.

        Raises:
            CpuFallback: a GPU was promised and is not there, or is not used.
            ServerTrouble: Ollama did not come up.

        """
        self._gpu = gpu.find() if self._wanted.gpu_promised else None
        logger.info("tier {}: {}", self._wanted.tier, self._gpu or "no GPU promised")
        self._take_in()
        self._daemon.start()
        try:
            self._warm_up()
        except BaseException:
            self._daemon.stop()
            raise
        self._is_ready = True
        logger.info("ollama {} answers; it has {} models", self._version, len(self._view.names()))
        self._keeper.start()

    def _warm_up(self) -> None:
        self._version = self._daemon.wait_ready(self._wanted.startup)
        with self._ollama() as ollama:
            self._load(ollama, [name for name in self._wanted.warmed if self._shows(name)])
            running = ollama.ps()
        if fallen := self._on_cpu(running):
            raise CpuFallback(fallen, hint="the next container may have a GPU that works")
        self._report(running)

    def stop(self) -> None:
        """Let what is in flight end if it is quick, then end Ollama and all that it started."""
        if not self._leaving.acquire(blocking=False):
            return
        self._stopping.set()
        self._drain()
        logger.info("ollama ended with {}", self._daemon.stop())
        if self._keeper.is_alive():
            self._keeper.join(timeout=2)
        self._report(state="ended")

    def _drain(self) -> None:
        deadline = self._place.clock.monotonic() + _DRAIN_SECONDS
        while self._daemon.is_alive and self._in_flight() and self._place.clock.monotonic() < deadline:
            self._place.clock.wait(0.1)

    # Taking itself out

    def _died(self, code: int) -> None:
        if self._is_ready:  # before, `start` itself says so
            self._leave(f"ollama ended by itself with {code}")

    def _leave(self, why: str) -> None:
        """Say why, end everything, and take the container out; once."""
        if not self._leaving.acquire(blocking=False):
            return
        logger.error("taking this container out: {}", why)
        self._report(state="failed", why=why)
        self._stopping.set()
        self._drain()
        self._daemon.stop()
        self._place.take_out()

    # The keeper

    def _keep(self) -> None:
        while not self._place.clock.wait(self._wanted.probe_every.total_seconds(), self._stopping):
            try:
                self.look()
            except Exception as error:  # noqa: BLE001 - one bad round must not end the thread that watches
                logger.warning("a look at the server failed: {}: {}", type(error).__name__, error)

    def look(self) -> None:
        """One round: probe, report, and take in new weights if there are any and nothing is in use."""
        with self._ollama() as ollama:
            try:
                running = ollama.ps()
            except Trouble as trouble:
                self._missed(trouble)
                return
        self._misses = 0
        if fallen := self._on_cpu(running):
            self._leave(fallen)
            return
        look = self._look(running)
        self._report(running, look=look)
        wanted = self._place.facts.get(GENERATION)
        step = next_step(wanted, self._known, look, self._before)
        self._before = look
        if step is Step.LATER:
            logger.info("new weights wait until nothing is in use: in flight {}, loaded {}", look.in_flight, look.names)
        elif step is Step.REFRESH:
            self._refresh(wanted, look)
            self._before = None

    def _missed(self, trouble: Trouble) -> None:
        self._misses += 1
        logger.warning("probe {} in a row without an answer: {}", self._misses, trouble)
        if self._misses >= MISSES_ALLOWED:
            self._leave(f"ollama has not answered {self._misses} probes in a row: {trouble}")

    def _look(self, running: list[Running]) -> Look:
        loaded = tuple(sorted((each.name, isoformat(each.expires_at)) for each in running))
        return Look(loaded, self._served(), self._in_flight())

    def _served(self) -> int:
        """Requests of others; ours are in the server's log too, a moment after we counted them."""
        return max(0, self._daemon.served - self._own_requests)

    def _in_flight(self) -> int | None:
        """Callers, once our own clients are closed."""
        return callers_of(self._place.host.port)

    def _on_cpu(self, running: list[Running]) -> str:
        """Which model runs on the CPU alone though a GPU was promised, in words; empty when none does."""
        if not self._wanted.gpu_promised:
            return ""
        fallen = [each.name for each in running if each.size > 0 and each.size_vram == 0]
        return f"{', '.join(fallen)} runs on the CPU, though a GPU was promised" if fallen else ""

    # Weights

    def _take_in(self) -> None:
        """Before anything runs: the newest weights. The generation is read first, so that it is never ahead of them."""
        try:
            wanted = self._place.facts.get(GENERATION)
        except Exception as error:  # noqa: BLE001 - it serves what it has; the keeper asks again
            logger.warning("the ledger cannot be asked for the newest weights: {}: {}", type(error).__name__, error)
            wanted = _UNKNOWN
        try:
            self._place.reload()
            self._known = wanted
        except RuntimeError as error:
            logger.warning("the volume cannot be reloaded yet: {}", error)
        self._view.copy()

    def _refresh(self, wanted: Any, look: Look) -> None:
        """Unload, reload, copy, load again. While the server is frozen nobody can see a thing half done."""
        loaded = [ModelName.parse(name) for name in look.names]
        with self._ollama() as ollama:
            for name in loaded:
                ollama.unload(str(name))
                self._own_requests += 1
        try:
            if self._reloaded_soon():
                self._known = wanted
        finally:
            with self._ollama() as ollama:
                self._load(ollama, [name for name in loaded if self._shows(name)])

    def _reloaded_soon(self) -> bool:
        for pause in _RELOAD_PAUSES:
            if self._place.clock.wait(pause, self._stopping):
                return False
            if self._reloaded():
                return True
        return False

    def _reloaded(self) -> bool:
        with self._daemon.frozen():
            if self._in_flight() != 0:
                logger.info("new weights wait: a request came in between")
                return False
            try:
                self._place.reload()
            except RuntimeError as error:
                logger.info("new weights wait: {}", error)
                return False
            self._view.copy()
        return True

    def _shows(self, name: ModelName) -> bool:
        return any(each.folded() == name.folded() for each in self._view.names())

    def _load(self, ollama: Ollama, names: list[ModelName]) -> None:
        for name in names:
            try:
                ollama.load(str(name), check=self._go_on)
                self._own_requests += 1
                logger.info("loaded {}", name)
            except Trouble as trouble:  # it serves the others, and this one may load for whoever asks for it
                logger.warning("{} did not load: {}", name, trouble)

    def _go_on(self) -> None:
        if self._stopping.is_set():
            raise ServerTrouble("the server is stopping")

    # Words to others

    def _ollama(self) -> Ollama:
        return Ollama(self._place.host.url, policy=NEVER, stall=_PROBE_STALL, clock=self._place.clock)

    def _report(
        self, running: list[Running] | None = None, *, look: Look | None = None, state: str = "serving", why: str = ""
    ) -> None:
        found = self._gpu
        report = {
            "tier": self._wanted.tier,
            "container": self._place.container,
            "state": state,
            "why": why,
            "at": isoformat(self._place.clock.now()),
            "started_at": isoformat(self._started_at),
            "version": self._version,
            "gpu": found and {"name": found.name, "vram_bytes": found.vram_bytes, "count": found.count},
            "models": sorted(str(name) for name in self._view.names()),
            "loaded": [
                {"name": each.name, "size": each.size, "size_vram": each.size_vram, "context": each.context_length}
                for each in running or ()
            ],
            "requests": {"served": self._served(), "in_flight": look and look.in_flight},
            "generation": None if self._known is _UNKNOWN else self._known,
        }
        try:
            self._place.facts.put(f"server/{self._wanted.tier}/{self._place.container}", report)
        except Exception as error:  # noqa: BLE001 - a ledger that cannot be reached is no reason to serve nobody
            logger.warning("the report could not be written: {}: {}", type(error).__name__, error)
