"""One server in one container, from its start to its end: a GPU, a view of the weights, an engine, and its checks.

A thread checks every half minute: it reports to the ledger from inside, so that nobody has to wake a server to learn
how it is; it takes in new weights when nothing is in use, and asks for a pause when that does not come to be; and when
the server cannot do its work any more, it ends the container. The platform is handed in.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from loguru import logger

from app.model_server import gpu
from app.model_server.connections import callers_of
from app.model_server.models_view import ModelsView
from app.model_server.process import Daemon
from app.model_server.reload_policy import MISSES_ALLOWED, ReloadStep, ServerView, next_step, pause
from app.model_server.report import Loaded, Report
from app.model_server.settings import ServerHost, TierSettings
from app.model_server.starting.asked_ahead import AskedAhead
from app.model_server.starting.blob_readers import BlobReaders
from app.model_server.starting.bytes_read import bytes_read
from app.model_server.starting.engine import engine_environ, models_and_home
from app.model_server.starting.phases import Phases
from app.model_server.starting.start_reports import StartReports, Weights
from app.model_server.weights_reload import WeightsReload
from jobs.core.clock import isoformat
from jobs.core.errors import CpuFallback, Trouble
from jobs.core.model_name import ModelName
from jobs.core.units import counted
from jobs.ollama.responses import Running
from jobs.telemetry.container_time import Meter, TimeShare, is_warming

if TYPE_CHECKING:
    from jobs.batches.woken_tiers import LeaveWatch

_DRAIN_SECONDS = 10
"""After SIGTERM the platform allows 30 s for everything; what is in flight has had its own grace before."""

_SETTLES_SECONDS = 15
"""By then gateways have written down whom they served before (`jobs.telemetry.usage.EVERY`)."""

_PAUSE_STEP_SECONDS = 0.5

_PAUSE_SEEN_SECONDS = 20
"""By then every gateway has read that a pause is asked for, and what is connected still is either in use or idle."""

_PAUSE_TRY_SECONDS = 10
"""Between two tries to find out which."""


class ServerSupervisor:
    """One server.

    The container's own thread starts and stops it. The supervisor's begins when the start is over and checks from then
    on; beside it another loads what else is to be in memory. One tells of starts and loads (`StartReports`), and one of
    the daemon says that the process has ended.
    """

    def __init__(self, settings: TierSettings, host: ServerHost) -> None:
        self._settings = settings
        self._host = host
        self._stopping = threading.Event()
        models, home = models_and_home(host.disk)
        self._models_view = ModelsView(host.volume, models, settings.models)
        self._readers = (
            host.ahead.readers
            if host.ahead
            else BlobReaders(host.clock, host.volume, readers=settings.readers_ahead, taken_in=self._engines_bytes)
        )
        self._start_reports = StartReports(
            host.facts,
            host.clock,
            settings.tier,
            host.container,
            tell=self._tell_progress,
            weights_of=self._weights_of,
            engines_bytes=self._engines_bytes,
            read_ahead=self._readers.progress,
        )
        self._daemon = Daemon(
            engine_environ(
                host.inherited, settings.environ, host=host.address, models=models, home=home, code=settings.engine.code
            ),
            host.address,
            host.clock,
            on_death=self._daemon_died,
            engine=settings.engine,
            command=host.command,
            child=host.started.child if host.started else None,
            loads=(self._readers, self._start_reports),
        )
        self._weights_reload = WeightsReload(host, self._models_view, self._daemon, self._stopping)
        self._started_at = host.clock.now()
        #: These three are written by the thread that starts the server, before the supervisor's begins; all read them.
        self._gpu: gpu.Gpu | None = None
        self._version = ""
        self._is_ready = False
        #: Written by the thread that starts the server, later by the supervisor's; read by whichever thread reports.
        self._last_running: list[Running] = []
        #: These five are the supervisor thread's own.
        self._leave_watch: LeaveWatch | None = None
        self._last_view: ServerView | None = None
        self._stale_since: float | None = None
        self._short_pauses = 0
        self._misses = 0
        #: Written by the supervisor's thread; read by whichever thread reports.
        self._pausing_until: datetime | None = None
        #: Taken once, by whoever ends the server, and never given back.
        self._ending = threading.Lock()
        #: Guards the four below: whoever reports holds it.
        self._reporting = threading.Lock()
        self._has_reported_end = False
        #: What was reported last.
        self._state, self._why = "waking", ""
        self._served_before = 0
        self._meter = Meter(host.facts, host.clock, settings.tier, host.container, settings.dollars_per_hour)
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        #: What came into memory before the server answered, and what is to be there beside it; written by the thread
        #: that starts the server.
        self._first: ModelName | None = None
        self._others: list[ModelName] = []
        self._loader = threading.Thread(target=self._load_others, name="other models", daemon=True)

    # From start to end

    def start(self) -> None:
        """Be ready to answer, with one model in memory: that which is waited for, else the tier's first warmed one.

        What else is waited for or warmed is loaded afterwards, while it serves.

        Raises:
            CpuFallback: a GPU was promised and is not there, or is not used.
            ServerTrouble: the engine did not come up.

        """
        phases = self._start_reports.begin_start(self._host.began_ago)
        ahead = self._host.ahead or self._ask_ahead()
        # What holds nothing up goes on beside it: the ledger is far away, a driver may think for a second, and what
        # asks the engine is a quarter of all that is imported.
        beside = ThreadPoolExecutor(3, thread_name_prefix="start")
        said = beside.submit(self._report, state="waking")
        found = beside.submit(self._find_gpu)
        beside.submit(lambda: self._host.ollama().close())
        names: list[ModelName] = []

        def visible() -> None:
            names.extend([*self._waited_for(ahead), *self._settings.warmed])
            self._readers.begin(names)

        try:
            if self._host.started is not None:  # it has been looking for its GPU since the first line
                self._daemon.start()
            self._weights_reload.prepare(ahead.generation, visible, before_reload=self._readers.release)
            phases.ended("weights")
            if self._host.started is None:
                self._daemon.start()
            self._gpu = found.result()
            self._version = self._daemon.wait_ready(self._settings.startup)
            phases.ended("engine")
            self._load_first(phases, names)
            running = self._in_memory()
            self._require_gpu(running)
            said.result()  # before anything else is said
            beside.submit(self._report, share="cold")
            self._is_ready = True
            self._daemon.require_alive("as soon as it had started")  # that it ended was nobody's business until now
        except Exception as trouble:
            logger.error("this server cannot start: {}", trouble)
            said.result()
            self._break_off("refused", str(trouble))
            raise
        except BaseException as taken:  # the container is taken away, which says nothing about the tier
            logger.info("the start of this server was broken off: {}", type(taken).__name__)
            said.result()
            self._break_off("ended")
            raise
        finally:
            beside.shutdown(wait=False)
        count = counted(len(self._models_view.names()), "model")
        logger.info("{} {} answers; it has {}", self._settings.engine.name, self._version, count)
        self._start_reports.end_start(self._first_blobs)
        self._thread.start()
        self._loader.start()

    def _break_off(self, state: str, why: str = "") -> None:
        self._daemon.stop()
        self._readers.stop()
        self._start_reports.stop()
        self._report(state=state, why=why)

    def _find_gpu(self) -> gpu.Gpu | None:
        found = gpu.find() if self._settings.gpu_promised else None
        logger.info("tier {}: {}", self._settings.tier, found or "no GPU promised")
        return found

    # Which models come first

    def _load_first(self, phases: Phases, wanted_names: list[ModelName]) -> None:
        """Have the first model in memory: what callers wait for comes before what is only likely to be asked for."""
        names = self._weights_reload.served_of(wanted_names)
        first, self._others = names[:1], names[1:]
        for name in first:
            phases.of(str(name))
            if self._weights_reload.load([name]):
                self._first = name
            else:
                phases.over()

    def _first_blobs(self) -> frozenset[str]:
        return frozenset() if self._first is None else self._models_view.blobs(str(self._first))

    def _ask_ahead(self) -> AskedAhead:
        host, settings = self._host, self._settings
        return AskedAhead(host.facts, host.clock, settings.tier, readers=self._readers, warmed=settings.warmed)

    def _waited_for(self, ahead: AskedAhead) -> list[ModelName]:
        """What callers wait for. A ledger that cannot be asked stops no start: they ask for it themselves as well."""
        try:
            return ahead.waited_for()
        except Exception as error:  # noqa: BLE001 - whatever it is, the warmed models are there
            logger.warning("the ledger does not tell which model is waited for: {}: {}", type(error).__name__, error)
            return []

    def _load_others(self) -> None:
        """Load the rest, one by one; but nothing that puts the first one out of memory."""
        first = {each.name for each in self._last_running}
        for name in self._others:
            if self._stopping.is_set():
                return
            self._weights_reload.load([name])
            try:
                with self._host.ollama() as ollama:
                    gone = first - {each.name for each in ollama.ps()}
            except Trouble as trouble:
                logger.warning("what is in memory is not known, and no more is loaded: {}", trouble)
                return
            if gone:
                logger.warning("{} took the place of {} in memory; no more is loaded", name, ", ".join(sorted(gone)))
                self._weights_reload.load([ModelName.parse(each) for each in sorted(gone)])
                return

    # What is told of starts and loads

    def _weights_of(self, blob: str) -> Weights | None:
        """The served model that a blob belongs to, and how large that is."""
        name = next((name for name in self._models_view.names() if blob in self._models_view.blobs(str(name))), None)
        path = self._models_view.layout.blobs / blob
        return None if name is None else Weights(str(name), path.stat().st_size)

    def _engines_bytes(self) -> int | None:
        return None if self._daemon.group is None else bytes_read(self._daemon.group)

    def _tell_progress(self) -> None:
        self._report(state=None)

    def stop(self) -> None:
        """Let what is in flight end if it is quick, then end the engine and all that it started."""
        if not self._ending.acquire(blocking=False):
            return
        self._stopping.set()
        self._drain()
        logger.info("{} ended with {}", self._settings.engine.name, self._daemon.stop())
        if self._thread.is_alive():
            self._thread.join(timeout=2)
        self._readers.stop()
        self._start_reports.stop()
        self._report(state="ended")

    def _drain(self) -> None:
        deadline = self._host.clock.monotonic() + _DRAIN_SECONDS
        while self._daemon.is_alive and self._in_flight() and self._host.clock.monotonic() < deadline:
            self._host.clock.wait(0.1)

    # Ending the container

    def _daemon_died(self, code: int) -> None:
        if self._is_ready:  # before, `start` itself says so
            self._end_container(f"{self._settings.engine.name} ended by itself with {code}")

    def _end_container(self, why: str) -> None:
        """Say why, end everything and the container with it; once."""
        if not self._ending.acquire(blocking=False):
            return
        logger.error("taking this container out: {}", why)
        self._go("failed", why, self._host.end_container)

    def _leave(self, why: str) -> None:
        """The same, for one that nobody needs any more."""
        if not self._ending.acquire(blocking=False):
            return
        logger.info("this container leaves: {}", why)
        self._go("ended", why, self._host.leave or self._host.end_container)

    def _go(self, state: str, why: str, end: Callable[[], None]) -> None:
        self._report(state=state, why=why)
        self._stopping.set()
        self._drain()
        self._daemon.stop()
        end()

    # The thread

    def _run(self) -> None:
        while not self._host.clock.wait(self._settings.probe_every.total_seconds(), self._stopping):
            try:
                self.check()
            except Exception as error:  # noqa: BLE001 - one bad round must not end the thread that watches
                logger.warning("a check of the server failed: {}: {}", type(error).__name__, error)

    def check(self) -> None:
        """One round: probe, report, and take in new weights if there are any and nothing is in use."""
        try:
            running = self._running()
            self._require_gpu(running)
        except CpuFallback as fallen:
            self._end_container(str(fallen))
        except Trouble as trouble:
            self._missed(trouble)
        else:
            self._misses = 0
            if self._may_leave(running):
                self._leave("the batches that woke it are over, and nobody else has used it")
            else:
                self._reload_if_due(self._server_view(running))

    def _may_leave(self, running: Sequence[Running]) -> bool:
        """Whether it is told that nobody needs it any more, and finds it so: by what gateways have counted of others,
        and by who comes meanwhile."""
        if self._leave_watch is None:
            from jobs.batches.woken_tiers import LeaveWatch  # noqa: PLC0415 - no start waits for it

            host = self._host
            self._leave_watch = LeaveWatch(host.facts, self._settings.tier, self._started_at, host.clock)
        served = self._served()
        if not self._leave_watch.is_told(served, self._in_flight()):
            return False
        settles = min(_SETTLES_SECONDS, self._settings.probe_every.total_seconds() / 2)
        if self._host.clock.wait(settles, self._stopping):
            return False
        if self._served() != served or self._leave_watch.is_wanted():
            return False
        if self._in_flight() == 0:
            return True
        # Connections may carry nothing. What is told to go from memory goes, unless somebody uses it, and that stays.
        names = [ModelName.parse(each.name) for each in running]
        self._weights_reload.unload(names)
        if self._weights_reload.is_unloaded() and self._served() == served:
            return True
        self._weights_reload.load(names, keep_alive=self._settings.keep_alive)
        self._leave_watch.decline()
        return False

    def _missed(self, trouble: Trouble) -> None:
        self._misses += 1
        logger.warning("probe {} in a row without an answer: {}", self._misses, trouble)
        # A load from slow storage silences Ollama for a while, and is no trouble yet.
        is_trouble = self._misses >= MISSES_ALLOWED - 1
        self._report(
            why=f"{counted(self._misses, 'probe')} in a row without an answer: {trouble}" if is_trouble else "",
        )
        if self._misses >= MISSES_ALLOWED:
            self._end_container(
                f"{self._settings.engine.name} has not answered {counted(self._misses, 'probe')} in a row: {trouble}"
            )

    def _reload_if_due(self, view: ServerView) -> None:
        wanted = self._weights_reload.wanted_generation()
        step = next_step(wanted, self._weights_reload.current, view, self._last_view, self._stale_for(wanted))
        self._last_view = view
        if step in {ReloadStep.REFRESH, ReloadStep.PAUSE} and self._weights_reload.is_backing_off:
            logger.info("new weights wait until the platform is asked for them again")
        elif step is ReloadStep.LATER:
            logger.info("new weights wait until nothing is in use: in flight {}, loaded {}", view.in_flight, view.names)
        elif step is ReloadStep.REFRESH:
            self._last_view = None
            self._weights_reload.refresh(wanted, view)
            self._report()  # whoever waits for what is new need not wait for the next check
        elif step is ReloadStep.PAUSE:
            self._last_view = None
            self._pause(wanted)

    def _stale_for(self, wanted: Any) -> timedelta:
        """How long something newer than what is served has been there, or has been since the last pause."""
        if wanted == self._weights_reload.current:
            self._stale_since, self._short_pauses = None, 0
            return timedelta(0)
        now = self._host.clock.monotonic()
        if self._stale_since is None:
            self._stale_since = now
        return timedelta(seconds=now - self._stale_since)

    def _pause(self, wanted: Any) -> None:
        """Ask for no new requests, and take in the weights as soon as those in flight have ended; for a while."""
        clock, length = self._host.clock, pause(self._short_pauses)
        self._pausing_until = clock.now() + length
        logger.info("new weights have waited for long: asking for a pause of {:.0f} s at most", length.total_seconds())
        began = clock.monotonic()
        unloaded: set[ModelName] = set()
        try:
            self._report()
            if not self._reloaded_within(wanted, began, began + length.total_seconds(), unloaded):
                self._stale_since = clock.monotonic()
                if not self._weights_reload.is_backing_off:
                    self._short_pauses += 1
                    logger.warning("the pause was too short for what is in flight; new weights wait for the next one")
        finally:
            self._pausing_until = None
            self._report()  # whoever is held back need not wait for the loads as well
            self._weights_reload.load(sorted(unloaded))
            self._report()

    def _reloaded_within(self, wanted: Any, began: float, until: float, unloaded: set[ModelName]) -> bool:
        clock = self._host.clock
        every = self._settings.probe_every.total_seconds()
        try_at, probe_at = began + _PAUSE_SEEN_SECONDS, began + every
        while not self._stopping.is_set() and (now := clock.monotonic()) < until:
            is_quiet = self._in_flight() == 0
            if is_quiet or now >= try_at:
                try_at = now + _PAUSE_TRY_SECONDS
                names = {ModelName.parse(each.name) for each in self._running()}
                unloaded |= names
                self._weights_reload.unload(names)
                may = is_quiet or self._weights_reload.is_unloaded()
                if may and self._weights_reload.reload(wanted, ignore_connections=not is_quiet):
                    return True
                if self._weights_reload.is_backing_off:
                    return False  # nobody is held back for what is not tried
            elif now >= probe_at:
                probe_at = now + every
                self._require_gpu(self._running())
            clock.wait(_PAUSE_STEP_SECONDS, self._stopping)
        return False

    # Checks and reports

    def _running(self) -> list[Running]:
        running = self._in_memory()
        self._report()
        return running

    def _in_memory(self) -> list[Running]:
        with self._host.ollama() as ollama:
            self._last_running = ollama.ps()
        return self._last_running

    def _server_view(self, running: list[Running]) -> ServerView:
        loaded = tuple(sorted((each.name, isoformat(each.expires_at)) for each in running))
        return ServerView(loaded, self._served(), self._in_flight())

    def _served(self) -> int:
        """Requests of others; ours are in the server's log too, a moment after we counted them."""
        return max(0, self._daemon.served - self._weights_reload.own_requests)

    def _in_flight(self) -> int | None:
        """Callers, once our own clients are closed."""
        return callers_of(self._host.address.port)

    def _require_gpu(self, running: list[Running]) -> None:
        """Refuse a model that runs on the CPU alone where a GPU was promised: Ollama falls back without a word.

        One that was loaded so on purpose, by an option or by its own parameters, says nothing about the GPU.
        """
        beside = [each.name for each in running if each.size > 0 and each.size_vram == 0]
        fallen = [
            name for name in beside if not self._daemon.kept_off_the_gpu.intersection(self._models_view.blobs(name))
        ]
        if fallen and self._settings.gpu_promised:
            raise CpuFallback(
                f"{', '.join(fallen)} runs on the CPU, though a GPU was promised",
                hint="the next container may have a GPU that works",
            )

    def _loaded(self, running: Running) -> Loaded:
        """By the digest that lists have, which is not the one that the server tells where something is set for it."""
        return replace(Loaded.of(running), digest=self._models_view.published_digest(running.digest))

    def _report(self, *, state: str | None = "serving", why: str = "", share: TimeShare | None = None) -> None:
        """Tell the ledger how this server is. `status` and the sweep read it; nobody has to ask the server.

        Without a state only what is loaded and what goes on is news, and no time is counted. Without a share the time
        since the last report went to whatever the server says it did. Each tells what is known as it is written: one
        that had to wait for another takes nothing back of what that one told.
        """
        with self._reporting:
            if self._has_reported_end:
                return  # a check that was under way meanwhile must not have the last word
            report = Report(
                tier=self._settings.tier,
                container=self._host.container,
                state=state or self._state,
                at=self._host.clock.now(),
                why=self._why if state is None else why,
                started_at=self._started_at,
                version=self._version,
                engine=self._settings.engine.name,
                gpu=self._gpu,
                models=tuple(sorted(str(name) for name in self._models_view.names())),
                loaded=tuple(map(self._loaded, self._last_running)) if state in {None, "serving"} else (),
                served=self._served(),
                in_flight=self._in_flight(),
                generation=self._weights_reload.generation,
                pausing_until=self._pausing_until,
                dollars_per_hour=self._settings.dollars_per_hour,
                progress=self._start_reports.progress(),
            )
            self._state, self._why = report.state, report.why
            self._has_reported_end = report.is_final
            try:
                self._host.facts.put(report.key, report.as_json())
                if state not in {None, "waking"}:  # of which no second has been counted yet
                    self._meter.note(share or self._time_share())
            except Exception as error:  # noqa: BLE001 - a ledger that cannot be reached is no reason to serve nobody
                logger.warning("the report could not be written: {}: {}", type(error).__name__, error)

    def _time_share(self) -> TimeShare:
        """What the time since the last report went to."""
        before, self._served_before = self._served_before, self._served()
        if not self._is_ready:
            return "cold"
        if is_warming(self._host.facts, self._settings.tier, self._host.clock.now(), self._settings.probe_every):
            return "warming"
        return "serving" if self._served_before > before or self._in_flight() else "idle"
