"""Tells a ledger that answers nothing from one that nobody has asked, as after a sleep of the machine."""

from datetime import timedelta

from jobs.store.patient_calls import Heard

MIN_CHECKS = 3
"""So often in a row silence is seen before it is believed."""


class LedgerSilence:
    """Used by one thread."""

    def __init__(self, lease: timedelta, beat: timedelta) -> None:
        self._lease = lease.total_seconds()
        self._since = 2 * beat.total_seconds()
        self._answers = -1
        self._checks = 0
        self._began = 0.0

    def is_too_long(self, heard: Heard, now: float) -> bool:
        """Whether the store has answered nothing for a lease, although it was asked three times over two beats."""
        if heard.seconds <= self._lease:
            self._checks = 0
            return False
        if heard.answers != self._answers or not self._checks:
            self._answers, self._checks, self._began = heard.answers, 0, now
        self._checks += 1
        return self._checks >= MIN_CHECKS and now - self._began >= self._since
