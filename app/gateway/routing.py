"""Which tier answers for a model, and why, in words and numbers. It substitutes nothing and asks nobody.

A declared tier wins; else it is the cheapest whose memory holds the weights and the contexts. A name that is not here
is refused with the names that come near it and how to pull it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from app.gateway.standing import Standing
from jobs.catalog import Tier, place
from jobs.errors import NotFound
from jobs.names import ModelName


@dataclass(frozen=True)
class Route:
    """Where requests for a model go.

    Args:
        model: as it is stored.
        served_name: how the server is asked for it.
        tier: the kind of server.
        facts: why, each in a sentence.
        warning: what is doubtful about it, in words.

    """

    model: ModelName
    served_name: str
    tier: str
    facts: tuple[str, ...]
    warning: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "model": str(self.model),
            "tier": self.tier,
            "facts": list(self.facts),
            "warning": self.warning,
        }


class Router:
    """Routes by what stands at this moment.

    Args:
        standing: the models.
        tiers: those that there are servers of.
        belongs: the tier that was declared for a model, if one was.

    """

    def __init__(
        self, standing: Standing, tiers: Sequence[Tier], belongs: Callable[[ModelName], str | None] = lambda _: None
    ) -> None:
        self._standing = standing
        self._tiers = tuple(tiers)
        self._belongs = belongs

    def route(self, text: str, *, context: int | None = None) -> Route:
        """Where a request for this model goes.

        Args:
            text: the model, as the caller wrote it.
            context: the context length that the request asks for.

        Raises:
            BadName: the text is no model's name.
            NotFound: there is no such model; the hint names those that come near, and how to pull it.

        """
        name = ModelName.parse(text)
        model = self._standing.find(name)
        if model is None:
            raise NotFound(f"model {str(name)!r} not found", hint=f"pull it: `ollama-modal pull {name}`")
        placed = place(model.size, self._tiers, context=context)
        return Route(model.name, str(model.name), self._belongs(model.name) or placed.tier.name, (placed.reason,))
