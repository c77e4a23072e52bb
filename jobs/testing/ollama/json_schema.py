"""A small instance of a JSON schema: what the simulated model answers when a program asks for structured output.

It covers what client libraries make of their types: references, unions, enumerations, limits and formats. A pattern is
met where one of a few well-known texts meets it. Texts that nothing constrains say that they are simulated.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

SIMULATED = "SIMULATED"
DEEPEST = 8
"""Beyond this depth only what is required is made, so that types that hold themselves come to an end."""

_FORMATS = {
    "date": "2026-01-01",
    "date-time": "2026-01-01T00:00:00Z",
    "time": "00:00:00Z",
    "duration": "PT1S",
    "email": "simulated@example.com",
    "hostname": "simulated.example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/simulated",
    "url": "https://example.com/simulated",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
_TEXTS = (SIMULATED, "simulated", "Simulated", "a", "A", "1", "0", "12", "123", "12345", "a1", "A1", "AB-12", "#000000",
          "1.0", "1.0.0", "true", *_FORMATS.values(), "")  # fmt: skip


def instance(schema: Any) -> Any:
    """A value that the schema takes."""
    return _Maker(schema if isinstance(schema, Mapping) else {}).value(schema, 0)


class _Maker:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root

    def value(self, schema: Any, depth: int) -> Any:
        if not isinstance(schema, Mapping):
            return {} if schema is None else SIMULATED
        schema = self._plain(schema, depth)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return schema["enum"][0]
        return {
            "object": self._object,
            "array": self._array,
            "string": _text,
            "integer": _number,
            "number": _number,
            "boolean": lambda *_: True,
            "null": lambda *_: None,
        }.get(_kind(schema), _text)(schema, depth)

    def _plain(self, schema: Mapping[str, Any], depth: int) -> Mapping[str, Any]:
        """Without references and unions: those are followed, and the first alternative that is not null is taken."""
        for _ in range(DEEPEST):
            reference = schema.get("$ref")
            if isinstance(reference, str):
                schema = _merged(self._named(reference), _without(schema, "$ref"))
                continue
            parts = schema.get("allOf")
            if parts:
                schema = _merged(_without(schema, "allOf"), *parts)
                continue
            union = next((key for key in ("anyOf", "oneOf") if schema.get(key)), None)
            if union is None:
                return schema
            schema = _merged(_without(schema, union), _chosen(schema[union], depth))
        return {"type": "null"}

    def _named(self, reference: str) -> Mapping[str, Any]:
        found: Any = self._root
        for step in filter(None, reference.removeprefix("#").split("/")):
            key = step.replace("~1", "/").replace("~0", "~")
            found = found.get(key, {}) if isinstance(found, Mapping) else {}
        return found if isinstance(found, Mapping) else {}

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties: Mapping[str, Any] = schema.get("properties") or {}
        required = schema.get("required") or []
        names = [name for name in properties if name in required or depth < DEEPEST // 2]
        made = {name: self.value(properties[name], depth + 1) for name in names}
        more = schema.get("additionalProperties")
        for count in range(len(made), int(schema.get("minProperties") or 0)):
            made[f"simulated{count}"] = self.value(more if isinstance(more, Mapping) else {}, depth + 1)
        return made | {name: self.value({}, depth + 1) for name in required if name not in made}

    def _array(self, schema: Mapping[str, Any], depth: int) -> list[Any]:
        first: Sequence[Any] = schema.get("prefixItems") or []
        least = max(int(schema.get("minItems") or 0), len(first))
        each = schema.get("items")
        count = least if least or depth >= DEEPEST // 2 or each is None else min(1, int(schema.get("maxItems", 1)))
        made = [self.value(item, depth + 1) for item in first]
        made += [self.value(each, depth + 1) for _ in range(count - len(made))]
        return _told_apart(made, each) if schema.get("uniqueItems") else made


def _told_apart(made: list[Any], each: Any) -> list[Any]:
    choices = each.get("enum") if isinstance(each, Mapping) else None
    if choices:
        return list(choices[: len(made)])
    return [f"{value}{at or ''}" if isinstance(value, str) else value + at if type(value) in (int, float) else value
            for at, value in enumerate(made)]  # fmt: skip


def _kind(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((each for each in kind if each != "null"), "null")
    if isinstance(kind, str):
        return kind
    if {"properties", "additionalProperties", "required"} & set(schema):
        return "object"
    return "array" if {"items", "prefixItems"} & set(schema) else "string"


def _without(schema: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in schema.items() if name != key}


def _merged(*schemas: Any) -> dict[str, Any]:
    """All of them at once: properties and what is required are put together, of other words the last one counts."""
    merged: dict[str, Any] = {}
    for schema in schemas:
        if not isinstance(schema, Mapping):
            continue
        properties = {**(merged.get("properties") or {}), **(schema.get("properties") or {})}
        required = [*(merged.get("required") or []), *(schema.get("required") or [])]
        merged |= schema
        merged |= ({"properties": properties} if properties else {}) | ({"required": required} if required else {})
    return merged


def _chosen(alternatives: Sequence[Any], depth: int) -> Any:
    """The first that is not null; deep inside, null where it is allowed."""
    nothing = [each for each in alternatives if isinstance(each, Mapping) and each.get("type") == "null"]
    something = [each for each in alternatives if each not in nothing]
    return nothing[0] if nothing and (depth >= DEEPEST // 2 or not something) else something[0]


def _text(schema: Mapping[str, Any], _: int) -> str:
    given = schema.get("format")
    wanted = [_FORMATS[given]] if given in _FORMATS else []
    pattern = schema.get("pattern")
    least, most = int(schema.get("minLength") or 0), schema.get("maxLength")
    if isinstance(pattern, str):
        with_pattern = [text for text in (*wanted, *_TEXTS) if _matches(pattern, text) and _fits(text, least, most)]
        return next(iter(with_pattern), SIMULATED)
    text = (wanted or [SIMULATED])[0]
    text = text if len(text) >= least else text + "." * (least - len(text))
    return text if most is None else text[: int(most)]


def _fits(text: str, least: int, most: Any) -> bool:
    return least <= len(text) and (most is None or len(text) <= int(most))


def _matches(pattern: str, text: str) -> bool:
    try:
        return re.search(pattern, text) is not None
    except re.error:
        return False


def _number(schema: Mapping[str, Any], _: int) -> float:
    whole = _kind(schema) == "integer"
    step = schema.get("multipleOf") or (1 if whole else 0)
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if isinstance(above, int | float) and not isinstance(above, bool):
        low = above + (step or _between(above, below, high))
    if isinstance(below, int | float) and not isinstance(below, bool):
        high = below - (step or _between(below, low, None))
    value = max(low, 0) if low is not None else 0
    value = min(value, high) if high is not None else value
    if step:
        rounded = (math.ceil if low is not None and value > 0 else math.floor)(value / step) * step
        value = rounded if isinstance(step, int) or whole else round(rounded, 12)
    return int(value) if whole or value == int(value) else value


def _between(bound: float, *others: Any) -> float:
    """Less than the way from one bound to the other."""
    return min([1.0, *(abs(other - bound) / 2 for other in others if isinstance(other, int | float))])
