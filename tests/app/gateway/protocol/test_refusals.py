"""What Ollama refuses by a request's body alone is refused before a server is asked or woken, as Ollama refuses it.

The words are held to the simulator's answers, which are held to a real Ollama's in tests/doubles.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from app.engines.ollama import OLLAMA
from app.gateway.protocol.refusals import FIELDS
from app.gateway.protocol.routes import TABLE
from jobs.testing.models import LIBRARY
from tests.doubles.test_ollama import put
from tests.doubles.test_ollama_requests import NULLS, USER, WRONG_OPTIONS, WRONG_TYPES
from tests.support import tiny_llama
from tests.support.deep_bodies import deep_bodies
from tests.support.dialects import DIALECTS, whole_answer
from tests.support.gateways import ModelList, RunningGateway, gateway, model
from tests.support.ollama_servers import failed_to_load, serving, simulator_command
from tests.support.scripted_server import Connection, HeardRequest, ScriptedServer
from tests.support.waiting import PATIENCE

MODEL = next(each for each in LIBRARY if str(each.name) == "qwen3:0.6b")
NAME = str(MODEL.name)
LOADABLE = "letters"
"""Of weights that a real runner loads, for what a real server looks at behind the load."""

GENERATE, CHAT, EMBED, EMBEDDINGS = "/api/generate", "/api/chat", "/api/embed", "/api/embeddings"
COMPLETIONS, OPENAI, RESPONSES, ANTHROPIC = "/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/messages"
VECTORS = "/v1/embeddings"

MORE: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"messages": [USER], "format": "xml"}),
    (CHAT, {"messages": [USER], "format": ["json"]}),
    (GENERATE, {"prompt": "a", "format": 5}),
    (GENERATE, {"prompt": "a", "keep_alive": "5"}),
    (GENERATE, {"prompt": "a", "keep_alive": "soon"}),
    (CHAT, {"messages": [USER], "keep_alive": True}),
    (EMBED, {"input": 5}),
    (EMBED, {"input": {"a": 1}}),
    (EMBED, {"input": [5]}),
    (EMBED, {"input": [None]}),
    (VECTORS, {}),
    (VECTORS, {"input": None}),
    (VECTORS, {"input": []}),
    (VECTORS, {"input": [1, 2]}),
    (OPENAI, {}),
    (OPENAI, {"messages": []}),
    (OPENAI, {"messages": None}),
    (OPENAI, {"messages": [USER], "top_logprobs": 21}),
    (OPENAI, {"messages": [USER], "max_tokens": 1.5}),
    (ANTHROPIC, {"messages": [USER]}),
    (ANTHROPIC, {"messages": [USER], "max_tokens": 0}),
    (ANTHROPIC, {"max_tokens": 5}),
    (ANTHROPIC, {"max_tokens": 5, "messages": []}),
]


def wrong() -> Iterator[tuple[str, dict[str, Any]]]:
    for path, body, _ in WRONG_TYPES:
        if path in FIELDS:
            yield path, ({"max_tokens": 9} if path == ANTHROPIC else {}) | body
    for deep in deep_bodies():
        if deep.text is not None:
            yield deep.path, deep.body
    for options, _ in WRONG_OPTIONS:
        yield GENERATE, {"prompt": "a", "options": options}
        yield CHAT, {"messages": [USER], "options": options}
        yield EMBED, {"input": "a", "options": options}
        yield EMBEDDINGS, {"prompt": "a", "options": options}
    yield from MORE


@dataclass(frozen=True)
class Both:
    """The gateway, the server behind it, and an Ollama beside it that is asked the same."""

    running: RunningGateway
    server: ScriptedServer
    ollama: str

    def answers(self, path: str, body: dict[str, Any]) -> list[httpx.Response]:
        asked = {"model": NAME, "stream": False} | body
        return [httpx.post(url + path, json=asked, timeout=PATIENCE) for url in (self.running.url, self.ollama)]


def _plays(heard: HeardRequest, line: Connection) -> None:
    if heard.path in {dialect.path for dialect in DIALECTS}:
        whole_answer(heard, line)
    else:
        line.document({"passed": True})


@pytest.fixture(scope="module", params=["simulator", "real"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    binary = os.environ.get("OLLAMA_BIN")
    if request.param == "real" and not binary:
        pytest.skip("no real Ollama: set OLLAMA_BIN to the path of an `ollama` binary")
    home, is_real = tmp_path_factory.mktemp("home"), request.param == "real"
    put(home / "models", MODEL)
    tiny_llama.put(home / "models", LOADABLE)
    command = [str(binary)] if is_real else simulator_command()
    with (
        serving(command, home, is_real=is_real, OLLAMA_NOPRUNE="1") as ollama,
        ScriptedServer(_plays) as server,
        gateway(
            tmp_path_factory.mktemp("gateway"), {"a10g": server.url}, source=ModelList([model(NAME), model(LOADABLE)])
        ) as running,
    ):
        yield Both(running, server, ollama.url)


def text_of(answer: httpx.Response) -> str:
    error = answer.json()["error"]
    return str(error if isinstance(error, str) else error["message"])


def shape_of(document: Any) -> Any:
    """The names in a document, at every depth."""
    return {name: shape_of(each) for name, each in document.items()} if isinstance(document, dict) else None


@pytest.mark.parametrize(("path", "body"), [*wrong()], ids=lambda each: json.dumps(each)[:60])
def test_what_needs_no_model_is_refused_without_one(both: Both, path: str, body: dict[str, Any]) -> None:
    """Status, text and shape are those that Ollama answers; no server is asked for it, and none is woken."""
    before = len(both.server.heard)

    mine, ollamas = both.answers(path, {"model": LOADABLE if "format" in body else NAME, **body})

    if failed_to_load(ollamas):
        assert "format" in body
        pytest.skip(
            "a real one looks at the format behind the load: set OLLAMA_BIN to one with its llama-server beside it"
        )
    assert (mine.status_code, text_of(mine)) == (ollamas.status_code, text_of(ollamas))
    assert shape_of(mine.json()) == shape_of(ollamas.json())
    assert mine.status_code in {400, 500}
    assert len(both.server.heard) == before
    assert both.running.composed.metrics.wakes() == 0


@pytest.mark.parametrize(
    ("path", "body", "text"),
    [
        (
            GENERATE,
            {"prompt": "a", "raw": True, "system": "b"},
            "raw mode does not support template, system, or context",
        ),
        (COMPLETIONS, {"prompt": "a", "logprobs": 21}, "top_logprobs must be between 0 and 20"),
    ],
)
def test_what_the_simulator_lets_pass_is_refused_as_well(
    both: Both, path: str, body: dict[str, Any], text: str
) -> None:
    """By the words in Ollama's source (server/routes.go, GenerateHandler)."""
    answer = httpx.post(both.running.url + path, json={"model": NAME, **body}, timeout=PATIENCE)
    assert (answer.status_code, text_of(answer)) == (400, text)


