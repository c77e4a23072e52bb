"""Other names for models: which one stands behind a name, where it was declared or made by `ollama cp`. Pure.

An alias is a name, or a pattern in which `*` stands for anything. Exact before pattern, the longest pattern first; and
a name of a model that is here is never an alias, whatever was declared. What stands behind an alias is looked up as a
model and never as an alias again, so there are no chains.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

from jobs.core.errors import BadName, NotFound
from jobs.core.model_name import DEFAULT_TAG, ModelName
from jobs.models.near_names import NearNames

FLEET = "the fleet"
"""Who made those that are declared."""

ALIAS_FORM = "a name like gpt-4o, or a pattern like claude-*, where * stands for anything"

_PATTERN = re.compile(r"(?=.*[^*])[A-Za-z0-9_.:/*-]{1,200}")


@dataclass(frozen=True)
class Alias:
    """Another name for a model.

    Args:
        text: the name or pattern, as it was written.
        target: the model behind it.
        by: the key that made it, or `FLEET`.

    """

    text: str
    target: ModelName
    by: str = FLEET

    @property
    def is_pattern(self) -> bool:
        return "*" in self.text

    @property
    def is_declared(self) -> bool:
        return self.by == FLEET

    @cached_property
    def name(self) -> ModelName:
        """The name; only of one that is no pattern."""
        return ModelName.parse(self.text)

    @cached_property
    def _matches(self) -> re.Pattern[str]:
        return re.compile(".*".join(map(re.escape, self.text.lower().split("*"))))

    def fits(self, name: ModelName) -> bool:
        """Whether this pattern fits a name, with its tag or, where that is `latest`, without it; in any case."""
        text = str(name.folded())
        forms = (text, text.removesuffix(f":{DEFAULT_TAG}"))
        return any(self._matches.fullmatch(form) for form in forms)


def need_alias(text: str) -> str:
    """Insist on a name or a pattern.

    Raises:
        BadName: it is neither. A `*` alone is none: whatever was mistyped would be answered by another model.

    """
    if "*" not in text:
        ModelName.parse(text)
    elif not _PATTERN.fullmatch(text):
        raise BadName(f"{text[:80]!r} is no alias", hint=ALIAS_FORM)
    return text


@dataclass(frozen=True)
class Aliases:
    """All of them, as they are at a moment.

    Args:
        declared: name or pattern, and model, as the fleet declares them.
        made: those that `ollama cp` made, by their names in small letters, as `as_made` writes them. Where a name is
            declared as well, that counts.

    """

    declared: Mapping[str, str] = field(default_factory=dict)
    made: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def exact(self) -> Mapping[ModelName, Alias]:
        """Those that are names, by their names in small letters."""
        found = {alias.name.folded(): alias for alias in _read_made(self.made)}
        return found | {alias.name.folded(): alias for alias in self._declared if not alias.is_pattern}

    @cached_property
    def patterns(self) -> tuple[Alias, ...]:
        """Those that are patterns: the one with most letters first, of as many the first by the alphabet."""
        found = (alias for alias in self._declared if alias.is_pattern)
        return tuple(sorted(found, key=lambda alias: (-len(alias.text.replace("*", "")), alias.text.lower())))

    @cached_property
    def by_target(self) -> Mapping[ModelName, tuple[Alias, ...]]:
        """The exact ones of each model, by its name in small letters."""
        found: dict[ModelName, list[Alias]] = defaultdict(list)
        for alias in sorted(self.exact.values(), key=lambda alias: alias.text.lower()):
            found[alias.target.folded()].append(alias)
        return {target: tuple(aliases) for target, aliases in found.items()}

    def prepare(self) -> None:
        """Make now what a request would make at its first look, of hundreds of aliases in more than a moment."""
        _ = self.exact, self.patterns, self.by_target, self._near

    @property
    def all(self) -> tuple[Alias, ...]:
        return (*sorted(self.exact.values(), key=lambda alias: alias.text.lower()), *self.patterns)

    def of(self, name: ModelName) -> Alias | None:
        """The alias that a name is, if it is one."""
        exact = self.exact.get(name.folded())
        return exact or next((alias for alias in self.patterns if alias.fits(name)), None)

    def near(self, name: ModelName, may_see: Callable[[ModelName], bool]) -> list[ModelName]:
        """Those whose names come near one that is neither a model nor an alias, where their models may be seen."""
        return self._near.near(name, lambda found: may_see(self.exact[found.folded()].target))

    @cached_property
    def _near(self) -> NearNames:
        return NearNames(alias.name for alias in self.exact.values())

    def with_made(self, made: Any) -> Self:
        """The same ones with these made ones; this very object where nothing has changed."""
        wanted = made if isinstance(made, Mapping) else {}
        return self if wanted == self.made else type(self)(self.declared, wanted)

    @cached_property
    def _declared(self) -> tuple[Alias, ...]:
        return tuple(Alias(text, ModelName.parse(target)) for text, target in self.declared.items())


def no_model(name: ModelName, alias: Alias, kind: str) -> NotFound:
    """Why a job of a kind about a name comes to nothing: weights stand behind the model alone, not behind an alias."""
    hint = f"name the model itself: `ollama-modal {kind} {alias.target}`"
    if kind == "delete":
        hint += (
            "; an alias of the fleet is taken out of its [aliases]"
            if alias.is_declared
            else f"; the alias alone goes by `ollama rm {alias.text}` at the gateway"
        )
    return NotFound(f"{str(name)!r} is no model, but an alias of {str(alias.target)!r}", hint=hint)


def as_made(target: ModelName, by: str, at: str) -> dict[str, str]:
    """How one that was made is kept."""
    return {"target": str(target), "by": by, "at": at}


def _read_made(made: Mapping[str, Any]) -> Iterable[Alias]:
    """What was kept, but for what a later version may have written otherwise."""
    for text, entry in made.items():
        try:
            yield Alias(str(ModelName.parse(text)), ModelName.parse(entry["target"]), str(entry["by"]))
        except (BadName, KeyError, TypeError):
            from loguru import logger  # noqa: PLC0415 - takes long to import, and a command that reads seldom needs it

            logger.warning("the alias {!r} cannot be read: {!r}", text, entry)


def complaints(aliases: Aliases, is_here: Callable[[ModelName], bool]) -> list[str]:
    """What is wrong with aliases beside the models that are here, each with what to do about it."""
    return [line for wrong, remedy in _wrong(aliases, is_here) for line in (f"warning: {wrong}", f"hint: {remedy}")]


def notes(aliases: Aliases, is_here: Callable[[ModelName], bool]) -> list[str]:
    """The same, in a line each."""
    return [f"{wrong}; {remedy}" for wrong, remedy in _wrong(aliases, is_here)]


def _wrong(aliases: Aliases, is_here: Callable[[ModelName], bool]) -> Iterator[tuple[str, str]]:
    for alias in aliases.all:
        if not alias.is_pattern and is_here(alias.name):
            yield (
                f"the alias {alias.text} of {alias.target} has no effect: a model of that name is here",
                f"leave the alias out, or `ollama-modal delete {alias.text}`",
            )
        elif not is_here(alias.target):
            yield (
                f"{alias.text} is an alias of {alias.target}, which is not here",
                f"`ollama-modal pull {alias.target}`",
            )
