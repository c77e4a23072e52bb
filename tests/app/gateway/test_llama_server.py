"""The gateway in front of the real llama-server: each of its routes, as clients of each kind ask it."""

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from app.engines.llama_server import LLAMA_SERVER
from jobs.cli.models.chat import Conversation
from jobs.testing.toy_models import all_toys
from jobs.testing.toy_weights import PHRASE
from tests.support.gateways import ModelList, RunningGateway, gateway, model
from tests.support.llama_hosts import Host, engines_below, needs_engine, toy_host
from tests.support.waiting import PATIENCE

pytestmark = needs_engine

USER: list[Any] = [{"role": "user", "content": "hello"}]

REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "toy", "messages": USER, "max_tokens": 4, "seed": 1},
    "/v1/completions": {"model": "toy", "prompt": "hello", "max_tokens": 4, "seed": 1},
    "/v1/embeddings": {"model": "toy-embed", "input": ["hello"]},
    "/v1/messages": {"model": "toy", "messages": USER, "max_tokens": 4},
    "/v1/messages/count_tokens": {"model": "toy", "messages": USER},
    "/v1/responses": {"model": "toy", "input": "hello", "max_output_tokens": 4},
    "/v1/rerank": {"model": "toy-rerank", "query": "hello", "documents": ["hello", "bye"]},
    "/tokenize": {"model": "toy", "content": "hello"},
}


@dataclass(frozen=True)
class Case:
    running: RunningGateway
    host: Host

    def post(self, path: str, **more: Any) -> httpx.Response:
        return httpx.post(self.running.url + path, json={**REQUESTS[path], **more}, timeout=PATIENCE)


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    source = ModelList([model(str(toy.name)) for toy in all_toys()])
    with (
        toy_host(tmp_path, *all_toys(), OLLAMA_MAX_LOADED_MODELS="3") as host,
        gateway(
            tmp_path, {"local": host.url}, engines={"local": LLAMA_SERVER}, source=source, rented=False, startup=60.0
        ) as running,
    ):
        yield Case(running, host)


def shape(document: Any) -> Any:
    """What an answer is made of, without what differs from one to the next."""
    match document:
        case dict():
            return {key: shape(value) for key, value in document.items()}
        case [first, *_]:
            return [shape(first)]
        case _:
            return type(document).__name__


def test_each_route_passes(case: Case) -> None:
    """What the gateway answers is what the engine answers, for each route that it speaks, and it is counted."""
    assert set(REQUESTS) == LLAMA_SERVER.routes
    for path, body in REQUESTS.items():
        passed, direct = case.post(path), case.host.post(path, body)
        assert passed.status_code == direct.status_code == 200, passed.text
        assert shape(passed.json()) == shape(direct.json()), path
        assert passed.headers["x-served-tier"] == "local"
    rows = case.running.rows(len(REQUESTS))

    assert {row.about.ending for row in rows} == {"success"}
    [chats] = [row.sums for row in rows if row.about.model == "toy:latest"]
    assert chats.output_tokens == 4 * 4
    assert chats.prompt_tokens > 0
    loaded = httpx.get(f"{case.running.url}/api/ps", timeout=PATIENCE).json()["models"]
    assert {each["name"] for each in loaded} == {"toy:latest", "toy-embed:latest", "toy-rerank:latest"}


def test_streams_end_and_are_counted(case: Case) -> None:
    """A stream of each dialect is whole, costs what the engine says, and has nothing in it that nobody asked for."""
    with (
        openai.OpenAI(base_url=f"{case.running.url}/v1", api_key="none", timeout=PATIENCE) as theirs,
        anthropic.Anthropic(base_url=case.running.url, api_key="none", timeout=PATIENCE) as ours,
    ):
        chunks = list(theirs.chat.completions.create(model="toy", messages=USER, stream=True))
        with ours.messages.stream(model="toy", max_tokens=20, messages=USER) as stream:
            message = stream.get_final_message()
        counted = ours.messages.count_tokens(model="toy", messages=USER).input_tokens
    responses = case.post("/v1/responses", stream=True).text

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == PHRASE
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    assert [block.text for block in message.content if block.type == "text"] == [PHRASE]
    assert "event: response.completed" in responses
    [row] = case.running.rows(4)
    assert row.about.ending == "success"
    assert row.sums.output_tokens == 9 + 9 + 4
    # What is in the cache of one is what the other has read: each counts the whole of its prompt.
    assert row.sums.prompt_tokens == 4 * counted


def test_our_own_command_chats(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    """`ollama-modal run` asks by the route that the model's engine speaks, and tells what it cost."""
    with Conversation(case.running.url, None, "toy", more={"think": False}, verbose=True) as conversation:
        assert conversation.answer("hello") == 0
    said = capsys.readouterr()

    assert said.out.strip() == PHRASE
    assert "tokens/s" in said.err


def test_an_engine_that_dies_amid_its_answer(case: Case) -> None:
    """Its caller is told in an event of his own dialect, the record says what happened, and the next one is served."""
    body = {"model": "toy:endless", "messages": USER, "stream": True}
    url = f"{case.running.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, timeout=PATIENCE) as answer:
        lines = answer.iter_lines()
        next(line for line in lines if line.startswith("data: "))  # it has begun to answer
        os.kill(engines_below(case.host.process.pid)["toy:endless"], signal.SIGKILL)
        said = [line for line in lines if line]
    row = case.running.row()
    after = case.post("/v1/chat/completions")

    assert "error" in json.loads(said[-1].removeprefix("data: "))
    assert row.about.ending in {"upstream_cut", "error"}
    assert after.status_code == 200


def test_a_prompt_that_does_not_fit_is_refused(case: Case) -> None:
    """llama-server refuses it with its own words and cuts nothing, and Anthropic's clients read that in their shape."""
    long = [{"role": "user", "content": "hello " * 20_000}]
    chat = case.post("/v1/chat/completions", messages=long)
    message = case.post("/v1/messages", messages=long)

    assert (chat.status_code, message.status_code) == (400, 400)
    assert "exceeds the available context size" in chat.json()["error"]["message"]
    assert message.json()["type"] == "error"
    assert "exceeds the available context size" in message.json()["error"]["message"]
    assert "x-prompt-truncated" not in chat.headers
