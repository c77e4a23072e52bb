"""A prompt that Ollama cuts: who is told, when, and by what evidence."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loguru import logger

from app.gateway.inference.metrics import Metrics
from app.gateway.inference.prompt_truncation import lengths_left
from app.gateway.inference.request_log import line
from app.model_server.report import Loaded, Report
from jobs.models.card import Card
from jobs.models.placement import TierCapacity
from jobs.testing.models import LIBRARY
from jobs.testing.ollama.context import prompt_length
from jobs.testing.ollama.server import OllamaDouble
from jobs.testing.registry.server import RegistryDouble
from tests.support.gateways import ModelList, RunningGateway, gateway, model
from tests.support.ops_api import ENDED_REQUEST
from tests.support.scripted_server import Connection, HeardRequest, ScriptedServer
from tests.support.waiting import PATIENCE, until

SHORT, LONG = "word " * 100, "word " * 1024


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    with RegistryDouble(LIBRARY) as registry, OllamaDouble(folder, registry=registry.url) as double:
        for name in ("tiny", "nomic-embed-text"):
            pulled = httpx.post(f"{double.url}/api/pull", json={"model": name, "stream": False}, timeout=PATIENCE)
            assert pulled.json() == {"status": "success"}
    return folder


@pytest.fixture(scope="module")
def running(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway whose server takes 512 tokens at a time, as its report says."""
    folder = tmp_path_factory.mktemp("gateway")
    with (
        OllamaDouble(models, context_length=512) as double,
        gateway(folder, {"local": double.url}, source=ModelList([model("tiny"), model("nomic-embed-text")])) as gate,
    ):
        loaded = (Loaded("tiny:latest", 1, 1, 512), Loaded("nomic-embed-text:latest", 1, 1, 512))
        report = Report("local", "one", "serving", datetime.now(UTC), loaded=loaded)
        gate.facts.put(report.key, report.as_json())
        gate.known_state.refresh()
        yield gate


def post(running: RunningGateway, path: str, **body: Any) -> tuple[httpx.Response, int]:
    """The answer, and how many prompts were counted as truncated for it."""
    before, cut = count(running, "requests"), count(running, "prompts_truncated")
    answer = httpx.post(running.url + path, json={"model": "tiny", **body}, timeout=PATIENCE)
    until(lambda: count(running, "requests") > before, "its record")
    return answer, count(running, "prompts_truncated") - cut


def count(running: RunningGateway, meter: str) -> int:
    shown = running.composed.metrics.render({}).decode().splitlines()
    return sum(
        int(float(each.rpartition(" ")[2])) for each in shown if each.startswith(f"ollama_modal_{meter}_total{{")
    )


def said(text: str) -> Mapping[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


NATIVE = [
    ("/api/chat", said(LONG)),
    ("/api/chat", {"messages": [{"role": "user", "content": SHORT}] * 9}),
    ("/api/generate", {"prompt": LONG}),
    ("/api/generate", {"prompt": LONG, "truncate": True}),
    ("/api/chat", {**said(LONG), "truncate": None}),
]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("path", "body"), NATIVE)
def test_a_cut_prompt_is_told_before_the_answer(
    running: RunningGateway, path: str, body: Mapping[str, Any], stream: bool
) -> None:
    """On Ollama's own routes it stands in the head of the answer, streamed or not, and in the meter."""
    answer, counted = post(running, path, **body, stream=stream)
    assert (answer.status_code, answer.headers.get("x-prompt-truncated"), counted) == (200, "true", 1)
    assert b'"done":true' in answer.content


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("path", "body"), [("/api/chat", said(SHORT)), ("/api/generate", {"prompt": SHORT})])
def test_a_whole_prompt_is_told_nothing_of(
    running: RunningGateway, path: str, body: Mapping[str, Any], stream: bool
) -> None:
    """An answer to all that was said bears no such header."""
    answer, counted = post(running, path, **body, stream=stream)
    assert (answer.status_code, answer.headers.get("x-prompt-truncated"), counted) == (200, None, 0)


def test_a_text_that_is_not_embedded_whole_is_told(running: RunningGateway) -> None:
    """One of several texts is enough."""
    for texts, told in (([SHORT, "word " * 4096], "true"), ([SHORT, SHORT], None)):
        answer, counted = post(running, "/api/embed", model="nomic-embed-text", input=texts)
        assert (answer.status_code, answer.headers.get("x-prompt-truncated"), counted) == (200, told, bool(told))


def test_who_forbids_it_is_refused(running: RunningGateway) -> None:
    """`truncate: false` has Ollama's own refusal, as without a gateway."""
    answer, counted = post(running, "/api/chat", **said(LONG), truncate=False)
    assert (answer.status_code, counted) == (400, 0)
    assert "exceeds the available context size (512 tokens)" in answer.json()["error"]


OTHERS = [
    ("/v1/chat/completions", said),
    ("/v1/completions", lambda text: {"prompt": text}),
    ("/v1/responses", lambda text: {"input": text}),
    ("/v1/messages", lambda text: {**said(text), "max_tokens": 9}),
]


