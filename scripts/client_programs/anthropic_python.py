"""Anthropic's client for Python."""

import time

import anthropic
from trials import ASKS_FOR_WEATHER, GET_WEATHER, HELLO, KEY, MODEL, THINKER, URL, trial

client = anthropic.Anthropic(base_url=URL, api_key=KEY, max_retries=0)
TOOL = {
    "name": "get_weather",
    "description": "The weather in a city",
    "input_schema": GET_WEATHER["function"]["parameters"],
}


@trial
def messages() -> None:
    said = client.messages.create(
        model=MODEL,
        max_tokens=200,
        messages=HELLO,
        system=[{"type": "text", "text": "Be brief", "cache_control": {"type": "ephemeral"}}],
        stop_sequences=["###"],
        metadata={"user_id": "somebody"},
    )
    assert said.content[0].text
    assert said.stop_reason == "end_turn"


@trial
def streamed() -> None:
    with client.messages.stream(model=MODEL, max_tokens=200, messages=HELLO) as stream:
        assert "".join(stream.text_stream)
        assert stream.get_final_message().usage.output_tokens


@trial
def tools() -> None:
    said = client.messages.create(model=MODEL, max_tokens=200, messages=ASKS_FOR_WEATHER, tools=[TOOL])
    assert said.stop_reason == "tool_use"
    (call,) = (block for block in said.content if block.type == "tool_use")
    told = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
    again = client.messages.create(
        model=MODEL,
        max_tokens=200,
        tools=[TOOL],
        tool_choice={"type": "auto"},
        messages=[
            *ASKS_FOR_WEATHER,
            {"role": "assistant", "content": said.content},
            {"role": "user", "content": [told]},
        ],
    )
    assert "sunny" in again.content[0].text


@trial
def tools_streamed() -> None:
    with client.messages.stream(model=MODEL, max_tokens=200, messages=ASKS_FOR_WEATHER, tools=[TOOL]) as stream:
        said = stream.get_final_message()
    assert "city" in next(block.input for block in said.content if block.type == "tool_use")


@trial
def thinking() -> None:
    said = client.messages.create(
        model=THINKER, max_tokens=2000, messages=HELLO, thinking={"type": "enabled", "budget_tokens": 1024}
    )
    assert said.content[0].type == "thinking"


@trial
def not_there() -> None:
    try:
        client.messages.create(model="no-such-model", max_tokens=9, messages=HELLO)
    except anthropic.NotFoundError:
        return
    raise AssertionError("a model that is not there answered")


@trial
def batch() -> None:
    params = {"model": MODEL, "max_tokens": 20, "messages": HELLO}
    batches = client.messages.batches
    made = batches.create(requests=[{"custom_id": str(number), "params": params} for number in range(3)])
    assert made.request_counts.processing == 3
    while made.processing_status != "ended":
        time.sleep(0.5)
        made = batches.retrieve(made.id)
    assert made.request_counts.succeeded == 3
    results = list(batches.results(made.id))
    assert [each.custom_id for each in results] == ["0", "1", "2"]
    assert all(each.result.message.content[0].text for each in results)
    assert made.id in {each.id for each in batches.list(limit=1)}
    assert batches.cancel(made.id).processing_status == "ended"
    assert batches.delete(made.id).type == "message_batch_deleted"
