"""An Ollama server that infers nothing: `python -m jobs.testing.ollama serve`, or `OllamaDouble` in a test.

It keeps the real one's directory, routes, texts and traps, so that what works against it works against the real one;
a contract suite holds it to that. Every answer says that it is a simulator. Faults are switched on over `/_faults`.
"""

import argparse
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from jobs.core.clock import Clock, SystemClock
from jobs.ollama.host import OllamaHost
from jobs.testing.ollama.faults import OllamaFaults, SimError
from jobs.testing.ollama.go_formats import keep_alive
from jobs.testing.ollama.http import SimServer, serving
from jobs.testing.ollama.memory import Runners
from jobs.testing.ollama.pull import Puller
from jobs.testing.ollama.requests import SimulatorParts, SimulatorSettings
from jobs.testing.ollama.store import Store

DISCOVERING = "waiting for GPU discovery"


class OllamaDouble:
    """One simulated server. Start it, or use it as a context manager; whoever starts it stops it, in one thread.

    Args:
        models: its models directory; None is a temporary one.
        host: where it listens.
        port: 0 picks a free one.
        clock: for expiry, pruning and pace.
        settings: fields of `SimulatorSettings`, as in `OllamaDouble(registry=registry.url, vram=0)`.

    """

    def __init__(
        self,
        models: Path | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Clock | None = None,
        **settings: Any,
    ) -> None:
        self._given = SimulatorSettings(models or Path(), **settings)
        self._is_temporary = models is None
        self._address = (host, port)
        self._clock = clock or SystemClock()
        #: Filled by `start`, emptied by `stop`.
        self._closing = ExitStack()
        self.faults = OllamaFaults()
        self.those_here = ""
        self.stopping = threading.Event()

    @property
    def url(self) -> str:
        host, port = self._server.server_address[:2]
        return OllamaHost("http", str(host), int(port)).url

    def start(self) -> Self:
        """Listen at once; answer when GPUs have been looked for."""
        self.stopping.clear()
        self._closing = ExitStack()
        self.settings = self._given
        if self._is_temporary:
            folder = self._closing.enter_context(tempfile.TemporaryDirectory(prefix="ollama-double-"))
            self.settings = replace(self._given, models=Path(folder))
        parts = self._parts(self.settings)
        self.those_here = parts.store.those_here()
        self._closing.callback(parts.puller.close)
        self._server = SimServer(self._address, parts)
        self._closing.callback(self._server.server_close)
        parts.store.start()
        #: Started by `_starter`, which `stop` joins first.
        self._thread = serving(self._server)
        starter = threading.Thread(target=self._discover, daemon=True, name=DISCOVERING)
        starter.start()
        self._starter = starter
        return self

    def stop(self) -> None:
        """Close every connection at once, as SIGTERM does; nothing is drained."""
        self.stopping.set()
        self._starter.join()
        self._server.shutdown()
        self._server.hang_up()
        self._thread.join()
        self._closing.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _discover(self) -> None:
        if self.settings.discovery_seconds:
            self.stopping.wait(self.settings.discovery_seconds)
        self._thread.start()

    def _parts(self, settings: SimulatorSettings) -> SimulatorParts:
        store = Store(settings.models, no_prune=settings.no_prune, clock=self._clock)
        runners = Runners(
            vram=settings.vram,
            load_rate=settings.load_bytes_per_second,
            placing_seconds=settings.placing_seconds,
            keep_alive=settings.keep_alive,
            max_queue=settings.max_queue,
            parallel=settings.parallel,
            most=settings.max_loaded_models,
            clock=self._clock,
            stopping=self.stopping,
        )
        puller = Puller(store, mirror=settings.registry, version=settings.version, pause=settings.retry_seconds)
        return SimulatorParts(settings, store, runners, puller, self.faults, self._clock, self.stopping)


