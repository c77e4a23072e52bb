"""What the simulated model answers on each route, streamed and whole: schemas, tools, thoughts, log probabilities."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobs.testing.models import LIBRARY
from jobs.testing.ollama.go_formats import SAYS
from jobs.testing.ollama.model_output import THINKS
from jobs.testing.ollama.server import OllamaDouble
from tests.support.models_directory import lay
from tests.support.waiting import PATIENCE

MODEL = next(model for model in LIBRARY if str(model.name) == "qwen3:0.6b")
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "people": {"type": "integer", "minimum": 3}},
    "required": ["city", "people"],
}
FILLED = {"city": "SIMULATED", "people": 3}
FUNCTION = {"name": "get_weather", "description": "The weather", "parameters": SCHEMA}
ASKS = "Please call get_weather for Paris"


@pytest.fixture(scope="module")
def double(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OllamaDouble]:
    folder = tmp_path_factory.mktemp("models")
    lay(folder, MODEL)
    with OllamaDouble(folder) as double:
        yield double


@dataclass
class Said:
    """An answer, whatever the route: what it holds, put together."""

    text: str = ""
    thinking: str = ""
    calls: list[tuple[str, Any]] = field(default_factory=list)
    reason: str | None = None
    logprobs: list[Any] = field(default_factory=list)


def _post(double: OllamaDouble, path: str, body: dict[str, Any], *, stream: bool) -> list[Any]:
    asked = {"model": str(MODEL.name), "stream": stream} | body
    answer = httpx.post(double.url + path, json=asked, timeout=PATIENCE)
    assert answer.status_code == 200, answer.text
    assert "SIMULATED" in answer.text
    if not stream:
        return [answer.json()]
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith(("data: ", "{"))]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def native(double: OllamaDouble, prompt: str, *, stream: bool, **more: Any) -> Said:
    said = Said()
    for frame in _post(double, "/api/chat", {"messages": [_user(prompt)]} | more, stream=stream):
        message = frame["message"]
        said.text += message["content"]
        said.thinking += message.get("thinking", "")
        said.calls += [
            (call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls", ())
        ]
        said.logprobs += frame.get("logprobs", ())
        said.reason = frame.get("done_reason")
    return said


def openai(double: OllamaDouble, prompt: str, *, stream: bool, **more: Any) -> Said:
    said = Said()
    for chunk in _post(double, "/v1/chat/completions", {"messages": [_user(prompt)]} | more, stream=stream):
        (choice,) = chunk["choices"]
        message = choice["delta" if stream else "message"]
        said.text += message.get("content") or ""
        said.thinking += message.get("reasoning", "")
        functions = [call["function"] for call in message.get("tool_calls", ())]
        said.calls += [(function["name"], json.loads(function["arguments"])) for function in functions]
        said.logprobs += choice.get("logprobs", {}).get("content", ())
        said.reason = choice["finish_reason"]
    return said


def responses(double: OllamaDouble, prompt: str, *, stream: bool, **more: Any) -> Said:
    documents = _post(double, "/v1/responses", {"input": prompt} | more, stream=stream)
    whole = documents[-1]["response"] if stream else documents[0]
    if stream:
        assert [each["sequence_number"] for each in documents] == list(range(len(documents)))
        deltas = [each["delta"] for each in documents if each["type"] == "response.output_text.delta"]
        texts = [part["text"] for item in whole["output"] if item["type"] == "message" for part in item["content"]]
        assert "".join(deltas) == "".join(texts)
    said = Said(reason=whole["status"])
    for item in whole["output"]:
        if item["type"] == "reasoning":
            said.thinking += item["summary"][0]["text"]
        elif item["type"] == "function_call":
            said.calls.append((item["name"], json.loads(item["arguments"])))
        else:
            said.text += item["content"][0]["text"]
    return said


def anthropic(double: OllamaDouble, prompt: str, *, stream: bool, **more: Any) -> Said:
    body = {"messages": [_user(prompt)], "max_tokens": 500} | more
    documents = _post(double, "/v1/messages", body, stream=stream)
    if not stream:
        blocks, reason = documents[0]["content"], documents[0]["stop_reason"]
    else:
        blocks, reason = _assembled(documents), documents[-2]["delta"]["stop_reason"]
    said = Said(reason=reason)
    for block in blocks:
        said.text += block.get("text", "")
        said.thinking += block.get("thinking", "")
        said.calls += [(block["name"], block["input"])] if block["type"] == "tool_use" else []
    return said


def _assembled(events: list[Any]) -> list[dict[str, Any]]:
    """The blocks of a stream; each is begun, filled and closed before the next."""
    blocks: list[dict[str, Any]] = []
    is_open, arguments = False, ""
    for event in events:
        kind = event["type"]
        if kind == "content_block_start":
            assert not is_open
            is_open, arguments = True, ""
            assert event["index"] == len(blocks)
            blocks.append(dict(event["content_block"]))
        elif kind == "content_block_delta":
            delta = event["delta"]
            arguments += delta.get("partial_json", "")
            for key in ("text", "thinking"):
                if key in delta:
                    blocks[-1][key] += delta[key]
        elif kind == "content_block_stop":
            is_open = False
            if arguments:
                blocks[-1]["input"] = json.loads(arguments)
    assert not is_open
    return blocks


def _user(prompt: str) -> dict[str, str]:
    return {"role": "user", "content": prompt}


each_way = pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])


@each_way
def test_a_schema_is_answered_by_an_instance(double: OllamaDouble, *, stream: bool) -> None:
    """Structured output is JSON that fits the schema, on every route that takes one."""
    by_name = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA, "strict": True}}
    flat = {"format": {"type": "json_schema", "name": "city", "schema": SCHEMA}}

    said = [
        native(double, "Hello", stream=stream, format=SCHEMA),
        openai(double, "Hello", stream=stream, response_format=by_name),
        responses(double, "Hello", stream=stream, text=flat),
    ]

    assert [json.loads(each.text) for each in said] == [FILLED] * 3


@each_way
def test_json_is_an_object(double: OllamaDouble, *, stream: bool) -> None:
    """Without a schema it is any object, that says what it is."""
    said = native(double, "Hello", stream=stream, format="json")
    like_openai = openai(double, "Hello", stream=stream, response_format={"type": "json_object"})

    assert json.loads(said.text) == json.loads(like_openai.text) == {"simulated": SAYS}


@each_way
def test_a_tool_that_is_named_is_called(double: OllamaDouble, *, stream: bool) -> None:
    """A call with arguments that fit the tool's parameters, and each route's own word for why the answer ended."""
    tool = {"type": "function", "function": FUNCTION}
    flat = {"type": "function", **FUNCTION}
    theirs = {"name": "get_weather", "input_schema": SCHEMA}
    other = {"type": "function", "function": {"name": "other"}}

    said = {
        "stop": native(double, ASKS, stream=stream, tools=[other, tool]),
        "tool_calls": openai(double, ASKS, stream=stream, tools=[tool]),
        "completed": responses(double, ASKS, stream=stream, tools=[flat]),
        "tool_use": anthropic(double, ASKS, stream=stream, tools=[theirs]),
    }

    for reason, each in said.items():
        assert (each.reason, each.calls) == (reason, [("get_weather", FILLED)])


@each_way
def test_a_tool_that_nobody_names_is_not_called(double: OllamaDouble, *, stream: bool) -> None:
    """An offer alone calls nothing; neither does the result of a call, which is answered."""
    tool = {"type": "function", "function": FUNCTION}
    told = {"role": "tool", "tool_name": "get_weather", "content": "sunny, said get_weather"}

    offered = native(double, "Hello", stream=stream, tools=[tool])
    answered = native(double, ASKS, stream=stream, tools=[tool], messages=[_user(ASKS), told])

    assert not offered.calls
    assert not answered.calls
    assert "sunny" in answered.text


def test_a_name_is_a_word_of_its_own(double: OllamaDouble) -> None:
    """`get weather` names `get_weather`; a longer word that has the name in it does not."""
    tool = {"type": "function", "function": FUNCTION}
    assert native(double, "Get Weather, please", stream=False, tools=[tool]).calls
    assert not native(double, "forget_weather", stream=False, tools=[tool]).calls


@each_way
def test_thoughts_are_told_unless_unwanted(double: OllamaDouble, *, stream: bool) -> None:
    """A model that thinks does so unless told not to, and each route has a place for it."""
    asked: list[tuple[Callable[..., Said], dict[str, Any], dict[str, Any]]] = [
        (native, {}, {"think": False}),
        (openai, {"reasoning_effort": "high"}, {"reasoning_effort": "none"}),
        (responses, {"reasoning": {"effort": "low"}}, {"reasoning": {"effort": "none"}}),
        (anthropic, {"thinking": {"type": "enabled", "budget_tokens": 9}}, {"thinking": {"type": "disabled"}}),
    ]
    for route, wanted, unwanted in asked:
        said = route(double, "Hello", stream=stream, **wanted)
        assert (said.thinking, said.text[: len(SAYS)]) == (THINKS, SAYS)
        assert not route(double, "Hello", stream=stream, **unwanted).thinking


@each_way
def test_log_probabilities_come_with_each_token(double: OllamaDouble, *, stream: bool) -> None:
    """One for each token, most likely first, with as many others as were asked for."""
    for route in (native, openai):
        said = route(double, "Hello", stream=stream, logprobs=True, top_logprobs=2)
        assert "".join(each["token"] for each in said.logprobs) == said.thinking + said.text
        assert {len(each["top_logprobs"]) for each in said.logprobs} == {2}
        first = said.logprobs[0]
        assert first["bytes"] == list(first["token"].encode())
        assert first["top_logprobs"][0]["logprob"] == first["logprob"] > first["top_logprobs"][1]["logprob"]
        bare = route(double, "Hello", stream=stream, logprobs=True).logprobs
        assert bare
        assert "top_logprobs" not in bare[0]
        assert not route(double, "Hello", stream=stream).logprobs


def test_what_stops_it_is_cut_away(double: OllamaDouble) -> None:
    """A stop sequence ends the answer before it."""
    said = native(double, "one two three", stream=False, options={"stop": ["two"]})
    assert said.text.endswith("one ")


def test_a_format_that_is_none_is_refused(double: OllamaDouble) -> None:
    """In Ollama's words, which quote what was sent."""
    body = {"model": str(MODEL.name), "messages": [_user("Hello")], "format": "xml"}
    answer = httpx.post(f"{double.url}/api/chat", json=body, timeout=PATIENCE)
    told = r'invalid format: "\"xml\""; expected "json" or a valid JSON Schema object'
    assert (answer.status_code, answer.json()) == (500, {"error": told})


def test_models_say_what_they_can(tmp_path: Path, double: OllamaDouble) -> None:
    """Only who can think or call tools is asked to: others refuse, as they do at Ollama."""
    tiny = next(model for model in LIBRARY if str(model.name) == "tiny:latest")
    lay(tmp_path, tiny)
    with OllamaDouble(tmp_path) as plain:
        for more, told in (
            ({"think": True}, '"tiny" does not support thinking'),
            ({"tools": [{"type": "function", "function": FUNCTION}]},
             "registry.ollama.ai/library/tiny:latest does not support tools"),
        ):  # fmt: skip
            answer = httpx.post(
                f"{plain.url}/api/chat", json={"model": "tiny", "messages": [_user("a")]} | more, timeout=PATIENCE
            )
            assert (answer.status_code, answer.json()) == (400, {"error": told})
        body = {"model": "tiny", "max_tokens": 9, "messages": [_user("a")], "thinking": {"type": "enabled"}}
        assert httpx.post(f"{plain.url}/v1/messages", json=body, timeout=PATIENCE).status_code == 200
    shown = httpx.post(f"{double.url}/api/show", json={"model": str(MODEL.name)}, timeout=PATIENCE).json()
    assert shown["capabilities"] == ["completion", "tools", "thinking"]
