"""One engine: starts it, waits until it answers, passes on what it says, notices its death, ends all of it.

It runs in a process group of its own, away from the volume, so that nothing it starts can outlive it and hold the GPU's
memory. It knows nothing about weights or the platform.
"""

import os
import re
import signal
import socket
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Protocol

from loguru import logger

from app.engines.engine import Engine
from app.engines.ollama import OLLAMA
from app.model_server.starting.engine import launched
from jobs.core.clock import Clock
from jobs.core.errors import NetworkTrouble, ServerTrouble
from jobs.core.retry import NEVER
from jobs.ollama.host import OllamaHost

_READY_POLL_SECONDS = 0.005
"""Between two tries to connect to it, which cost a tenth of a millisecond until it listens."""

_ANSWER_WITHIN = timedelta(seconds=30)
"""Ollama accepts connections at once, and answers when it has found its GPUs: its own limit for that."""

_ENDS_WITHIN_SECONDS = 10
_LAST_LINES = 20


_LEVEL = re.compile(r"\blevel=(TRACE|DEBUG|INFO|WARN|ERROR)\b")
_LEVELS = {"INFO": "INFO", "WARN": "WARNING", "ERROR": "ERROR"}


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
        child: its process, where that was started before; then `start` only begins to listen to it.
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
        child: "subprocess.Popen[str] | None" = None,
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
        self._child: subprocess.Popen[str] | None = child
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start it, unless that was done, and listen to what it says.

        Raises:
            ServerTrouble: there is no such program here.

        """
        if self._child is None:
            try:
                self._child = launched(self._command, self._environ)
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
                trouble: NetworkTrouble | None = None
                try:
                    if self._listens():
                        return ollama.version()  # which it answers as soon as it can
                except NetworkTrouble as found:
                    trouble = found
                self.require_alive("before it answered")
                if self._clock.monotonic() > deadline:
                    what = f"{self._engine.name} did not answer for {within.total_seconds():g} s"
                    raise self._trouble(what) from trouble
                self._clock.wait(_READY_POLL_SECONDS)

    def _listens(self) -> bool:
        try:
            with socket.create_connection((self._host.reached, self._host.port), timeout=1):
                return True
        except OSError:
            return False

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
