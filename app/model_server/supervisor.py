"""One server in one container, from its start to its end: a GPU, a view of the weights, `ollama serve`, a keeper.

The keeper is a thread that looks every half minute: it reports to the ledger from inside, so that nobody has to wake a
server to learn how it is; it takes in new weights when nothing is in use, and asks for a pause when that does not come
to be; and when the server cannot do its work any more, it takes the container out. The platform is handed in.
"""

import threading
from datetime import datetime, timedelta
from typing import Any

from loguru import logger

from app.model_server import gpu
from app.model_server.connections import callers_of
from app.model_server.models_view import ModelsView
from app.model_server.process import Daemon, environ
from app.model_server.reload_policy import MISSES_ALLOWED, ReloadStep, ServerView, next_step, pause
from app.model_server.report import Loaded, Report
from app.model_server.settings import ServerHost, TierSettings
from app.model_server.weights_reload import WeightsReload
from jobs.core.clock import isoformat
from jobs.core.errors import CpuFallback, Trouble
from jobs.core.model_name import ModelName
from jobs.ollama.responses import Running
from jobs.telemetry.container_time import Meter, TimeShare, is_warming

_DRAIN_SECONDS = 10
"""After SIGTERM the platform allows 30 s for everything; what is in flight has had its own grace before."""

_PAUSE_STEP_SECONDS = 0.5

_PAUSE_SEEN_SECONDS = 20
"""By then every gateway has read that a pause is asked for, and what is connected still is either in use or idle."""

_PAUSE_TRY_SECONDS = 10
"""Between two tries to find out which."""


