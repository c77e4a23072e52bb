"""A stack of one machine with a simulated server, for the benchmarks of batches."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PYTHON = ROOT / ".venv" / "bin" / "python"
MODEL = "tiny"
READY_SECONDS = 120.0


@contextmanager
def up(folder: Path, parallel: int, prompt_milliseconds: int, tokens_per_second: int) -> Iterator[int]:
    """A stack with a model in memory, whose server answers so many requests at once; its port.

    Its home is `folder/home`.
    """
    environ = environment(folder) | {
        "OLLAMA_NUM_PARALLEL": str(parallel),
        "OLLAMA_SIM_PROMPT_MILLISECONDS": str(prompt_milliseconds),
        "OLLAMA_SIM_TOKENS_PER_SECOND": str(tokens_per_second),
    }
    command = [str(PYTHON), "-m", "app.local", "up", "--simulate", "--port", "0"]
    with (folder / "up.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=log, stderr=subprocess.STDOUT)
        try:
            port = _await_ready(process, folder / "up.log")
            for words in (["pull", MODEL], ["warm", MODEL]):
                subprocess.run(
                    [PYTHON, "-m", "app.local", *words],
                    cwd=ROOT, env=environ, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )  # fmt: skip
            yield port
        finally:
            process.terminate()
            process.wait(READY_SECONDS)


def environment(folder: Path) -> dict[str, str]:
    """Of what runs in the stack's home, and sees no other."""
    known = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return known | {"HOME": str(folder), "OLLAMA_MODAL_HOME": str(folder / "home"), "OLLAMA_HOST": "127.0.0.1:9"}


def _await_ready(process: "subprocess.Popen[bytes]", log: Path) -> int:
    until = time.monotonic() + READY_SECONDS
    while True:
        told = log.read_text("utf-8")
        if ready := re.search(r"^ready http://127\.0\.0\.1:(\d+)\n", told, re.MULTILINE):
            return int(ready[1])
        if process.poll() is not None or time.monotonic() > until:
            sys.exit(f"error: the stack does not start\n{told[-2000:]}")
        time.sleep(0.1)
