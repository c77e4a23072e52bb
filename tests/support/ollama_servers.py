"""Ollama servers for tests: the simulator as a double or a process, and the real one where OLLAMA_BIN names it."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.support.processes import free_port
from tests.support.waiting import PATIENCE, until


@dataclass(frozen=True)
class Server:
    """A server that runs, and the directory it keeps."""

    url: str
    models: Path
    is_real: bool
    process: "subprocess.Popen[bytes]"


@contextmanager
def serving(command: list[str], home: Path, *, is_real: bool, **environ: str) -> Iterator[Server]:
    """Run `command serve` on a free port with a home of its own; end it by its pid."""
    port = free_port()
    models = home / "models"
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "serve"],
            env=_environ(home, OLLAMA_HOST=f"127.0.0.1:{port}", OLLAMA_MODELS=str(models), **environ),
            stdout=log,
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _await_answer(url, process, home / "server.log")
        yield Server(url, models, is_real, process)
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE)


def simulator_command() -> list[str]:
    return [sys.executable, "-m", "jobs.testing.ollama"]


def _environ(home: Path, **more: str) -> Mapping[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("OLLAMA_", "MODAL_"))}
    return kept | {"HOME": str(home), "OLLAMA_NO_CLOUD": "1"} | more


def _await_answer(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    def said() -> str:
        return log.read_text(errors="replace")[-2000:]

    def answers() -> bool:
        assert process.poll() is None, said()
        try:
            return httpx.get(f"{url}/api/version", timeout=PATIENCE).status_code == 200
        except httpx.HTTPError:
            return False

    until(answers, f"an answer of {url}", shows=said)


def has_runner(binary: Path) -> bool:
    """Whether that Ollama can run models: one that was built from its Go alone has no llama-server beside it."""
    folder = binary.resolve().parent
    return any((each / "lib" / "ollama" / "llama-server").exists() for each in (folder, folder.parent))


_FAILED_LOADS = ("error starting llama-server", "llama-server process has terminated")


def failed_to_load(answer: httpx.Response) -> bool:
    """Whether a real server got as far as the load, which is beyond all that could refuse the request.

    It has no runner then, or one that makes nothing of weights that are none.
    """
    return answer.status_code == 500 and any(each in answer.text for each in _FAILED_LOADS)


SIMULATOR = (sys.executable, "-m", "jobs.testing.ollama", "serve")
