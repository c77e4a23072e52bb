"""A thread that writes outcomes and refusals down, so that no caller waits for that."""

import threading
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from loguru import logger

from jobs.access.audit import COUNTED_FOR, Audit
from jobs.core.clock import Clock
from jobs.store.protocols import BatchDict

if TYPE_CHECKING:
    from collections.abc import Callable

ENDS_WITHIN = 5.0
"""Seconds that whoever stops it waits for a store that hangs; what is not written then was begun, and says so."""


class AuditThread:
    """Whoever starts it stops it; `audit` is any thread's to use, before as well.

    Args:
        facts: where the lines are kept.
        clock: the time.

    """

    def __init__(self, facts: BatchDict, clock: Clock) -> None:
        #: Any thread puts in, ours takes out; None ends it.
        self._waiting: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.audit = Audit(facts, clock, self._waiting.put)
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Write what is left, and end."""
        self._waiting.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout=ENDS_WITHIN)
        if self._thread.is_alive():
            logger.warning("who did what is not all written down: the store hangs")

    def _run(self) -> None:
        while True:
            try:
                work = self._waiting.get(timeout=COUNTED_FOR.total_seconds())
            except Empty:
                work = self.audit.write_rest  # what has been counted since it was last written
            if work is None:
                break
            try:
                work()
            except Exception as error:  # noqa: BLE001 - one line must not end the thread that writes the others
                logger.opt(exception=error).error("who did what could not be written down: {}", error)
        self.audit.close()
