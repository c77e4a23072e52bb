"""What tasks work with: the clock, the registries, the models directory, the servers, and where models go."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jobs.batches.running.batch_context import BatchContext
from jobs.core.clock import Clock
from jobs.core.errors import BadRequest, Unsupported
from jobs.core.model_name import ModelName
from jobs.core.retention import RetentionRules
from jobs.models import capabilities
from jobs.models.card import card_of, facts_of
from jobs.models.gguf import MemoryFacts
from jobs.models.model_settings import SettingsOf, unset
from jobs.models.placement import TierCapacity, place_model
from jobs.ollama.client import OllamaClient
from jobs.registry.client import Registry
from jobs.weights.directory import ModelsDirectory
from jobs.weights.prune_plan import WeightsUse
from jobs.worker.attempt import RunningAttempt


@dataclass(frozen=True)
class TaskContext:
    """What tasks work with. Where the models directory is not ours, `weights` is None and pulls go through a server."""

    clock: Clock
    registry: Registry
    weights: ModelsDirectory | None = None
    servers: Mapping[str, OllamaClient] = field(default_factory=dict)
    tiers: Sequence[TierCapacity] = ()
    retention: RetentionRules = field(default_factory=RetentionRules)
    weights_use: Callable[[], WeightsUse] = WeightsUse
    """Who uses the weights, and who is at work on them; asked when a prune plans."""
    declared_tier: Callable[[ModelName], str | None] = lambda _: None
    """The tier that was declared for a model, whatever its size."""
    settings: SettingsOf = unset
    """What was set for a model: with its context it is placed and warmed."""
    batches: BatchContext | None = None
    """What batches work with; None where none are worked on."""
    server_pull_lock: threading.Lock = field(default_factory=threading.Lock)
    """Held by the one attempt whose server pulls: two pulls that share a blob can crash it (ollama
    server/download.go:442). Every thread of a worker shares it."""

    def require_weights(self) -> ModelsDirectory:
        """The models directory.

        Raises:
            Unsupported: it is not ours.

        """
        if self.weights is None:
            raise Unsupported(
                "the models directory is not ours to read", hint="start `up` with --models DIR and a directory you own"
            )
        return self.weights

    def require_batches(self) -> BatchContext:
        """What batches work with.

        Raises:
            Unsupported: none are worked on here.

        """
        if self.batches is None:
            raise Unsupported("no batches are worked on here")
        return self.batches

    def choose_server(
        self,
        model: str,
        size: int,
        tier: str | None,
        *,
        facts: MemoryFacts | None = None,
        context: int | None = None,
    ) -> tuple[TierCapacity, OllamaClient]:
        """The tier that is asked for, or the cheapest one whose memory holds the model; and its server.

        Raises:
            Unsupported: there is no server at all.
            BadRequest: there is no such tier.

        """
        served = [each for each in self.tiers if each.name in self.servers]
        if not served:
            raise Unsupported("no Ollama server is part of this stack", hint="start one: `ollama-modal up`")
        if tier is None:
            chosen = place_model(size, served, facts=facts, context=context).tier
        else:
            asked_for = next((each for each in served if each.name == tier), None)
            if asked_for is None:
                raise BadRequest(
                    f"there is no tier {tier!r} for {model!r}", hint=f"tiers are {', '.join(t.name for t in served)}"
                )
            chosen = asked_for
        return chosen, self.servers[chosen.name]

    def server_for_model(self, name: ModelName, tier: str | None) -> tuple[TierCapacity, OllamaClient]:
        """The server for a model: on the tier that is asked for, else the declared one, else by the memory it takes."""
        known = self.weights.find(name) if self.weights else None
        facts = facts_of(self.weights.layout, known.manifest) if self.weights and known else None
        declared = self.declared_tier(name)
        if tier is None and declared in self.servers:
            tier = declared
        context, size = self.settings(name).context, known.size if known else 0
        return self.choose_server(str(name), size, tier, facts=facts, context=context)

    def capabilities(self, name: ModelName, server: OllamaClient) -> tuple[str, ...]:
        """What a model can do: as its own files tell, or as the server shows it where they cannot be read from here."""
        if server.tells_abilities:
            return server.capabilities(str(name))
        known = self.weights.find(name) if self.weights else None
        card = card_of(self.weights.layout, known) if self.weights and known else None
        return server.capabilities(str(name)) if card is None or card.missing else capabilities.shown(card.traits)


Result = dict[str, Any]
"""What a job that succeeded says it did."""

Task = Callable[[RunningAttempt, TaskContext], Result]
"""Does what the attempt's job asks for. It may be killed at any instruction, and simply runs again."""