@pytest.mark.parametrize("path", sorted(FIELDS))
def test_a_model_that_is_not_here_is_told_first(both: Both, path: str) -> None:
    """What Ollama looks at after it has found the model, as options and formats, is not told of an unknown one."""
    good: dict[str, dict[str, Any]] = {
        **{key: {"prompt": "a"} for key in (GENERATE, EMBEDDINGS, COMPLETIONS)},
        **{key: {"input": "a"} for key in (EMBED, VECTORS, RESPONSES)},
        **{key: {"messages": [USER], "max_tokens": 9} for key in (CHAT, OPENAI, ANTHROPIC)},
    }
    body = {"model": "nothing", "options": {"stop": 5}, "format": "xml", **good[path]}
    assert httpx.post(both.running.url + path, json=body, timeout=PATIENCE).status_code == 404


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (GENERATE, {"prompt": "a", "format": "", "options": NULLS, "think": None, "images": None, "context": []}),
        (GENERATE, {"prompt": "", "format": "xml"}),
        (GENERATE, {"prompt": "a", "format": "json", "raw": True, "options": {"num_ctx": 1.5, "tfs_z": "x"}}),
        (CHAT, {"messages": [], "format": "xml"}),
        (CHAT, {"messages": None}),
        (CHAT, {"messages": [None, USER], "format": {"type": "object"}, "think": "high", "keep_alive": -1}),
        (EMBED, {"input": []}),
        (EMBED, {"input": ["a", "b"], "truncate": None}),
        (EMBEDDINGS, {"prompt": ""}),
        (VECTORS, {"input": "", "encoding_format": "BASE64"}),
        (OPENAI, {"messages": [USER], "options": "x", "keep_alive": True, "response_format": {"type": "xml"}}),
        (OPENAI, {"messages": [USER], "reasoning_effort": "huge", "reasoning": {"effort": "low"}}),
        (COMPLETIONS, {"prompt": "", "logprobs": -1}),
        (RESPONSES, {"input": None, "tools": None}),
        (ANTHROPIC, {"messages": [USER], "max_tokens": 1, "system": [], "tools": []}),
        *((deep.path, deep.body) for deep in deep_bodies() if deep.text is None),
    ],
    ids=lambda each: json.dumps(each)[:60],
)
def test_what_ollama_takes_is_passed_on(both: Both, path: str, body: dict[str, Any]) -> None:
    """Nothing is refused that Ollama does: nulls, lists that only load, words that it does not look at."""
    before = len(both.server.asked)

    mine, ollamas = both.answers(path, body)

    assert ollamas.status_code == 200 or failed_to_load(ollamas), ollamas.text
    assert len(both.server.asked) == before + 1, mine.text


def test_unloading_needs_nothing_else_to_be_right(both: Both) -> None:
    """`ollama stop` with a wrong option unloads all the same."""
    body = {"prompt": "", "keep_alive": 0, "options": {"stop": 5}}
    assert [each.status_code for each in both.answers(GENERATE, body)] == [200, 200]


def test_every_route_that_is_passed_on_is_looked_at() -> None:
    """All that generate or embed by a JSON body; forms are read otherwise."""
    passed = {each.path for each in TABLE if each.action == "passed" and OLLAMA.speaks(each.path)}
    assert set(FIELDS) == passed - {"/v1/audio/transcriptions"}
