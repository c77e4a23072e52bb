"""Values as Go decodes them from JSON: what each type may hold, and Go's own words for what it refuses.

Follows encoding/json of Go 1.26, as far as bodies of Ollama need it. A null is no value, whatever the type; fields
that a struct does not have are not looked at, and those that it has are found in any case.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from jobs.core.errors import BadRequest

TEXT, TRUTH, WHOLE, FRACTION, MAP, IMAGE = (
    "string",
    "bool",
    "int",
    "float64",
    "map[string]interface {}",
    "api.ImageData",
)

CUT = "\x00cut"
"""Stands in a text of which only the beginning is at hand: what hangs on the rest of it is not looked at."""

_KINDS = {list: "array", str: "string", int: "number", float: "number", bool: "bool", dict: "object"}
_LITERALS = {"n": "null", "t": "true", "f": "false"}
_BASE64 = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
_PLAIN_BASE64 = re.compile("(?:[A-Za-z0-9+/]{4})*+(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?", re.ASCII)
"""As nearly all is written: without line ends, and with its padding."""
_NOTHING = "unexpected end of JSON input"
_NO_OBJECT = "Value looks like object, but can't find closing '}' symbol"


class Number(float):
    """A number that is not whole, or beyond what 64 bits hold, as it was written."""

    text: str

    @classmethod
    def of(cls, text: str) -> "Number | int":
        """From JSON's own words for a number."""
        if len(text) < 20 and text.lstrip("-").isdigit() and -(2**63) <= (whole := int(text)) < 2**63:
            return whole
        number = cls(text)
        number.text = text
        return number


@dataclass(frozen=True)
class GoStruct:
    """A struct, and the types of its fields by the names that they have in JSON."""

    name: str
    fields: Mapping[str, "GoType"]
    alias: str = ""
    """Its decoder is its own: this is the type that it decodes first, and errors inside name the struct around it."""
    needs: str = ""
    """A field that this decoder decodes once more, whether it is there or not."""

    @cached_property
    def in_any_case(self) -> Mapping[str, tuple[str, "GoType"]]:
        return {name.lower(): (name, go_type) for name, go_type in self.fields.items()}


@dataclass(frozen=True)
class GoList:
    of: "GoType"
    name: str = ""
    """Where the list type has one of its own."""


@dataclass(frozen=True)
class OrderedMap:
    """An object whose names keep their order, by a decoder that has odd words for what is no object."""

    of: "GoType | None" = None
    """Of its values, where they are looked at."""


@dataclass(frozen=True)
class TextOr:
    """A text, or else this."""

    otherwise: "GoType"
    is_raw: bool = False
    """It is kept raw and decoded later: errors name the place of the struct around it."""


GoType = str | GoStruct | GoList | OrderedMap | TextOr | Callable[[Any], object]
"""A scalar by its name in Go; a struct; a list; a map; or what decodes the value itself and raises a `BadRequest`."""


class _Place(NamedTuple):
    """Where a value stands: in which struct, by which names, and whether a decoder of that struct's own reads it."""

    struct: str = ""
    path: str = ""
    is_own: bool = False


def check(value: Any, go_type: GoType, struct: str = "", path: str = "") -> None:
    """Refuse what Go's decoder would not put there.

    Args:
        value: as JSON has it; numbers may be `Number`.
        go_type: what it is decoded into.
        struct: the struct of the field, if it is one.
        path: its name there.

    Raises:
        BadRequest: with the decoder's own text.

    """
    _check(value, go_type, _Place(struct, path))


def _check(value: Any, go_type: GoType, at: _Place) -> None:
    if value is None:
        if isinstance(go_type, GoStruct) and go_type.needs:
            raise BadRequest(_NOTHING)
        return
    if go_type is TEXT and isinstance(value, str):  # as nearly all
        return
    match go_type:
        case GoStruct():
            _check_struct(value, go_type, at)
        case GoList():
            _check_list(value, go_type, at)
        case OrderedMap():
            _check_map(value, go_type, at)
        case TextOr():
            if not isinstance(value, str):
                _check(value, go_type.otherwise, at)
        case str():
            _check_scalar(value, go_type, at)
        case _:
            go_type(value)


def _check_list(value: Any, go_type: GoList, at: _Place) -> None:
    if not isinstance(value, list):
        raise _mismatch(value, _name(go_type), at)
    for each in value:
        _check(each, go_type.of, at)


def _check_map(value: Any, go_type: OrderedMap, at: _Place) -> None:
    if not isinstance(value, dict):
        raise BadRequest(_NO_OBJECT)
    if go_type.of is not None:
        for each in value.values():
            _check(each, go_type.of, at._replace(is_own=True))


