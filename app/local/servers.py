"""Which Ollama servers the one-machine stack has, and which models directory: found, started, or simulated.

Decided by what the person asked for and by what is here. Everything that is started listens on loopback only.
"""

import os
import re
import shutil
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

from loguru import logger

from app.local.processes import Child
from jobs.core.clock import Clock
from jobs.core.errors import BadRequest, Refused, Trouble, Unreachable
from jobs.core.model_name import ModelName
from jobs.core.retry import NEVER
from jobs.home.home import Home
from jobs.models.placement import KNOWN_TIERS, LOCAL, Tier, tuned
from jobs.ollama.client import OllamaClient
from jobs.ollama.host import OllamaHost
from jobs.weights.directory import ModelsDirectory

START = timedelta(seconds=60)
"""For all servers to answer: a cold disk and a GPU driver that wakes up take their time."""

GET_OLLAMA = "get Ollama from https://ollama.com/download (or `pixi run up`, which brings it), or pass --simulate"

_TIER = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_LOOK_SECONDS = 0.05
_ASKED = timedelta(seconds=2)


@dataclass(frozen=True)
class Wishes:
    """What the person asked `up` for."""

    simulate: bool
    tiers: tuple[str, ...]
    models: Path | None

    def __post_init__(self) -> None:
        for name in self.tiers:
            if not _TIER.fullmatch(name):
                raise BadRequest(f"{name!r} names no tier", hint="small letters, digits and dashes, like a10g or h100")
        if len(set(self.tiers)) < len(self.tiers):
            raise BadRequest(
                f"a tier is named twice: {', '.join(self.tiers)}", hint="each --tier is a server of its own"
            )


