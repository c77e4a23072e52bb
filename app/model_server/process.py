"""One engine: starts it, waits until it answers, passes on what it says, notices its death, ends all of it.

It runs in a process group of its own, away from the volume, so that nothing it starts can outlive it and hold the GPU's
memory. It knows nothing about weights or the platform.
"""

import os
import re
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from loguru import logger

from app.engines.engine import Engine
from app.engines.ollama import OLLAMA
from jobs.core.clock import Clock
from jobs.core.errors import NetworkTrouble, ServerTrouble
from jobs.core.retry import NEVER
from jobs.ollama.host import OllamaHost

_READY_POLL_SECONDS = 0.1
_ANSWER_WITHIN = timedelta(seconds=30)
"""Ollama accepts connections at once, and answers when it has found its GPUs: its own limit for that."""

_ENDS_WITHIN_SECONDS = 10
_LAST_LINES = 20

_FOREIGN = re.compile(r"LLAMA_ARG_|MODAL_(IDENTITY_)?TOKEN$|OLLAMA_API_KEYS")
"""What is in a container's environment and not Ollama's to know: secrets, and what would change how models load."""

_LEVEL = re.compile(r"\blevel=(TRACE|DEBUG|INFO|WARN|ERROR)\b")
_LEVELS = {"INFO": "INFO", "WARN": "WARNING", "ERROR": "ERROR"}


def environ(
    inherited: Mapping[str, str],
    settings: Mapping[str, str],
    *,
    host: OllamaHost,
    models: Path,
    home: Path,
    engine: Engine = OLLAMA,
) -> dict[str, str]:
    """What the engine gets: the container's own variables, and above them what must be so."""
    kept = {key: value for key, value in inherited.items() if not _FOREIGN.match(key)}
    must = {
        "HOME": str(home),  # its key pair is written there
        "OLLAMA_HOST": f"{host.host}:{host.port}",
        "OLLAMA_MODELS": str(models),
        "OLLAMA_NOPRUNE": "1",  # a start would delete what other containers are still pulling
        "OLLAMA_NO_CLOUD": "1",  # nothing leaves for anybody else's servers
    }
    if engine.code:
        must["PYTHONPATH"] = os.pathsep.join(filter(None, (engine.code, inherited.get("PYTHONPATH"))))
    return {**kept, **settings, **must}


class LoadListener(Protocol):
    """Hears of loads from the thread that reads the server's output, which it must not keep waiting."""

    def load_began(self, blob: str) -> None:
        """Of the model that this blob belongs to, by its file name."""

    def bytes_are_read(self) -> None: ...

    def load_ended(self) -> None:
        """The model is in memory. One that failed is not told of."""


