"""The fields of a JSON object that decide something, found as fast as may be; of the rest nothing is kept.

A small body is built at once by the library's own reader, where that has Go's rules; any other is gone over (`scan`).
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from app.gateway.protocol.json_body.cut_texts import LONG_TEXT, MOST_UNCUT
from app.gateway.protocol.json_body.edits import Body
from app.gateway.protocol.json_body.fields import MOST_TEXT, BuiltFields, Fields
from app.gateway.protocol.json_body.go_values import MOST_REMEMBERED, built_value, refused, remembered_folds
from app.gateway.protocol.json_body.scan import (
    CLOSES,
    LIST,
    MOST_DEPTH,
    MOST_NAMES,
    Level,
    after_gap,
    no_json,
    scanned,
)
from jobs.core.errors import BadRequest
from jobs.ollama.go_types import Number


def fields_of(
    body: Body,
    names: frozenset[str],
    inside: Mapping[str, frozenset[str]] | None = None,
    structs: frozenset[str] = frozenset(),
    *,
    marks: int | None = None,
    short: Body | None = None,
) -> Fields:
    """Look for these names in the object that the body is, and in objects that stand there under a name.

    Args:
        body: all of it.
        names: in lower case; Go takes them in any.
        inside: of these names, those of objects to look into, each with the names to look for there, in their own case.
        structs: of those objects, the ones whose names Go takes in any case, too; they are given in lower case.
        marks: its quotes, commas, lists, objects and escapes at most, where they are so few that the library's own
            reader may build all of it.
        short: the same with its long texts cut (`cut`), as that reader gets it.

    Raises:
        BadRequest: it is no JSON object, or says a name twice where we look, or is beyond our limits.

    """
    if marks is not None:
        built = _built_fields(body if short is None else short, names, inside, structs, marks)
        if built is not None:
            built.locate = lambda: fields_of(body, names, inside, structs)
            return built
    at = after_gap(body, 0)
    if at == len(body):
        raise BadRequest("missing request body")
    if body[at] not in CLOSES:
        raise _no_object(body, at)
    top = Level(names)
    inner = scanned(body, at, top, inside or {}, structs)
    if body[at] == LIST:
        raise BadRequest("the body is a JSON list, not an object")
    return Fields(body, top.spans, {name: Fields(body, each.spans) for name, each in inner.items()} if inner else None)


def _no_object(body: Body, at: int) -> BadRequest:
    """What is wrong with a body that is a text, a number, or nothing that we know."""
    try:
        kind = type(built_value(bytes(body[at : at + MOST_TEXT]))).__name__
    except ValueError:
        return no_json(body, at)
    return BadRequest(f"the body is a JSON {kind}, not an object")


def _built_fields(
    body: Body,
    names: frozenset[str],
    inside: Mapping[str, frozenset[str]] | None,
    structs: frozenset[str],
    marks: int,
) -> "BuiltFields | None":
    """The fields of what the library's own reader builds; None where we have to look ourselves."""
    document = _document(body, marks)
    values = None if document is None else _looked_for(document, names)
    if values is None:
        return None
    inner: dict[str, Mapping[str, Any]] = {}
    for name in inside or ():
        if type(said := values.get(name)) is dict:
            found = _looked_for(said, inside[name], is_map=name not in structs)  # type: ignore[index] # it is of these
            if found is None:
                return None
            inner[name] = found
    is_short = len(body) <= MOST_UNCUT or (body.find(b"\\") < 0 and LONG_TEXT.search(body) is None)
    return BuiltFields(values, inner, is_short=is_short)


def _document(body: Body, marks: int) -> dict[str, Any] | None:
    """The object that a body is, by the library's own reader, which is many times as fast as we are and takes and
    refuses what we do, but for its own constants and for how deep it goes. None for what it does not take, for what
    may be wrong otherwise, for halves of surrogate pairs, for which we have words of our own, and where something is
    escaped that need not be: how long a text was written has to be seen from its value.
    """
    try:
        text = body.decode()
        document, end = _scan_once(text, 0)
    except (ValueError, StopIteration, RecursionError):
        return None
    is_one = type(document) is dict and (end == len(text) or not text[end:].strip(" \t\n\r"))
    is_deep = marks > MOST_DEPTH and text.count("[") + text.count("{") > MOST_DEPTH
    has_codes = "\\" in text and ("\\u" in text or "\\/" in text)
    return document if is_one and not is_deep and not has_codes else None


def _looked_for(document: dict[str, Any], names: frozenset[str], *, is_map: bool = False) -> dict[str, Any] | None:
    """What is looked for of an object; None where a name may stand there twice, or is a long one."""
    if document.keys() <= names:  # as nearly all, spelt as they are looked for
        return document
    if len(document) > MOST_NAMES:
        return None
    found: dict[str, Any] = {}
    folds = set()
    for name, value in document.items():
        if len(name) > MOST_REMEMBERED:
            return None
        folded = remembered_folds(name)
        folds.add(folded)
        key = name if is_map else folded
        if key in names:
            found[key] = value
    return found if len(folds) == len(document) else None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object that says nothing twice.

    Raises:
        ValueError: it does.

    """
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError
    return made


_scan_once: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder(  # type: ignore[attr-defined] # typeshed leaves it out
    object_pairs_hook=_object, parse_float=Number.of, parse_int=Number.of, parse_constant=refused
).scan_once
