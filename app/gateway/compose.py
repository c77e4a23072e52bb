"""What the gateway is made of, handed in by whoever starts it: `ollama-modal up`, or a deployment."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from app.gateway.waking import Upstream
from jobs.clock import Clock
from jobs.ledger import Ledger


@dataclass(frozen=True)
class Parts:
    """Everything that differs between one machine and a deployment.

    Args:
        upstreams: the tiers, by name.
        standing: what is known of models and servers.
        router: on which tier a model is answered.
        keys: who may ask.
        limits: how often.
        books: where usage is kept.
        open_ledger: a ledger for the thread that asks.
        clock: the time.
        metrics: what /metrics shows.

    """

    upstreams: Mapping[str, Upstream]
    standing: Any
    router: Any
    keys: Any
    limits: Any
    books: Any
    open_ledger: Callable[[], Ledger]
    clock: Clock
    metrics: Any
