"""One engine process: started with its arguments, watched until it answers, ended with all of its group.

It dies with us: on Linux by a signal, and wherever it comes from the wheel because the pipe on its stdin closes. Only
who knows its key may ask it, so nobody else on the machine, and no page in a browser, reaches a model past the gateway.
"""

import asyncio
import os
import re
import secrets
import signal
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from loguru import logger

from app.gateway.upstream.upstream_client import Patience, TierUpstream, UpstreamClient
from app.model_server.starting.death_signal import with_death_signal
from jobs.core.errors import NetworkTrouble, ServerTrouble, Stalled
from jobs.core.sanitize import plain

_POLL_SECONDS = 0.02
_ENDS_WITHIN_SECONDS = 5.0
_LAST_WORDS_SECONDS = 10.0
_LAST_LINES = 8
_LONGEST_LINE = 4_000

_LEVELS = {"W": "WARNING", "E": "ERROR"}
_LEVEL = re.compile(r"^\d+\.\d\d\.\d{3}\.\d{3} ([IWED]) ")
"""How llama.cpp's own log begins each line (common/log.cpp)."""

_OFFLOADED = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")
_TAKEN = re.compile(r"couldn't bind|could not bind|address already in use", re.IGNORECASE)
_NEVER_SAID = re.compile(r"\b(?:LLAMA_ARG_|LLAMA_API_KEY|MODAL_(?:IDENTITY_)?TOKEN|OLLAMA_API_KEYS)")
"""What is in our environment and not the engine's to know, or would change how it loads beside our arguments."""

_KEPT = "LLAMA_ARG_LOAD_MODE"

PATIENCE = Patience(answer_seconds=3600.0, silence_seconds=3600.0)
"""The gateway before us has the patience that its callers are promised."""


