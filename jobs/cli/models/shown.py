"""What a model is, in words, from what `/api/show` answers: the blocks that `ollama show` has, and one of licences."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jobs.cli.remote_status import Served
from jobs.core.errors import BadRequest
from jobs.core.sanitize import plain

TEXTS = ("license", "modelfile", "parameters", "system", "template")
"""What can be shown alone, as it is written."""

_INDENT = "  "
_LICENSE_LINES = 2
_SYSTEM_LINES = 2


def text_of(shown: Mapping[str, Any], wanted: Sequence[str]) -> str | None:
    """The one text that is asked for; None when none is.

    Raises:
        BadRequest: several are.

    """
    if len(wanted) > 1:
        raise BadRequest(f"only one of {' and '.join(f'--{name}' for name in wanted)} at a time")
    return str(shown.get(wanted[0]) or "") if wanted else None


def lines(shown: Mapping[str, Any], served: Served | None = None) -> Iterator[str]:
    """All of it, block by block; and how it is served, where that is known."""
    for title, rows in [*_blocks(shown), *_served(served)]:
        yield f"{_INDENT}{title}"
        width = max((len(row[0]) for row in rows if len(row) > 1), default=0)
        for row in rows:
            first, *rest = map(plain, row)
            yield f"{_INDENT * 2}{first.ljust(width)}{_INDENT * 2}{rest[0]}" if rest else f"{_INDENT * 2}{first}"
        yield ""


def _blocks(shown: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    yield "Model", list(_model(shown))
    if capabilities := shown.get("capabilities"):
        yield "Capabilities", [(str(each),) for each in capabilities]
    if parameters := str(shown.get("parameters") or ""):
        yield "Parameters", [_pair(line) for line in parameters.splitlines() if line.strip()]
    for title, field, most in (("System", "system", _SYSTEM_LINES), ("License", "license", _LICENSE_LINES)):
        if said := [line.strip() for line in str(shown.get(field) or "").splitlines() if line.strip()]:
            yield title, [*((line,) for line in said[:most]), *([("…",)] if len(said) > most else [])]


def _served(served: Served | None) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    if served is None:
        return
    known = {
        "alias of": served.model if served.is_alias else None,
        "tier": served.tier,
        "context": served.context,
        "set for it": served.set_here,
    }
    yield "Served", [(name, str(value)) for name, value in known.items() if value]


def _model(shown: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    details, info = shown.get("details") or {}, shown.get("model_info") or {}
    architecture = info.get("general.architecture") or details.get("family")
    known = {
        "architecture": architecture,
        "parameters": details.get("parameter_size"),
        "context length": info.get(f"{architecture}.context_length"),
        "embedding length": info.get(f"{architecture}.embedding_length"),
        "quantization": details.get("quantization_level"),
        "requires": shown.get("requires"),
    }
    yield from ((name, str(value)) for name, value in known.items() if value)


def _pair(line: str) -> tuple[str, ...]:
    name, _, value = line.strip().partition(" ")
    return name, value.strip()
