"""Something of ours that is away: said once as it goes and once when it is back, however many ask and how often."""

import threading

from loguru import logger

from jobs.core.clock import Clock
from jobs.core.errors import StoreTrouble


class StoreOutage:
    """Any thread may tell of what it met; all of them together say it once.

    It is over when everything that had failed has worked again: on a full disk reading goes on while writing fails, and
    that is one outage, not a hundred.

    Args:
        what: is away, as in "the ledger".
        clock: for how long it lasted.

    """

    def __init__(self, what: str, clock: Clock) -> None:
        self._what = what
        self._clock = clock
        self._lock = threading.Lock()
        #: What has failed and not worked since. Any thread changes it; under `_lock`, as the two below.
        self._failing: set[str] = set()
        self._since = 0.0
        self._last: StoreTrouble | None = None

    def met(self, doing: str, trouble: StoreTrouble) -> None:
        """`doing` has failed so."""
        with self._lock:
            is_news = not self._failing
            if is_news:
                self._since = self._clock.monotonic()
            self._failing.add(doing)
            self._last = trouble
        if is_news:
            logger.warning("{} fails, and is asked again: {}: {}", self._what, doing, trouble)

    def left_to(self, other: str, doing: str) -> None:
        """`doing` is not asked any more; if it had failed, `other` has to work before all is well."""
        with self._lock:
            if doing in self._failing:
                self._failing.remove(doing)
                self._failing.add(other)

    def passed(self, doing: str) -> None:
        """`doing` works."""
        with self._lock:
            if doing not in self._failing:
                return
            self._failing.remove(doing)
            if self._failing:
                return
            self._last = None
            lasted = self._clock.monotonic() - self._since
        logger.info("{} answers again, after {:.0f} s", self._what, lasted)

    @property
    def trouble(self) -> StoreTrouble | None:
        """What was met last, while it goes on."""
        with self._lock:
            return self._last
