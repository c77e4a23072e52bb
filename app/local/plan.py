"""What `up` was asked for, checked: servers, limits, the gateway's address, registries, the fleet file."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from app.engines.engine import Engine
from app.engines.ollama import OLLAMA
from app.engines.table import ENGINES
from app.fleet.gpus import named_like
from app.fleet.schema import GB, Fleet, TierConfig
from app.fleet.values import TIER, tier_form
from jobs.batches.limits import USUAL as USUAL_BATCHES
from jobs.batches.limits import BatchLimits
from jobs.core.errors import BadRequest
from jobs.core.model_name import ModelName
from jobs.core.retention import RetentionRules
from jobs.models.aliases import Aliases
from jobs.models.model_settings import UNSET, ModelSettings
from jobs.models.placement import LOCAL, TierCapacity, tuned
from jobs.registry.allowlist import ANYWHERE, USUAL, Registries

if TYPE_CHECKING:
    from app.gateway.cross_origin import Origins

VARIABLE = "OLLAMA_MODAL_PULL_FROM"

STARTUP = timedelta(minutes=10)
"""For a load from a slow disk, of a tier that nothing is declared of."""


@dataclass(frozen=True)
class StackPlan:
    """What was asked for.

    Args:
        simulate: servers and a registry that only pretend.
        tiers: that were asked for by name, a server each; where none was, those that are declared have one each.
        models: the models directory, if it was named.
        host: where the gateway listens.
        port: and at which port.
        registries: that may be pulled from.
        origins: of pages that may ask the gateway.
        retention: what stays of the weights.
        rate_limit: of pulls that name none, in bytes a second.
        concurrency: pulls side by side.
        fleet: what should be here, if that is declared.
        fleet_file: says so.
        fleet_text: in these words.

    Raises:
        BadRequest: the tiers make no sense.

    """

    simulate: bool
    tiers: tuple[str, ...]
    models: Path | None
    host: str
    port: int
    registries: Registries
    origins: "Origins"
    retention: RetentionRules
    rate_limit: int | None
    concurrency: int
    fleet: Fleet | None
    fleet_file: Path | None
    fleet_text: str | None = None

    def __post_init__(self) -> None:
        for name in self.tiers:
            if not TIER.fullmatch(name):
                raise BadRequest(f"{name!r} names no tier", hint=tier_form(name))
        if len(set(self.tiers)) < len(self.tiers):
            raise BadRequest(
                f"a tier is named twice: {', '.join(self.tiers)}", hint="each --tier is a server of its own"
            )

    @property
    def server_tiers(self) -> tuple[str, ...]:
        """The tiers that a server is started of; none is one server without a tier's name."""
        return self.tiers or (tuple(self.fleet.tiers) if self.fleet else ())

    def capacities(self, environ: Mapping[str, str]) -> Iterator[TierCapacity]:
        """The same, as their servers are tuned in an environment. Nothing here has a price.

        A tier's name says how it is used; whether there is such a GPU in this machine, nobody has promised. One that is
        named after GPUs and not declared has the memory of those.
        """
        declared = {tier.name: tier for tier in (self.fleet.catalog_tiers() if self.fleet else ())}
        for name in self.server_tiers or (LOCAL.name,):
            tier = declared.get(name) or _named(name)
            yield tuned(replace(tier, gpu_promised=False, dollars_per_hour=None), environ)

    def tuning(self, tier: str, environ: Mapping[str, str]) -> dict[str, str]:
        """What is declared for a tier's servers, as they are told it; what the operator tells them himself, counts."""
        config = self._config(tier)
        wanted = config.ollama.environ() if config else {}
        return {name: value for name, value in wanted.items() if not environ.get(name, "").strip()}

    def engine(self, tier: str) -> Engine:
        """What is declared to answer on a tier."""
        config = self._config(tier)
        return ENGINES[config.engine] if config else OLLAMA

    def startup(self, tier: str) -> timedelta:
        """How long callers wait for a tier's server and its loads."""
        config = self._config(tier)
        return timedelta(seconds=config.startup_timeout_seconds) if config else STARTUP

    def _config(self, tier: str) -> TierConfig | None:
        return self.fleet.tiers.get(tier) if self.fleet else None

    def declared_tier(self, name: ModelName) -> str | None:
        """The tier that is declared for a model, if one is."""
        return self.fleet.declared_tier(name) if self.fleet else None

    @property
    def aliases(self) -> Aliases:
        """The other names of models that are declared."""
        return self.fleet.named if self.fleet else Aliases()

    @property
    def batches(self) -> BatchLimits:
        """What is declared of batches."""
        return self.fleet.batches.limits if self.fleet else USUAL_BATCHES

    def settings_of(self, name: ModelName) -> ModelSettings:
        """What is set for a model."""
        return self.fleet.settings_of(name) if self.fleet else UNSET


def _named(tier: str) -> TierCapacity:
    """What the name of a tier tells of it, which nobody has declared."""
    gpus = named_like(tier)
    memory = None if gpus is None or gpus.memory_gb is None else gpus.memory_gb * GB
    return TierCapacity(tier, memory, gpu_promised=False, gpus=gpus.count if gpus else 1)


def allowed_registries(environ: Mapping[str, str], fleet: Fleet | None, *, is_loopback: bool) -> Registries:
    """Which registries may be pulled from: the environment says it, else the fleet, else who may ask.

    Where the gateway listens to this machine alone, whoever asks it may reach any host from here without it, so none is
    refused. Where others may ask it, they would reach through it what only this machine should.

    Args:
        environ: the process environment.
        fleet: what is declared, if something is.
        is_loopback: only this machine can ask.

    Raises:
        BadRequest: an entry of the variable is no registry.

    """
    remedy = f"list it in {VARIABLE}, with commas between, and start `up` again"
    if text := environ.get(VARIABLE, "").strip():
        try:
            return Registries.of([entry.strip() for entry in text.split(",")], remedy)
        except BadRequest as error:
            raise BadRequest(f"{VARIABLE}: {error}", hint=error.hint) from error
    if fleet is not None:
        return fleet.may_pull_from()
    return ANYWHERE if is_loopback else Registries.of(USUAL, remedy)
