"""What is nearly always asked is judged at a glance, and as all else is."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.gateway.protocol import refusals
from app.gateway.protocol.json_body.search import fields_of
from jobs.core.errors import BadRequest
from jobs.ollama.request_content import is_plain_talk

CHATS = ("/api/chat", "/v1/chat/completions", "/v1/messages")
INSIDE = {"options": frozenset(refusals.OPTIONS)}

texts = st.sampled_from(["", "user", "hi", "x" * 1100, "high", "tell"])
anything: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers(-2, 30) | st.floats(0, 1) | texts | st.just([]) | st.just({})
)
messages = st.fixed_dictionaries({"role": texts, "content": texts}) | st.dictionaries(
    st.sampled_from(["role", "content", "Content", "tool_calls", "thinking", "images", "x"]), anything, max_size=3
)
bodies = st.fixed_dictionaries(
    {"model": texts},
    optional={
        "messages": st.lists(messages, max_size=3) | anything,
        **dict.fromkeys(
            ("stream", "tools", "think", "format", "options", "top_logprobs", "reasoning_effort", "reasoning"), anything
        ),
        **dict.fromkeys(("max_tokens", "temperature", "Tools", "other"), anything),
    },
)


def judged(path: str, body: bytes, marks: int | None) -> tuple[str, ...]:
    try:
        verdict = refusals.judge(fields_of(body, refusals.FIELDS[path] | {"model"}, INSIDE, marks=marks), path)
    except BadRequest as error:
        return "refused", str(error)
    return "taken", repr(verdict.refusal), repr(verdict.wants)


@given(st.sampled_from(CHATS), bodies)
def test_a_chat_is_judged_alike_however_it_was_read(path: str, document: dict[str, Any]) -> None:
    """Plain messages are looked at once, and what is said of the body is what all the checks would say."""
    body = json.dumps(document).encode()
    assert judged(path, body, len(body)) == judged(path, body, None)


@pytest.mark.parametrize(
    ("said", "is_plain"),
    [
        ([{"role": "user", "content": "hi"}], True),
        ([{"content": "hi", "role": "user"}, {"role": "assistant", "content": ""}], True),
        ([], False),
        (None, False),
        ([{"role": "user", "Content": "hi"}], False),
        ([{"role": "user", "content": [{"type": "text", "text": "hi"}]}], False),
        ([{"role": "user", "content": "hi", "images": []}], False),
        ([{"role": "user", "content": "hi"}, "hi"], False),
    ],
)
def test_plain_talk_is_roles_and_texts(said: Any, is_plain: bool) -> None:
    """Whatever else stands in a message, or is missing there, is looked at more closely."""
    assert is_plain_talk(said) is is_plain
