"""`ollama-modal` and `modal` in processes of their own, forked from one that has read them: once, not each time.

Reading their modules is most of what a command costs, and a second of processor of what `up` does. A Python reads a
command line with all that its commands ever read, and waits; each command is a fork of it, with the environment,
streams and signals that it would have had, and it ends as Python ends. What is promised of the start itself is tried
with `local_stack.COMMAND`, which reads it all. Of `modal` nothing is read that is ours: a deployment reads it, from its
folder and in its environment.
"""

import gc
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

from tests.modal.platform.inside import serve
from tests.support.fork_server import ForkServer
from tests.support.waiting import PATIENCE

AT_START = ("PYTHON", "LC_", "LANG")
"""What begins so is read as Python starts, so nobody is told of it later."""

OURS, MODAL = "ollama-modal", "modal"


class Command:
    """A command that runs, told of as `subprocess.Popen` tells of a process."""

    def __init__(self, words: Sequence[str], status: IO[bytes]) -> None:
        self.args = words
        self.pid = int(status.readline())
        self.returncode: int | None = None
        self._status = status

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self.returncode = int(self._status.readline())
            self._status.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None and not select.select([self._status], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        code = self.poll()
        assert code is not None
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Piped(Command):
    """One whose stdout and stderr are pipes to us."""

    def __init__(self, words: Sequence[str], status: IO[bytes], stdout: IO[str], stderr: IO[str]) -> None:
        super().__init__(words, status)
        self.stdout, self.stderr = stdout, stderr

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end; what it has said since, of each."""
        said: dict[IO[str], str] = {}

        def read(pipe: IO[str]) -> None:
            with pipe:
                said[pipe] = pipe.read()

        readers = [threading.Thread(target=read, args=[pipe]) for pipe in (self.stdout, self.stderr) if not pipe.closed]
        for each in readers:
            each.start()
        self.wait(timeout)
        for each in readers:
            each.join(timeout)
        return said.get(self.stdout, ""), said.get(self.stderr, "")


@cache
def _server(pid: int, program: str, at_start: tuple[tuple[str, str], ...]) -> ForkServer:  # a fork has none yet
    environ = {"PATH": os.environ["PATH"], **dict(at_start)}
    return ForkServer([sys.executable, "-m", __name__, program], environ, Path.cwd())


def _status_of(
    words: Sequence[str],
    environ: Mapping[str, str],
    streams: Sequence[int],
    *,
    new_session: bool,
    program: str,
    folder: Path | None,
) -> IO[bytes]:
    """Have it started; where its process id and its end are told."""
    at_start = tuple(sorted((key, value) for key, value in environ.items() if key.startswith(AT_START)))
    server = _server(os.getpid(), program, at_start)
    status, theirs = os.pipe()
    asked = {
        "words": list(words), "environ": dict(environ), "cwd": str(folder or Path.cwd()), "new_session": new_session,
    }  # fmt: skip
    server.send(asked, [*streams, theirs])
    os.close(theirs)
    return os.fdopen(status, "rb")


def start_command(
    words: Sequence[str], environ: Mapping[str, str], streams: Sequence[int], *, new_session: bool = False
) -> Command:
    """Start `ollama-modal` with these words, in this environment alone, and these as its stdin, stdout and stderr."""
    status = _status_of(words, environ, streams, new_session=new_session, program=OURS, folder=None)
    return Command(words, status)


def start_piped(words: Sequence[str], environ: Mapping[str, str]) -> Piped:
    """Start `ollama-modal` with nothing to read and pipes to us, in a session of its own."""
    (out, its_out), (err, its_err) = os.pipe(), os.pipe()
    with Path(os.devnull).open("rb") as nothing:
        streams = [nothing.fileno(), its_out, its_err]
        status = _status_of(words, environ, streams, new_session=True, program=OURS, folder=None)
    os.close(its_out)
    os.close(its_err)
    return Piped(words, status, os.fdopen(out), os.fdopen(err))


def run_command(
    words: Sequence[str], environ: Mapping[str, str], stdin: str, *, program: str = OURS, folder: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run it to its end, with pipes, as `subprocess.run` does."""
    given, out, err = os.pipe(), os.pipe(), os.pipe()
    streams = [given[0], out[1], err[1]]
    status = _status_of(words, environ, streams, new_session=False, program=program, folder=folder)
    running = Command(words, status)
    for each in (given[0], out[1], err[1]):
        os.close(each)
    with os.fdopen(given[1], "wb", buffering=0) as typed, suppress(BrokenPipeError):
        typed.write(stdin.encode())  # a pipe takes 64 KiB at once, and no test says more
    said: dict[int, bytearray] = {out[0]: bytearray(), err[0]: bytearray()}
    reading = list(said)
    while reading:
        ready, _, _ = select.select(reading, [], [], PATIENCE)
        if not ready:
            running.kill()
            raise subprocess.TimeoutExpired(words, PATIENCE)
        for each in ready:
            if piece := os.read(each, 65_536):
                said[each] += piece
            else:
                reading.remove(each)
                os.close(each)
    return subprocess.CompletedProcess(words, running.wait(PATIENCE), said[out[0]].decode(), said[err[0]].decode())


# -- the process that forks --------------------------------------------------------------------------------------------

MADE_ONCE = ("app.local.stack", "app.local.gateway", "app.gateway.compose", "app.gateway.app")
"""Each process makes up its own names for requests as it reads these."""


def _ours() -> Callable[[], object]:
    """All that commands read, sooner or later, but what looks at its environment meanwhile."""
    import anyio._backends._asyncio  # noqa: F401, PLC0415
    import loguru  # noqa: PLC0415
    import uvicorn.lifespan.off  # noqa: PLC0415
    import uvicorn.protocols.http.httptools_impl  # noqa: F401, PLC0415
    import uvloop  # noqa: F401, PLC0415

    import app.fleet.file  # noqa: PLC0415
    import app.local.__main__  # noqa: PLC0415
    import app.local.coming_night  # noqa: PLC0415
    import app.local.main  # noqa: PLC0415
    import app.local.stack  # noqa: PLC0415
    import jobs.cli.remote_status  # noqa: F401, PLC0415

    for name in MADE_ONCE:
        del sys.modules[name]
    sys.argv[0] = str(Path(app.local.__main__.__file__ or ""))

    def run() -> None:
        loguru.logger.remove()
        loguru.logger.add(sys.stderr)  # as it does when it is read
        app.local.__main__.main()

    return run


def _modal() -> Callable[[], object]:
    """Modal's command line and the libraries that a deployment reads."""
    os.environ["MODAL_CONFIG_PATH"] = os.devnull  # it is read now; that of a control plane is as empty
    import cronsim  # noqa: F401, PLC0415
    import fastapi  # noqa: F401, PLC0415
    import httpx  # noqa: F401, PLC0415
    import modal.__main__  # noqa: PLC0415
    import modal.cli.run  # noqa: F401, PLC0415
    import prometheus_client  # noqa: F401, PLC0415
    import pydantic  # noqa: F401, PLC0415
    import uvicorn.protocols.http.httptools_impl  # noqa: F401, PLC0415

    del sys.modules["modal.__main__"]  # to be run

    def run() -> None:
        sys.path[0] = str(Path.cwd())
        for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
            del sys.modules[name]
        runpy.run_module("modal", run_name="__main__", alter_sys=True)

    return run


def _become(asked: Mapping[str, Any], streams: Sequence[int]) -> None:
    """Be the process that was asked for."""
    if asked["new_session"]:
        os.setsid()
    for number, each in enumerate(streams):
        os.dup2(each, number)
    os.closerange(3, 65_536)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["environ"])
    time.tzset()
    sys.argv[1:] = asked["words"]
    for name, number, mode, buffering in (("stdin", 0, "r", -1), ("stdout", 1, "w", -1), ("stderr", 2, "w", 1)):
        before = getattr(sys, name)
        stream = open(number, mode, buffering, before.encoding, before.errors, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


if __name__ == "__main__":
    command = {OURS: _ours, MODAL: _modal}[sys.argv[1]]()
    assert threading.active_count() == 1  # a fork has none of the others
    gc.collect()
    gc.freeze()
    if (forked := serve(socket.socket(fileno=int(sys.argv[2])))) is not None:
        _become(*forked)
        command()
