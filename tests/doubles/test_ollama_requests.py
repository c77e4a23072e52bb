"""What Ollama takes and refuses of a request, in its own words: asked of the simulator, and of a real one.

Go's decoder refuses a wrong type before any model is looked for; options are looked at before the model is loaded.
"""

import json
from typing import Any

import pytest

from tests.doubles.conftest import Asker
from tests.support.client_bodies import ClientBody, client_bodies
from tests.support.deep_bodies import DeepBody, deep_bodies

GENERATE, CHAT, EMBED, EMBEDDINGS = "/api/generate", "/api/chat", "/api/embed", "/api/embeddings"
COMPLETIONS, OPENAI, RESPONSES, ANTHROPIC = "/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/messages"
USER = {"role": "user", "content": "Hello"}

Refusal = tuple[str, dict[str, Any], str]


def _wrong(value: str, place: str, wanted: str) -> str:
    return f"json: cannot unmarshal {value} into Go struct field {place} of type {wanted}"


def _said(content: Any, role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content}]}


def _asked(content: Any) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": content}]}


NO_OBJECT = "Value looks like object, but can't find closing '}' symbol"
NO_LIST = "must be a string or array: json: cannot unmarshal number into Go value of type []json.RawMessage"
EFFORTS = 'must be "minimal", "low", "medium", "high", "xhigh", "ultra", "max", or "none"'