class EngineProcess:
    """An engine with one model. Belongs to one event loop, and is started from the main thread.

    Args:
        command: starts an engine; its arguments follow.
        arguments: llama-server's, but for its address.
        name: of the model, for the log.
        environ: what it inherits.

    """

    def __init__(
        self, command: Sequence[str], arguments: Sequence[str], *, name: str, environ: Mapping[str, str]
    ) -> None:
        self.name = name
        self.client: UpstreamClient
        self.gpu_share = 0.0
        """How much of its layers is on a GPU, by its own log."""
        self._command = list(command)
        self._arguments = list(arguments)
        self._environ = {key: value for key, value in environ.items() if key == _KEPT or not _NEVER_SAID.match(key)}
        self._process: asyncio.subprocess.Process
        self._reader: asyncio.Task[None] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._heard_at = 0.0
        self._is_ready = False
        self._last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self.is_stopping = False
        """Its end was asked for."""

    async def start(self, on_end: Callable[[str], None]) -> None:
        """Start it. `on_end` is told how it ended, whenever that is.

        Raises:
            ServerTrouble: there is no such program here.

        """
        port, key = _free_port(), secrets.token_urlsafe(16)
        argv = [
            *with_death_signal(os.getpid(), signal.SIGKILL),
            *self._command,
            *("--host", "127.0.0.1", "--port", str(port)),
            *self._arguments,
        ]
        try:
            self._process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env={**self._environ, "LLAMA_API_KEY": key},
                start_new_session=True,
            )
        except OSError as error:
            raise ServerTrouble(f"the engine {self._command[0]!r} cannot be started: {error.strerror}") from error
        upstream = TierUpstream("engine", f"http://127.0.0.1:{port}", {"authorization": f"Bearer {key}"})
        self.client = UpstreamClient(upstream, PATIENCE)
        self._heard_at = asyncio.get_running_loop().time()
        command = " ".join([*self._command, "--port", str(port), *self._arguments])
        logger.info("llama-host: loading {}: {}", self.name, plain(command, _LONGEST_LINE))
        self._reader = asyncio.create_task(self._read_output())
        self._watcher = asyncio.create_task(self._await_end(on_end))

    async def wait_ready(self, silence_seconds: float) -> None:
        """Wait until it answers.

        Raises:
            ServerTrouble: it ended; the message has its last lines.
            Stalled: it neither answered nor said anything for so long.

        """
        loop = asyncio.get_running_loop()
        while not await self._answers():
            if self.has_ended:
                await self._hear_last()
                raise self._trouble(f"the engine of {self.name!r} ended {self._how()} while it loaded")
            if loop.time() - self._heard_at > silence_seconds:
                raise Stalled(f"the engine of {self.name!r} loads, and has said nothing for {silence_seconds:g} s")
            await asyncio.sleep(_POLL_SECONDS)
        self._is_ready = True

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._process.returncode is not None

    @property
    def lost_its_port(self) -> bool:
        """It ended because somebody else took the port that was free a moment before."""
        return self.has_ended and any(map(_TAKEN.search, self._last_lines))

    async def stop(self) -> None:
        """End it and all that it started, politely for some seconds."""
        self.is_stopping = True
        self.client.close()
        self._signal(signal.SIGTERM)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), _ENDS_WITHIN_SECONDS)
        self.kill()
        await self._process.wait()
        for task in (self._watcher, self._reader):
            if task is not None and task is not asyncio.current_task():
                with suppress(TimeoutError):  # of something it left behind that holds its output
                    await asyncio.wait_for(task, 1.0)

    async def how_it_ended(self, within_seconds: float = 1.0) -> str | None:
        """How it ended, if it does within a moment: its connections are cut before we hear of its end."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), within_seconds)
        return self._how() if self.has_ended else None

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):  # all of the group is gone; macOS says EPERM of zombies
            os.killpg(self._process.pid, number)

    async def _answers(self) -> bool:
        try:
            answer = await self.client.ask("GET", "/health")
        except NetworkTrouble:
            return False
        try:
            await answer.whole(_LONGEST_LINE)
        except NetworkTrouble:
            return False
        finally:
            answer.close()
        return answer.status == 200

    async def _await_end(self, on_end: Callable[[str], None]) -> None:
        await self._process.wait()
        await self._hear_last()
        self.client.close()
        on_end(self._how())

    async def _hear_last(self) -> None:
        """What it said last is told with its end. Whatever it left running ends first: it would hold its output."""
        self.kill()
        if self._reader is not None:
            with suppress(TimeoutError):  # of something in a group of its own, which may hold it for ever
                await asyncio.wait_for(asyncio.shield(self._reader), _LAST_WORDS_SECONDS)

    def _how(self) -> str:
        code = self._process.returncode
        if code is None:
            return "not yet"
        return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"

    def _trouble(self, what: str) -> ServerTrouble:
        said = [line for line in self._last_lines if _LEVEL.match(line) is None or _LEVEL.match(line)[1] == "E"]  # type: ignore[index]
        last = " / ".join(_LEVEL.sub("", line) for line in said or self._last_lines)
        return ServerTrouble(f"{what}: {plain(last) or 'without a word'}")

    async def _read_output(self) -> None:
        assert self._process.stdout is not None
        rest = b""
        while piece := await self._process.stdout.read(65_536):
            self._heard_at = asyncio.get_running_loop().time()
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                self._read_line(line)
            rest = rest[-_LONGEST_LINE:]
        if rest:
            self._read_line(rest)

    def _read_line(self, raw: bytes) -> None:
        line = plain(raw.decode(errors="replace"), _LONGEST_LINE)
        if not line:
            return
        if found := _OFFLOADED.search(line):
            self.gpu_share = int(found[1]) / max(1, int(found[2]))
        level = _LEVEL.match(line)
        if level is not None and level[1] == "D":
            return  # where it says what it was asked: prompts stay here
        self._last_lines.append(line)
        if self._is_ready and level is not None and level[1] == "I":
            return  # once it answers, it says half a dozen lines of each request
        logger.log(_LEVELS.get(level[1], "INFO") if level else "INFO", "{}: {}", self.name, line)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
