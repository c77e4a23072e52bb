"""The program that plays upstream and callers: that of load/, built with Go where Go is, else python_load."""

import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from free_ports import free_port

from bench_gateway_parts.contestants import PYTHON, ROOT, Contestant
from bench_gateway_parts.processes import cpu_seconds, first_line, pinned, running

SOURCE = Path(__file__).resolve().parent / "load"
NEAR = 0.9
"""From which share of its processor on the load may be what limits."""


@dataclass(frozen=True)
class LoadProgram:
    """How it is called."""

    words: Sequence[str]
    is_fast: bool

    @contextlib.contextmanager
    def upstream(self, pieces: int, pace_ms: int, scratch: Path) -> Iterator["Load"]:
        """What can be sent through contestants to an upstream, while that runs."""
        port, log = free_port(), scratch / "upstream.log"
        at = ["--port", str(port), "--pieces", str(pieces), "--pace", f"{pace_ms}ms"]
        with running([*pinned("load"), *self.words, "upstream", *at], log, is_heard=True) as process:
            first_line(process, log)
            yield Load(self.words, port, process.pid)


@dataclass(frozen=True)
class Load:
    """Callers, and the upstream that answers them, which share a processor."""

    words: Sequence[str]
    port: int
    """Of the upstream."""
    pid: int

    def send(self, what: str, contestant: Contestant, **options: float) -> dict[str, Any]:
        """What the callers saw; `load_share` is how much of their processor they and the upstream used."""
        at = ["--port", str(contestant.port), "--path", contestant.path, "--key", contestant.key]
        more = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        began, before = time.monotonic(), self._used()
        done = subprocess.run(
            [*pinned("load"), *self.words, what, *at, *more], check=False, stdout=subprocess.PIPE, text=True
        )
        if done.returncode:
            sys.exit("error: the load failed")
        figures: dict[str, Any] = json.loads(done.stdout)
        figures["load_share"] = (self._used() - before) / (time.monotonic() - began)
        return figures

    def _used(self) -> float:
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return cpu_seconds(self.pid) + ended.ru_utime + ended.ru_stime


def load_program(scratch: Path, *, is_fast: bool) -> LoadProgram:
    """The fast one is built with nothing but Go itself."""
    if not is_fast:
        return LoadProgram([PYTHON, str(SOURCE.parent / "python_load.py")], is_fast)
    program = scratch / "load"
    own = {
        "GO111MODULE": "off", "GOFLAGS": "", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0",
        "GOCACHE": str(ROOT / ".tools/go/cache"),
    }  # fmt: skip
    built = subprocess.run(
        ["go", "build", "-o", program, "."], cwd=SOURCE, env={**os.environ, **own}, check=False, capture_output=True,
        text=True,
    )  # fmt: skip
    if built.returncode:
        sys.exit(f"error: go cannot build {SOURCE}\n{built.stderr}hint: --load python does without it")
    return LoadProgram([str(program)], is_fast)
