"""What an operator sets for a model, put into bodies: what a caller leaves open is filled, what he says stays."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.gateway.protocol import refusals
from app.gateway.protocol.json_body.edits import edit
from app.gateway.protocol.json_body.search import fields_of
from app.gateway.protocol.model_defaults import LOOKED_AT, edits, no_effect, takes_options
from jobs.models.model_settings import UNSET, ModelSettings

PARAMETERS = {
    "temperature": 0.6,
    "top_p": 0.9,
    "top_k": 20,
    "min_p": 0.1,
    "seed": 7,
    "stop": ["</s>"],
    "num_predict": 512,
    "repeat_penalty": 1.1,
    "presence_penalty": 0.5,
}
SETTINGS = ModelSettings(8192, PARAMETERS, 'Be "brief".\n')
SYSTEM = {"role": "system", "content": 'Be "brief".\n'}
USER = {"role": "user", "content": "Hello"}
OPENAI = {
    "temperature": 0.6,
    "top_p": 0.9,
    "seed": 7,
    "stop": ["</s>"],
    "max_tokens": 512,
    "presence_penalty": 0.5,
}


def edited(path: str, text: str | bytes, settings: ModelSettings = SETTINGS) -> Any:
    """The document that a server would get."""
    body = bytearray(text.encode() if isinstance(text, str) else text)
    names = frozenset({"model", "options", "prompt", "messages"}) | LOOKED_AT[path]
    names |= refusals.FIELDS.get(path, frozenset())
    fields = fields_of(body, names, {"options": frozenset(refusals.OPTIONS)})
    context = settings.context if takes_options(path) else None
    edit(body, list(edits(path, body, fields, settings, context)))
    pairs = json.loads(body, object_pairs_hook=list)
    assert len({name for name, _ in pairs}) == len(pairs), "a name stands twice"
    return json.loads(body)


def asked(path: str, **body: Any) -> dict[str, Any]:
    document: dict[str, Any] = edited(path, json.dumps({"model": "m", **body}))
    return document


@pytest.mark.parametrize(
    ("path", "body", "added"),
    [
        ("/api/chat", {"messages": [USER]}, {"options": {**PARAMETERS, "num_ctx": 8192}, "messages": [SYSTEM, USER]}),
        ("/api/generate", {"prompt": "x"}, {"options": {**PARAMETERS, "num_ctx": 8192}, "system": SYSTEM["content"]}),
        ("/api/embed", {"input": "x"}, {"options": {"num_ctx": 8192}}),
        ("/api/embeddings", {"prompt": "x"}, {"options": {"num_ctx": 8192}}),
        ("/v1/chat/completions", {"messages": [USER]}, {**OPENAI, "messages": [SYSTEM, USER]}),
        ("/v1/completions", {"prompt": "x"}, OPENAI),
        (
            "/v1/responses",
            {"input": "x"},
            {"temperature": 0.6, "top_p": 0.9, "max_output_tokens": 512, "instructions": SYSTEM["content"]},
        ),
        (
            "/v1/messages",
            {"messages": [USER], "max_tokens": 9},
            {
                "temperature": 0.6,
                "top_p": 0.9,
                "top_k": 20,
                "stop_sequences": ["</s>"],
                "system": SYSTEM["content"],
            },
        ),
    ],
)
def test_what_is_left_open_is_filled(path: str, body: dict[str, Any], added: dict[str, Any]) -> None:
    """Each dialect gets what it has a field for, under its own names; the rest of the body stays as it is."""
    assert asked(path, **body) == {"model": "m", **body, **added}
    assert asked(path, **body, more={"x": [1]})["more"] == {"x": [1]}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/chat", {"options": {**PARAMETERS, "temperature": 0, "num_ctx": 8192}, "messages": [SYSTEM, USER]}),
        ("/v1/chat/completions", {**OPENAI, "temperature": 0, "seed": 1, "messages": [SYSTEM, USER]}),
        ("/v1/chat/completions", {**OPENAI, "messages": [{"role": "developer", "content": "x"}, USER]}),
        ("/v1/chat/completions", {**OPENAI, "messages": [USER, SYSTEM]}),
        ("/v1/completions", {**OPENAI, "stop": "x", "prompt": "x"}),
        ("/v1/responses", {"temperature": 1, "top_p": 1, "max_output_tokens": 1, "instructions": "x", "input": "x"}),
        ("/v1/responses", {"temperature": 1, "top_p": 1, "max_output_tokens": 1, "input": [SYSTEM, USER]}),
        (
            "/v1/messages",
            {
                "temperature": 1,
                "top_p": 1,
                "top_k": 1,
                "stop_sequences": [],
                "max_tokens": 1,
                "system": [{"type": "text", "text": "x"}],
                "messages": [USER],
            },
        ),
    ],
)
def test_what_a_caller_says_stays(path: str, body: dict[str, Any]) -> None:
    """Zero and an empty list are said; and a system prompt, wherever it stands, is the caller's own."""
    assert asked(path, **body) == {"model": "m", **body}


