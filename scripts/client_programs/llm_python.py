"""The command `llm`, with its plugin for Ollama."""

import os
import subprocess
import sys
from pathlib import Path

from trials import EMBEDDER, MODEL, URL, trial

COMMAND = Path(sys.executable).with_name("llm")
CHAT, VECTORS = f"ollama/{MODEL}", f"ollama/{EMBEDDER}"


def llm(*words: str) -> str:
    environ = {**os.environ, "OLLAMA_HOST": URL, "LLM_USER_PATH": os.environ["HOME"]}
    done = subprocess.run([COMMAND, *words], env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


@trial
def models() -> None:
    assert CHAT in llm("models")


@trial
def prompt() -> None:
    assert "SIMULATED" in llm("-m", CHAT, "Hello")


@trial
def whole() -> None:
    assert llm("-m", CHAT, "--no-stream", "-o", "temperature", "0.5", "Hello").strip()


@trial
def schema() -> None:
    assert "people" in llm("-m", CHAT, "--schema", "name, people int", "Hello")


@trial
def embed() -> None:
    assert llm("embed", "-m", VECTORS, "-c", "one").startswith("[")
