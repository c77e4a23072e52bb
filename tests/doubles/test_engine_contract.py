"""What the gateway relies on in any engine, asked of three: the simulator, the built-in engine, and a real Ollama where
OLLAMA_BIN names one that has a runner. The same weights lie before all of them.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.engines.engine import ANSWERS_AT, LOADED_AT, LOADS_AT, Engine
from app.engines.llama_server import LLAMA_SERVER
from app.engines.ollama import OLLAMA
from app.gateway.protocol.dialects import error_text, tail_of
from jobs.testing.toy_models import toy
from jobs.testing.toy_weights import embedder, speaker
from tests.support.llama_hosts import HAS_ENGINE, events, toy_host
from tests.support.models_directory import lay
from tests.support.ollama_servers import has_runner, serving, simulator_command
from tests.support.waiting import PATIENCE, until

SPEAKS = toy("toy", speaker(), "completion")
EMBEDS = toy("toy-embed", embedder(), "embedding")
HELLO = [{"role": "user", "content": "hello"}]


@dataclass(frozen=True)
class Column:
    """A server of an engine."""

    engine: Engine
    url: str
    is_simulated: bool = False

    def post(self, path: str, body: Any) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=PATIENCE)

    def get(self, path: str) -> Any:
        answer = httpx.get(self.url + path, timeout=PATIENCE)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def loaded(self) -> list[str]:
        return [model["name"] for model in self.get(LOADED_AT)["models"]]


@pytest.fixture(scope="module", params=["simulator", "built-in", "real"])
def column(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Column]:
    home: Path = tmp_path_factory.mktemp("home")
    binary = os.environ.get("OLLAMA_BIN")
    if request.param == "built-in":
        if not HAS_ENGINE:
            pytest.skip("no wheel of xllamacpp is for this machine; scripts/setup installs it where there is one")
        with toy_host(home, SPEAKS, EMBEDS) as host:
            yield Column(LLAMA_SERVER, host.url)
        return
    if request.param == "real" and not (binary and has_runner(Path(binary))):
        pytest.skip("no real Ollama with a runner: set OLLAMA_BIN to the path of an `ollama` binary")
    lay(home / "models", SPEAKS, EMBEDS)
    command = [str(binary)] if request.param == "real" else simulator_command()
    with serving(command, home, is_real=request.param == "real", OLLAMA_NOPRUNE="1") as server:
        yield Column(OLLAMA, server.url, is_simulated=request.param == "simulator")


def test_it_answers_with_a_version(column: Column) -> None:
    """As soon as it takes requests; which model is in memory makes no difference."""
    assert column.get(ANSWERS_AT)["version"]


def test_it_lists_what_lies_there(column: Column) -> None:
    """Each model with its digest and its size, in Ollama's words, and in OpenAI's."""
    listed = {model["name"]: model for model in column.get("/api/tags")["models"]}
    assert (listed["toy:latest"]["digest"], listed["toy:latest"]["size"]) == (SPEAKS.digest, SPEAKS.size)
    assert {model["id"] for model in column.get("/v1/models")["data"]} >= {"toy:latest", "toy-embed:latest"}


def test_nothing_to_generate_from_loads_a_model(column: Column) -> None:
    """It is listed as loaded with its context, and a `keep_alive` of 0 has it out of memory."""
    done = column.post(LOADS_AT, {"model": "toy", "stream": False, "keep_alive": 600})
    assert (done.status_code, done.json()["done"], done.json()["done_reason"]) == (200, True, "load")
    [shown] = [model for model in column.get(LOADED_AT)["models"] if model["name"] == "toy:latest"]
    assert shown["digest"] == SPEAKS.digest
    assert shown["context_length"] > 0
    gone = column.post(LOADS_AT, {"model": "toy", "stream": False, "keep_alive": 0})
    assert (gone.status_code, gone.json()["done_reason"]) == (200, "unload")
    until(lambda: "toy:latest" not in column.loaded())


def test_an_unknown_model_is_told(column: Column) -> None:
    """With the engine's status for it and words that name the model, wherever it is asked for."""
    for path, body in ((LOADS_AT, {}), ("/v1/chat/completions", {"messages": HELLO})):
        answer = column.post(path, {"model": "nope", **body})
        assert answer.status_code == column.engine.no_model
        assert "nope" in error_text(answer.content)
        assert "not found" in error_text(answer.content)


ASKED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HELLO},
    "/v1/completions": {"prompt": "hello"},
    "/v1/messages": {"messages": HELLO, "max_tokens": 50},
    "/v1/responses": {"input": "hello"},
}


@pytest.mark.parametrize("path", ASKED)
def test_a_whole_answer_tells_its_tokens(column: Column, path: str) -> None:
    """Each dialect that all engines speak counts what went in and what came out, where the gateway looks for it."""
    assert column.engine.speaks(path)
    answer = column.post(path, {"model": "toy", **ASKED[path]})
    assert answer.status_code == 200, answer.text
    tokens = column.engine.tokens(answer.content, answer.content)
    assert tokens.prompt
    assert tokens.output
    assert column.is_simulated or "sleeps" in answer.text


@pytest.mark.parametrize("path", ASKED)
def test_a_stream_ends_as_its_dialect_ends(column: Column, path: str) -> None:
    """The gateway sees the end of the whole one, and not of one that is cut."""
    answer = column.post(path, {"model": "toy", "stream": True, **ASKED[path]})
    assert answer.headers["content-type"].startswith("text/event-stream")
    kind = answer.headers["content-type"].partition(";")[0].encode()
    for content, verdict in ((answer.content, "whole"), (answer.content[: len(answer.content) // 2], "cut")):
        tail = tail_of(path, kind, column.engine)
        tail.feed(content)
        assert tail.verdict() == verdict


def test_a_stream_of_chat_comes_in_pieces(column: Column) -> None:
    """An event for each, with the role first, the reason at the end, and the terminator behind it."""
    answer = column.post("/v1/chat/completions", {"model": "toy", "stream": True, "messages": HELLO})
    *chunks, done = events(answer.text)
    assert done == "[DONE]"
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    assert reasons[-1] == "stop"
    assert len(chunks) > 4


def test_texts_are_embedded(column: Column) -> None:
    """A vector for each text, in their order, all of one length."""
    answer = column.post("/v1/embeddings", {"model": "toy-embed", "input": ["one", "two"]})
    assert answer.status_code == 200, answer.text
    assert [each["index"] for each in answer.json()["data"]] == [0, 1]
    assert len({len(each["embedding"]) for each in answer.json()["data"]}) == 1
