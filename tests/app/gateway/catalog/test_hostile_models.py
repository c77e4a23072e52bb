"""Poisoned models come into the directory of a gateway that serves: nobody else notices, and they can be deleted."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from app.gateway.catalog.sources import Directory
from jobs.core.model_name import ModelName
from jobs.weights.layout import Layout
from jobs.weights.removal import remove
from tests.support.dialects import OLLAMA
from tests.support.gateways import RunningGateway, gateway
from tests.support.hostile_models import POISONS, Poison, lay_poison
from tests.support.models_directory import nothing, weights_at
from tests.support.scripted_server import Connection, HeardRequest, ScriptedServer
from tests.support.waiting import PATIENCE, until

"""On a machine that other suites keep busy. Before, it was a minute, or never."""

MOST_GROWN_BYTES = 160 << 20
"""All of them together; one of them alone took a gigabyte."""


def resident() -> int:
    line = next(each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


class Watch:
    """Asks `/healthz` and for a chat over and over, and remembers how long each took at most."""

    def __init__(self, url: str) -> None:
        self.slowest = 0.0
        self.asked = 0
        self.wrong: list[str] = []
        self._url = url
        self._stop = threading.Event()

    @contextmanager
    def watching(self) -> Iterator["Watch"]:
        thread = threading.Thread(target=self._watch)
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join()

    def _watch(self) -> None:
        with httpx.Client(base_url=self._url, timeout=PATIENCE) as client:
            while not self._stop.wait(0.02):
                before = time.monotonic()
                answers = [client.get("/healthz"), client.get("/api/tags"), client.post(OLLAMA.path, json=CHAT)]
                self.slowest = max(self.slowest, time.monotonic() - before)
                self.asked += 1
                self.wrong += [f"{each.request.url} {each.status_code}" for each in answers if each.status_code != 200]


CHAT = {**OLLAMA.body, "model": "good"}


def names(running: RunningGateway) -> set[str]:
    answer = httpx.get(f"{running.url}/api/tags", timeout=PATIENCE)
    return {each["name"] for each in json.loads(answer.content)["models"]}


def test_poisoned_models_harm_nobody_else(tmp_path: Path) -> None:
    """While they come and go, `/healthz`, the lists and the good model's chats are answered promptly; all are listed,
    told of, and deletable, and memory stays within its bound."""

    def chat(_: HeardRequest, line: Connection) -> None:
        OLLAMA.play(line)

    weights = weights_at(tmp_path)
    lay_poison(tmp_path, Poison("good"))
    source = Directory(Layout(tmp_path / "models"))
    with ScriptedServer(chat) as server, gateway(tmp_path, {"a10g": server.url}, source=source) as running:
        before = resident()
        with Watch(running.url).watching() as watch:
            until(lambda: watch.asked, "an answer")
            lay_poison(tmp_path, *POISONS)
            assert running.known_state.refresh(), running.known_state.trouble
            expected = {"good:latest", *(f"{each.name}:latest" for each in POISONS)}
            assert names(running) == expected
            grown = resident() - before
            with httpx.Client(base_url=running.url, timeout=PATIENCE) as client:
                told = client.get("/ops/v1/models").json()
                odd = {each.name for each in POISONS if each.says}
                assert {
                    each for each in odd if f"of {each}:latest not everything" not in str(told["complaints"])
                } == set()
                assert len(client.get("/v1/models").json()["data"]) == len(expected)
                for poison in POISONS:
                    if not poison.says:
                        assert client.post("/api/show", json={"model": poison.name}).status_code == 200
            for poison in POISONS:
                remove(weights, ModelName.parse(poison.name), still_ours=nothing)
            assert running.known_state.refresh(), running.known_state.trouble
            assert names(running) == {"good:latest"}
            so_far = watch.asked
            until(lambda: watch.asked > so_far, "another answer")
    assert watch.wrong == []
    assert watch.slowest < PATIENCE
    assert grown < MOST_GROWN_BYTES
