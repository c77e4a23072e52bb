"""What a server is handed by where it runs, and what its tier asks of it. Plain values."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from app.engines.engine import Engine
from app.engines.ollama import OLLAMA
from app.engines.table import ENGINES
from app.model_server.starting.asked_ahead import AskedAhead
from app.model_server.starting.engine import StartedEngine
from jobs.core.clock import Clock
from jobs.core.model_name import ModelName
from jobs.core.retry import NEVER
from jobs.models.model_settings import ModelSettings
from jobs.ollama.host import OllamaHost
from jobs.store.protocols import DictLike

if TYPE_CHECKING:
    from jobs.ollama.client import OllamaClient

PROBE_EVERY = timedelta(seconds=30)

_PROBE_STALL = timedelta(seconds=30)


@dataclass(frozen=True)
class ServerHost:
    """What a container offers to its server.

    Args:
        volume: where the weights are mounted, read-only.
        disk: a directory of its own on local disk.
        container: names it in the ledger.
        facts: the ledger's dict.
        reload: brings in what others committed to the volume, within so long or its usual limit. RuntimeError while a
            file there is open; a `NotReloaded` that is no `FilesOpen` when the platform fails or does not answer.
        end_container: ends this container, so that the next request gets another one.
        leave: ends it likewise, as one that has done its work; where it is left out, as the other.
        address: where the server shall listen.
        inherited: the container's environment.
        clock: for times and pauses.
        command: starts the server, where that is not its engine's own.
        began_ago: seconds that the container had run before it came to this: its imports.
        started: its engine, where that was started before, on this very disk; else the server has to start it.
        ahead: what was asked of the ledger before; else the server has to ask.

    """

    volume: Path
    disk: Path
    container: str
    facts: DictLike
    reload: Callable[[timedelta | None], None]
    end_container: Callable[[], None]
    address: OllamaHost
    inherited: Mapping[str, str]
    clock: Clock
    command: tuple[str, ...] | None = None
    began_ago: float = 0.0
    started: StartedEngine | None = None
    ahead: AskedAhead | None = None
    leave: Callable[[], None] | None = None

    def ollama(self) -> "OllamaClient":
        """A client of the server, one try per request: the next check asks again. Whatever the engine, it answers what
        is asked of it here."""
        from jobs.ollama.client import OllamaClient  # noqa: PLC0415 - as in `Daemon.wait_ready`

        return OllamaClient(self.address.url, policy=NEVER, stall=_PROBE_STALL, clock=self.clock)


@dataclass(frozen=True)
class TierSettings:
    """What a tier asks of its server."""

    tier: str
    gpu_promised: bool
    environ: Mapping[str, str]
    startup: timedelta
    dollars_per_hour: float | None = None
    warmed: tuple[ModelName, ...] = ()
    models: Mapping[ModelName, ModelSettings] = field(default_factory=dict)
    """What is set for models, by their names in small letters."""
    probe_every: timedelta = PROBE_EVERY
    engine: Engine = OLLAMA
    readers_ahead: int = 0
    """How many read a model's blobs from the volume while the engine loads it."""

    @property
    def keep_alive(self) -> timedelta | None:
        """How long a model stays in memory that nobody said anything about; None where the server decides."""
        seconds = self.environ.get("OLLAMA_KEEP_ALIVE", "")
        return timedelta(seconds=int(seconds)) if seconds.lstrip("-").isdigit() else None

    def as_json(self) -> dict[str, Any]:
        """For a file that says it to a container, which then needs nothing that checks a fleet."""
        return {
            "tier": self.tier,
            "gpu_promised": self.gpu_promised,
            "environ": dict(self.environ),
            "startup_seconds": self.startup.total_seconds(),
            "dollars_per_hour": self.dollars_per_hour,
            "warmed": [str(name) for name in self.warmed],
            "models": [
                {"name": str(name), "context": each.context, "parameters": each.parameters, "system": each.system}
                for name, each in self.models.items()
            ],
            "probe_seconds": self.probe_every.total_seconds(),
            "readers_ahead": self.readers_ahead,
            "engine": self.engine.name,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """What `as_json` wrote; it was checked then."""
        return cls(
            tier=document["tier"],
            gpu_promised=document["gpu_promised"],
            environ=document["environ"],
            startup=timedelta(seconds=document["startup_seconds"]),
            dollars_per_hour=document["dollars_per_hour"],
            warmed=tuple(map(ModelName.parse, document["warmed"])),
            models={
                ModelName.parse(each["name"]): ModelSettings(each["context"], each["parameters"], each["system"])
                for each in document["models"]
            },
            probe_every=timedelta(seconds=document["probe_seconds"]),
            readers_ahead=document["readers_ahead"],
            engine=ENGINES[document["engine"]],
        )
