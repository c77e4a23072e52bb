"""Which servers the one-machine stack has, and which models directory: found, started, or simulated.

Decided by what the person asked for and by what is here: an Ollama that answers, else `ollama` on PATH, else the
built-in engine. Simulated ones are started only where somebody asks for them. Everything that is started listens on
loopback only.
"""

import importlib.util
import os
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

from loguru import logger

from app.engines.engine import Engine
from app.engines.llama_server import LLAMA_SERVER
from app.engines.ollama import OLLAMA
from app.gateway.protocol.model_defaults import notes
from app.local.plan import StackPlan
from app.local.processes.server_process import ServerProcess
from app.model_server.manifest_settings import PARAMS, SYSTEM
from app.model_server.models_view import ModelsView
from app.model_server.starting.phases import Phases
from jobs.core.clock import Clock
from jobs.core.errors import BadRequest, Refused, Trouble, Unreachable
from jobs.core.model_name import ModelName
from jobs.core.retry import NEVER
from jobs.home.home import Home
from jobs.home.status import weights_of
from jobs.models.model_settings import ModelSettings
from jobs.models.placement import LOCAL, TierCapacity
from jobs.ollama.client import OllamaClient
from jobs.ollama.host import OllamaHost
from jobs.weights.layout import Layout, ManifestFile
from jobs.weights.manifest import Layer, Manifest

START = timedelta(seconds=60)
"""For all servers to answer: a cold disk and a GPU driver that wakes up take their time."""

FOUR_WAYS = (
    "start an Ollama; or install it, so that `ollama` is on PATH (https://ollama.com/download, or `pixi run up`, which"
    " brings it); or install the built-in engine, as in `uv tool install '.[engine]'`; or pass --simulate, for answers"
    " that only pretend"
)

ENGINE_MODULE = "xllamacpp"
"""What the extra `engine` brings: llama.cpp with its server."""

BUILT_IN = (sys.executable, "-m", "app.llama_host")

LOOK_SECONDS = 5.0
"""Between two looks for models that have come by another way than our jobs."""

_POLL_SECONDS = 0.05
_PROBE_TIMEOUT = timedelta(seconds=2)


