"""What a tier has room for, by what its servers report and what is known of its models; no server is asked for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app.gateway.catalog.server_reports import ServerReports
from app.model_server.report import Report
from jobs.core.errors import Trouble
from jobs.models.placement import Weighed


@dataclass(frozen=True)
class ReportedRoom:
    """Of one tier. Belongs to the event loop.

    Args:
        tier: which.
        servers: what its servers reported.
        loaded: what servers have in memory, of all tiers.
        weigh: the memory that a model takes on its tier.
        asleep: whether a line would have to wake it.
        waiting: how many requests wait for a start or a load.
        at_once: what a server is meant to answer at once, whatever it could; None where nobody says.
        most_loaded: how many models a server keeps; None where nobody says.

    """

    tier: str
    servers: ServerReports
    loaded: Callable[[], Sequence[Report]]
    weigh: Callable[[str], Weighed]
    asleep: Callable[[], bool]
    waiting: Callable[[], int]
    at_once: int | None = None
    most_loaded: int | None = None

    def slots(self, parallel: int) -> int:
        each = parallel if self.at_once is None else min(parallel, self.at_once)
        return max(1, each) * max(1, len(self.servers.up(self.tier)))

    def sleeps(self) -> bool:
        return self.asleep()

    def held(self) -> int:
        return self.waiting()

    def pushes_out(self, model: str, others: Sequence[str]) -> bool:
        """Not one that is in memory already, on each server; else where it is not known that all of them fit."""
        mine = [each for each in self.loaded() if each.tier == self.tier]
        if mine and all(any(one.name == model for one in each.loaded) for each in mine):
            return False
        if self.most_loaded is None or len(others) + 1 > self.most_loaded:
            return True
        try:
            weighed = [self.weigh(each) for each in (model, *others)]
        except Trouble:
            return True  # one was deleted meanwhile
        room = weighed[0].tier.vram_bytes
        return room is None or sum(each.need_bytes for each in weighed) > room