WRONG_TYPES: list[Refusal] = [
    (GENERATE, {"stream": "yes"}, _wrong("string", "GenerateRequest.stream", "bool")),
    (GENERATE, {"options": "x"}, _wrong("string", "GenerateRequest.options", "map[string]interface {}")),
    (GENERATE, {"options": [1]}, _wrong("array", "GenerateRequest.options", "map[string]interface {}")),
    (GENERATE, {"images": "x"}, _wrong("string", "GenerateRequest.images", "[]api.ImageData")),
    (GENERATE, {"images": [5]}, _wrong("number", "GenerateRequest.images", "api.ImageData")),
    (GENERATE, {"context": "x"}, _wrong("string", "GenerateRequest.context", "[]int")),
    (GENERATE, {"context": [1.5]}, _wrong("number 1.5", "GenerateRequest.context", "int")),
    (GENERATE, {"raw": 1}, _wrong("number", "GenerateRequest.raw", "bool")),
    (GENERATE, {"top_logprobs": 1.5}, _wrong("number 1.5", "GenerateRequest.top_logprobs", "int")),
    (GENERATE, {"top_logprobs": 21}, "top_logprobs must be between 0 and 20"),
    (GENERATE, {"logprobs": 1}, _wrong("number", "GenerateRequest.logprobs", "bool")),
    (GENERATE, {"think": "maybe"},
     'invalid think value: "maybe" (must be "high", "medium", "low", "max", true, or false)'),
    (GENERATE, {"think": 5}, 'think must be a boolean or string ("high", "medium", "low", "max", true, or false)'),
    (CHAT, {"messages": "bad"}, _wrong("string", "ChatRequest.messages", "[]api.Message")),
    (CHAT, {"messages": [5]}, _wrong("number", "ChatRequest.messages", "api.Alias")),
    (CHAT, {"messages": [{"role": 5}]}, _wrong("number", "ChatRequest.messages.role", "string")),
    (CHAT, _said([{"type": "text", "text": "Hello"}]), _wrong("array", "ChatRequest.messages.content", "string")),
    (CHAT, {"messages": [{"images": "x"}]}, _wrong("string", "ChatRequest.messages.images", "[]api.ImageData")),
    (CHAT, {"messages": [{"tool_calls": {}}]}, _wrong("object", "ChatRequest.messages.tool_calls", "[]api.ToolCall")),
    (CHAT, {"messages": [{"tool_calls": [{"function": {"name": "a", "arguments": "{}"}}]}]}, NO_OBJECT),
    (CHAT, {"tools": {}}, _wrong("object", "ChatRequest.tools", "api.Tools")),
    (CHAT, {"tools": [5]}, _wrong("number", "ChatRequest.tools", "api.Tool")),
    (CHAT, {"tools": [{"function": {"name": 5}}]}, _wrong("number", "ToolFunction.tools.function.name", "string")),
    (CHAT, {"tools": [{"function": {"parameters": {"properties": []}}}]}, NO_OBJECT),
    (CHAT, {"tools": [{"function": {"parameters": []}}]},
     _wrong("array", "ToolFunction.tools.function.parameters", "api.ToolFunctionParameters")),
    (EMBED, {"dimensions": "x"}, _wrong("string", "EmbedRequest.dimensions", "int")),
    (EMBED, {"truncate": "x"}, _wrong("string", "EmbedRequest.truncate", "bool")),
    (EMBED, {"options": []}, _wrong("array", "EmbedRequest.options", "map[string]interface {}")),
    (EMBEDDINGS, {"prompt": ["a"]}, _wrong("array", "EmbeddingRequest.prompt", "string")),
    ("/api/pull", {"insecure": "x"}, _wrong("string", "PullRequest.insecure", "bool")),
    ("/api/show", {"verbose": "x"}, _wrong("string", "ShowRequest.verbose", "bool")),
    (OPENAI, {"messages": "x"}, _wrong("string", "ChatCompletionRequest.messages", "[]openai.Message")),
    (OPENAI, {"messages": [{"role": 5}]}, _wrong("number", "Message.messages.role", "string")),
    (OPENAI, {"messages": [{"role": "user"}]}, "invalid message content type: <nil>"),
    (OPENAI, _said(5), "invalid message content type: float64"),
    (OPENAI, _said([5]), "invalid message format"),
    (OPENAI, _said([{"type": "x"}]), "invalid message format"),
    (OPENAI, _said([{"type": "image_url", "image_url": {"url": "http://a/b.png"}}]),
     "image URLs are not currently supported, please use base64 encoded data instead"),
    (OPENAI, _said([{"type": "image_url", "image_url": "data:x"}]), "invalid image input"),
    (OPENAI, {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "nope"}}]}]},
     "invalid tool call arguments"),
    (OPENAI, {"messages": [USER], "max_tokens": "5"}, _wrong("string", "ChatCompletionRequest.max_tokens", "int")),
    (OPENAI, {"messages": [USER], "temperature": "x"},
     _wrong("string", "ChatCompletionRequest.temperature", "float64")),
    (OPENAI, {"messages": [USER], "stream_options": True},
     _wrong("bool", "ChatCompletionRequest.stream_options", "openai.StreamOptions")),
    (OPENAI, {"messages": [USER], "response_format": "json"},
     _wrong("string", "ChatCompletionRequest.response_format", "openai.ResponseFormat")),
    (OPENAI, {"messages": [USER], "reasoning_effort": "huge"}, f'invalid reasoning value: "huge" ({EFFORTS})'),
    (OPENAI, {"messages": [USER], "logprobs": 1}, _wrong("number", "ChatCompletionRequest.logprobs", "bool")),
    (OPENAI, {"messages": [USER], "tools": "x"}, _wrong("string", "ChatCompletionRequest.tools", "[]api.Tool")),
    (COMPLETIONS, {"prompt": ["a"]}, _wrong("array", "CompletionRequest.prompt", "string")),
    (COMPLETIONS, {"prompt": "a", "stop": [1]}, "invalid type for 'stop' field: float64"),
    (COMPLETIONS, {"prompt": "a", "logprobs": True}, _wrong("bool", "CompletionRequest.logprobs", "int")),
    ("/v1/embeddings", {"input": "a", "encoding_format": "hex"},
     "Invalid value for 'encoding_format' = hex. Supported values: ['float', 'base64']."),
    (RESPONSES, {"input": 5}, f"input {NO_LIST}"),
    (RESPONSES, {"input": [{"content": "x"}]}, "input[0]: input item missing required 'type' field"),
    (RESPONSES, {"input": [{"type": "x"}]}, 'input[0]: unknown input item type: "x"'),
    (RESPONSES, _asked(5), f"input[0]: content {NO_LIST}"),
    (RESPONSES, _asked([{"type": "x"}]), "input[0]: content[0]: unknown content type: x"),
    (RESPONSES, {"input": "a", "reasoning": {"effort": "huge"}}, f'invalid reasoning value: "huge" ({EFFORTS})'),
    (RESPONSES, {"input": "a", "text": 5}, _wrong("number", "ResponsesRequest.text", "openai.ResponsesText")),
    (RESPONSES, {"input": "a", "tools": [{"type": "function", "name": "a", "parameters": []}]},
     _wrong("array", "ResponsesTool.tools.parameters", "map[string]interface {}")),
    (ANTHROPIC, {"messages": "x"}, _wrong("string", "MessagesRequest.messages", "[]anthropic.MessageParam")),
    (ANTHROPIC, _said(5), _wrong("number", "MessagesRequest.messages", "[]anthropic.ContentBlock")),
    (ANTHROPIC, {"messages": [{"role": "user"}]}, "unexpected end of JSON input"),
    (ANTHROPIC, _said([{"type": "image"}]), "invalid image source"),
    (ANTHROPIC, _said([{"type": "image", "source": {"type": "url", "url": "x"}}]),
     "invalid image source type: url. Only base64 images are supported."),
    (ANTHROPIC, _said([{"type": "tool_use", "id": "a"}], "assistant"),
     "tool_use block missing required 'name' field"),
    (ANTHROPIC, {"messages": [USER], "max_tokens": 1.5}, _wrong("number 1.5", "MessagesRequest.max_tokens", "int")),
    (ANTHROPIC, {"messages": [USER], "stop_sequences": "x"},
     _wrong("string", "MessagesRequest.stop_sequences", "[]string")),
    (ANTHROPIC, {"messages": [USER], "thinking": True},
     _wrong("bool", "MessagesRequest.thinking", "anthropic.ThinkingConfig")),
    (ANTHROPIC, {"messages": [USER], "tool_choice": "auto"},
     _wrong("string", "MessagesRequest.tool_choice", "anthropic.ToolChoice")),
]  # fmt: skip

