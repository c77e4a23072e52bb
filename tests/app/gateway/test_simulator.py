"""The gateway before the simulator, which errs as Ollama errs: answers, swallowed errors, loads that callers end."""

import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobs.testing.models import LIBRARY
from jobs.testing.ollama.faults import OllamaFault
from jobs.testing.ollama.server import OllamaDouble
from jobs.testing.registry.server import RegistryDouble
from tests.support.dialects import OPENAI, TALK, Dialect, each_dialect
from tests.support.gateways import ModelList, RunningGateway, asked, caller_of, gateway, model
from tests.support.waiting import PATIENCE, until


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models directory with a model in it."""
    folder = tmp_path_factory.mktemp("models")
    with RegistryDouble(LIBRARY) as registry, OllamaDouble(folder, registry=registry.url) as double:
        for name in ("tiny", "llama3.2", "nomic-embed-text"):
            pulled = httpx.post(f"{double.url}/api/pull", json={"model": name, "stream": False}, timeout=PATIENCE)
            assert pulled.json() == {"status": "success"}
    return folder


@pytest.fixture
def double(models: Path) -> Iterator[OllamaDouble]:
    with OllamaDouble(models) as started:
        yield started


@pytest.fixture
def running(double: OllamaDouble, tmp_path: Path) -> Iterator[RunningGateway]:
    source = ModelList([model("tiny"), model("llama3.2"), model("nomic-embed-text")])
    with gateway(tmp_path, {"local": double.url}, source=source) as gate:
        yield gate


@each_dialect
@pytest.mark.parametrize("stream", [True, False])
def test_whole_answers(running: RunningGateway, dialect: Dialect, stream: bool) -> None:
    """Streamed or not, an answer is recorded as a success, with the tokens that Ollama counted."""
    response = asked(running, dialect, model="tiny", stream=stream)
    assert response.status_code == 200
    assert "simulator" in response.text
    row = running.row()
    assert (row.about.ending, row.about.model, row.about.tier) == ("success", "tiny:latest", "local")
    assert row.sums.prompt_tokens > 0
    assert row.sums.output_tokens > 0


@pytest.mark.parametrize(
    ("path", "body"), [(OPENAI.path, {"messages": TALK}), ("/v1/completions", {"prompt": "hello"})]
)
def test_a_stream_tells_its_usage_to_who_asks(
    running: RunningGateway, double: OllamaDouble, path: str, body: dict[str, Any]
) -> None:
    """Tokens are counted of each stream; to its caller they are told as without a gateway."""

    def events(url: str, options: dict[str, bool] | None) -> list[str]:
        request = {"model": "tiny", "stream": True, **body} | ({"stream_options": options} if options else {})
        said = httpx.post(url + path, json=request, timeout=PATIENCE).text
        return re.sub(r'"(id|created)":("[^"]*"|\d+)', "", said).split("\n\n")

    each: tuple[dict[str, bool] | None, ...] = (None, {"include_usage": False}, {"include_usage": True})
    for times, options in enumerate(each, 1):
        said = events(running.url, options)
        assert said == events(double.url, options)
        assert any("usage" in event for event in said) == (options == {"include_usage": True})
        (row,) = running.rows(times)
        assert (row.sums.prompt_tokens, row.sums.output_tokens >= times) == (times, True)


@each_dialect
def test_an_error_inside_a_stream(running: RunningGateway, double: OllamaDouble, dialect: Dialect) -> None:
    """An error after the first words reaches every client: Ollama tells it to its own, and swallows it on /v1."""
    double.faults.add(OllamaFault(dialect.path, "error", 2, text="the runner has stopped"))
    response = asked(running, dialect, model="tiny", stream=True)
    assert response.status_code == 200
    assert dialect.error_in(response.content)
    assert running.row().about.ending == ("error" if dialect.name == "ollama" else "upstream_cut")


def test_embeddings(running: RunningGateway) -> None:
    """A model that only embeds is loaded and answers on all three routes; two of them tell their tokens."""
    for path, body in (
        ("/api/embed", {"input": "hello"}),
        ("/api/embeddings", {"prompt": "hello"}),
        ("/v1/embeddings", {"input": "hello"}),
    ):
        response = httpx.post(running.url + path, json={"model": "NOMIC-Embed-Text", **body}, timeout=PATIENCE)
        assert response.status_code == 200, response.text
    (row,) = running.rows(3)
    assert (row.about.ending, row.sums.prompt_tokens, row.sums.output_tokens) == ("success", 2, 0)


def test_who_leaves_ends_no_load(models: Path, tmp_path: Path) -> None:
    """The simulator drops a load when whoever asked for it leaves, as Ollama does; behind the gateway nobody can, once
    the load has begun."""
    with (
        OllamaDouble(models, load_bytes_per_second=10_000_000) as double,
        gateway(tmp_path, {"local": double.url}) as running,
    ):
        for _ in range(3):
            with closing(caller_of(running, OPENAI)):
                until(lambda: running.composed.cold_starts["local"].state().held == 1)
                until(lambda: any(load.has_begun for load in running.composed.cold_starts["local"].loads))
        loaded = until(lambda: httpx.get(f"{double.url}/api/ps", timeout=PATIENCE).json()["models"])
        assert [each["name"] for each in loaded] == ["llama3.2:latest"]
        assert running.open_exchanges() == 0


def test_a_refusal_in_ollamas_own_words(running: RunningGateway) -> None:
    """What the server refuses reaches the caller word for word."""
    body = {"model": "tiny", "prompt": "x", "keep_alive": "5"}
    response = httpx.post(f"{running.url}/api/generate", json=body, timeout=PATIENCE)
    assert (response.status_code, json.loads(response.content)) == (
        400,
        {"error": 'time: missing unit in duration "5"'},
    )
    assert running.row().about.ending == "refused"
