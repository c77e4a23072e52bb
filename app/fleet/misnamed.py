"""Aliases of a fleet file that could not mean what they say, beside each other and beside its models."""

from collections.abc import Iterator, Mapping

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
