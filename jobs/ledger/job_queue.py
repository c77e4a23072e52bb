"""The queue of a ledger: it carries the ids of jobs that are due to whoever works, and keeps nothing."""

import queue
import threading
from collections.abc import Collection
from datetime import timedelta

from loguru import logger

from jobs.core.clock import Clock
from jobs.core.errors import StoreTrouble
from jobs.ledger.job import Job
from jobs.store.protocols import QueueLike

AGAIN = timedelta(minutes=1)
"""An id may wait behind others; one that was put in longer ago than this is put in again, should it have been lost."""


class JobQueue:
    """Puts the ids of due jobs in, by lane, and takes them out. Any thread may use it.

    A queue that fails loses nothing: the job stands in the ledger, and a sweep puts its id in later.
    """

    def __init__(self, queue: QueueLike, clock: Clock) -> None:
        self._queue = queue
        self._clock = clock
        self._lock = threading.Lock()  # never held while the queue is asked
        #: When a job's next attempt was last put in, by id and attempts so far. Any thread, under `_lock`; to have
        #: forgotten one does no harm.
        self._put_at: dict[tuple[str, int], float] = {}

    def next_id(self, lane: str, timeout: timedelta) -> str | None:
        """Wait for an id in this lane; None when none came. One that comes twice does no harm."""
        try:
            id = self._queue.get(timeout=timeout.total_seconds(), partition=lane)
        except queue.Empty:
            return None
        return id if isinstance(id, str) else None

    def put(self, job: Job) -> bool:
        """Put a job's id in, if there is room; false when the queue does not answer."""
        now = self._clock.monotonic()
        try:
            self._queue.put(job.id, block=False, partition=job.lane)
        except queue.Full:
            logger.warning("the queue of lane {} is full; job {} is put in later", job.lane, job.id)
        except StoreTrouble as trouble:
            logger.warning("job {} could not be put into the queue of {}: {}", job.id, job.lane, trouble)
            return False
        with self._lock:
            self._put_at[job.id, len(job.attempts)] = now
        return True

    def put_if_lost(self, job: Job) -> tuple[bool, bool]:
        """Put the id of a due job in unless it may still be there for the next attempt.

        Whether the queue answers, and whether the id was put in.
        """
        with self._lock:
            put_at = self._put_at.get((job.id, len(job.attempts)))
        is_fresh = put_at is not None and self._clock.monotonic() - put_at < AGAIN.total_seconds()
        try:
            if is_fresh and self._queue.len(partition=job.lane):
                return True, False
        except StoreTrouble as trouble:
            logger.warning("the queue of lane {} cannot be counted: {}", job.lane, trouble)
            return False, False
        is_put = self.put(job)
        return is_put, is_put

    def forget(self, ids: Collection[str]) -> None:
        """Forget when these jobs were put in: they need no more attempts, or are not in any more."""
        with self._lock:
            self._put_at = {attempt: at for attempt, at in self._put_at.items() if attempt[0] not in ids}
