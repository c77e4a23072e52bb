"""What the ops API works with. What may take a moment is called in a thread; `tiers`, `problems` and `age`, which are
read from memory, on the event loop, and so is `usage`, which waits for a thread by itself.

Nothing of it asks a server: what is known of servers is what they reported themselves.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

from app.gateway.auth.admission import TellsLeft, tells_nothing
from app.gateway.auth.keys import Caller
from app.gateway.auth.live_keys import LiveKeys
from app.gateway.auth.rate_limits import RateLimits
from app.gateway.inference.metrics import Metrics
from jobs.access.audit import Audit
from jobs.core.clock import Clock
from jobs.core.errors import NotFound
from jobs.core.model_name import ModelName
from jobs.ledger.kinds import KINDS, Kind, Kinds
from jobs.ledger.ledger import Ledger
from jobs.listing.newest import EmptyArchive, JobArchive
from jobs.registry.allowlist import ANYWHERE, Registries

Document = Mapping[str, Any]


def send_none(_: str) -> None:
    """Workers that listen to the queue need nothing else."""


def never_absent(_: Kind, __: ModelName, ___: Callable[[ModelName], bool]) -> NotFound | None:
    """Nobody knows which models are here."""
    return None


def nothing() -> None:
    """For a gateway that need not be refreshed after a pull or a delete."""


@dataclass(frozen=True)
class OpsContext:
    """What the ops API works with.

    Args:
        open_ledger: a ledger for the thread that calls it.
        keys: who may ask.
        limits: how often.
        told: makes the headers that tell a key what is left of its limits.
        clock: the time.
        audit: where it is written down who did what.
        metrics: what /metrics shows.
        models: the whole models, as `ollama-modal models --json` lists them.
        aliases: their other names, for a caller who may see these models.
        notes: what of the fleet has no effect here, in lines for people.
        remove_alias: takes such a name away that was made here; false where it is none.
        complaints: what is wrong with the rest, in lines for people.
        problems: what is wrong with what was started beside the gateway, in lines for people.
        archive: the jobs that have left the ledger.
        route: on which tier a model (and a context) is answered, and why, for a caller who may see these names.
        subject: the model that a name is about, which decides who may ask for it.
        tiers: asleep, waking, ready, degraded or lost, since when, and why.
        usage: rows of usage since a day.
        age: how old what is known of models and servers is; None before the first refresh.
        send_worker: starts a worker for a lane.
        changed: called when a pull or a delete whose caller waits has ended.
        rate_limit: bytes per second for a pull that names none.
        kinds: of jobs, that may be posted.
        registries: those that may be pulled from.
        thrown: the name, in small letters, and the digest of each version in the trash.
        absent: why nothing can be done with a model by a job of a kind, to a caller who may see these names.

    """

    open_ledger: Callable[[], Ledger]
    keys: LiveKeys
    limits: RateLimits
    clock: Clock
    audit: Audit
    metrics: Metrics
    models: Callable[[], Sequence[Document]]
    route: Callable[[str, int | None, Callable[[ModelName], bool]], Document]
    tiers: Callable[[], Sequence[Document]]
    usage: Callable[[date | None], Awaitable[Sequence[Document]]]
    age: Callable[[], timedelta | None]
    told: TellsLeft = tells_nothing
    aliases: Callable[[Callable[[ModelName], bool]], Sequence[Document]] = lambda _: ()
    notes: Callable[[], Sequence[str]] = tuple
    subject: Callable[[ModelName], ModelName] = lambda name: name
    remove_alias: Callable[[Caller, ModelName], bool] = lambda _, __: False
    complaints: Callable[[], Sequence[str]] = tuple
    problems: Callable[[], Sequence[str]] = tuple
    archive: JobArchive = field(default_factory=EmptyArchive)
    send_worker: Callable[[str], object] = send_none
    changed: Callable[[], object] = nothing
    rate_limit: int | None = None
    kinds: Kinds = field(default_factory=lambda: KINDS)
    registries: Registries = ANYWHERE
    thrown: Callable[[], Collection[tuple[str, str]]] = tuple
    absent: Callable[[Kind, ModelName, Callable[[ModelName], bool]], NotFound | None] = never_absent
