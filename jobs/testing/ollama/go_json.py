"""JSON bodies as Go's decoder takes and refuses them, as far as its words reach Ollama's users."""

import json
from typing import Any

from jobs.testing.ollama.faults import SimError
from jobs.testing.ollama.go_types import GoStruct, check

_LITERALS = {"n": "null", "t": "true", "f": "false"}


def go_json(raw: bytes, struct: GoStruct) -> dict[str, Any]:
    """The object in `raw`; null is an empty one.

    Raises:
        SimError: with the decoder's own text.

    """
    text = raw.decode(errors="replace").lstrip()
    try:
        document, _ = json.JSONDecoder().raw_decode(text)
    except ValueError as error:
        raise SimError(_syntax(text)) from error
    check(document, struct)
    return document or {}


def _syntax(text: str) -> str:
    literal = _LITERALS.get(text[:1])
    if not text:
        return "EOF"
    if literal is None:
        return "unexpected EOF" if text[0] in '{["' else f"invalid character '{text[0]}' looking for beginning of value"
    for at, expected in enumerate(literal):
        if at >= len(text):
            return "unexpected EOF"
        if text[at] != expected:
            return f"invalid character '{text[at]}' in literal {literal} (expecting '{expected}')"
    return "unexpected EOF"
