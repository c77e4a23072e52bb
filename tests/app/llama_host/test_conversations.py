"""What a model's layers put before a conversation."""

import json
from typing import Any

import pytest

from app.llama_host.conversations import with_own

HELLO = [{"role": "user", "content": "hello"}]
BEFORE = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
SYSTEM = {"role": "system", "content": "Be kind."}


@pytest.mark.parametrize(
    ("path", "body", "changed"),
    [
        ("/v1/chat/completions", {"messages": HELLO}, {"messages": [SYSTEM, *BEFORE, *HELLO]}),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "developer", "content": "x"}, *HELLO]},
            {"messages": [*BEFORE, {"role": "developer", "content": "x"}, *HELLO]},
        ),
        ("/v1/messages", {"messages": HELLO}, {"system": "Be kind.", "messages": [*BEFORE, *HELLO]}),
        ("/v1/messages", {"messages": HELLO, "system": "X"}, {"system": "X", "messages": [*BEFORE, *HELLO]}),
        ("/v1/responses", {"input": "x"}, {"input": "x", "instructions": "Be kind."}),
    ],
)
def test_they_go_first(path: str, body: dict[str, Any], changed: dict[str, Any]) -> None:
    """The system prompt where the conversation brings none, then the messages; each dialect has its place for them."""
    sent = with_own(path, json.dumps(body).encode(), body, system="Be kind.", messages=BEFORE)

    assert json.loads(sent) == changed


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", {"input": "x", "instructions": "y"}),
        ("/v1/completions", {"prompt": "x"}),
        ("/v1/chat/completions", {"messages": "wrong"}),
    ],
)
def test_what_needs_nothing_passes_as_it_came(path: str, body: dict[str, Any]) -> None:
    """Byte for byte: a conversation with its own, a route without one, a body that the engine will refuse."""
    raw = b"  " + json.dumps(body).encode()

    assert with_own(path, raw, body, system="Be kind.", messages=BEFORE) is raw
    assert with_own(path, raw, {"messages": HELLO}, system="", messages=()) is raw