class Daemon:
    """A server process.

    Args:
        environ: all of its environment.
        host: where it is told to listen.
        clock: for waiting until it answers.
        on_death: called from another thread with the exit code when it ends without having been asked to.
        engine: what it is.
        command: starts it, where that is not the engine's own.
        loads: who hears of each load, in their order.

    """

    def __init__(
        self,
        environ: Mapping[str, str],
        host: OllamaHost,
        clock: Clock,
        *,
        on_death: Callable[[int], None],
        engine: Engine = OLLAMA,
        command: Sequence[str] | None = None,
        loads: Sequence[LoadListener] = (),
    ) -> None:
        #: How many requests for inference it has answered, by its own log. Counted by the thread that reads its output;
        #: others only read it.
        self.served = 0
        #: The blobs of models that were last loaded with no layer on the GPU, because somebody asked for that. The
        #: thread that reads the output adds and discards; others only look one up.
        self.kept_off_the_gpu: set[str] = set()
        self._environ = dict(environ)
        self._host = host
        self._clock = clock
        self._on_death = on_death
        self._engine = engine
        self._command = list(command or engine.command)
        self._loads = loads
        #: Appended by the thread that reads the output; read, once that has ended, by whoever reports a failed start.
        self._last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._stopping = threading.Event()
        #: These two are written by `start`, before the two threads begin; all read them.
        self._child: subprocess.Popen[str] | None = None
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start it.

        Raises:
            ServerTrouble: there is no such program here.

        """
        try:
            self._child = subprocess.Popen(
                self._command,
                env=self._environ,
                cwd="/",  # a working directory in the volume would forbid every reload
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            raise ServerTrouble(f"{self._command[0]!r} cannot be started: {error.strerror}") from error
        for work in (self._read_output, self._await_end):
            thread = threading.Thread(
                target=work, args=(self._child,), name=f"{self._engine.name} {work.__name__}", daemon=True
            )
            thread.start()
            self._threads.append(thread)

    def wait_ready(self, within: timedelta) -> str:
        """Its version, once it answers.

        Raises:
            ServerTrouble: it ended, or did not answer in time; the message has its last lines.

        """
        from jobs.ollama.client import OllamaClient  # noqa: PLC0415 - imported while the server starts, not before

        deadline = self._clock.monotonic() + within.total_seconds()
        with OllamaClient(self._host.url, policy=NEVER, stall=_ANSWER_WITHIN) as ollama:
            while True:
                try:
                    return ollama.version()
                except NetworkTrouble as trouble:
                    self.require_alive("before it answered")
                    if self._clock.monotonic() > deadline:
                        raise self._trouble(
                            f"{self._engine.name} did not answer for {within.total_seconds():g} s"
                        ) from trouble
                self._clock.wait(_READY_POLL_SECONDS)

    @property
    def is_alive(self) -> bool:
        return self._child is not None and self._child.poll() is None

    @property
    def group(self) -> int | None:
        """Of all its processes."""
        return None if self._child is None else self._child.pid

    def require_alive(self, until: str) -> None:
        """Insist that it runs.

        Raises:
            ServerTrouble: it has ended; the message has its last lines.

        """
        if not self.is_alive:
            raise self._trouble(f"{self._engine.name} ended with {self._code()} {until}")

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let none of it run meanwhile. The kernel goes on to take connections, so callers wait and notice nothing."""
        self._signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal(signal.SIGCONT)

    def stop(self) -> int | None:
        """End it and all that it started, politely for some seconds; its exit code."""
        self._stopping.set()
        if self._child is None:
            return None
        self._signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(timeout=_ENDS_WITHIN_SECONDS)
        self._signal(signal.SIGKILL)  # also for whatever it left running
        code = self._child.wait()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout=1)
        return code

    def _signal(self, number: signal.Signals) -> None:
        if self._child is not None:
            with suppress(ProcessLookupError):  # it was the leader of its group, and all of the group is gone
                os.killpg(self._child.pid, number)

    def _code(self) -> int | None:
        return None if self._child is None else self._child.poll()

    def _trouble(self, what: str) -> ServerTrouble:
        for thread in self._threads:
            thread.join(timeout=0.2)
        return ServerTrouble(": ".join([what, " / ".join(self._last_lines) or "without a word"]))

    def _read_output(self, child: "subprocess.Popen[str]") -> None:
        assert child.stdout is not None
        with child.stdout as lines:
            for line in lines:
                self._read_line(line.rstrip())

    def _read_line(self, line: str) -> None:
        words = self._engine.log
        if words.answered.match(line):
            self.served += 1
        if load := words.load_began.search(line):
            asked_off = words.kept_off_the_gpu.search(load["command"])
            (self.kept_off_the_gpu.add if asked_off else self.kept_off_the_gpu.discard)(load["blob"])
        for listener in self._loads:
            if load:
                listener.load_began(load["blob"])
            elif words.bytes_read.search(line):
                listener.bytes_are_read()
            elif words.load_ended.search(line):
                listener.load_ended()
        level = _LEVEL.search(line)
        if level and level[1] in {"TRACE", "DEBUG"}:
            return  # with OLLAMA_DEBUG set it writes down what it was asked (its anthropic.go): prompts stay here
        self._last_lines.append(line)
        logger.log(_LEVELS[level[1]] if level else "INFO", "{}: {}", self._engine.name, line)

    def _await_end(self, child: "subprocess.Popen[str]") -> None:
        code = child.wait()
        if not self._stopping.is_set():
            self._signal(signal.SIGKILL)
            self._on_death(code)
