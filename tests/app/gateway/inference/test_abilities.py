"""What a model cannot do is refused without waking anything, in the words of an Ollama that has the same models.

Held to the simulator always, and to the real thing where OLLAMA_BIN names it.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.gateway.catalog.sources import Directory
from jobs.testing.models import text
from jobs.weights.layout import Layout
from tests.app.gateway.catalog.test_ollama_lists import THINKS, TOOLS, made
from tests.support.dialects import whole_answer
from tests.support.gateways import ModelList, RunningGateway, gateway, model
from tests.support.models_directory import lay
from tests.support.ollama_servers import failed_to_load, serving, simulator_command
from tests.support.scripted_server import ScriptedServer
from tests.support.waiting import PATIENCE

GENERATE, CHAT, EMBED = "/api/generate", "/api/chat", "/api/embed"
COMPLETIONS, OPENAI, RESPONSES, ANTHROPIC = "/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/messages"

SAID = {"messages": [{"role": "user", "content": "Hello"}]}
ASKED = {**SAID, "max_tokens": 9}
OFFERED = {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]}
FLAT = {"tools": [{"type": "function", "name": "f"}]}
SCHEMA = {"tools": [{"name": "f", "input_schema": {"type": "object"}}]}

MODELS = (
    made("plain", text("template", "{{ .Prompt }}"), capabilities=["completion"]),
    made("embeds", values={"llama.pooling_type": 1}, capabilities=["embedding"]),
    made("tools", text("template", TOOLS), capabilities=["completion", "tools"]),
    made("thinks", text("template", THINKS), capabilities=["completion", "thinking"]),
)

REFUSED: list[tuple[str, str, dict[str, Any]]] = [
    (CHAT, "embeds", SAID),
    (CHAT, "embeds", {}),
    (CHAT, "EMBEDS", SAID),
    (CHAT, "embeds", {**SAID, "think": True}),
    (CHAT, "embeds", {**SAID, **OFFERED}),
    (CHAT, "plain", {**SAID, **OFFERED}),
    (CHAT, "Plain:latest", {**SAID, **OFFERED, "options": {"stop": 5}}),
    (CHAT, "thinks", {**SAID, **OFFERED, "think": True}),
    (CHAT, "plain", {**SAID, "think": True}),
    (CHAT, "plain", {**SAID, "think": "low"}),
    (CHAT, "plain", {"think": True}),
    (GENERATE, "embeds", {"prompt": "a"}),
    (GENERATE, "embeds", {}),
    (GENERATE, "plain", {"prompt": "a", "think": "high"}),
    (GENERATE, "plain", {"prompt": "a", "suffix": "b", "format": "xml"}),
    (COMPLETIONS, "embeds", {"prompt": "a"}),
    (COMPLETIONS, "plain", {"prompt": "a", "suffix": "b"}),
    (OPENAI, "embeds", SAID),
    (OPENAI, "plain", {**SAID, **OFFERED}),
    (OPENAI, "plain", {**SAID, "reasoning_effort": "low"}),
    (OPENAI, "plain", {**SAID, "reasoning": {"effort": "minimal"}, "reasoning_effort": "none"}),
    (RESPONSES, "embeds", {"input": "a"}),
    (RESPONSES, "plain", {"input": "a", **FLAT}),
    (RESPONSES, "plain", {"input": "a", "tools": [{"type": "namespace", "name": "n", **FLAT}]}),
    (RESPONSES, "plain", {"input": "a", "reasoning": {"effort": "high"}}),
    (ANTHROPIC, "embeds", ASKED),
    (ANTHROPIC, "plain", {**ASKED, **SCHEMA}),
]

TAKEN: list[tuple[str, str, dict[str, Any]]] = [
    (CHAT, "plain", {**SAID, "tools": [], "think": False}),
    (CHAT, "plain", {**SAID, "tools": None, "think": None}),
    (CHAT, "tools", {**SAID, **OFFERED}),
    (CHAT, "thinks", {**SAID, "think": "max"}),
    (OPENAI, "plain", {**SAID, "reasoning_effort": "none"}),
    (OPENAI, "plain", {**SAID, "reasoning": {}, "reasoning_effort": "high"}),
    (RESPONSES, "plain", {"input": "a", "tools": [{"type": "namespace", "name": "n", "tools": []}]}),
    (ANTHROPIC, "plain", {**ASKED, "thinking": {"type": "enabled", "budget_tokens": 5}}),
    (EMBED, "plain", {"input": "a"}),
    (EMBED, "embeds", {"input": "a"}),
]


@dataclass(frozen=True)
class Both:
    """The gateway, the server behind it, and an Ollama beside it that has the same models and is asked the same."""

    running: RunningGateway
    server: ScriptedServer
    ollama: str

    def answers(self, path: str, name: str, body: dict[str, Any]) -> list[httpx.Response]:
        asked = {"model": name, "stream": False} | body
        return [httpx.post(url + path, json=asked, timeout=PATIENCE) for url in (self.running.url, self.ollama)]


@pytest.fixture(scope="module", params=["simulator", "real"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    binary = os.environ.get("OLLAMA_BIN")
    if request.param == "real" and not binary:
        pytest.skip("no real Ollama: set OLLAMA_BIN to the path of an `ollama` binary")
    home, is_real = tmp_path_factory.mktemp("home"), request.param == "real"
    lay(home / "models", *MODELS)
    command = [str(binary)] if is_real else simulator_command()
    source = Directory(Layout(home / "models"))
    with (
        serving(command, home, is_real=is_real, OLLAMA_NOPRUNE="1") as ollama,
        ScriptedServer(lambda _, line: line.document({"passed": True})) as server,
        gateway(tmp_path_factory.mktemp("gateway"), {"a10g": server.url}, source=source) as running,
    ):
        yield Both(running, server, ollama.url)


def text_of(answer: httpx.Response) -> str:
    error = answer.json()["error"]
    return str(error if isinstance(error, str) else error["message"])


@pytest.mark.parametrize(("path", "name", "body"), REFUSED, ids=lambda each: json.dumps(each)[:60])
def test_what_a_model_cannot_do_is_refused_without_it(both: Both, path: str, name: str, body: dict[str, Any]) -> None:
    """An embedding model does not chat, and no model uses tools, thinks or fills in that was not made for it: status
    and text are Ollama's, no server is asked, and none is woken."""
    before = len(both.server.heard)

    mine, ollamas = both.answers(path, name, body)

    assert (mine.status_code, text_of(mine)) == (400, text_of(ollamas))
    assert ollamas.status_code == 400
    assert len(both.server.heard) == before
    assert both.running.composed.metrics.wakes() == 0


@pytest.mark.parametrize(("path", "name", "body"), TAKEN, ids=lambda each: json.dumps(each)[:60])
def test_what_ollama_tries_is_passed_on(both: Both, path: str, name: str, body: dict[str, Any]) -> None:
    """Nothing is refused that Ollama would load the model for."""
    before = len(both.server.asked)

    _, ollamas = both.answers(path, name, body)

    assert ollamas.status_code == 200 or failed_to_load(ollamas), ollamas.text
    assert len(both.server.asked) == before + 1


def test_of_a_model_whose_files_do_not_tell_the_server_is_asked(tmp_path: Path) -> None:
    """Where the weights are not ours to read, or cannot be made sense of, nobody here knows what it can do."""
    with (
        ScriptedServer(whole_answer) as server,
        gateway(tmp_path, {"a10g": server.url}, source=ModelList([model("plain")])) as running,
    ):
        answer = httpx.post(running.url + OPENAI, json={"model": "plain", **SAID, **OFFERED}, timeout=PATIENCE)
        assert answer.status_code == 200
        assert len(server.asked) == 1
