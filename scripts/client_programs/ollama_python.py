"""Ollama's own client for Python."""

import ollama
from pydantic import BaseModel
from trials import ASKS_FOR_WEATHER, EMBEDDER, GET_WEATHER, HELLO, KEY, MODEL, SMALL, THINKER, URL, trial

client = ollama.Client(URL, headers={"Authorization": f"Bearer {KEY}"})


class City(BaseModel):
    name: str
    people: int


@trial
def lists() -> None:
    assert {model.model for model in client.list().models} >= {MODEL, THINKER}


@trial
def shows() -> None:
    assert "tools" in (client.show(MODEL).capabilities or [])


@trial
def chat() -> None:
    assert client.chat(MODEL, HELLO).message.content


@trial
def chat_streamed() -> None:
    pieces = list(client.chat(MODEL, HELLO, stream=True))
    assert pieces[-1].done
    assert len(pieces) > 1


@trial
def generate() -> None:
    assert client.generate(MODEL, "Hello", options={"temperature": 0, "stop": ["###"], "num_predict": 50}).response


@trial
def tools() -> None:
    said = client.chat(MODEL, ASKS_FOR_WEATHER, tools=[GET_WEATHER]).message
    assert said.tool_calls
    call = said.tool_calls[0].function
    assert (call.name, list(call.arguments)) == ("get_weather", ["city"])
    told = {"role": "tool", "tool_name": call.name, "content": "sunny"}
    answer = client.chat(MODEL, [*ASKS_FOR_WEATHER, said, told], tools=[GET_WEATHER]).message
    assert "sunny" in (answer.content or "")


@trial
def schema() -> None:
    said = client.chat(MODEL, HELLO, format=City.model_json_schema()).message.content
    City.model_validate_json(said or "")


@trial
def json() -> None:
    said = client.generate(MODEL, "Hello", format="json").response
    assert said.startswith("{")


@trial
def thinking() -> None:
    assert client.chat(THINKER, HELLO, think=True).message.thinking
    assert not client.chat(THINKER, HELLO, think=False).message.thinking


@trial
def logprobs() -> None:
    likely = client.chat(MODEL, HELLO, logprobs=True, top_logprobs=2).logprobs
    assert likely
    assert len(likely[0].top_logprobs or []) == 2


@trial
def embed() -> None:
    assert len(client.embed(EMBEDDER, ["one", "two"], dimensions=64).embeddings) == 2
    assert client.embeddings(EMBEDDER, "one").embedding


@trial
def loaded() -> None:
    client.generate(MODEL, "Hello", keep_alive="5m")
    client.ps()


@trial
def pull_and_delete() -> None:
    assert list(client.pull(SMALL, stream=True))[-1].status == "success"
    client.delete(SMALL)


@trial
def not_there() -> None:
    try:
        client.chat("no-such-model", HELLO)
    except ollama.ResponseError as error:
        assert error.status_code == 404  # noqa: PT017 - the programs know no pytest
    else:
        raise AssertionError("a model that is not there answered")
