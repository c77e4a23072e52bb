"""What a container's process does before Modal's entrypoint has it: the Python that runs this is the container's own.

`enter` gives a process a root directory of its own, and a volume its place there. `serve` is a Python that has read
Modal's client, as the platform brings it, and of what the image has what it is told, but nothing of the source; each
container is a fork of it, which saves most of a second of processor each. This imports nothing of the repository: it is
not there inside.
"""

import ctypes
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
from contextlib import suppress
from pathlib import Path
from typing import Any

LENGTH = struct.Struct("!I")
ENTRYPOINT = "modal._container_entrypoint"
CLONE_NEWNS = 0x20000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
KEPT_BY_REMOUNT = 2 | 4 | 8 | 1024 | 2048
"""nosuid, nodev, noexec, noatime, nodiratime: in a user's own namespace nobody may take them away."""

#: Its loopback under the name that Modal's client looks for; nothing else is to be reached.
OWN_NETWORK = "ip link set lo name eth0 && ip link set eth0 up"

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def _mount(source: str, target: str, kind: str, flags: int) -> None:
    done = _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), None)
    _checked(done, f"{source} at {target}")


def enter(root: str, binds: list[tuple[str, str, bool]], cwd: str) -> None:
    """In a mount namespace of its own, make `root` the root: everything of the machine, and the binds in place."""
    _mount("tmpfs", root, "tmpfs", 0)
    for entry in Path("/").glob("[!.]*"):
        target = Path(f"{root}{entry}")
        if entry.is_symlink():
            target.symlink_to(entry.readlink())
        elif entry.is_dir():
            target.mkdir()
            _mount(str(entry), str(target), "", MS_BIND | MS_REC)
        elif entry.is_file():
            target.touch()
            _mount(str(entry), str(target), "", MS_BIND)
    for source, place, read_only in binds:
        target = Path(f"{root}{place}")
        target.mkdir(parents=True, exist_ok=True)
        _mount(source, str(target), "", MS_BIND)
        if read_only:
            kept = os.statvfs(target).f_flag & KEPT_BY_REMOUNT
            _mount("none", str(target), "", MS_REMOUNT | MS_BIND | MS_RDONLY | kept)
    os.chroot(root)
    os.chdir(cwd)


# -- a Python that has read the client ---------------------------------------------------------------------------------


def serve(line: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Fork for whoever asks until nobody can: None. In a fork: what it is asked to be, with its descriptors.

    Who asks sends the length of a JSON object, that object, the descriptors that the fork is to have, and one more:
    there its process id is told, and its exit code once it has ended.
    """
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
                return None
            asked, (*descriptors, status) = requested
            if not (pid := os.fork()):
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for closed in (line, awake, wake):
                    closed.close()
                return asked, descriptors
            for each in descriptors:
                os.close(each)
            statuses[pid] = status
            os.write(status, b"%d\n" % pid)


def _requested(line: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    head, descriptors, _, _ = socket.recv_fds(line, LENGTH.size, 4)
    if not head:
        return None
    (left,) = LENGTH.unpack(head)
    said = bytearray()
    while len(said) < left:
        said += line.recv(left - len(said))
    return json.loads(said), descriptors


def _become(asked: dict[str, Any], descriptors: list[int]) -> None:
    """Be the process that was asked for, as far as it can tell."""
    os.setsid()
    for number, each in enumerate([os.open(os.devnull, os.O_RDONLY), *descriptors]):
        os.dup2(each, number)
    os.closerange(3, 65_536)
    _checked(_libc.unshare(CLONE_NEWNS), "unshare")
    _mount("none", "/", "", MS_REC | MS_PRIVATE)
    enter(asked["root"], asked["binds"], asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["environ"])
    given = asked["environ"]["PYTHONPATH"].split(":")
    sys.path[:] = [asked["cwd"], *given, *(path for path in sys.path if path not in given)]
    sys.argv[:] = [str(sys.modules[ENTRYPOINT].__file__)]
    del sys.modules[ENTRYPOINT]


def main(word: str, *words: str) -> None:
    if word == "enter":
        said, *command = words
        asked = json.loads(said)
        if asked["own_network"]:
            subprocess.run(["sh", "-c", OWN_NETWORK], check=True)
        enter(asked["root"], asked["binds"], str(Path.cwd()))
        os.execv(command[0], command)
    *names, said = words
    for name in (ENTRYPOINT, *names):
        with suppress(ModuleNotFoundError):  # not every image has all of them
            __import__(name)
    gc.collect()
    gc.freeze()
    if (forked := serve(socket.socket(fileno=int(said)))) is not None:
        _become(*forked)
        runpy.run_module(ENTRYPOINT, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
