"""Instructor over OpenAI's client, in the modes that people use with Ollama."""

import instructor
import openai
from pydantic import BaseModel
from trials import KEY, MODEL, URL, trial


class City(BaseModel):
    name: str
    people: int


def asked(mode: instructor.Mode) -> City:
    client = instructor.from_openai(openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY), mode=mode)
    return client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Tell me of a City"}], response_model=City, max_retries=0
    )


@trial
def json_schema() -> None:
    assert asked(instructor.Mode.JSON_SCHEMA).people >= 0


@trial
def tools() -> None:
    assert asked(instructor.Mode.TOOLS).name
