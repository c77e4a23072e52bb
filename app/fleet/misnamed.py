"""What is misnamed in a fleet file: aliases that could not mean what they say, beside each other and beside its models;
and keys that are nearly those that there are."""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel

from jobs.core.model_name import ModelName
from jobs.models.aliases import Aliases


def misnamed(aliases: Aliases, index_of_model: Mapping[ModelName, int]) -> Iterator[str]:
    """A line for each: which alias, what is wrong, what would be right."""
    seen: dict[ModelName | str, str] = {}
    for text, target in aliases.declared.items():
        where = f"aliases.{text!r} = {target!r}"
        name = text.lower() if "*" in text else ModelName.parse(text).folded()
        if name in seen:
            yield f"{where}: is aliases.{seen[name]!r} again; leave one of them out"
        seen.setdefault(name, text)
        if isinstance(name, ModelName) and (index := index_of_model.get(name)) is not None:
            yield f"{where}: models[{index}] has that name, and a model is never an alias; leave one of them out"
        behind = ModelName.parse(target).folded()
        if behind == name:
            yield f"{where}: stands for itself; name a model"
        elif (other := aliases.exact.get(behind)) is not None:
            yield f"{where}: is an alias itself; say its model, {str(other.target)!r}"


def nearest_key(table: type[BaseModel], path: Sequence[int | str]) -> str | None:
    """The key that is meant by a path that leads to none, where one there has nearly its name."""
    here: Any = table
    for part in path[:-1]:
        here = _below(here, part)
    tables = [each for each in (here, *_inner(here)) if isinstance(each, type) and issubclass(each, BaseModel)]
    known = [name for each in tables for name in each.model_fields]
    return next(iter(get_close_matches(str(path[-1]), known, 1)), None)


def _below(annotation: Any, part: int | str) -> Any:
    """What a key of a table is said to be, or an entry of a list or of a table of names."""
    for each in (annotation, *_inner(annotation)):
        if isinstance(each, type) and issubclass(each, BaseModel):
            field = each.model_fields.get(str(part))
            return field.annotation if field else None
    inner = [each for each in get_args(annotation) if each is not type(None)]
    return inner[-1] if inner else None


def _inner(annotation: Any) -> tuple[Any, ...]:
    """What it is where it is there at all."""
    return tuple(each for each in get_args(annotation) if isinstance(each, type) and type(None) in get_args(annotation))
