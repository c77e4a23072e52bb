"""The system prompt and the first messages that a model's layers hold, put before a conversation that brings none.

As Ollama does it in each of its dialects; llama.cpp's server has no argument for either. What has nothing to be put
before passes as it came, byte for byte.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any


def with_own(
    path: str, raw: bytes, document: dict[str, Any], *, system: str, messages: Sequence[Mapping[str, Any]]
) -> bytes:
    """The body with what is the model's own before it."""
    if not (system or messages):
        return raw
    changed = _changed(path, document, system, [dict(message) for message in messages])
    return raw if changed is None else json.dumps(changed, ensure_ascii=False).encode()


def _changed(path: str, document: dict[str, Any], system: str, messages: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The document with them; None where nothing is to be changed."""
    match path:
        case "/v1/chat/completions" if isinstance(given := document.get("messages"), list):
            own = [*messages]
            if system and not any(_role(each) in ("system", "developer") for each in given):
                own = [{"role": "system", "content": system}, *own]
            return {**document, "messages": [*own, *given]} if own else None
        case "/v1/messages" | "/v1/messages/count_tokens" if isinstance(given := document.get("messages"), list):
            said = {} if document.get("system") or not system else {"system": system}
            return {**document, **said, "messages": [*messages, *given]}
        case "/v1/responses" if system and not document.get("instructions"):
            return {**document, "instructions": system}
    return None


def _role(message: Any) -> Any:
    return message.get("role") if isinstance(message, dict) else None
