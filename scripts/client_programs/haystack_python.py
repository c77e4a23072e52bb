"""Haystack's integration of Ollama."""

from haystack.dataclasses import ChatMessage, Document
from haystack.tools import Tool
from haystack_integrations.components.embedders.ollama import OllamaDocumentEmbedder, OllamaTextEmbedder
from haystack_integrations.components.generators.ollama import OllamaChatGenerator
from trials import EMBEDDER, GET_WEATHER, MODEL, URL, trial

HELLO = [ChatMessage.from_user("Hello")]
SCHEMA = {"type": "object", "properties": {"people": {"type": "integer"}}, "required": ["people"]}


@trial
def chat() -> None:
    assert OllamaChatGenerator(model=MODEL, url=URL).run(HELLO)["replies"][0].text


@trial
def streamed() -> None:
    pieces = []
    OllamaChatGenerator(model=MODEL, url=URL, streaming_callback=pieces.append).run(HELLO)
    assert len(pieces) > 1


@trial
def schema() -> None:
    said = OllamaChatGenerator(model=MODEL, url=URL, response_format=SCHEMA).run(HELLO)["replies"][0].text
    assert "people" in said


@trial
def tools() -> None:
    function = GET_WEATHER["function"]
    offered = Tool(function["name"], function["description"], function["parameters"], lambda city: f"sunny in {city}")
    asked = [ChatMessage.from_user("What is the weather? Call get_weather.")]
    said = OllamaChatGenerator(model=MODEL, url=URL, tools=[offered]).run(asked)["replies"][0]
    assert said.tool_calls[0].tool_name == "get_weather"


@trial
def embed() -> None:
    assert OllamaTextEmbedder(model=EMBEDDER, url=URL).run("one")["embedding"]
    documents = [Document(content="one"), Document(content="two")]
    assert OllamaDocumentEmbedder(model=EMBEDDER, url=URL).run(documents)["documents"][0].embedding
