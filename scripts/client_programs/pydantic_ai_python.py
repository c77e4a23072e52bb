"""Pydantic AI, by its provider for Ollama."""

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.ollama import OllamaProvider
from trials import KEY, MODEL, URL, trial

model = OpenAIChatModel(MODEL, provider=OllamaProvider(base_url=f"{URL}/v1", api_key=KEY))


class City(BaseModel):
    name: str
    people: int


@trial
def run() -> None:
    assert Agent(model).run_sync("Hello").output


@trial
def tools() -> None:
    agent = Agent(model, system_prompt="Be brief")
    asked = []

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """The weather in a city."""
        asked.append(city)
        return "sunny"

    assert "sunny" in agent.run_sync("What is the weather? Call get_weather.").output
    assert asked


@trial
def native_output() -> None:
    assert Agent(model, output_type=NativeOutput(City)).run_sync("Hello").output.people >= 0


@trial
def tool_output() -> None:
    assert Agent(model, output_type=City).run_sync("Give me the final_result").output.name


@trial
def streamed() -> None:
    said = Agent(model).run_stream_sync("Hello")
    assert len(list(said.stream_text(delta=True, debounce_by=None))) > 1
