"""What is in memory where, as a table: `ollama-modal ps`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from jobs.cli.terminal.table import GiveWay
from jobs.core.clock import isoformat
from jobs.core.errors import Trouble
from jobs.core.units import human_bytes, human_span
from jobs.home.gateway_client import GatewayClient
from jobs.home.status import LocalTier
from jobs.ollama.responses import Running, listed_in

HEAD = ("NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "TIER", "UNTIL")

GIVE_WAY = (
    GiveWay("NAME", 28, "middle"),
    GiveWay("CONTEXT", "left out"),
    GiveWay("ID", "left out"),
    GiveWay("SIZE", "left out"),
    GiveWay("PROCESSOR", lambda shares: shares.removesuffix(" CPU/GPU")),
    GiveWay("NAME", 16, "middle"),
    GiveWay("TIER", 8, "middle"),
    GiveWay("NAME", 8, "middle"),
)
"""What is in memory, where, and until when, stay."""

FOREVER = timedelta(days=365)
"""What stays longer than that was told to stay."""


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory, and on which tier; None where that is not known."""

    running: Running
    tier: str | None

    def row(self, now: datetime) -> tuple[object, ...]:
        model = self.running
        return (
            model.name,
            model.digest.removeprefix("sha256:")[:12] or "-",
            human_bytes(model.size),
            processor(model),
            model.context_length or "-",
            self.tier or "-",
            until(model.expires_at - now),
        )

    def as_json(self) -> dict[str, Any]:
        model = self.running
        return {
            "name": model.name,
            "digest": model.digest,
            "size": model.size,
            "size_vram": model.size_vram,
            "context_length": model.context_length,
            "expires_at": isoformat(model.expires_at),
            "tier": self.tier,
        }


def processor(model: Running) -> str:
    """As Ollama says it: which share is where."""
    if model.size <= 0 or model.size_vram <= 0:
        return "100% CPU"
    if model.size_vram >= model.size:
        return "100% GPU"
    on_cpu = round(100 * (model.size - model.size_vram) / model.size)
    return f"{on_cpu}%/{100 - on_cpu}% CPU/GPU"


def until(left: timedelta) -> str:
    if left > FOREVER:
        return "it is unloaded"
    return f"in {human_span(left)}" if left > timedelta(0) else "stopping"


def loaded_here(tiers: tuple[LocalTier, ...]) -> Iterator[LoadedModel]:
    for tier in tiers:
        for model in tier.loaded:
            yield LoadedModel(model, tier.server.tier)


def loaded_there(remote: GatewayClient) -> Iterator[LoadedModel]:
    """What the gateway's servers had in memory when they last said so."""
    for document in listed_in(remote.ollama("GET", "/api/ps")):
        model = Running.of(document)
        yield LoadedModel(model, _tier(remote, model.name))


def _tier(remote: GatewayClient, name: str) -> str | None:
    """Where the gateway sends whoever asks it now."""
    try:
        route: Mapping[str, Any] = remote.route(name, None)
    except Trouble:  # it is not here any more, or not for this key: that it is loaded is true all the same
        return None
    return str(route["tier"])
