"""`ollama-modal` and `modal` in processes of their own, forked from one that has read them: once, not each time.

Reading their modules is most of what a command costs. `CommandServer` starts a Python that reads a command line and
waits; each command is a fork of it, with the environment, streams and signals that it would have had, and it ends as
Python ends. What is promised of the start itself is tried with `local_stack.COMMAND`, which reads it all. Of `modal`
nothing is read that is ours: a deployment reads it, from its folder and in its environment.
"""

import atexit
import gc
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO

from tests.support.waiting import PATIENCE

AT_START = ("PYTHON", "LC_", "LANG")
"""What begins so is read as Python starts, so nobody is told of it later."""

LENGTH = struct.Struct("!I")

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


class CommandServer:
    """A Python that has read a command line, and forks."""

    def __init__(self, program: str, environ: Mapping[str, str]) -> None:
        self._ours, theirs = socket.socketpair()
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, program, str(theirs.fileno())],
            env=dict(environ), pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
        )  # fmt: skip
        theirs.close()
        atexit.register(self.close)

    def close(self) -> None:
        self._ours.close()
        self._process.wait(timeout=PATIENCE)

    def start(
        self,
        words: Sequence[str],
        environ: Mapping[str, str],
        streams: Sequence[int],
        folder: Path,
        *,
        new_session: bool,
    ) -> Command:
        """Start it in that folder, with these descriptors as its stdin, stdout and stderr."""
        said = json.dumps([list(words), dict(environ), str(folder), new_session]).encode()
        status, theirs = os.pipe()
        with self._lock:
            socket.send_fds(self._ours, [LENGTH.pack(len(said))], [*streams, theirs])
            self._ours.sendall(said)
        os.close(theirs)
        return Command(words, os.fdopen(status, "rb"))


@cache
def _server(pid: int, program: str, at_start: tuple[tuple[str, str], ...]) -> CommandServer:  # a fork has none yet
    return CommandServer(program, {"PATH": os.environ["PATH"], **dict(at_start)})


def start_command(
    words: Sequence[str],
    environ: Mapping[str, str],
    streams: Sequence[int],
    *,
    new_session: bool = False,
    program: str = OURS,
    folder: Path | None = None,
) -> Command:
    """Start `ollama-modal`, or another program, with these words, in this environment alone."""
    at_start = tuple(sorted((key, value) for key, value in environ.items() if key.startswith(AT_START)))
    server = _server(os.getpid(), program, at_start)
    return server.start(words, environ, streams, folder or Path.cwd(), new_session=new_session)


def run_command(
    words: Sequence[str], environ: Mapping[str, str], stdin: str, *, program: str = OURS, folder: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run it to its end, with pipes, as `subprocess.run` does."""
    given, out, err = os.pipe(), os.pipe(), os.pipe()
    running = start_command(words, environ, [given[0], out[1], err[1]], program=program, folder=folder)
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


def _ours() -> Callable[[], object]:
    """All that commands read, sooner or later, but what looks at its environment meanwhile."""
    import app.fleet.file  # noqa: PLC0415
    import app.local.__main__  # noqa: PLC0415
    import app.local.coming_night  # noqa: PLC0415
    import app.local.main  # noqa: PLC0415
    import jobs.cli.remote_status  # noqa: F401, PLC0415

    assert "loguru" not in sys.modules  # it would hold on to a stderr that is not the command's
    sys.argv[0] = str(Path(app.local.__main__.__file__ or ""))
    return app.local.__main__.main


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


def _requested(line: socket.socket) -> tuple[list[str], dict[str, str], str, bool, list[int]] | None:
    head, streams, _, _ = socket.recv_fds(line, LENGTH.size, 4)
    if not head:
        return None
    (left,) = LENGTH.unpack(head)
    said = bytearray()
    while len(said) < left:
        said += line.recv(left - len(said))
    words, environ, folder, new_session = json.loads(said)
    return words, environ, folder, new_session, streams


def _become(words: list[str], environ: dict[str, str], folder: str, streams: list[int], *, new_session: bool) -> None:
    """Be the process that was asked for."""
    if new_session:
        os.setsid()
    for number, each in enumerate(streams):
        os.dup2(each, number)
    os.closerange(3, 65_536)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    sys.argv[1:] = words
    for name, number, mode, buffering in (("stdin", 0, "r", -1), ("stdout", 1, "w", -1), ("stderr", 2, "w", 1)):
        before = getattr(sys, name)
        stream = open(number, mode, buffering, before.encoding, before.errors, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def serve(line: socket.socket) -> bool:
    """Fork for whoever asks until nobody can: False. In a fork: True, and it is to go on as the command."""
    statuses: dict[int, int] = {}
    awake, wake = socket.socketpair()
    wake.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake.fileno())
    while True:
        ready, _, _ = select.select([line, awake], [], [])
        if awake in ready:
            awake.recv(4096)
            while statuses and (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
                status = statuses.pop(ended[0])
                with suppress(BrokenPipeError), os.fdopen(status, "wb", buffering=0) as told:
                    told.write(b"%d\n" % os.waitstatus_to_exitcode(ended[1]))
        if line in ready:
            if (requested := _requested(line)) is None:
                return False
            words, environ, folder, new_session, (*streams, status) = requested
            if not (pid := os.fork()):
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for closed in (line, awake, wake):
                    closed.close()
                _become(words, environ, folder, streams, new_session=new_session)
                return True
            for each in streams:
                os.close(each)
            statuses[pid] = status
            os.write(status, b"%d\n" % pid)


if __name__ == "__main__":
    command = {OURS: _ours, MODAL: _modal}[sys.argv[1]]()
    gc.collect()
    gc.freeze()
    if serve(socket.socket(fileno=int(sys.argv[2]))):
        command()
