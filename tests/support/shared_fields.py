"""Validators of the fields of FastAPI's routes, each built once.

Tests compose hundreds of applications whose routes take and give the same; to build the validator of each field anew
was a fourth of the processor time of each. A validator never changes, so who shares one notices nothing.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import pytest
from fastapi._compat import v2
from pydantic import ConfigDict, TypeAdapter
from pydantic.fields import FieldInfo


def share() -> None:
    """From here on FastAPI asks here for them."""
    pytest.MonkeyPatch().setattr(v2, "TypeAdapter", _shared)


@dataclass(frozen=True)
class _Field:
    """All that makes a validator differ from others, and what it is built of."""

    key: tuple[Any, ...]
    annotation: Any = field(compare=False)


def _shared(annotation: Any, *, config: ConfigDict | None = None) -> TypeAdapter[Any]:
    if config is None:
        try:
            return _built(_Field((annotation.__origin__, *map(_key, annotation.__metadata__)), annotation))
        except TypeError:  # something in it has no hash
            pass
    return TypeAdapter(annotation, config=config)


@lru_cache(maxsize=1000)
def _built(of: _Field) -> TypeAdapter[Any]:
    return TypeAdapter(of.annotation)


def _key(each: Any) -> tuple[Any, ...]:
    """With its type, because 1 and True are equal."""
    match each:
        case FieldInfo():
            return type(each), each.annotation, _key(each._attributes_set), _key(each.metadata)
        case dict():
            return dict, *((name, _key(value)) for name, value in each.items())
        case list() | tuple():
            return type(each), *map(_key, each)
    return type(each), each
