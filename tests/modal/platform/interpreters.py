"""Which Python a container runs on: the one its image brings, where that is on this machine, else the running one."""

import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.waiting import PATIENCE

RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"
BASE = Path(sys.base_prefix, "bin", f"python{RUNNING}")
"""The interpreter below the virtual environment that the tests run in."""


@dataclass(frozen=True)
class Interpreter:
    path: Path
    version: str
    """All of it, as `3.12.1 (main, …)`: what was built for one build of Python is not handed to another."""
    series: str
    """As 3.12. It is not always the one that was asked for."""


@functools.cache
def interpreter(series: str) -> Interpreter:
    """A Python of that series, as 3.12; where none works here, the one that runs the tests."""
    if series != RUNNING:
        for path in _candidates(series):
            if version := _version(path):
                return Interpreter(path, version, series)
    return Interpreter(BASE if BASE.exists() else Path(sys.executable), sys.version, RUNNING)


def told(series: str) -> str:
    """Which one that is, in a line for whoever runs the tests."""
    found = interpreter(series)
    other = "" if found.series == series else f", for want of the {series} that their images bring"
    return f"containers: Python {found.series} at {found.path}{other}"


def _candidates(series: str) -> Iterator[Path]:
    name = f"python{series}"
    for folder in os.get_exec_path():
        yield Path(folder, name)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR") or Path.home() / ".local/share/uv/python")
    yield from sorted(pyenv.glob(f"versions/{series}.*/bin/{name}"), reverse=True)
    yield from sorted(uv.glob(f"cpython-{series}.*/bin/{name}"), reverse=True)


def _version(path: Path) -> str:
    """What it says it is; empty when it does not work: a version manager's shim may exist and refuse."""
    if not path.exists():
        return ""
    try:
        said = subprocess.run(
            [path, "-c", "import sys; print(sys.version)"],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return said.stdout.strip() if said.returncode == 0 else ""
