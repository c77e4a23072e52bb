"""`python -m app.llama_host`: runs the host until it is told to stop. It is tuned as an Ollama is, by its environment.

    python -m app.llama_host                           with the engine of the wheel
    python -m app.llama_host -- llama-server           with that program

Exits 3 where the engine cannot be started at all.
"""

import asyncio
import os
import sys
from collections.abc import Sequence

import uvicorn
from loguru import logger

from app.llama_host.engines import Engines
from app.llama_host.host import LlamaHost
from app.llama_host.models import HostedModels
from app.llama_host.settings import HostSettings
from app.logs import in_container, on_stderr
from jobs.weights.layout import Layout

FROM_WHEEL = (sys.executable, "-m", "app.llama_host.llama_server")
NO_ENGINE = 3
_VERSION_SECONDS = 60.0


async def engine_version(command: Sequence[str]) -> str | None:
    """The engine's version, by asking it; None where it cannot be started."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command, "--version", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        async with asyncio.timeout(_VERSION_SECONDS):
            out, _ = await process.communicate()
    except (OSError, TimeoutError) as error:
        logger.error("the engine {} cannot be started: {}", command[0], error)
        return None
    words = out.decode(errors="replace").split()
    if process.returncode != 0 or not words:
        logger.error("the engine {} does not run here: {}", command[0], " ".join(words)[-500:])
        return None
    return words[words.index("version:") + 1] if "version:" in words[:-1] else words[-1]


async def serve(settings: HostSettings, command: Sequence[str]) -> int:
    version = asyncio.create_task(engine_version(command))

    async def told() -> str:
        return f"0.0.0-llama.cpp.{await version or 'unknown'}"

    engines = Engines(command, settings, os.environ)
    host = LlamaHost(HostedModels(Layout(settings.models)), engines, told)
    config = uvicorn.Config(
        host,
        host=settings.host.host or "127.0.0.1",
        port=settings.host.port,
        http="httptools",
        loop="uvloop",
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    try:
        if await version is None:
            return NO_ENGINE
        await serving
    finally:
        server.should_exit = True
        await engines.close()
        await asyncio.gather(serving, return_exceptions=True)
    return 0


def main(arguments: Sequence[str]) -> int:
    if "MODAL_TASK_ID" in os.environ:
        in_container(engine="llama.cpp")
    else:
        on_stderr()
    command = list(arguments[1:]) if arguments[:1] == ["--"] else list(FROM_WHEEL)
    import uvloop  # noqa: PLC0415 - only a process that serves needs it

    return uvloop.run(serve(HostSettings.of(os.environ), command))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
