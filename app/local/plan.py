"""What `up` was asked for, checked: servers, limits, the gateway's address, registries, the fleet file."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from app.fleet.schema import Fleet
from app.gateway.cross_origin import Origins
from jobs.core.errors import BadRequest
from jobs.core.model_name import ModelName
from jobs.core.retention import RetentionRules
from jobs.registry.allowlist import ANYWHERE, USUAL, Registries

VARIABLE = "OLLAMA_MODAL_PULL_FROM"

_TIER = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


@dataclass(frozen=True)
class StackPlan:
    """What was asked for.

    Args:
        simulate: servers and a registry that only pretend.
        tiers: a server each; none is one server without a tier's name.
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
    origins: Origins
    retention: RetentionRules
    rate_limit: int | None
    concurrency: int
    fleet: Fleet | None
    fleet_file: Path | None
    fleet_text: str | None

    def __post_init__(self) -> None:
        for name in self.tiers:
            if not _TIER.fullmatch(name):
                raise BadRequest(f"{name!r} names no tier", hint="small letters, digits and dashes, like a10g or h100")
        if len(set(self.tiers)) < len(self.tiers):
            raise BadRequest(
                f"a tier is named twice: {', '.join(self.tiers)}", hint="each --tier is a server of its own"
            )

    def declared_tier(self, name: ModelName) -> str | None:
        """The tier that is declared for a model, if one is."""
        return self.fleet.declared_tier(name) if self.fleet else None


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
