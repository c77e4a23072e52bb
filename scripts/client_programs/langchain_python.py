"""LangChain's package for Ollama."""

from langchain_core.tools import tool
from langchain_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM
from pydantic import BaseModel
from trials import EMBEDDER, KEY, MODEL, THINKER, URL, trial

HEADERS = {"headers": {"Authorization": f"Bearer {KEY}"}}
chat_model = ChatOllama(model=MODEL, base_url=URL, client_kwargs=HEADERS, temperature=0)


class City(BaseModel):
    """A city."""

    name: str
    people: int


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


@trial
def invoke() -> None:
    assert chat_model.invoke("Hello").content


@trial
def streamed() -> None:
    assert len(list(chat_model.stream("Hello"))) > 1


@trial
def complete() -> None:
    assert OllamaLLM(model=MODEL, base_url=URL, client_kwargs=HEADERS).invoke("Hello")


@trial
def tools() -> None:
    said = chat_model.bind_tools([get_weather]).invoke("What is the weather? Call get_weather.")
    assert said.tool_calls[0]["name"] == "get_weather"


@trial
def schema() -> None:
    assert chat_model.with_structured_output(City).invoke("Hello").people >= 0


@trial
def schema_by_tool() -> None:
    asked = chat_model.with_structured_output(City, method="function_calling")
    assert asked.invoke("Tell me of a City").name


@trial
def thinking() -> None:
    said = ChatOllama(model=THINKER, base_url=URL, client_kwargs=HEADERS, reasoning=True).invoke("Hello")
    assert said.additional_kwargs["reasoning_content"]


@trial
def embeddings() -> None:
    embedder = OllamaEmbeddings(model=EMBEDDER, base_url=URL, client_kwargs=HEADERS)
    assert len(embedder.embed_documents(["one", "two"])) == 2
    assert embedder.embed_query("one")
