"""The queue of a ledger: it carries the ids of jobs that are due to whoever works, and keeps nothing."""

import queue
from datetime import timedelta

from loguru import logger

from jobs.core.errors import StoreTrouble
from jobs.core.units import counted
from jobs.store.protocols import QueueLike


class JobQueue:
    """Puts the ids of due jobs in, by lane, and takes them out. Any thread may use it.

    A queue that fails loses nothing: the job stands in the ledger, and a sweep puts its id in later.
    """

    def __init__(self, queue: QueueLike) -> None:
        self._queue = queue

    def next_id(self, lane: str, timeout: timedelta) -> str | None:
        """Wait for an id in this lane; None when none came. One that comes twice does no harm."""
        try:
            id = self._queue.get(timeout=timeout.total_seconds(), partition=lane)
        except queue.Empty:
            return None
        return id if isinstance(id, str) else None

    def put(self, id: str, lane: str) -> bool:
        """Put a job's id in; false when there is no room, or the queue does not answer."""
        try:
            self._queue.put(id, block=False, partition=lane)
        except queue.Full:
            logger.warning("the queue of lane {} is full; job {} is put in later", lane, id)
            return False
        except StoreTrouble as trouble:
            logger.warning("job {} could not be put into the queue of {}: {}", id, lane, trouble)
            return False
        return True

    def put_many(self, ids: list[str], lane: str) -> bool:
        """Put the ids of several jobs in, in this order; false as `put`, when some may be in."""
        try:
            self._queue.put_many(ids, block=False, partition=lane)
        except queue.Full:
            logger.warning("the queue of lane {} is full; {} are put in later", lane, counted(len(ids), "job"))
            return False
        except StoreTrouble as trouble:
            logger.warning("{} could not be put into the queue of {}: {}", counted(len(ids), "job"), lane, trouble)
            return False
        return True

    def length(self, lane: str) -> int | None:
        """How many ids wait there; None when the queue does not answer."""
        try:
            return self._queue.len(partition=lane)
        except StoreTrouble as trouble:
            logger.warning("the queue of lane {} cannot be counted: {}", lane, trouble)
            return None
