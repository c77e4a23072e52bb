"""`python -m app.llama_host`: runs the host until it is told to stop. It is tuned as an Ollama is, by its environment.

    python -m app.llama_host                        with the engine of the wheel `xllamacpp`
    python -m app.llama_host --llama-server PATH    with that program

Exits 1 where its port is taken, and 3 where the engine cannot be started at all.
"""

import argparse
import asyncio
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvicorn
import uvloop
from loguru import logger

from app.llama_host.engines import Engines
from app.llama_host.gpu_libraries import libraries_of
from app.llama_host.host import LlamaHost
from app.llama_host.models import HostedModels
from app.llama_host.settings import HostSettings
from app.logs import on_stderr
from jobs.weights.layout import Layout

FROM_WHEEL = (sys.executable, "-m", "app.llama_host.llama_server")
NO_PORT, NO_ENGINE = 1, 3
_BACKLOG = 2048
_VERSION_SECONDS = 60.0


class _Server(uvicorn.Server):
    """Leaves signals to us: uvicorn would end the process by them before the engines have ended."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def end(self) -> None:
        self.should_exit = True


async def engine_version(command: Sequence[str], environ: Mapping[str, str]) -> str | None:
    """The engine's version as llama.cpp counts it, by asking it; None where it cannot be started."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command, "--version", env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        async with asyncio.timeout(_VERSION_SECONDS):
            out, _ = await process.communicate()
    except (OSError, TimeoutError) as error:
        logger.error("llama-host: the engine {} cannot be started: {}", command[0], error)
        return None
    words = out.decode(errors="replace").split()
    if process.returncode != 0 or not words:
        logger.error("llama-host: the engine {} does not run here: {}", command[0], " ".join(words)[-500:])
        return None
    said = words[words.index("version:") + 1] if "version:" in words[:-1] else words[-1]
    return f"b{said.rpartition('.')[2]}"


async def serve(settings: HostSettings, command: Sequence[str], environ: Mapping[str, str]) -> int:
    version = asyncio.create_task(engine_version(command, environ))

    async def told() -> str:
        return await asyncio.shield(version) or ""

    address = (settings.host.host or "127.0.0.1", settings.host.port)
    try:
        listener = socket.create_server(address, backlog=_BACKLOG)
    except OSError as error:
        logger.error("llama-host: port {} of {} cannot be used: {}", address[1], address[0], error.strerror)
        version.cancel()
        return NO_PORT
    engines = Engines(command, settings, environ)
    host = LlamaHost(HostedModels(Layout(settings.models)), engines, told)
    config = uvicorn.Config(
        host,
        http="httptools",
        loop="uvloop",
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    server = _Server(config)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, server.end)
    serving = asyncio.create_task(server.serve([listener]))
    try:
        if await version is None:
            return NO_ENGINE
        await serving
    finally:
        server.end()
        await engines.close()
        await asyncio.gather(serving, return_exceptions=True)
    return 0


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m app.llama_host", description="llama.cpp for many models.")
    parser.add_argument("--llama-server", type=Path, metavar="PATH", help="the program, in place of the wheel")
    binary: Path | None = parser.parse_args(arguments).llama_server
    on_stderr()
    environ = {**os.environ, **(libraries_of(binary, os.environ) if binary else {})}
    command = [str(binary)] if binary else list(FROM_WHEEL)
    return uvloop.run(serve(HostSettings.of(os.environ), command, environ))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
