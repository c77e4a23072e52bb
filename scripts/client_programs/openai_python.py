"""OpenAI's client for Python: chat, completions, responses, embeddings."""

import json
import time

import openai
from pydantic import BaseModel
from trials import ASKS_FOR_WEATHER, EMBEDDER, GET_WEATHER, HELLO, KEY, MODEL, THINKER, URL, trial

client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)
FLAT_TOOL = {"type": "function", "strict": False, **GET_WEATHER["function"]}


class City(BaseModel):
    name: str
    people: int


@trial
def models() -> None:
    assert MODEL in {model.id for model in client.models.list()}
    assert client.models.retrieve(MODEL).id == MODEL


@trial
def chat() -> None:
    said = client.chat.completions.create(model=MODEL, messages=HELLO)
    assert said.choices[0].message.content
    assert said.usage.total_tokens


@trial
def chat_streamed() -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=HELLO, stream=True, stream_options={"include_usage": True}, stop=["###"]
    )
    *chunks, last = list(stream)
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert last.usage.completion_tokens


@trial
def parts() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    content = [{"type": "text", "text": "Hello"}, picture]
    assert client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": content}]).choices


@trial
def tools() -> None:
    first = client.chat.completions.create(model=MODEL, messages=ASKS_FOR_WEATHER, tools=[GET_WEATHER])
    message = first.choices[0].message
    assert first.choices[0].finish_reason == "tool_calls"
    call = message.tool_calls[0]
    assert "city" in json.loads(call.function.arguments)
    told = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    answer = client.chat.completions.create(
        model=MODEL, messages=[*ASKS_FOR_WEATHER, message, told], tools=[GET_WEATHER], tool_choice="auto"
    )
    assert "sunny" in answer.choices[0].message.content


@trial
def tools_streamed() -> None:
    stream = client.chat.completions.create(model=MODEL, messages=ASKS_FOR_WEATHER, tools=[GET_WEATHER], stream=True)
    calls = [call for chunk in stream for call in chunk.choices[0].delta.tool_calls or ()]
    assert [call.function.name for call in calls] == ["get_weather"]


@trial
def parsed() -> None:
    said = client.chat.completions.parse(model=MODEL, messages=HELLO, response_format=City)
    assert said.choices[0].message.parsed.people >= 0


@trial
def json_object() -> None:
    said = client.chat.completions.create(model=MODEL, messages=HELLO, response_format={"type": "json_object"})
    assert json.loads(said.choices[0].message.content)


@trial
def logprobs() -> None:
    said = client.chat.completions.create(model=MODEL, messages=HELLO, logprobs=True, top_logprobs=3)
    assert len(said.choices[0].logprobs.content[0].top_logprobs) == 3


@trial
def reasoning() -> None:
    said = client.chat.completions.create(model=THINKER, messages=HELLO, reasoning_effort="low")
    assert said.choices[0].message.reasoning


@trial
def completions() -> None:
    assert client.completions.create(model=MODEL, prompt="Hello", max_tokens=20).choices[0].text
    assert list(client.completions.create(model=MODEL, prompt="Hello", stream=True))


@trial
def embeddings() -> None:
    assert len(client.embeddings.create(model=EMBEDDER, input=["one", "two"]).data) == 2


@trial
def responses() -> None:
    said = client.responses.create(model=MODEL, input="Hello", instructions="Be brief")
    assert said.output_text
    assert said.usage.total_tokens


@trial
def responses_streamed() -> None:
    kinds = [event.type for event in client.responses.create(model=THINKER, input=HELLO, stream=True)]
    assert "response.reasoning_summary_text.delta" in kinds
    assert kinds[-1] == "response.completed"


@trial
def responses_parsed() -> None:
    assert client.responses.parse(model=MODEL, input="Hello", text_format=City).output_parsed.name


@trial
def responses_tools() -> None:
    said = client.responses.create(model=MODEL, input=ASKS_FOR_WEATHER, tools=[FLAT_TOOL])
    (call,) = (item for item in said.output if item.type == "function_call")
    told = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    again = client.responses.create(model=MODEL, input=[*ASKS_FOR_WEATHER, call, told], tools=[FLAT_TOOL])
    assert "sunny" in again.output_text


@trial
def not_there() -> None:
    try:
        client.chat.completions.create(model="no-such-model", messages=HELLO)
    except openai.NotFoundError:
        return
    raise AssertionError("a model that is not there answered")


@trial
def batch() -> None:
    body = {"model": MODEL, "messages": HELLO}
    lines = [
        json.dumps({"custom_id": str(number), "method": "POST", "url": "/v1/chat/completions", "body": body})
        for number in range(3)
    ]
    file = client.files.create(file=("lines.jsonl", "\n".join(lines).encode()), purpose="batch")
    assert client.files.wait_for_processing(file.id).status == "processed"
    made = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"a": "b"}
    )
    while made.status in {"validating", "in_progress", "finalizing"}:
        time.sleep(0.5)
        made = client.batches.retrieve(made.id)
    assert made.status == "completed", made
    assert made.request_counts.completed == 3
    answers = [json.loads(line) for line in client.files.content(made.output_file_id).text.splitlines()]
    assert [answer["custom_id"] for answer in answers] == ["0", "1", "2"]
    assert all(answer["response"]["body"]["choices"][0]["message"]["content"] for answer in answers)
    assert made.id in {each.id for each in client.batches.list(limit=1)}
    assert client.batches.cancel(made.id).status == "completed"
    assert {client.files.delete(id).deleted for id in (file.id, made.output_file_id)} == {True}