WRONG_OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"stop": "x"}, 'option "stop" must be of type array'),
    ({"stop": [1]}, 'option "stop" must be of an array of strings'),
    ({"use_mmap": 1}, 'option "use_mmap" must be of type boolean'),
    ({"use_mmap": "true"}, 'option "use_mmap" must be of type boolean'),
    ({"main_gpu": "0"}, 'option "main_gpu" must be of type integer'),
    ({"num_ctx": "1"}, 'option "num_ctx" must be of type integer'),
    ({"num_thread": True}, 'option "num_thread" must be of type integer'),
    ({"temperature": True}, 'option "temperature" must be of type float32'),
    ({"repeat_last_n": []}, 'option "repeat_last_n" must be of type integer'),
    ({"typical_p": {}}, 'option "typical_p" must be of type float32'),
]


def _text_of(said: Any) -> str:
    error = said["error"]
    return str(error if isinstance(error, str) else error["message"])


@pytest.mark.parametrize(("path", "body", "text"), WRONG_TYPES, ids=lambda each: json.dumps(each)[:60])
def test_a_wrong_type_is_refused_in_gos_words(asker: Asker, path: str, body: dict[str, Any], text: str) -> None:
    """A field that holds what it cannot is a 400 that names the field, whether there is such a model or not."""
    more = {"max_tokens": 9} if path == ANTHROPIC and "max_tokens" not in body else {}

    status, said = asker.ask("POST", path, {"model": "x"} | more | body)

    assert (status, _text_of(said)) == (400, text)


@pytest.mark.parametrize("sent", deep_bodies(), ids=str)
def test_what_stands_deeper_is_looked_at_as_well(asker: Asker, sent: DeepBody) -> None:
    """Messages, tools, schemas and pictures are refused in the same words, or taken, whatever is left out of them."""
    status, said = asker.ask("POST", sent.path, {"model": "x"} | sent.body)

    assert (status, _text_of(said)) == (400, sent.text) if sent.text else status == 404


