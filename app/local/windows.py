"""The windows of a fleet file on one machine: nothing is rented there, so they keep their models loaded, and no more.

Each round posts a warm-up of what an open window wants loaded and its server has not, or not for long. It loads nothing
by itself; after the window a model goes as any other does that was warmed.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from app.fleet.schema import Fleet
from app.scheduler.steps import act_of
from app.scheduler.wake_budget import BY_WINDOW
from jobs.access.audit import record_posted
from jobs.core.clock import Clock
from jobs.core.model_name import ModelName
from jobs.home.home import LocalServer
from jobs.home.status import client_of
from jobs.ledger.kinds import KINDS
from jobs.ledger.ledger import Ledger
from jobs.models.placement import LOCAL
from jobs.store.protocols import BatchDict

RENEW_BEFORE = timedelta(minutes=5)
"""One that would be unloaded so soon is warmed again, which has it stay."""

RETRY_AFTER = timedelta(minutes=15)
"""One that cannot be loaded, or was pushed out by another, is tried again no sooner."""


class LocalWindows:
    """
    Args:
        fleet: declares the windows.
        servers: of this machine; one without a tier's name stands for all, else a window of another tier has no effect.
        clock: the time.
    """

    def __init__(self, fleet: Fleet, servers: Sequence[LocalServer], clock: Clock) -> None:
        self._fleet = fleet
        self._servers = {server.tier: server for server in servers}
        self._clock = clock

    def post_warmups(self, ledger: Ledger, facts: BatchDict) -> list[str]:
        """Post a warm-up of each model that should be loaded and is not, or not for long, and write down who did; the
        ids of the jobs."""
        now = self._clock.now()
        wanted = set(self._models_wanted(now))
        stays = {tier: self._models_staying(tier, now) for tier in {tier for tier, _ in wanted}}
        missing = sorted((tier, str(name)) for tier, name in wanted if name not in stays[tier])
        requests = [
            KINDS["warm"].request(name, {"tier": tier})
            for tier, name in missing
            if (last := ledger.reader.latest("warm", name)) is None or now - last.posted_at >= RETRY_AFTER
        ]
        posted = [ledger.post(*request, by=BY_WINDOW) for request in requests]
        record_posted(facts, now, who=BY_WINDOW, request="windows", posted=map(act_of, posted))
        return [each.job.id for each in posted]

    def _models_wanted(self, now: datetime) -> Iterator[tuple[str, ModelName]]:
        for window in self._fleet.windows_open(now):
            if (tier := self._served_by(window.tier)) is not None:
                yield from ((tier, ModelName.parse(text).folded()) for text in window.models)

    def _served_by(self, tier: str) -> str | None:
        return next((name for name in (tier, LOCAL.name) if name in self._servers), None)

    def _models_staying(self, tier: str, now: datetime) -> set[ModelName]:
        """What is loaded there, and for some time to come."""
        with client_of(self._servers[tier], self._clock) as server:
            running = server.ps()
        return {ModelName.parse(each.name).folded() for each in running if each.expires_at - now > RENEW_BEFORE}
