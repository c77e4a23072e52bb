"""Whether a lane has a worker at work: said by the worker, asked by whoever would send for another one.

Each call of a worker that finds nothing to do is a container's time. So who posts a job sends for nobody while one is
at work; and a worker says that it leaves before its last look at the queue. Of a post and a leaving worker at least one
so sees the other. A worker that was killed counts as at work for half a minute: jobs of that time wait for the tick.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from loguru import logger

from jobs.core.clock import Clock, isoformat, parse_moment
from jobs.core.errors import StoreTrouble
from jobs.store import keys
from jobs.store.protocols import DictLike

STAYS = timedelta(seconds=30)
"""After so long without a word it counts as gone."""

EVERY = timedelta(seconds=10)


def is_at_work(facts: DictLike, lane: str, now: datetime) -> bool:
    """Whether somebody works there, and would take up what is in the queue by now."""
    fact = facts.get(keys.worker(lane))
    return fact is not None and now < parse_moment(fact["until"])


class WorkerPresence:
    """Of one worker. A store that fails is logged: at worst one worker too many is sent, or one waits for the tick."""

    def __init__(self, facts: DictLike, lane: str, clock: Clock) -> None:
        self._facts = facts
        self._lane = lane
        self._clock = clock

    def work(self, run: Callable[[], object], is_waiting: Callable[[], bool]) -> None:
        """Run, and again as long as something waits once everybody could know that we leave."""
        while True:
            with self._said():
                run()
            self._say(timedelta(0))
            if not is_waiting():
                return

    @contextmanager
    def _said(self) -> Iterator[None]:
        done = threading.Event()
        self._say(STAYS)
        thread = threading.Thread(target=self._keep_saying, args=(done,), name=f"at-work-{self._lane}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join(EVERY.total_seconds())  # what it says must not come after that we leave

    def _keep_saying(self, done: threading.Event) -> None:
        while not self._clock.wait(EVERY.total_seconds(), done):
            self._say(STAYS)

    def _say(self, stays: timedelta) -> None:
        try:
            fact = {"v": 1, "until": isoformat(self._clock.now() + stays)}
            self._facts.put(keys.worker(self._lane), fact)
        except StoreTrouble as trouble:
            logger.warning("whether lane {} has a worker could not be said: {}", self._lane, trouble)
