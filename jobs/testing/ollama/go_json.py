"""JSON bodies as Go's decoder takes and refuses them, as far as its words reach Ollama's users."""

import json
from typing import Any

from jobs.testing.ollama.faults import SimError

_KINDS = {list: "array", str: "string", int: "number", float: "number", bool: "bool", dict: "object"}
_STRINGS = ("model", "name", "prompt", "source", "destination", "system")
_LITERALS = {"n": "null", "t": "true", "f": "false"}


def go_json(raw: bytes, go_type: str) -> dict[str, Any]:
    """The object in `raw`; null is an empty one.

    Raises:
        SimError: with the decoder's own text.

    """
    text = raw.decode(errors="replace").lstrip()
    try:
        document, _ = json.JSONDecoder().raw_decode(text)
    except ValueError as error:
        raise SimError(_syntax(text)) from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise SimError(f"json: cannot unmarshal {_KINDS[type(document)]} into Go value of type {go_type}")
    _check_fields(document, go_type)
    return document


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


def _check_fields(document: dict[str, Any], go_type: str) -> None:
    struct = go_type.rpartition(".")[2]
    for key, value in document.items():
        name = key.lower()
        if name in _STRINGS and value is not None and not isinstance(value, str | list | dict):
            raise SimError(_mismatch(value, struct, name, "string"))
        if name == "messages" and value is not None and not isinstance(value, list):
            raise SimError(_mismatch(value, struct, name, f"[]{go_type.partition('.')[0]}.Message"))


def _mismatch(value: Any, struct: str, name: str, wanted: str) -> str:
    return f"json: cannot unmarshal {_KINDS[type(value)]} into Go struct field {struct}.{name} of type {wanted}"