class ServedModels:
    """What servers see of the models directory where the fleet sets something that requests have no field for: each
    manifest with it, blobs as links.

    One for all servers of a machine, and any thread may refresh it. Whoever pulls straight into one of these servers
    loses nothing: what has come that way is moved into the models directory.
    """

    def __init__(self, models: Path, root: Path, settings: Mapping[ModelName, ModelSettings]) -> None:
        self.root = root
        self._models = Layout(models)
        self._served = Layout(root)
        self._view = ModelsView(models, root, settings)
        self._lock = threading.Lock()
        #: The manifests of both directories as they were when it was last made, with their times. Under `_lock`.
        self._seen: tuple[tuple[str, int], ...] = ()
        self._stopping = threading.Event()

    def refresh(self) -> None:
        """Show what is in the models directory now."""
        with self._lock:
            self._take_over()
            self._view.copy()
            self._seen = self._times()

    def watch(self) -> None:
        """Look now and then, until `stop`, for what others put into the directory or a server has pulled by itself."""
        threading.Thread(target=self._watch, name="served-models", daemon=True).start()

    def stop(self) -> None:
        self._stopping.set()

    def _watch(self) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            self.refresh_or_warn(only_if_changed=True)

    def refresh_or_warn(self, *, only_if_changed: bool = False) -> None:
        """Refresh; what fails is tried again at the next look."""
        try:
            if not only_if_changed or self._is_changed():
                self.refresh()
        except (OSError, Trouble) as trouble:
            logger.warning("servers do not see the newest models yet: {}", trouble)

    def _is_changed(self) -> bool:
        with self._lock:
            return self._seen != self._times()

    def _times(self) -> tuple[tuple[str, int], ...]:
        found = []
        for layout in (self._models, self._served):
            for file in layout.manifest_files():
                try:
                    found.append((str(file.path), file.path.stat().st_mtime_ns))
                except FileNotFoundError:  # it went meanwhile
                    continue
        return tuple(sorted(found))

    def _take_over(self) -> None:
        """Move what a server has pulled by itself into the models directory: blobs first, so that a model is whole."""
        for file in self._served.manifest_files():
            try:
                manifest = Manifest.parse(file.path.read_bytes())
            except (OSError, Trouble):
                continue
            come = [layer for layer in manifest.blobs if self._is_no_link(layer)]
            if any(layer.media_type not in {PARAMS, SYSTEM} for layer in come):  # which else may be what we have set
                self._move(file, come)

    def _is_no_link(self, layer: Layer) -> bool:
        path = self._served.blob(layer.digest)
        return path.is_file() and not path.is_symlink()

    def _move(self, file: ManifestFile, layers: list[Layer]) -> None:
        for layer in layers:
            target = self._models.blob(layer.digest)
            draft = target.with_name(f"{target.name}-taken-over")
            shutil.copyfile(self._served.blob(layer.digest), draft)
            draft.replace(target)
        target = self._models.manifest(file.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = self._models.root / f"taken-over-{os.getpid()}"
        shutil.copyfile(file.path, draft)
        draft.replace(target)
        logger.info("{} was pulled by a server itself; it lies in {} now", file.name, self._models.root)


@dataclass(frozen=True)
class Servers:
    """The servers that answer, in the order they were asked for, and the directory they read their models from."""

    tiers: tuple[TierCapacity, ...]
    urls: tuple[str, ...]
    models: Path | None
    simulated: bool = False
    mirror: str | None = None
    """The registry to use instead of all others."""
    why_by_server: str | None = None
    found: bool = False
    """It was there already, and is not ours to tune."""
    served: ServedModels | None = None
    """What they see of the directory, where that is not the directory itself."""
    engines: Mapping[str, Engine] = field(default_factory=dict)
    """What answers on each tier; Ollama where nothing is said."""

    def engine(self, tier: str) -> Engine:
        return self.engines.get(tier, OLLAMA)

    starts: Mapping[str, Phases] = field(default_factory=dict)
    """How each tier's start went, where it is we who started it."""


@dataclass(frozen=True)
class ServerLauncher:
    """Starts server processes.

    Args:
        plan: what was asked for.
        home: where their logs lie.
        environ: what they inherit.
        clock: for waiting until they answer.
        processes: gets each that is started, for whoever takes them down again.
        check: raises when somebody wants us to stop.

    """

    plan: StackPlan
    home: Home
    environ: Mapping[str, str]
    clock: Clock
    processes: list[ServerProcess]
    check: Callable[[], None]

    def start(self, name: str, argv: Sequence[str], env: Mapping[str, str]) -> ServerProcess:
        process = ServerProcess(name, argv, env={**self.environ, **env}, log=self.home.logs / f"{name}.log")
        self.processes.append(process)
        return process


def find_or_start(launcher: ServerLauncher) -> Servers:
    """Find or start the servers, and wait until all of them answer.

    Raises:
        Refused: there is no Ollama here, or what was asked for cannot be had.
        ServerTrouble: a server ended while it started.

    """
    if launcher.plan.simulate:
        return _start_simulated(launcher)
    host = OllamaHost.parse(launcher.environ.get("OLLAMA_HOST", ""))
    if not launcher.plan.tiers and (version := _version(host.url, launcher.clock)) is not None:
        return _running_server(host.url, version, launcher)
    return _start_servers(launcher, host.url)


# -- an Ollama that is there -------------------------------------------------------------------------------------------


def _running_server(url: str, version: str, launcher: ServerLauncher) -> Servers:
    models, why = _directory_of_running(url, launcher)
    logger.info("using the Ollama {} that runs at {}", version, url)
    if why:
        logger.info("pulls go through that server: {}", why)
    return Servers((LOCAL,), (url,), models, why_by_server=why, found=True)


def _directory_of_running(url: str, launcher: ServerLauncher) -> tuple[Path | None, str | None]:
    """The directory of a server that is not ours, when we may write it and can tell that it is the right one."""
    named = _models_option(launcher.plan, launcher.environ)
    if named is None:
        return None, "its models directory was not named (--models, or OLLAMA_MODELS)"
    weights = weights_of(named, launcher.home, launcher.clock)
    if not weights.is_ours():
        return None, f"{str(named)!r} is not ours to write"
    ours = {(str(model.name.folded()), model.digest) for model in weights.models()}
    with OllamaClient(url, clock=launcher.clock, policy=NEVER) as ollama:
        theirs = {(str(ModelName.parse(model.name).folded()), model.digest) for model in ollama.tags()}
    if not ours:
        return None, f"{str(named)!r} holds no model yet, so nobody can tell whether it is that server's"
    if ours != theirs:
        return None, f"{str(named)!r} is not that server's directory: they list different models"
    return named, None


# -- an Ollama that we start -------------------------------------------------------------------------------------------


def _start_servers(launcher: ServerLauncher, silent: str) -> Servers:
    binary = shutil.which("ollama", path=launcher.environ.get("PATH"))
    tiers = tuple(launcher.plan.capacities(launcher.environ))
    engines = {tier.name: LLAMA_SERVER if binary is None else launcher.plan.engine(tier.name) for tier in tiers}
    if LLAMA_SERVER in engines.values():
        _require_built_in(launcher, silent, engines, has_ollama=binary is not None)
    starts = _starts(tiers, launcher.clock)
    models = _prepared(_models_option(launcher.plan, launcher.environ) or _default_models(launcher.environ), launcher)
    served = _served(models, launcher)
    own = {"OLLAMA_MODELS": _seen(models, served), "OLLAMA_NOPRUNE": "1", "OLLAMA_NO_CLOUD": "1"}
    commands = {
        tier: (engine, BUILT_IN if engine is LLAMA_SERVER or binary is None else (binary, "serve"))
        for tier, engine in engines.items()
    }
    urls = _serve(starts, launcher, commands, own)
    return Servers(tiers, urls, models, served=served, engines=engines, starts=starts)


def _require_built_in(
    launcher: ServerLauncher, silent: str, engines: Mapping[str, Engine], *, has_ollama: bool
) -> None:
    """Insist that the built-in engine is here, and say what it means that it answers.

    Raises:
        Refused: it is not, and what else could be done.

    """
    if importlib.util.find_spec(ENGINE_MODULE) is None:
        if has_ollama:
            wanted = ", ".join(tier for tier, engine in engines.items() if engine is LLAMA_SERVER)
            raise Refused(
                f"tiers.{wanted}.engine is {LLAMA_SERVER.name!r}, and the built-in engine is not installed here",
                hint="install it, as in `uv tool install '.[engine]'`",
            )
        why = "no `ollama` is on PATH"
        if not launcher.plan.tiers:  # else nobody looked for one
            why = f"no Ollama answers at {silent}, and none is on PATH"
        raise Refused(f"{why}; nor is the built-in engine installed", hint=FOUR_WAYS)
    if not has_ollama:
        logger.info(
            "no Ollama is here, so the built-in engine answers: llama.cpp. It speaks OpenAI's and Anthropic's dialects,"
            " /v1/rerank and /tokenize, and none of Ollama's own routes for inference"
        )


def _default_models(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("HOME") or Path.home()) / ".ollama" / "models"


# -- simulated ones ----------------------------------------------------------------------------------------------------


def _start_simulated(launcher: ServerLauncher) -> Servers:
    from jobs.testing.models import LIBRARY, SCALE  # noqa: PLC0415 - the doubles are no part of a real stack

    logger.warning("SIMULATED: no real Ollama takes part, the models are noise, and every answer says so")
    logger.info("the simulated registry has {}", ", ".join(str(model.name) for model in LIBRARY))
    tiers = tuple(
        replace(
            tier,
            vram_bytes=tier.vram_bytes // SCALE if tier.vram_bytes else None,
            runner_bytes=tier.runner_bytes // SCALE,
        )
        for tier in launcher.plan.capacities(launcher.environ)
    )
    starts = _starts(tiers, launcher.clock)
    # OLLAMA_MODELS names real models; noise must never come to lie among them.
    models = _prepared(_models_option(launcher.plan, {}) or launcher.home.root / "simulated" / "models", launcher)
    mirror, *_ = _free_urls(1)
    port = mirror.rpartition(":")[2]
    registry = launcher.start("registry", [sys.executable, "-m", "jobs.testing.registry", "--port", port], {})
    _wait_until_up([(registry, mirror)], launcher, _accepts)
    command = (sys.executable, "-m", "jobs.testing.ollama", "serve", "--registry", mirror)
    served = _served(models, launcher)
    own = {"OLLAMA_MODELS": _seen(models, served), "OLLAMA_NOPRUNE": "1"}
    urls = _serve(starts, launcher, {tier.name: (OLLAMA, command) for tier in tiers}, own)
    return Servers(tiers, urls, models, simulated=True, mirror=mirror, served=served, starts=starts)


# -- what they share ---------------------------------------------------------------------------------------------------


def _models_option(plan: StackPlan, environ: Mapping[str, str]) -> Path | None:
    named = plan.models or environ.get("OLLAMA_MODELS") or None
    return Path(os.path.abspath(named)) if named else None  # noqa: PTH100 - resolve() would follow links


def _prepared(models: Path, launcher: ServerLauncher) -> Path:
    """The directory, ready for pulls: better refused now than by every job.

    Raises:
        BadRequest: it cannot be used.

    """
    try:
        weights_of(models, launcher.home, launcher.clock).prepare()
    except Trouble as trouble:
        raise BadRequest(str(trouble), hint=trouble.hint) from trouble
    return models


def _served(models: Path, launcher: ServerLauncher) -> ServedModels | None:
    """What servers are to see where requests cannot say all that the fleet sets for models; else the directory."""
    settings = launcher.plan.fleet.settings_by_model if launcher.plan.fleet else {}
    if not notes(settings):
        return None
    served = ServedModels(models, launcher.home.root / "served", settings)
    served.refresh()
    return served


def _seen(models: Path, served: ServedModels | None) -> str:
    return str(models if served is None else served.root)


def _starts(tiers: Sequence[TierCapacity], clock: Clock) -> dict[str, Phases]:
    """The start of each tier's server, which begins now, with a look at the weights."""
    return {tier.name: begun_start(clock) for tier in tiers}


def begun_start(clock: Clock) -> Phases:
    """The start of a server of this machine, which begins now: the moment numbers it among all that there ever were."""
    return Phases(clock, round(clock.now().timestamp() * 1000), "start")


def process_name(tier: str, engine: Engine) -> str:
    """Of a tier's server."""
    return f"{'llama' if engine is LLAMA_SERVER else 'ollama'}-{tier}"


def _serve(
    starts: Mapping[str, Phases],
    launcher: ServerLauncher,
    commands: Mapping[str, tuple[Engine, Sequence[str]]],
    own: Mapping[str, str],
) -> tuple[str, ...]:
    urls = _free_urls(len(starts))
    started = []
    for (tier, phases), url in zip(starts.items(), urls, strict=True):
        env = {**launcher.plan.tuning(tier, launcher.environ), **own, "OLLAMA_HOST": url.removeprefix("http://")}
        engine, command = commands[tier]
        phases.ended("weights")
        started.append((launcher.start(process_name(tier, engine), command, env), url))
    _wait_until_up(started, launcher, _version, list(starts.values()))
    return urls


def _free_urls(count: int) -> tuple[str, ...]:
    """Loopback addresses that are free."""
    with ExitStack() as held:
        numbers = []
        for _ in range(count):
            listener = held.enter_context(socket.socket())
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", 0))
            numbers.append(listener.getsockname()[1])
    return tuple(f"http://127.0.0.1:{number}" for number in numbers)


def _wait_until_up(
    started: Sequence[tuple[ServerProcess, str]],
    launcher: ServerLauncher,
    answers: Callable[[str, Clock], str | None],
    starts: Sequence[Phases] = (),
) -> None:
    """Return when all of them answer; each start is over when its own does."""
    deadline = launcher.clock.monotonic() + START.total_seconds()
    left = dict(enumerate(started))
    while left:
        for place, (process, url) in list(left.items()):
            if answers(url, launcher.clock) is not None:
                process.require_alive()  # else somebody else took the port, and it is they who answer
                del left[place]
                for phases in starts[place : place + 1]:
                    phases.ended("engine")
                    phases.over()
                continue
            launcher.check()
            process.require_alive()
            if launcher.clock.monotonic() > deadline:
                raise Unreachable(
                    f"{process.name} did not answer at {url} within {START.total_seconds():.0f} s",
                    hint=f"what it said is in {process.log}",
                )
        if left:
            launcher.clock.wait(_POLL_SECONDS)


def _version(url: str, clock: Clock) -> str | None:
    """The version of the Ollama there, if there is one that answers."""
    try:
        with OllamaClient(url, policy=NEVER, clock=clock, stall=_PROBE_TIMEOUT) as ollama:
            return ollama.version() or "of no version"
    except Trouble:
        return None


def _accepts(url: str, _: Clock) -> str | None:
    """Whether anybody takes connections there."""
    address = ("127.0.0.1", int(url.rpartition(":")[2]))
    try:
        with socket.create_connection(address, timeout=_PROBE_TIMEOUT.total_seconds()):
            return "yes"
    except OSError:
        return None
