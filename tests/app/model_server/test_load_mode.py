"""How an engine reads a model's file is its tier's to say, and reaches the runner of a real Ollama."""

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.fleet.schema import OllamaSettings
from app.model_server.starting.engine import engine_environ
from jobs.ollama.host import OllamaHost
from tests.support import tiny_llama
from tests.support.ollama_servers import has_runner, serving
from tests.support.waiting import PATIENCE

BINARY = Path(os.environ.get("OLLAMA_BIN", ""))
NAME = "noise"


def settings(mode: str | None) -> OllamaSettings:
    return OllamaSettings.model_validate(
        {
            "context_length": 512, "num_parallel": 1, "max_loaded_models": 1, "flash_attention": False,
            "kv_cache_type": "f16", "keep_alive_seconds": -1, "load_timeout_seconds": 60, "load_mode": mode,
        }
    )  # fmt: skip


def of_the_engine(inherited: dict[str, str], mode: str | None, home: Path) -> dict[str, str]:
    """What is said to an engine in the environment that its server is started with."""
    given = engine_environ(inherited, settings(mode).environ(), host=OllamaHost(port=1), models=home, home=home)
    return {key: value for key, value in given.items() if key.startswith("LLAMA_ARG_")}


@pytest.mark.parametrize("mode", ["mmap", "none", "dio"])
def test_a_tier_says_how_its_engine_reads(mode: str, tmp_path: Path) -> None:
    """What the fleet says reaches a server, and nothing that the container's own environment says; unsaid, nothing."""
    inherited = {"LLAMA_ARG_LOAD_MODE": "other", "LLAMA_ARG_MMAP": "0"}

    assert of_the_engine(inherited, mode, tmp_path) == {"LLAMA_ARG_LOAD_MODE": mode}
    assert of_the_engine(inherited, None, tmp_path) == {}


def variables_below(pid: int) -> Iterator[dict[str, str]]:
    """The environments of all that a process has started."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text("ascii").split()):
            pairs = Path(f"/proc/{child}/environ").read_bytes().decode(errors="replace").split("\0")
            yield dict(pair.split("=", 1) for pair in pairs if "=" in pair)
            yield from variables_below(child)


@pytest.mark.skipif(
    not os.environ.get("OLLAMA_BIN") or not has_runner(BINARY),
    reason="no real Ollama that runs models: set OLLAMA_BIN to the path of an `ollama` with its runner beside it",
)
def test_the_runner_of_a_real_ollama_is_told(tmp_path: Path) -> None:
    """The process that reads the weights has the load mode of its tier in its environment."""
    tiny_llama.put(tmp_path / "models", NAME)
    told = of_the_engine({}, "dio", tmp_path)
    with serving([str(BINARY)], tmp_path, is_real=True, **told) as server:
        loaded = httpx.post(f"{server.url}/api/generate", json={"model": NAME}, timeout=PATIENCE)
        assert loaded.status_code == 200, loaded.text
        runners = list(variables_below(server.process.pid))

    assert runners
    assert all(each.get("LLAMA_ARG_LOAD_MODE") == "dio" for each in runners)
