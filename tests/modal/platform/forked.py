"""Starts containers as forks of a Python that has read Modal's client, one such Python for each environment."""

import asyncio
import os
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Protocol

from tests.modal.platform import inside
from tests.modal.platform.isolation import Bind, unshare
from tests.modal.platform.packages import Environment
from tests.support.fork_server import ForkServer

AT_START = ("PYTHON", "LC_", "LANG", "MODAL_LOG")
"""What begins so is read as Python starts or Modal's client is read, so nobody is told of it later."""

READ = (
    "cronsim", "cryptography.hazmat.primitives.asymmetric.ed25519", "fastapi", "httpx", "loguru", "prometheus_client",
    "pydantic", "tenacity", "uvicorn.protocols.http.httptools_impl", "uvloop",
)  # fmt: skip
"""What our functions import of their image, sooner or later: a third of a second of processor."""


class Running(Protocol):
    """A container's first process, as `asyncio.subprocess.Process` tells of it."""

    @property
    def pid(self) -> int: ...
    @property
    def returncode(self) -> int | None: ...
    @property
    def stdout(self) -> asyncio.StreamReader | None: ...
    @property
    def stderr(self) -> asyncio.StreamReader | None: ...
    async def wait(self) -> int: ...
    def send_signal(self, number: int, /) -> None: ...


class Forked:
    """A process that the server has forked."""

    def __init__(
        self, stdout: asyncio.StreamReader, stderr: asyncio.StreamReader, status: asyncio.StreamReader
    ) -> None:
        self.stdout, self.stderr, self._status = stdout, stderr, status
        self.pid = 0
        self.returncode: int | None = None

    async def started(self) -> None:
        self.pid = int(await self._status.readline())

    async def wait(self) -> int:
        if self.returncode is None:
            self.returncode = int(await self._status.readline())
        return self.returncode

    def send_signal(self, number: int, /) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)


@cache
def _server(pid: int, python: Path, names: tuple[str, ...], at_start: tuple[tuple[str, str], ...]) -> ForkServer:
    environ = {**dict(at_start), "MODAL_IS_REMOTE": "1", "PATH": os.defpath}
    return ForkServer([str(python), "-P", str(inside.__file__), "serve", *names], environ, Path("/"))


def can_fork() -> bool:
    """Whether a fork can get a mount namespace by itself."""
    return unshare() == ("unshare", "--mount")


async def forked(
    environment: Environment,
    environ: Mapping[str, str],
    binds: Iterable[Bind],
    *,
    names: tuple[str, ...],
    root: Path,
    cwd: Path,
    limit: int,
) -> Forked:
    """Modal's entrypoint in a process of its own, with this environment and root, started by now.

    It has read `names` already, as far as its image has them.
    """
    at_start = {key: value for key, value in environ.items() if key.startswith(AT_START)}
    at_start["PYTHONPATH"] = str(environment.client)  # the source is the container's own
    server = await asyncio.to_thread(
        _server,
        os.getpid(),
        environment.python,
        names,
        tuple(sorted(at_start.items())),  # a fork of us has no server
    )
    pipes = [os.pipe() for _ in range(3)]
    asked = {
        "environ": dict(environ), "cwd": str(cwd), "root": str(root),
        "binds": [(str(bind.source), str(bind.target), bind.read_only) for bind in binds],
    }  # fmt: skip
    try:
        await asyncio.to_thread(server.send, asked, [theirs for _, theirs in pipes])
    finally:
        for _, theirs in pipes:
            os.close(theirs)
    process = Forked(*[await _reading(ours, limit) for ours, _ in pipes])
    await process.started()
    return process


async def _reading(descriptor: int, limit: int) -> asyncio.StreamReader:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=limit, loop=loop)
    await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader, loop=loop), os.fdopen(descriptor, "rb", 0)
    )
    return reader
