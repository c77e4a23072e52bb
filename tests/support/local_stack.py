"""Runs `ollama-modal` as people do: as a process of its own, with a home of its own."""

import json
import os
import shlex
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.core.clock import SystemClock
from jobs.home.home import Home
from tests.support.checkout import ROOT
from tests.support.command_server import Piped, run_command, start_piped
from tests.support.stores import Store, open_store
from tests.support.waiting import PATIENCE

COMMAND = [sys.executable, "-m", "app.local"]


@dataclass
class Shell:
    """A person at a shell with this home. Nothing of the tester's own environment reaches the commands."""

    home: Path
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def environ(self) -> dict[str, str]:
        kept = {key: os.environ[key] for key in ("PATH", "LANG", "TMPDIR") if key in os.environ}
        # An Ollama that happens to run on this machine is none of ours.
        own = {"HOME": str(self.home), "OLLAMA_MODAL_HOME": str(self.home / "om"), "OLLAMA_HOST": "127.0.0.1:9"}
        return {**kept, **own, "PYTHONWARNINGS": "default", **self.extra}

    def run(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """To its end, in a process that need not read the command line again."""
        return run_command(words, self.environ, stdin)

    def run_script(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        """One of `scripts/`, to its end."""
        command = [str(ROOT / "scripts" / name), *words]
        return subprocess.run(command, env=self.environ, capture_output=True, text=True, timeout=PATIENCE, check=False)

    def ask(self, *words: str) -> Any:
        """A command's JSON; it has to succeed."""
        done = self.run(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def start(self, *words: str) -> Piped:
        """In a process that need not read the command line again; it is to be told to end, or ends by itself."""
        return start_piped(words, self.environ)

    def start_afresh(self, *words: str) -> "subprocess.Popen[str]":
        """As a person starts it."""
        return subprocess.Popen(
            [*COMMAND, *words],
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def store(self) -> Store:
        """The home's own store; whoever opens it closes it."""
        home = Home(self.home / "om")
        home.prepare()
        return open_store(home.root / "ledger.sqlite", SystemClock())


@dataclass
class Up:
    """A running `ollama-modal up`."""

    shell: Shell
    process: Piped | subprocess.Popen[str]
    url: str

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """End it; its exit code and all that it said on stderr."""
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=PATIENCE)
        return self.process.wait(), said


@contextmanager
def up(shell: Shell, *words: str, afresh: bool = False) -> Iterator[Up]:
    """`ollama-modal up` from its word `ready` until it is told to stop; on request in a Python that reads it all."""
    process = (shell.start_afresh if afresh else shell.start)("up", "--port", "0", *words)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line.startswith("ready "):
        _, said = process.communicate(timeout=PATIENCE)
        raise AssertionError(f"up did not come up: {line!r}\n{said}")
    page = process.stdout.readline()
    running = Up(shell, process, line.split()[1])
    assert page == f"page {running.url}/ui\n"
    try:
        yield running
    finally:
        if process.poll() is None:
            running.stop()


def family(pid: int) -> list[int]:
    """The process and all below it; nobody, of one that is gone meanwhile."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [pid, *(each for child in children for each in family(int(child)))]


def simulator_as_ollama(folder: Path, registry: str) -> Path:
    """A program called `ollama` that is the simulator, to be found on PATH."""
    folder.mkdir(exist_ok=True)
    program = folder / "ollama"
    program.write_text(
        f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m jobs.testing.ollama "$@" --registry {registry}\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return folder


def both(processes: Sequence[Piped]) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each."""
    told = []
    for process in processes:
        out, err = process.communicate(timeout=PATIENCE)
        told.append((process.wait(), out, err))
    return told
