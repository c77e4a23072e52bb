"""What the fleet sets for a model, on its way through the gateway: put in, told, weighed, never exceeded."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from loguru import logger

from app.gateway.protocol.model_defaults import notes
from jobs.core.model_name import ModelName
from jobs.models.model_settings import UNSET, ModelSettings
from tests.support.dialects import TALK
from tests.support.gateways import RunningGateway, gateway
from tests.support.scripted_server import Connection, HeardRequest, ScriptedServer
from tests.support.waiting import PATIENCE

SET = ModelSettings(8192, {"temperature": 0.6, "top_k": 20}, "Be brief.")
SYSTEM = {"role": "system", "content": "Be brief."}
BODIES: dict[str, dict[str, Any]] = {
    "/api/chat": {"messages": TALK, "stream": False},
    "/v1/chat/completions": {"messages": TALK},
    "/v1/messages": {"messages": TALK, "max_tokens": 9},
}


def settings_of(name: ModelName) -> ModelSettings:
    return SET if name.model == "llama3.2" else UNSET


def answer(heard: HeardRequest, line: Connection) -> None:
    line.document({"model": heard.json["model"], "done": True})


def ask(running: RunningGateway, path: str, **more: Any) -> httpx.Response:
    body = {"model": "llama3.2", **BODIES[path], **more}
    return httpx.post(running.url + path, json=body, timeout=PATIENCE)


def test_a_server_gets_what_is_set(tmp_path: Path) -> None:
    """Ollama's own routes get all of it as options; the others what they have a field for."""
    with ScriptedServer(answer) as server:
        with gateway(tmp_path, {"a10g": server.url}, settings=settings_of) as running:
            answers = {path: ask(running, path) for path in BODIES}
        asked = {heard.path: heard.json for heard in server.asked}

    assert all(each.status_code == 200 for each in answers.values())
    native = asked["/api/chat"]
    assert native["options"] == {"temperature": 0.6, "top_k": 20, "num_ctx": 8192}
    assert native["messages"] == [SYSTEM, *TALK]
    openai = asked["/v1/chat/completions"]
    assert (openai["temperature"], openai["messages"], "top_k" in openai) == (0.6, [SYSTEM, *TALK], False)
    anthropic = asked["/v1/messages"]
    assert (anthropic["top_k"], anthropic["system"], anthropic["messages"]) == (20, "Be brief.", TALK)
    told = {path: each.headers.get("x-context-length") for path, each in answers.items()}
    assert told == {"/api/chat": "8192", "/v1/chat/completions": None, "/v1/messages": None}


@pytest.mark.parametrize(
    ("asked_for", "got", "told"),
    [(131_072, 8192, "8192"), (8192, 8192, None), (2048, 2048, None), (None, 8192, "8192")],
)
def test_no_context_is_above_what_is_set(tmp_path: Path, asked_for: int | None, got: int, told: str | None) -> None:
    """Who asks for more, as clients do that send what a model was trained with, gets what is set, and is told."""
    with ScriptedServer(answer) as server:
        with gateway(tmp_path, {"a10g": server.url}, settings=settings_of) as running:
            response = ask(running, "/api/chat", options={"num_ctx": asked_for, "temperature": 0})
        loads = [heard.json["options"]["num_ctx"] for heard in server.loads]
        asked = next(heard.json for heard in server.asked)

    assert asked["options"] == {"num_ctx": got, "temperature": 0, "top_k": 20}
    assert response.headers.get("x-context-length") == told
    assert loads == [got]


def test_a_model_that_nothing_is_set_for_gets_what_callers_ask(tmp_path: Path) -> None:
    """Without settings of its own a body passes byte for byte, whatever it asks."""
    with ScriptedServer(answer) as server:
        with gateway(tmp_path, {"a10g": server.url}) as running:
            body = b'{"model": "llama3.2", "prompt":"x","options":{"num_ctx":131072}, "stream":false}'
            response = httpx.post(f"{running.url}/api/generate", content=body, timeout=PATIENCE)
        asked = next(heard.body for heard in server.asked)

    assert asked == body
    assert "x-context-length" not in response.headers


def test_servers_that_know_it_are_loaded_with_it_for_every_dialect(tmp_path: Path) -> None:
    """Where manifests say it, callers of /v1 have the context as well: the model is loaded once, for all of them."""
    with ScriptedServer(answer) as server:
        with gateway(tmp_path, {"a10g": server.url}, settings=settings_of, settings_in_manifests=True) as running:
            told = {path: ask(running, path).headers["x-context-length"] for path in BODIES}
        loads = [heard.json["options"] for heard in server.loads]

    assert set(told.values()) == {"8192"}
    assert loads == [{"num_ctx": 8192}]


def test_what_is_set_for_a_model_counts_for_its_aliases(tmp_path: Path) -> None:
    """An alias is the model with all that is set for it; both are put into the body, and the name is put back."""
    aliases = {"gpt-4o": "llama3.2"}
    with ScriptedServer(answer) as server:
        with gateway(tmp_path, {"a10g": server.url}, settings=settings_of, aliases=aliases) as running:
            response = ask(running, "/v1/chat/completions", model="gpt-4o", temperature=1)
            route = httpx.get(f"{running.url}/ops/v1/route?model=gpt-4o", timeout=PATIENCE).json()
        asked = next(heard.json for heard in server.asked)

    assert asked == {"model": "llama3.2:latest", "messages": [SYSTEM, *TALK], "temperature": 1}
    assert response.status_code == 200
    assert route["facts"][-1] == "set for it: a context of 8,192 tokens, temperature 0.6, top_k 20, a system prompt"
    assert route["context"] == 8192


def test_a_large_body_is_filled_as_a_small_one(tmp_path: Path) -> None:
    """Images and long texts around it change nothing."""
    talk = [{"role": "user", "content": "x" * 300_000, "images": ["a" * 300_000]}]
    with ScriptedServer(answer) as server:
        with gateway(tmp_path, {"a10g": server.url}, settings=settings_of) as running:
            assert ask(running, "/api/chat", messages=talk).status_code == 200
        asked = next(heard.json for heard in server.asked)

    assert asked["messages"] == [SYSTEM, *talk]


def test_what_has_no_effect_is_named_at_the_start(tmp_path: Path) -> None:
    """A line for each model says what counts where, in the log as it starts and in the health."""
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(str(message)), format="{level} {message}")
    told = notes({ModelName.parse("llama3.2"): SET, ModelName.parse("tiny"): UNSET})
    with ScriptedServer(answer) as server, gateway(tmp_path, {"a10g": server.url}, notes=told) as running:
        health = httpx.get(f"{running.url}/ops/v1/health", timeout=PATIENCE).json()
    logger.remove(sink)

    v1 = "/v1/chat/completions, /v1/completions, /v1/responses"
    (line,) = told
    assert line == (
        f"of what the fleet sets for llama3.2:latest this has no effect here: top_k on {v1};"
        f" context on {v1}, /v1/messages, /v1/embeddings; system on /v1/completions."
        " Ollama has no field for it there, so callers get what its server was started with, and have the model loaded"
        " anew for it"
    )
    assert health["notes"] == list(told)
    assert f"WARNING {line}\n" in lines
