"""Tells a ledger that answers nothing from one that nobody has asked, as after a sleep of the machine."""

from datetime import timedelta

from jobs.store.patient_calls import Heard

LOOKS = 3
"""So often in a row silence is seen before it is believed."""


class LedgerSilence:
    """Used by one thread."""

    def __init__(self, lease: timedelta, beat: timedelta) -> None:
        self._lease = lease.total_seconds()
        self._since = 2 * beat.total_seconds()
        self._answers = -1
        self._looks = 0
        self._began = 0.0

    def is_too_long(self, heard: Heard, now: float) -> bool:
        """Looked at now and then: no answer for a lease, nor within the two beats in which somebody has asked."""
        if heard.seconds <= self._lease:
            self._looks = 0
            return False
        if heard.answers != self._answers or not self._looks:
            self._answers, self._looks, self._began = heard.answers, 0, now
        self._looks += 1
        return self._looks >= LOOKS and now - self._began >= self._since
