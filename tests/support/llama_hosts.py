"""Hosts of the real engine for tests: llama.cpp from the wheel, with toy weights, in processes of their own."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobs.testing.models import SimModel
from tests.support.models_directory import lay
from tests.support.processes import free_port
from tests.support.waiting import PATIENCE, until

HAS_ENGINE = importlib.util.find_spec("xllamacpp") is not None

needs_engine = pytest.mark.skipif(
    not HAS_ENGINE, reason="no wheel of xllamacpp is for this machine; scripts/setup installs it where there is one"
)


@dataclass(frozen=True)
class Host:
    """A host that answers."""

    url: str
    models: Path
    log: Path
    process: "subprocess.Popen[bytes]"

    def post(self, path: str, body: Any) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=PATIENCE)

    def get(self, path: str) -> Any:
        answer = httpx.get(self.url + path, timeout=PATIENCE)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def loaded(self) -> list[str]:
        return [model["name"] for model in self.get("/api/ps")["models"]]

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def engines(self) -> dict[str, int]:
        """The pid of each engine by its model, as the kernel tells."""
        return engines_below(self.process.pid)


def engines_below(pid: int) -> dict[str, int]:
    """The engine processes among the children of a host, by the model that they have."""
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        try:
            words = Path(f"/proc/{child}/cmdline").read_bytes().decode().split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it is gone meanwhile
        if "--alias" in words:
            found[words[words.index("--alias") + 1]] = int(child)
    return found


@contextmanager
def toy_host(home: Path, *models: SimModel, binary: Path | None = None, **environ: str) -> Iterator[Host]:
    """A host with these models, on a free port; it is ended by its pid. Its engine is the wheel's, or that program."""
    port, directory, log = free_port(), home / "models", home / "host.log"
    lay(directory, *models)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("OLLAMA_", "MODAL_", "LLAMA_"))}
    own = {"HOME": str(home), "OLLAMA_HOST": f"127.0.0.1:{port}", "OLLAMA_MODELS": str(directory)}
    words = [sys.executable, "-m", "app.llama_host", *(["--llama-server", str(binary)] if binary else [])]
    with log.open("wb") as output:
        process = subprocess.Popen(words, env={**kept, **own, **environ}, stdout=output, stderr=output)
    host = Host(f"http://127.0.0.1:{port}", directory, log, process)

    def answers() -> bool:
        assert process.poll() is None, host.said()
        try:
            return httpx.get(f"{host.url}/api/version", timeout=PATIENCE).status_code == 200
        except httpx.HTTPError:
            return False

    try:
        until(answers, "an answer of the host", shows=host.said)
        yield host
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE)


def events(text: str) -> list[Any]:
    """The documents of an event stream."""
    found = re.findall(r"^data: (.*)$", text, flags=re.MULTILINE)
    return [each if each == "[DONE]" else json.loads(each) for each in found]


def said_in(stream: str) -> str:
    """The text that a stream of chat completions says."""
    chunks = [each for each in events(stream) if each != "[DONE]"]
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])