@dataclass(frozen=True)
class Servers:
    """The servers that answer, in the order they were asked for, and the directory they read their models from."""

    tiers: tuple[Tier, ...]
    urls: tuple[str, ...]
    models: Path | None
    simulated: bool = False
    mirror: str | None = None
    """The registry to use instead of all others."""
    why_by_server: str | None = None
    children: tuple[Child, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Ground:
    """Where servers are started: the home, the environment, the clock, and who takes them down again."""

    home: Home
    environ: Mapping[str, str]
    clock: Clock
    children: list[Child]
    check: Callable[[], None]
    """Raises when somebody wants us to stop."""

    def start(self, name: str, argv: Sequence[str], env: Mapping[str, str]) -> Child:
        child = Child(name, argv, env={**self.environ, **env}, log=self.home.logs / f"{name}.log")
        self.children.append(child)
        return child


def bring_up(wishes: Wishes, ground: Ground) -> Servers:
    """Find or start the servers, and wait until all of them answer.

    Raises:
        Refused: there is no Ollama here, or what was asked for cannot be had.
        ServerTrouble: a server ended while it started.

    """
    if wishes.simulate:
        return _simulated(wishes, ground)
    host = OllamaHost.parse(ground.environ.get("OLLAMA_HOST", ""))
    if not wishes.tiers and (version := _version(host.url, ground.clock)) is not None:
        return _found(host.url, version, wishes, ground)
    return _started(wishes, ground, host.url)


# -- an Ollama that is there -------------------------------------------------------------------------------------------


def _found(url: str, version: str, wishes: Wishes, ground: Ground) -> Servers:
    models, why = _directory_of_found(url, wishes, ground)
    logger.info("using the Ollama {} that runs at {}", version, url)
    if why:
        logger.info("pulls go through that server: {}", why)
    return Servers((LOCAL,), (url,), models, why_by_server=why)


def _directory_of_found(url: str, wishes: Wishes, ground: Ground) -> tuple[Path | None, str | None]:
    """The directory of a server that is not ours, when we may write it and can tell that it is the right one."""
    named = _named_models(wishes, ground.environ)
    if named is None:
        return None, "its models directory was not named (--models, or OLLAMA_MODELS)"
    weights = _weights(named, ground)
    if not weights.is_ours():
        return None, f"{str(named)!r} is not ours to write"
    here = {(str(model.name.folded()), model.digest) for model in weights.models()}
    with OllamaClient(url, clock=ground.clock, policy=NEVER) as ollama:
        there = {(str(ModelName.parse(model.name).folded()), model.digest) for model in ollama.tags()}
    if not here:
        return None, f"{str(named)!r} holds no model yet, so nobody can tell whether it is that server's"
    if here != there:
        return None, f"{str(named)!r} is not that server's directory: they list different models"
    return named, None


# -- an Ollama that we start -------------------------------------------------------------------------------------------


def _started(wishes: Wishes, ground: Ground, silent: str) -> Servers:
    binary = shutil.which("ollama", path=ground.environ.get("PATH"))
    if binary is None:
        asked = "no `ollama` is on PATH" if wishes.tiers else f"no Ollama answers at {silent}, and none is on PATH"
        raise Refused(asked, hint=GET_OLLAMA)
    models = _prepared(_named_models(wishes, ground.environ) or _default_models(ground.environ), ground)
    # A tier's name says how it is used; whether there is such a GPU in this machine, nobody has promised.
    named = wishes.tiers or (LOCAL.name,)
    tiers = tuple(tuned(replace(_tier(name), gpu_promised=False), ground.environ) for name in named)
    own = {"OLLAMA_MODELS": str(models), "OLLAMA_NOPRUNE": "1", "OLLAMA_NO_CLOUD": "1"}
    urls = _serve(tiers, ground, [binary, "serve"], own)
    return Servers(tiers, urls, models, children=tuple(ground.children))


def _default_models(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("HOME") or Path.home()) / ".ollama" / "models"


# -- simulated ones ----------------------------------------------------------------------------------------------------


def _simulated(wishes: Wishes, ground: Ground) -> Servers:
    from jobs.testing.models import LIBRARY, SCALE  # noqa: PLC0415 - the doubles are no part of a real stack

    logger.warning("SIMULATED: no real Ollama takes part, the models are noise, and every answer says so")
    logger.info("the simulated registry has {}", ", ".join(str(model.name) for model in LIBRARY))
    # OLLAMA_MODELS names real models; noise must never come to lie among them.
    models = _prepared(_named_models(wishes, {}) or ground.home.root / "simulated" / "models", ground)
    mirror, *_ = _urls(1)
    port = mirror.rpartition(":")[2]
    registry = ground.start("registry", [sys.executable, "-m", "jobs.testing.registry", "--port", port], {})
    _await([(registry, mirror)], ground, _accepts)
    tiers = tuple(
        replace(
            tier,
            vram_bytes=tier.vram_bytes // SCALE if tier.vram_bytes else None,
            runner_bytes=tier.runner_bytes // SCALE,
        )
        for tier in map(_tier, wishes.tiers or (LOCAL.name,))
    )
    argv = [sys.executable, "-m", "jobs.testing.ollama", "serve", "--registry", mirror]
    own = {"OLLAMA_MODELS": str(models), "OLLAMA_NOPRUNE": "1"}
    urls = _serve(tiers, ground, argv, own)
    return Servers(tiers, urls, models, simulated=True, mirror=mirror, children=tuple(ground.children))


# -- what they share ---------------------------------------------------------------------------------------------------


def _named_models(wishes: Wishes, environ: Mapping[str, str]) -> Path | None:
    named = wishes.models or environ.get("OLLAMA_MODELS") or None
    return Path(os.path.abspath(named)) if named else None  # noqa: PTH100 - resolve() would follow links


def _weights(models: Path, ground: Ground) -> ModelsDirectory:
    return ModelsDirectory(models, lock=ground.home.weights_lock, persist=lambda: None, clock=ground.clock)


def _prepared(models: Path, ground: Ground) -> Path:
    """The directory, ready for pulls: better refused now than by every job.

    Raises:
        BadRequest: it cannot be used.

    """
    try:
        _weights(models, ground).prepare()
    except Trouble as trouble:
        raise BadRequest(str(trouble), hint=trouble.hint) from trouble
    return models


def _tier(name: str) -> Tier:
    return KNOWN_TIERS.get(name) or Tier(name, None, gpu_promised=False)


def _serve(tiers: Sequence[Tier], ground: Ground, argv: Sequence[str], own: Mapping[str, str]) -> tuple[str, ...]:
    urls = _urls(len(tiers))
    started = [
        (ground.start(f"ollama-{tier.name}", argv, {**own, "OLLAMA_HOST": url.removeprefix("http://")}), url)
        for tier, url in zip(tiers, urls, strict=True)
    ]
    _await(started, ground, _version)
    return urls


def _urls(count: int) -> tuple[str, ...]:
    """Loopback addresses that are free."""
    with ExitStack() as held:
        numbers = []
        for _ in range(count):
            listener = held.enter_context(socket.socket())
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", 0))
            numbers.append(listener.getsockname()[1])
    return tuple(f"http://127.0.0.1:{number}" for number in numbers)


def _await(started: Sequence[tuple[Child, str]], ground: Ground, answers: Callable[[str, Clock], str | None]) -> None:
    deadline = ground.clock.monotonic() + START.total_seconds()
    for child, url in started:
        while answers(url, ground.clock) is None:
            ground.check()
            child.require_alive()
            if ground.clock.monotonic() > deadline:
                raise Unreachable(
                    f"{child.name} did not answer at {url} within {START.total_seconds():.0f} s",
                    hint=f"what it said is in {child.log}",
                )
            ground.clock.wait(_LOOK_SECONDS)
        child.require_alive()  # else somebody else took the port, and it is they who answer


def _version(url: str, clock: Clock) -> str | None:
    """The version of the Ollama there, if there is one that answers."""
    try:
        with OllamaClient(url, policy=NEVER, clock=clock, stall=_ASKED) as ollama:
            return ollama.version() or "of no version"
    except Trouble:
        return None


def _accepts(url: str, _: Clock) -> str | None:
    """Whether anybody takes connections there."""
    try:
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=_ASKED.total_seconds()):
            return "yes"
    except OSError:
        return None
