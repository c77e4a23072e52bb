"""The jobs of this machine's ledger, for the commands: read as they lie, and opened for writing by what writes."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from jobs.access.audit_line import HERE
from jobs.core.clock import Clock
from jobs.home.home import Home
from jobs.ledger.job import Job, Posted
from jobs.ledger.reader import LedgerReader

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from jobs.access.audit import Audit
    from jobs.access.audit_line import Act
    from jobs.ledger.ledger import Ledger


class LocalJobs:
    """A home that nobody ever wrote to has no jobs, and stays as it is while it is only read."""

    def __init__(self, home: Home, clock: Clock, who: Callable[[], str]) -> None:
        self._home, self._clock, self._who = home, clock, who
        self._audit: Audit | None = None
        self._ledger: Ledger | None = None

    @property
    def reader(self) -> LedgerReader:
        """What reads the jobs.

        Raises:
            BadRequest: the home cannot be used.

        """
        return self._ledger.reader if self._ledger else self._home.reader(self._clock)

    def post(
        self, kind: str, subject: str, request: Mapping[str, Any], *, by: str, attempts: int | None = None
    ) -> Posted:
        return self._written().post(kind, subject, request, by=by, attempts=attempts)

    def retry(self, id: str, *, by: str, anyway: bool = False) -> Posted:
        return self._written().retry(id, by=by, anyway=anyway)

    def again(self, job: Job, *, by: str, anyway: bool = False) -> Posted:
        return self._written().again(job, by=by, anyway=anyway)

    def cancel(self, id: str, *, by: str) -> Job:
        return self._written().cancel(id, by=by)

    def dismiss(self, id: str, *, by: str) -> Job:
        return self._written().dismiss(id, by=by)

    def act(self, act: str, subject: str) -> "AbstractContextManager[Act]":
        """Write down that the user of this machine does something."""
        if self._audit is None:
            from jobs.access.audit import Audit  # noqa: PLC0415 - whoever only reads needs no writer

            self._audit = Audit(self._home.facts(), self._clock)
        return self._audit.act(who=self._who(), request=f"{HERE} {act}", act=act, subject=subject)

    def _written(self) -> "Ledger":
        if self._ledger is None:
            self._ledger = self._home.ledger(self._clock)
        return self._ledger
