"""What becomes of a prompt that does not fit, asked of the simulator, and of a real Ollama where one can run models."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.gateway.protocol.usage_chunk import UsageFilter
from tests.support import tiny_llama
from tests.support.ollama_servers import Server, has_runner, serving, simulator_command
from tests.support.waiting import PATIENCE

CONTEXT = 256
LEFT = CONTEXT - (CONTEXT - 4) // 2
SHORT, LONG = "a " * 20, "a " * 600
NAME = "letters"


@pytest.fixture(scope="module", params=["simulator", "real"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    binary = os.environ.get("OLLAMA_BIN")
    if request.param == "real" and not (binary and has_runner(Path(binary))):
        pytest.skip("no real Ollama that runs models: set OLLAMA_BIN to one that has its llama-server beside it")
    command = [str(binary)] if request.param == "real" else simulator_command()
    home = tmp_path_factory.mktemp("home")
    tiny_llama.put(home / "models", NAME)
    more = {"OLLAMA_NOPRUNE": "1", "OLLAMA_CONTEXT_LENGTH": str(CONTEXT)}
    with serving(command, home, is_real=request.param == "real", **more) as running:
        yield running


def ask(server: Server, path: str, body: dict[str, Any]) -> httpx.Response:
    content = json.dumps({"model": NAME, "stream": False, **body})
    return httpx.post(server.url + path, content=content, timeout=PATIENCE)


def said(*texts: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": each} for each in texts]}


FEW = {"options": {"num_predict": 2}}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/generate", {"prompt": LONG, **FEW}),
        ("/api/chat", {**said(LONG), **FEW}),
        ("/api/chat", {**said(SHORT, LONG), **FEW, "truncate": True}),
        ("/v1/chat/completions", {**said(LONG), "max_tokens": 2}),
        ("/v1/completions", {"prompt": LONG, "max_tokens": 2}),
        ("/v1/responses", {"input": LONG, "max_output_tokens": 2}),
        ("/v1/messages", {**said(LONG), "max_tokens": 2}),
    ],
)
def test_the_middle_is_cut_to_one_length(server: Server, path: str, body: dict[str, Any]) -> None:
    """A prompt too long by itself is cut to half of the context, and a few tokens that are kept, on every route."""
    answer = ask(server, path, body)
    assert answer.status_code == 200
    count = re.search(r'"(?:prompt_eval_count|prompt_tokens|input_tokens)":(\d+)', answer.text)
    assert count is not None
    assert int(count[1]) == LEFT


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/generate", {"prompt": LONG}),
        ("/api/chat", said(LONG)),
        ("/api/chat", said(*[SHORT] * 30)),
    ],
)
def test_what_may_not_be_cut_is_refused_with_a_status(
    server: Server, path: str, body: dict[str, Any], stream: bool
) -> None:
    """With `truncate: false` it is a 400, streamed or not, and where the body says it twice the last one counts."""
    assert ask(server, path, {**body, **FEW}).status_code == 200
    content = json.dumps({"model": NAME, "stream": stream, "truncate": True, **body})[:-1] + ',"truncate":false}'
    answer = httpx.post(server.url + path, content=content, timeout=PATIENCE)
    assert answer.status_code == 400
    assert f"exceeds the available context size ({CONTEXT} tokens)" in answer.json()["error"]


@pytest.mark.parametrize(
    ("path", "body"), [("/v1/chat/completions", said("hi")), ("/v1/completions", {"prompt": "hi"})]
)
def test_without_the_usage_a_stream_is_as_if_it_had_not_been_asked_for(
    server: Server, path: str, body: dict[str, Any]
) -> None:
    """What the gateway takes out of a stream is all that `include_usage` adds to it."""
    few = {**body, "stream": True, "max_tokens": 6, "temperature": 0, "seed": 1}
    plain = ask(server, path, few).content
    counted = ask(server, path, {**few, "stream_options": {"include_usage": True}}).content
    usage_filter = UsageFilter(path)
    assert b'"usage"' not in plain
    assert b'"usage"' in counted
    assert without_ids(usage_filter.passed(counted) + usage_filter.rest()) == without_ids(plain)


def without_ids(stream: bytes) -> bytes:
    return re.sub(rb'"(id|created)":("[^"]*"|\d+)', b"", stream)
