"""What an operator sets for one model: its context, parameters that callers leave open, a system prompt."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jobs.core.model_name import ModelName


@dataclass(frozen=True)
class ModelSettings:
    """What is set for a model.

    Args:
        context: tokens of a context, where a request asks for none or for more.
        parameters: Ollama's options by their names, where a request does not say them.
        system: the prompt that goes before a conversation which brings none.

    """

    context: int | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    system: str = ""

    def __bool__(self) -> bool:
        """Whether anything is set."""
        return bool(self.context or self.parameters or self.system)

    def context_for(self, asked: int | None) -> int | None:
        """The context that a request gets which asks for one, or for none; None is the server's own."""
        if self.context is None:
            return asked
        return min(asked or self.context, self.context)


UNSET = ModelSettings()

SettingsOf = Callable[[ModelName], ModelSettings]
"""What is set for a model; `UNSET` where nothing is."""


def unset(_: ModelName) -> ModelSettings:
    """Nothing is set for any model."""
    return UNSET
