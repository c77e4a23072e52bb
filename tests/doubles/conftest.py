"""Both kinds of Ollama server, the simulator always and a real one where OLLAMA_BIN names it, and how they are asked.

Nothing here needs inference or the internet: models come from the registry double, through `localhost`, because the
real one fetches parts only after a redirect to another host name.
"""

import json
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from jobs.core.model_name import ModelName
from jobs.ollama.client import OllamaClient
from jobs.testing.models import LIBRARY, SimLayer, SimModel, text
from jobs.testing.registry.server import RegistryDouble
from tests.support.ollama_servers import Server, serving, simulator_command
from tests.support.waiting import PATIENCE


def gguf(architecture: str) -> SimLayer:
    """The smallest file that Ollama takes for weights: a header and one key."""

    def string(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    header = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)
    body = header + string("general.architecture") + struct.pack("<I", 8) + string(architecture)
    return SimLayer("application/vnd.ollama.image.model", len(body), text=body)


def _real_enough(name: str, *layers: SimLayer) -> SimModel:
    return SimModel(ModelName.parse(name), "llama", "1B", "Q4_K_M", (gguf("llama"), *layers))


SMALL = _real_enough("small", text("license", "free"), text("params", '{"stop":["<end>"]}'))
OTHER = _real_enough("small:other", text("license", "free"), text("system", "speak up"))
MODELS = (*LIBRARY, SMALL, OTHER)


@pytest.fixture(scope="module")
def registry() -> Iterator[RegistryDouble]:
    with RegistryDouble(MODELS) as double:
        yield double


@pytest.fixture(scope="module", params=["simulator", "real"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("home")
    binary = os.environ.get("OLLAMA_BIN")
    if request.param == "real" and not binary:
        pytest.skip("no real Ollama: set OLLAMA_BIN to the path of an `ollama` binary")
    command = [str(binary)] if request.param == "real" else simulator_command()
    with serving(command, home, is_real=request.param == "real", OLLAMA_NOPRUNE="1") as running:
        yield running


@dataclass(frozen=True)
class Asker:
    """Raw HTTP, and names of models in the registry double."""

    http: httpx.Client
    registry: RegistryDouble
    server: Server
    ollama: OllamaClient

    def name(self, model: str) -> str:
        return f"localhost:{urlsplit(self.registry.url).port}/library/{model}"

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        content = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        answer = self.http.request(method, path, content=content, headers=headers)
        return answer.status_code, _decoded(answer)

    def pull(self, model: str, *, stream: bool = True) -> httpx.Response:
        body = {"model": self.name(model), "insecure": True, "stream": stream}
        return self.http.post("/api/pull", json=body)

    def frames(self, model: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.pull(model).text.splitlines()]

    def blob(self, layer: SimLayer) -> Path:
        return self.server.models / "blobs" / layer.digest.replace(":", "-")

    def forget(self) -> None:
        """Empty the models directory behind the server's back."""
        for path in sorted(self.server.models.rglob("*"), reverse=True):
            if path.is_file():
                path.unlink()


_SAYS_WHAT_IS_HERE = re.compile(r" \(SIMULATED: [^)]*\)")


def _decoded(answer: httpx.Response) -> Any:
    """What was answered, without the simulator's own words about the models that it has."""
    if "json" in answer.headers.get("content-type", ""):
        return json.loads(_SAYS_WHAT_IS_HERE.sub("", answer.text))
    return answer.text


@pytest.fixture
def asker(server: Server, registry: RegistryDouble) -> Iterator[Asker]:
    with httpx.Client(base_url=server.url, timeout=PATIENCE) as http, OllamaClient(server.url) as ollama:
        asker = Asker(http, registry, server, ollama)
        asker.forget()
        registry.faults.clear()
        yield asker