@pytest.mark.parametrize(("options", "text"), WRONG_OPTIONS)
def test_a_wrong_option_is_refused_before_the_load(asker: Asker, options: dict[str, Any], text: str) -> None:
    """Options are a bag to the decoder: a wrong one is found when the model is there, and is a 500."""
    asker.pull("small")
    name = asker.name("small")

    for path, body in ((GENERATE, {"prompt": "a"}), (CHAT, {"messages": [USER]}), (EMBED, {"input": "a"})):
        assert asker.ask("POST", path, {"model": name, "options": options} | body) == (500, {"error": text})


NULLS = dict.fromkeys(
    ("num_ctx", "num_gpu", "num_thread", "temperature", "top_k", "top_p", "stop", "use_mmap", "seed", "tfs_z")
)
WHOLE = {"stream": False, "options": NULLS}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (
            GENERATE,
            WHOLE | {"prompt": "a", "format": None, "keep_alive": None, "think": None, "images": None},
        ),
        (CHAT, WHOLE | {"messages": [USER], "tools": None, "think": None}),
        (EMBED, {"input": "a", "options": NULLS, "dimensions": None, "truncate": None}),
        (EMBEDDINGS, {"prompt": "a", "options": NULLS}),
        (EMBEDDINGS, {"prompt": "a", "options": None}),
        (OPENAI, {"messages": [USER], "temperature": None, "response_format": None, "tools": None, "logprobs": None}),
        (ANTHROPIC, {"messages": [USER], "max_tokens": 9, "system": None, "tools": None, "thinking": None}),
        (RESPONSES, {"input": "a", "temperature": None, "tools": None, "text": None, "instructions": None}),
    ],
)
def test_a_null_is_no_value(asker: Asker, path: str, body: dict[str, Any]) -> None:
    """What several libraries send for what their caller left out is taken as left out: nothing is refused for it."""
    asker.pull("small")

    status, said = asker.ask("POST", path, {"model": asker.name("small")} | body)

    # A real one without a runner gets as far as the load, which is beyond all that could refuse the request.
    assert status == 200 or (asker.server.is_real and status == 500), said
    assert "option" not in str(said)


@pytest.mark.parametrize("sent", [each for each in client_bodies() if each.is_for_one_that_is_here], ids=str)
def test_what_clients_send_is_not_refused(asker: Asker, sent: ClientBody) -> None:
    """Nothing that a client library makes of its caller's wishes is wrong to Ollama, for a model that can do it all."""
    asker.pull("qwen3:0.6b")

    answer = asker.http.post(sent.path, json=sent.body | {"model": asker.name("qwen3:0.6b")})

    # A real one without a runner gets as far as the load, which is beyond all that could refuse the request.
    assert answer.status_code == 200 or (asker.server.is_real and answer.status_code == 500), answer.text


def test_a_templates_words_say_what_a_model_can(asker: Asker) -> None:
    """Tools and thoughts are read off the template, and told by the list and by `show`."""
    asker.pull("qwen3:0.6b")

    shown = asker.http.post("/api/show", json={"model": asker.name("qwen3:0.6b")}).json()["capabilities"]
    (listed,) = asker.http.get("/api/tags").json()["models"]

    assert set(shown) == set(listed["capabilities"]) == {"completion", "tools", "thinking"}


def test_a_model_that_is_missing_brings_those_that_are_here(asker: Asker) -> None:
    """Behind the real one's words the simulator says what may be asked for instead."""
    if asker.server.is_real:
        pytest.skip("the real one leaves it at its words")
    missing = asker.http.post(CHAT, json={"model": "x", "messages": [USER]}).json()["error"]
    assert missing == "model 'x' not found (SIMULATED: no model is here; pull one)"
    asker.pull("small")

    missing = asker.http.post(OPENAI, json={"model": "x", "messages": [USER]}).json()["error"]["message"]

    assert missing == f"model 'x' not found (SIMULATED: here are {asker.name('small:latest')})"