def test_null_leaves_open() -> None:
    """Null is what clients send for what they do not set: it is replaced, and no name stands twice."""
    said = edited("/v1/chat/completions", '{"model":"m","temperature":null,"Seed": null ,"messages":[{"role":"user"}]}')

    assert (said["temperature"], said["Seed"], "seed" in said) == (0.6, 7, False)
    for options in ("null", "{}", '{"temperature":null}', '{ "temperature" : null , "top_k" : 3 }'):
        said = edited("/api/chat", f'{{"model":"m","OPTIONS":{options},"messages":[{{}}]}}')
        assert said["OPTIONS"] == {**PARAMETERS, "num_ctx": 8192} | ({"top_k": 3} if "top_k" in options else {})


def test_answers_may_be_limited_by_either_name() -> None:
    """Who sends OpenAI's newer name for the most tokens of an answer has said it."""
    assert "max_tokens" not in asked("/v1/chat/completions", messages=[USER], max_completion_tokens=9)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/chat", {"messages": []}),
        ("/api/chat", {}),
        ("/api/chat", {"messages": None, "keep_alive": 0}),
        ("/api/generate", {}),
        ("/api/generate", {"prompt": ""}),
        ("/api/generate", {"prompt": "x", "raw": True}),
    ],
)
def test_no_prompt_is_put_where_there_is_no_conversation(path: str, body: dict[str, Any]) -> None:
    """A request that only loads a model stays one, and so does a raw prompt."""
    said = asked(path, **body)

    assert (said.get("system"), said.get("messages")) == (None, body.get("messages"))


def test_a_role_inside_a_text_is_none() -> None:
    """What a person writes about roles is no system prompt, and a role far behind much text is found."""
    quoted = {"role": "user", "content": '{"role":"system"}'}
    far = [{"role": "user", "content": "x" * 65_530}, SYSTEM]

    assert asked("/api/chat", messages=[quoted])["messages"] == [SYSTEM, quoted]
    for shift in range(0, 40, 3):
        far[0] = {"role": "user", "content": "x" * (65_500 + shift)}
        assert asked("/api/chat", messages=far)["messages"] == far


@given(
    st.sampled_from(sorted(LOOKED_AT)),
    st.dictionaries(st.sampled_from(["temperature", "top_p", "stop", "seed", "x"]), st.none() | st.integers(0, 1)),
    st.sampled_from(["", " ", "\n\t"]),
)
def test_a_body_stays_json_however_it_is_written(path: str, said: dict[str, Any], gap: str) -> None:
    """With any fields and any blanks, the edited body is one object with each name once, and says what was said."""
    body = {"model": "m", "prompt": "x", "messages": [USER], **said}
    text = gap + json.dumps(body, separators=(f",{gap}", f":{gap}")).replace("{", "{" + gap) + gap
    found = edited(path, text)

    assert all(found[name] == value for name, value in said.items() if value is not None)


def test_nothing_is_set() -> None:
    """Without settings no body changes."""
    for path in LOOKED_AT:
        assert edited(path, '{"model":"m","messages":[{}]}', UNSET) == {"model": "m", "messages": [{}]}


def test_what_has_no_effect_is_known() -> None:
    """What a route has no field for is exactly what is told to have no effect there."""
    told = no_effect(SETTINGS)

    for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"):
        got = asked(path, messages=[USER], input="x", prompt="x", max_tokens=9 if path == "/v1/messages" else None)
        values = [value for name, value in got.items() if name not in {"model", "messages", "input", "prompt"}]
        for option, value in PARAMETERS.items():
            if (option, path) != ("num_predict", "/v1/messages"):
                assert (value in values) != (path in told.get(option, [])), (path, option)
    assert told["context"][-1] == "/v1/embeddings"
    assert told["system"] == ["/v1/completions"]
    assert no_effect(UNSET) == {}