class ServerSupervisor:
    def __init__(self, wanted: TierSettings, place: ServerHost) -> None:
        self._wanted = wanted
        self._place = place
        self._stopping = threading.Event()
        self._view = ModelsView(place.volume, place.disk / "models")
        home = place.disk / "home"
        home.mkdir(parents=True, exist_ok=True)
        self._daemon = Daemon(
            environ(place.inherited, wanted.settings, host=place.host, models=self._view.layout.root, home=home),
            place.host,
            place.clock,
            on_death=self._died,
            command=place.command,
        )
        self._weights_reload = WeightsReload(place, self._view, self._daemon, self._stopping)
        self._gpu: gpu.Gpu | None = None
        self._version = ""
        self._started_at = place.clock.now()
        self._meter = Meter(place.facts, place.clock, wanted.tier, place.container)
        self._served_before = 0
        self._last_running: list[Running] = []
        self._before: ServerView | None = None
        self._stale_since: float | None = None
        self._short_pauses = 0
        self._pausing_until: datetime | None = None
        self._misses = 0
        self._is_ready = False
        self._leaving = threading.Lock()
        self._reporting = threading.Lock()
        self._has_ended = False
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)

    # From start to end

    def start(self) -> None:
        """Be ready to answer, with the tier's warmed models in memory as far as they are there.

        Raises:
            CpuFallback: a GPU was promised and is not there, or is not used.
            ServerTrouble: Ollama did not come up.

        """
        self._report(state="waking")
        try:
            self._gpu = gpu.find() if self._wanted.gpu_promised else None
            logger.info("tier {}: {}", self._wanted.tier, self._gpu or "no GPU promised")
            self._weights_reload.begin()
            self._daemon.start()
            self._version = self._daemon.wait_ready(self._wanted.startup)
            self._weights_reload.load(list(self._wanted.warmed))
            self._check(self._running())
        except Exception as trouble:
            logger.error("this server cannot start: {}", trouble)
            self._daemon.stop()
            self._report(state="refused", why=str(trouble))
            raise
        except BaseException as taken:  # the container is taken away, which says nothing about the tier
            logger.info("the start of this server was broken off: {}", type(taken).__name__)
            self._daemon.stop()
            self._report(state="ended")
            raise
        self._is_ready = True
        logger.info("ollama {} answers; it has {} models", self._version, len(self._view.names()))
        self._keeper.start()

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
        try:
            running = self._running()
            self._check(running)
        except CpuFallback as fallen:
            self._leave(str(fallen))
        except Trouble as trouble:
            self._missed(trouble)
        else:
            self._misses = 0
            self._keep_fresh(self._look(running))

    def _missed(self, trouble: Trouble) -> None:
        self._misses += 1
        logger.warning("probe {} in a row without an answer: {}", self._misses, trouble)
        # A load from slow storage silences Ollama for a while, and is no trouble yet.
        is_trouble = self._misses >= MISSES_ALLOWED - 1
        self._report(
            self._last_running, why=f"{self._misses} probes in a row without an answer: {trouble}" if is_trouble else ""
        )
        if self._misses >= MISSES_ALLOWED:
            self._leave(f"ollama has not answered {self._misses} probes in a row: {trouble}")

    def _keep_fresh(self, look: ServerView) -> None:
        wanted = self._weights_reload.wanted()
        step = next_step(wanted, self._weights_reload.known, look, self._before, self._stale_for(wanted))
        self._before = look
        if step in {ReloadStep.REFRESH, ReloadStep.PAUSE} and self._weights_reload.is_resting:
            logger.info("new weights wait until the platform is asked for them again")
        elif step is ReloadStep.LATER:
            logger.info("new weights wait until nothing is in use: in flight {}, loaded {}", look.in_flight, look.names)
        elif step is ReloadStep.REFRESH:
            self._before = None
            self._weights_reload.refresh(wanted, look)
            self._report(self._last_running)  # whoever waits for what is new need not wait for the next look
        elif step is ReloadStep.PAUSE:
            self._before = None
            self._pause(wanted)

    def _stale_for(self, wanted: Any) -> timedelta:
        """How long something newer than what is served has been there, or has been since the last pause."""
        if wanted == self._weights_reload.known:
            self._stale_since, self._short_pauses = None, 0
            return timedelta(0)
        now = self._place.clock.monotonic()
        if self._stale_since is None:
            self._stale_since = now
        return timedelta(seconds=now - self._stale_since)

    def _pause(self, wanted: Any) -> None:
        """Ask for no new requests, and take in the weights as soon as those in flight have ended; for a while."""
        clock, length = self._place.clock, pause(self._short_pauses)
        self._pausing_until = clock.now() + length
        logger.info("new weights have waited for long: asking for a pause of {:.0f} s at most", length.total_seconds())
        began = clock.monotonic()
        unloaded: set[ModelName] = set()
        try:
            self._report(self._last_running)
            if not self._taken_in(wanted, began, began + length.total_seconds(), unloaded):
                self._stale_since = clock.monotonic()
                if not self._weights_reload.is_resting:
                    self._short_pauses += 1
                    logger.warning("the pause was too short for what is in flight; new weights wait for the next one")
        finally:
            self._pausing_until = None
            self._report(self._last_running)  # whoever is held back need not wait for the loads as well
            self._weights_reload.load(sorted(unloaded))
            self._report(self._last_running)

    def _taken_in(self, wanted: Any, began: float, until: float, unloaded: set[ModelName]) -> bool:
        clock = self._place.clock
        every = self._wanted.probe_every.total_seconds()
        try_at, probe_at = began + _PAUSE_SEEN_SECONDS, began + every
        while not self._stopping.is_set() and (now := clock.monotonic()) < until:
            is_quiet = self._in_flight() == 0
            if is_quiet or now >= try_at:
                try_at = now + _PAUSE_TRY_SECONDS
                names = {ModelName.parse(each.name) for each in self._running()}
                unloaded |= names
                self._weights_reload.unload(names)
                may = is_quiet or self._weights_reload.is_unloaded()
                if may and self._weights_reload.take_in(wanted, past_connections=not is_quiet):
                    return True
                if self._weights_reload.is_resting:
                    return False  # nobody is held back for what is not tried
            elif now >= probe_at:
                probe_at = now + every
                self._check(self._running())
            clock.wait(_PAUSE_STEP_SECONDS, self._stopping)
        return False

    # What is to be seen

    def _running(self) -> list[Running]:
        with self._place.ollama() as ollama:
            self._last_running = running = ollama.ps()
        self._report(running)
        return running

    def _look(self, running: list[Running]) -> ServerView:
        loaded = tuple(sorted((each.name, isoformat(each.expires_at)) for each in running))
        return ServerView(loaded, self._served(), self._in_flight())

    def _served(self) -> int:
        """Requests of others; ours are in the server's log too, a moment after we counted them."""
        return max(0, self._daemon.served - self._weights_reload.own_requests)

    def _in_flight(self) -> int | None:
        """Callers, once our own clients are closed."""
        return callers_of(self._place.host.port)

    def _check(self, running: list[Running]) -> None:
        """Refuse a model that runs on the CPU alone where a GPU was promised: Ollama falls back without a word.

        One that was loaded so on purpose, by an option or by its own parameters, says nothing about the GPU.
        """
        beside = [each.name for each in running if each.size > 0 and each.size_vram == 0]
        fallen = [name for name in beside if not self._daemon.kept_off_the_gpu.intersection(self._view.blobs(name))]
        if fallen and self._wanted.gpu_promised:
            raise CpuFallback(
                f"{', '.join(fallen)} runs on the CPU, though a GPU was promised",
                hint="the next container may have a GPU that works",
            )

    def _report(self, running: list[Running] | None = None, *, state: str = "serving", why: str = "") -> None:
        """Tell the ledger how this server is. `status` and the sweep read it; nobody has to ask the server."""
        report = Report(
            tier=self._wanted.tier,
            container=self._place.container,
            state=state,
            at=self._place.clock.now(),
            why=why,
            started_at=self._started_at,
            version=self._version,
            gpu=self._gpu,
            models=tuple(sorted(str(name) for name in self._view.names())),
            loaded=tuple(map(Loaded.of, running or ())),
            served=self._served(),
            in_flight=self._in_flight(),
            generation=self._weights_reload.generation,
            pausing_until=self._pausing_until,
            dollars_per_hour=self._wanted.dollars_per_hour,
        )
        with self._reporting:
            if self._has_ended:
                return  # a look that was under way meanwhile must not have the last word
            self._has_ended = state in {"ended", "failed", "refused"}
            try:
                self._place.facts.put(report.key, report.as_json())
                self._meter.note(self._share())
            except Exception as error:  # noqa: BLE001 - a ledger that cannot be reached is no reason to serve nobody
                logger.warning("the report could not be written: {}: {}", type(error).__name__, error)

    def _share(self) -> TimeShare:
        """What the time since the last report went to."""
        before, self._served_before = self._served_before, self._served()
        if not self._is_ready:
            return "cold"
        if is_warming(self._place.facts, self._wanted.tier, self._place.clock.now(), self._wanted.probe_every):
            return "warming"
        return "serving" if self._served_before > before or self._in_flight() else "idle"