@pytest.mark.parametrize(("path", "body"), OTHERS)
def test_elsewhere_it_is_told_by_what_is_left(
    running: RunningGateway, path: str, body: Callable[[str], Mapping[str, Any]]
) -> None:
    """On `/v1` the length that a cut leaves gives it away: in the head of one document, after a stream in the meter.

    A prompt of any other length is not taken for one that was cut.
    """
    for text, stream, told, more in ((LONG, False, "true", 1), (LONG, True, None, 1), (SHORT, False, None, 0)):
        answer, counted = post(running, path, **body(text), stream=stream)
        assert (answer.status_code, answer.headers.get("x-prompt-truncated"), counted) == (200, told, more)


def test_a_model_that_was_just_loaded_tells_it_before_any_report(models: Path, tmp_path: Path) -> None:
    """The first answer of a server is told of as all later ones are, though no report says yet what it has loaded."""
    tiers = [TierCapacity("local", None, gpu_promised=False, context=512)]
    with (
        OllamaDouble(models, context_length=512) as double,
        gateway(tmp_path, {"local": double.url}, source=ModelList([model("tiny")]), tiers=tiers) as running,
    ):
        answer, counted = post(running, "/v1/chat/completions", **said(LONG))
        assert not running.known_state.reports("local") or not running.known_state.reports("local")[0].loaded
        assert (answer.status_code, answer.headers.get("x-prompt-truncated"), counted) == (200, "true", 1)


def test_what_is_refused_for_another_reason_is_refused(tmp_path: Path) -> None:
    """A long request that a server refuses whatever is cut of it has that refusal, and its second try is its last."""

    def refuses(_: HeardRequest, line: Connection) -> None:
        line.document({"error": "not today"}, 400)

    with ScriptedServer(refuses) as server, gateway(tmp_path, {"a10g": server.url}) as running:
        answer, _ = post(running, "/api/chat", model="llama3.2", **said(LONG))
        assert (answer.status_code, answer.json()) == (400, {"error": "not today"})
        assert "x-prompt-truncated" not in answer.headers
        bodies = [heard.json for heard in server.asked if heard.path == "/api/chat"]
        assert bodies == [{"model": "llama3.2", **said(LONG), "truncate": False}, {"model": "llama3.2", **said(LONG)}]


def test_what_cannot_be_too_long_is_asked_as_it_came(tmp_path: Path) -> None:
    """A body with fewer bytes than any context has tokens goes on untouched."""

    def answers(_: HeardRequest, line: Connection) -> None:
        line.document({"done": True})

    with ScriptedServer(answers) as server, gateway(tmp_path, {"a10g": server.url}) as running:
        assert post(running, "/api/chat", model="llama3.2", **said("hello"))[0].status_code == 200
        assert server.asked[-1].json == {"model": "llama3.2", **said("hello")}


@given(context=st.integers(2, 9999), keep=st.integers(-1, 9999), more=st.integers(0, 99), size=st.integers(0, 99_999))
def test_the_length_that_is_left_is_ollamas(context: int, keep: int, more: int, size: int) -> None:
    """What the runner leaves of a prompt is among the lengths that are looked for, whatever the model keeps of it."""
    card = Card({}, None, "", options={"num_keep": keep})
    report = Report("a10g", "one", "serving", datetime.now(UTC), loaded=(Loaded("llama3.2:latest", 1, 1, context),))
    known = replace(model("llama3.2"), card=card)
    left = prompt_length([("user", context + more)], context, {"options": {"num_keep": keep}})
    assert (left in lengths_left(known, [report], size)) == (size > context)
    assert lengths_left(model("llama3.2:1b"), [report], 99_999) == frozenset()


def test_the_log_tells_it_as_a_field(running: RunningGateway) -> None:
    """The one line that ends a request has a field for it, true or false."""
    told: list[object] = []
    sink = logger.add(
        lambda each: told.append(each.record["extra"]["prompt_truncated"]),
        filter=lambda record: "prompt_truncated" in record["extra"],
    )
    try:
        for text in (LONG, SHORT):
            post(running, "/api/chat", **said(text))
        until(lambda: len(told) == 2, "the lines")
    finally:
        logger.remove(sink)
    assert told == [True, False]


def test_the_log_and_the_meter_tell_it() -> None:
    """A line of the log says so in words, and the meter counts by model, tier and key."""
    record = replace(ENDED_REQUEST, is_prompt_truncated=True)
    assert line(record).endswith(", prompt truncated")
    assert "truncated" not in line(ENDED_REQUEST)
    metrics = Metrics(lambda: ["alice"], ["a10g", "h100"], lambda name: name == "llama3.2:latest")
    metrics.add(ENDED_REQUEST)
    metrics.add(record)
    shown = metrics.render({}).decode().splitlines()
    assert 'ollama_modal_prompts_truncated_total{key="alice",model="llama3.2:latest",tier="a10g"} 1.0' in shown
