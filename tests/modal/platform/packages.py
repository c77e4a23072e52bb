"""The Python of a container: an environment of exactly what its image declares, and Modal's client beside it.

An environment is built once for its content (the interpreter, the options, the bytes of the requirements) and kept in
the checkout's `.tools/containers`, whichever process comes first; what nobody used for a week is removed by whoever
builds the next. Installing is what `scripts/setup` knows how to do: it finds uv, the index and the certificates.

The client comes as the platform brings it: `modal` and its siblings in a folder that goes on PYTHONPATH, and what they
import appended to `sys.path`, behind whatever the image has. Their pins are the lock's.
"""

import fcntl
import functools
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sysconfig
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from modal_proto import api_pb2

from app.image_requirements import LOCK
from tests.modal.platform.interpreters import BASE, Interpreter, interpreter

ROOT = LOCK.parent
KEPT = ROOT / ".tools/containers"
UNUSED_SECONDS = 7 * 86_400.0
PATIENCE_SECONDS = 600
CLIENT = ("modal", "modal_proto", "modal_version", "synchronicity")
INSTALLS = "RUN /.uv/uv pip install --python $(command -v python) "
HERE = Path(sysconfig.get_path("purelib"))


@dataclass(frozen=True)
class Declared:
    """What an image says of its Python."""

    series: str
    """As 3.12."""
    builder: str
    """The version of Modal's image builder, which decides what is mounted beside the image."""
    arguments: tuple[str, ...]
    """Of its `uv pip install`, a requirements file as its text; none when it installs nothing."""


@dataclass(frozen=True)
class Environment:
    """Where a container's Python is, and what has to be on its PYTHONPATH behind the source."""

    interpreter: Interpreter
    folder: Path
    client: Path

    @property
    def binaries(self) -> Path:
        return self.folder / "bin"

    @property
    def python(self) -> Path:
        return self.binaries / "python"

    @property
    def packages(self) -> Path:
        """What the image installed."""
        return packages_in(self.folder)


def declared(layers: Sequence[api_pb2.Image], builder: str, mount_name: Callable[[str], str]) -> Declared:
    """Read it out of an image's layers, the first base first.

    Raises:
        AssertionError: a layer does what no environment can stand in for.

    """
    series, arguments = "", tuple[str, ...]()
    for layer in layers:
        files = {file.filename: file.data.decode() for file in layer.context_files}
        copied: dict[str, str] = {}
        for line in layer.dockerfile_commands:
            if found := re.match(r"FROM python:(\d+\.\d+)", line):
                series = found[1]
            elif line.startswith("COPY /python/. "):
                series = re.findall(r"\.\d{8}\.(\d+\.\d+)", mount_name(layer.context_mount_id))[0]
            elif line.startswith("COPY ") and (source := line.split()[1]) in files:
                copied[line.split()[2]] = files[source]
            elif line.startswith(INSTALLS) and not arguments:
                arguments = tuple(copied.get(word, word) for word in shlex.split(line.removeprefix(INSTALLS)))
            elif line.startswith("RUN ") and layer.base_images:  # what the base itself ran is what it is
                raise AssertionError(f"the control plane cannot do what an image asks for: {line}")
    assert series, f"no Python is declared by {[line for layer in layers for line in layer.dockerfile_commands]}"
    return Declared(series, builder, arguments)


@functools.cache
def built(of: Declared) -> Environment:
    """The environment, found or built now. Any number of processes may ask at once."""
    python = interpreter(of.series)
    one = [python.version, str(python.path)]
    own = kept([*one, of.arguments], lambda path: _install(path, python, of.arguments))
    pins = ("--compile-bytecode", "--no-deps", "--require-hashes", "--requirements", _pins(of.builder))
    beside = kept([*one, pins], lambda path: _install(path, python, pins))
    modal = [version("modal"), version("synchronicity")]
    client = kept([*one, modal, str(beside)], lambda path: _lay_out_client(path, python, beside))
    return Environment(python, own, client)


def packages_in(folder: Path) -> Path:
    [found] = folder.glob("lib/python*/site-packages")
    return found


def _pins(builder: str) -> str:
    """The lock's blocks for the packages that Modal mounts beside its client."""
    listed = (HERE / "modal/builder" / f"{builder}.txt").read_text("utf-8")
    names = {line.partition("==")[0].replace("_", "-").lower() for line in listed.splitlines()}
    blocks = re.split(r"^(?=[a-z0-9])", LOCK.read_text("utf-8"), flags=re.MULTILINE)[1:]
    return "".join(block for block in blocks if block.partition("==")[0] in names)


def _install(folder: Path, python: Interpreter, arguments: Sequence[str]) -> None:
    requirements = folder.with_suffix(".txt")
    words = []
    for word in arguments:
        if "\n" in word:
            requirements.write_text(word, "utf-8")
        words.append(str(requirements) if "\n" in word else word)
    _run(str(ROOT / "scripts/setup"), str(folder), str(python.path), *words)


def _lay_out_client(folder: Path, python: Interpreter, beside: Path) -> None:
    for name in CLIENT:
        shutil.copytree(HERE / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    appended = str(packages_in(beside))
    (folder / "sitecustomize.py").write_text(f"import sys\n\nsys.path.append({appended!r})\n", "utf-8")
    _run(str(python.path), "-m", "compileall", "-q", str(folder))


def _run(*command: str) -> None:
    environ = {**os.environ, "PYTHON": str(BASE)}  # the Python of the tests' own environment has no pip to be asked
    done = subprocess.run(
        command, env=environ, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False, cwd=ROOT
    )
    assert done.returncode == 0, f"the Python of a container cannot be made:\n{done.stdout}{done.stderr}"


def kept(content: object, make: Callable[[Path], None], within: Path = KEPT) -> Path:
    """The folder of that content; `make` is handed its path, empty, when it is not there or was left half made."""
    folder = within / hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    whole = folder.with_suffix(".whole")
    if not whole.exists():
        within.mkdir(parents=True, exist_ok=True)
        with (within / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not whole.exists():
                _remove_unused(within)
                shutil.rmtree(folder, ignore_errors=True)
                make(folder)
                whole.touch()  # before another gets the lock
    whole.touch()  # when it was used last
    return folder


def _remove_unused(within: Path) -> None:
    for whole in within.glob("*.whole"):
        if time.time() - whole.stat().st_mtime > UNUSED_SECONDS:
            whole.unlink()
            whole.with_suffix(".txt").unlink(missing_ok=True)
            shutil.rmtree(whole.with_suffix(""), ignore_errors=True)