def settings_from(environ: Mapping[str, str]) -> dict[str, Any]:
    """The `SimulatorSettings` that an environment asks for.

    Raises:
        SimError: a value that makes no sense; the text names the variable.

    """
    home = environ.get("HOME") or str(Path.home())
    alive = environ.get("OLLAMA_KEEP_ALIVE", "5m")
    number = alive.lstrip("-").isdecimal()
    return {
        "no_prune": _flag(environ.get("OLLAMA_NOPRUNE")),
        "keep_alive": keep_alive(int(alive) if number else alive),
        "max_queue": _number(environ, "OLLAMA_MAX_QUEUE", 512),
        "parallel": max(1, _number(environ, "OLLAMA_NUM_PARALLEL", 1)),
        "max_loaded_models": _number(environ, "OLLAMA_MAX_LOADED_MODELS", 0),
        "context_length": _number(environ, "OLLAMA_CONTEXT_LENGTH", 0) or 4096,
        "origins": tuple(filter(None, environ.get("OLLAMA_ORIGINS", "").split(","))),
        "registry": environ.get("OLLAMA_SIM_REGISTRY") or None,
        "vram": _vram(environ),
        "tokens_per_second": float(_number(environ, "OLLAMA_SIM_TOKENS_PER_SECOND", 0)),
        "load_bytes_per_second": _number(environ, "OLLAMA_SIM_LOAD_BYTES_PER_SECOND", 0),
        "placing_seconds": _number(environ, "OLLAMA_SIM_PLACING_MILLISECONDS", 0) / 1000,
        "prompt_seconds": _number(environ, "OLLAMA_SIM_PROMPT_MILLISECONDS", 0) / 1000,
        "retry_seconds": _number(environ, "OLLAMA_SIM_RETRY_MILLISECONDS", 1000) / 1000,
        "discovery_seconds": _number(environ, "OLLAMA_SIM_DISCOVERY_MILLISECONDS", 0) / 1000,
        "generations": Path(kept) if (kept := environ.get("OLLAMA_SIM_GENERATIONS")) else None,
        "models": Path(environ.get("OLLAMA_MODELS") or f"{home}/.ollama/models"),
    }


def _flag(value: str | None) -> bool:
    """Ollama takes what it cannot read as a boolean for true."""
    return bool(value) and value not in {"0", "false", "False", "FALSE", "f", "F"}


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    value = environ.get(name, "").strip()
    if not value:
        return default
    if not value.isdecimal():
        raise SimError(f"{name} is {value!r}, not a whole number")
    return int(value)


def _vram(environ: Mapping[str, str]) -> int | None:
    if environ.get("OLLAMA_SIM_VRAM", "").strip().lower() == "cpu":
        return 0
    return _number(environ, "OLLAMA_SIM_VRAM", -1) if environ.get("OLLAMA_SIM_VRAM") else None


def main() -> None:
    """Serve until a signal; then close at once."""
    parser = argparse.ArgumentParser(prog="python -m jobs.testing.ollama", description="An Ollama that simulates.")
    serve = parser.add_subparsers(required=True, metavar="serve").add_parser("serve", help="listen on OLLAMA_HOST")
    serve.add_argument("--registry", metavar="URL", help="stands for registry.ollama.ai, as OLLAMA_SIM_REGISTRY does")
    given = parser.parse_args()
    at = OllamaHost.parse(os.environ.get("OLLAMA_HOST", ""))
    try:
        settings = settings_from(os.environ)
    except SimError as error:
        sys.exit(f"ollama simulator: {error.text}")
    settings["registry"] = given.registry or settings["registry"]
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    with OllamaDouble(**settings, host=at.host or "0.0.0.0", port=at.port) as double:  # noqa: S104 - as OLLAMA_HOST asks
        print(f"the ollama-modal simulator listens on {double.url}{double.those_here}", file=sys.stderr, flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
    os._exit(0)  # threads that wait for a client need not be waited for
