"""LiteLLM as a library, by each of its ways to such a service."""

import litellm
from pydantic import BaseModel
from trials import ASKS_FOR_WEATHER, EMBEDDER, GET_WEATHER, HELLO, KEY, MODEL, URL, trial

litellm.telemetry = False


class City(BaseModel):
    name: str
    people: int


@trial
def ollama_chat() -> None:
    said = litellm.completion(f"ollama_chat/{MODEL}", HELLO, api_base=URL, api_key=KEY)
    assert said.choices[0].message.content


@trial
def ollama_generate() -> None:
    assert litellm.completion(f"ollama/{MODEL}", HELLO, api_base=URL).choices[0].message.content


@trial
def streamed() -> None:
    assert len(list(litellm.completion(f"ollama_chat/{MODEL}", HELLO, api_base=URL, stream=True))) > 1


@trial
def tools() -> None:
    said = litellm.completion(f"ollama_chat/{MODEL}", ASKS_FOR_WEATHER, api_base=URL, tools=[GET_WEATHER])
    assert said.choices[0].message.tool_calls[0].function.name == "get_weather"


@trial
def schema() -> None:
    said = litellm.completion(f"ollama_chat/{MODEL}", HELLO, api_base=URL, response_format=City)
    City.model_validate_json(said.choices[0].message.content)


@trial
def openai() -> None:
    said = litellm.completion(f"openai/{MODEL}", HELLO, api_base=f"{URL}/v1", api_key=KEY)
    assert said.choices[0].message.content


@trial
def embedding() -> None:
    assert len(litellm.embedding(f"ollama/{EMBEDDER}", ["one", "two"], api_base=URL).data) == 2
