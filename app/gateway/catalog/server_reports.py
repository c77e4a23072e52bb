"""What the servers of a tier reported of themselves, as far as it matters to waiting callers. It asks no server.

`KnownState` reads the reports anew every few seconds; requests come all the time, so what each of them asks is answered
from what the last reading came to. Any thread may ask.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from app.model_server.report import Report
from app.model_server.start_failures import refused_starts
from jobs.core.clock import Clock

FRESH = timedelta(seconds=90)
"""So long a report of a server that serves counts: it writes one every half minute."""


@dataclass(frozen=True)
class _Read:
    reports: Sequence[Report] = ()
    pausing_until: datetime | None = None


class ServerReports:
    """Answers what waiting callers want to know of a tier's servers, from their reports.

    Args:
        reports: what the servers of a tier said last; the same object for as long as it is the same.
        generation: of the weights, as the ledger names it.
        clock: the time.

    """

    def __init__(self, reports: Callable[[str], Sequence[Report]], generation: Callable[[], Any], clock: Clock) -> None:
        self._reports = reports
        self._generation = generation
        self._clock = clock
        #: What the last reading came to, by tier. Any thread puts a new value where the reports are others than it was
        #: made from; whichever comes last stays, and is made anew if its reports are old.
        self._last: dict[str, _Read] = {}

    def of(self, tier: str) -> Sequence[Report]:
        """The reports of a tier, newest first."""
        return self._reports(tier)

    def up(self, tier: str) -> list[Report]:
        """The reports of servers that are up, as far as their age lets one believe it."""
        now = self._clock.now()
        return [each for each in self._reports(tier) if each.state == "serving" and now - each.at < FRESH]

    def up_since(self, tier: str) -> datetime | None:
        """Since when one is up."""
        return min((each.started_at or each.at for each in self.up(tier)), default=None)

    def left_at(self, tier: str) -> datetime | None:
        """When something was heard last."""
        return max((each.at for each in self._reports(tier)), default=None)

    def pausing_until(self, tier: str) -> datetime | None:
        """Until when the tier gets no new requests, because a server of it takes in new weights; None when it does."""
        reports, last = self._reports(tier), self._last.get(tier)
        if last is None or last.reports is not reports:
            pauses = (each.pausing_until for each in self.up(tier))
            last = self._last[tier] = _Read(reports, max(filter(None, pauses), default=None))
        until = last.pausing_until
        return until if until is not None and self._clock.now() < until else None

    def have_newest(self, tier: str) -> bool:
        """Whether each server that is up has the newest weights.

        One that reads them where they are written, as on one machine, knows of no generation; nor does anybody there.
        """
        up, newest = self.up(tier), self._generation()
        return bool(up) and all(each.generation == newest for each in up)

    def insist_on_starts(self, tier: str, startup: timedelta) -> None:
        """Leave a tier alone whose starts are refused, until the next one may be tried.

        Raises:
            CannotStart: the next one has to wait.

        """
        now = self._clock.now()
        starts = refused_starts(self._reports(tier), now, unheard_after=startup)
        if starts.must_wait(now):
            raise starts.trouble(tier, now)

    def all_hold(self, tier: str, model: str) -> bool:
        """Whether each server that is up reports the model in memory."""
        now = self._clock.now()
        return all(
            any(one.name == model and (one.expires_at or now) >= now for one in each.loaded) for each in self.up(tier)
        )