def _check_struct(value: Any, go_type: GoStruct, at: _Place) -> None:
    if not isinstance(value, dict):
        raise _mismatch(value, go_type.alias or go_type.name, at)
    is_own = at.is_own or bool(go_type.alias)
    named = "" if go_type.name.startswith("struct {") else go_type.name.rpartition(".")[2]
    struct = at.struct if is_own and at.struct else named
    for key, each in value.items():
        if (known := go_type.in_any_case.get(key.lower())) is not None:
            name, field_type = known
            if isinstance(each, str) and (field_type is TEXT or isinstance(field_type, TextOr)):
                continue  # as nearly all, which need no place to be told by
            is_raw = isinstance(field_type, TextOr) and field_type.is_raw
            path = at.path if is_raw else f"{at.path}.{name}".lstrip(".")
            _check(each, field_type, _Place(struct, path, is_own or is_raw))
    if go_type.needs and not any(key.lower() == go_type.needs for key in value):
        raise BadRequest(_NOTHING)


def _check_scalar(value: Any, wanted: str, at: _Place) -> None:
    if wanted == MAP:
        holds = isinstance(value, dict)
    elif wanted in (TEXT, IMAGE):
        holds = isinstance(value, str)
    elif isinstance(value, bool) or wanted == TRUTH:
        holds = isinstance(value, bool) and wanted == TRUTH
    else:
        holds = isinstance(value, int) or (isinstance(value, float) and wanted != WHOLE)
    if not holds:
        raise _mismatch(value, wanted, at)
    if wanted == IMAGE and (fault := base64_fault(value)):
        raise BadRequest(fault)


def _name(go_type: GoType) -> str:
    match go_type:
        case str():
            return go_type
        case GoList():
            return go_type.name or f"[]{_name(go_type.of)}"
        case _:
            return getattr(go_type, "name", "")


def field(value: Any, name: str) -> Any:
    """The field of a struct in a JSON object, in any case; None where it is not, or nothing is there to have one."""
    if not isinstance(value, dict):
        return None
    for key in reversed(value):
        if key.lower() == name:
            return value[key]
    return None


def kind_of(value: Any) -> str:
    """What JSON calls it."""
    return "number" if isinstance(value, Number) else _KINDS[type(value)]


def go_type_of(value: Any) -> str:
    """How Go prints the type of a JSON value."""
    names = {"bool": "bool", "number": "float64", "string": "string", "array": "[]interface {}", "object": MAP}
    return "<nil>" if value is None else names[kind_of(value)]


def _mismatch(value: Any, wanted: str, at: _Place) -> BadRequest:
    told = kind_of(value)
    if wanted == WHOLE and isinstance(value, float):
        told = f"number {getattr(value, 'text', str(value))[:200]}"
    place = f"Go struct field {at.struct}.{at.path}" if at.path else "Go value"
    return BadRequest(f"json: cannot unmarshal {told} into {place} of type {wanted}")


def base64_fault(text: str) -> str:
    """What Go's decoder of base64 says of this text; empty where it takes it, or only its beginning is at hand."""
    if CUT in text or _PLAIN_BASE64.fullmatch(text):
        return ""
    raw = text.encode(errors="replace").decode("latin-1")
    significant = [at for at, char in enumerate(raw) if char not in "\r\n"]
    for start in range(0, len(significant), 4):
        quantum = significant[start : start + 4]
        wrong = next((index for index, at in enumerate(quantum) if raw[at] not in _BASE64), len(quantum))
        if wrong == 4:
            continue
        padding = "".join(raw[at] for at in quantum[wrong:])
        rest = significant[start + 4 :]
        if wrong >= 2 and padding == "=" * (4 - wrong) and not rest:
            return ""
        if wrong >= 2 and padding == "=" * (4 - wrong):
            fault = rest[0]
        elif wrong == len(quantum):  # it ends too early: the decoder names where this part began
            fault = len(raw) - len(quantum)
        elif wrong == 2 and raw[quantum[2]] == "=":
            fault = quantum[3] - 1 if len(quantum) == 4 else len(raw)
        else:
            fault = quantum[wrong]
        return f"illegal base64 data at input byte {fault}"
    return ""


def go_json(raw: bytes, go_type: GoType) -> dict[str, Any]:
    """The object in `raw`; null is an empty one.

    Raises:
        BadRequest: with the decoder's own text.

    """
    text = raw.decode(errors="replace").lstrip()
    try:
        document, _ = json.JSONDecoder(parse_float=Number.of, parse_int=Number.of).raw_decode(text)
    except ValueError as error:
        raise BadRequest(_syntax(text)) from error
    check(document, go_type)
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
