"""LlamaIndex's packages for Ollama."""

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.ollama import OllamaEmbedding
from llama_index.llms.ollama import Ollama
from pydantic import BaseModel
from trials import EMBEDDER, MODEL, THINKER, URL, trial

llm = Ollama(model=MODEL, base_url=URL, request_timeout=60)
HELLO = [ChatMessage(role="user", content="Hello")]


class City(BaseModel):
    """A city."""

    name: str
    people: int


def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


@trial
def complete() -> None:
    assert llm.complete("Hello").text


@trial
def chat() -> None:
    assert llm.chat(HELLO).message.content


@trial
def streamed() -> None:
    assert len(list(llm.stream_chat(HELLO))) > 1


@trial
def schema() -> None:
    assert llm.as_structured_llm(City).complete("Hello").raw.people >= 0


@trial
def tools() -> None:
    said = llm.chat_with_tools([FunctionTool.from_defaults(get_weather)], "What is the weather? Call get_weather.")
    assert llm.get_tool_calls_from_response(said)[0].tool_name == "get_weather"


@trial
def thinking() -> None:
    assert Ollama(model=THINKER, base_url=URL, thinking=True).chat(HELLO).message


@trial
def embeddings() -> None:
    embedder = OllamaEmbedding(model_name=EMBEDDER, base_url=URL)
    assert len(embedder.get_text_embedding_batch(["one", "two"])) == 2
