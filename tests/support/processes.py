"""Real processes in tests: free ports, who runs, and a driver that says what we like."""

import itertools
import os
import shlex
import socket
import sys
from contextlib import suppress
from pathlib import Path

_numbers = itertools.count(os.getpid() * 53)


def free_port() -> int:
    """A port where nobody listens, nor will before whoever asked does.

    It lies below those that systems hand out to listeners and callers who name none (from 32768 on Linux, 49152
    elsewhere): on a busy machine one of these is soon somebody else's. Each process counts on from a place of its own.
    """
    for number in _numbers:
        port = 14_000 + number % 18_000
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("unreachable: the numbers do not end")


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def running_with(**variables: str) -> list[int]:
    """The processes that were started with these variables in their environment."""
    wanted = {f"{name}={value}".encode() for name, value in variables.items()}
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            if wanted <= set((entry / "environ").read_bytes().split(b"\0")) and is_running(int(entry.name)):
                found.append(int(entry.name))
    return found


def nvidia_smi(folder: Path, script: str) -> None:
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def gpu_programs(folder: Path) -> None:
    """What the GPU image and the driver bring along: `ollama`, here the simulator, and `nvidia-smi`."""
    ollama = folder / "ollama"
    ollama.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m jobs.testing.ollama "$@"\n')
    ollama.chmod(0o755)
    nvidia_smi(folder, "echo 'NVIDIA A10G, 23028'")
