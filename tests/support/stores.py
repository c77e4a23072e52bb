"""Ledgers on a store of their own, what can be done to them, and what is in them."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from jobs.core.clock import Clock
from jobs.core.progress import Reading
from jobs.ledger.attempts import Claim
from jobs.ledger.job import Ending, Job
from jobs.ledger.kinds import LANES
from jobs.ledger.ledger import Ledger
from jobs.store.sqlite import SqliteDict, SqliteQueue


@dataclass
class Store:
    """A ledger with the queue and dict below it, so that a test can damage them."""

    queue: SqliteQueue
    facts: SqliteDict
    clock: Clock
    path: Path

    def ledger(self) -> Ledger:
        return Ledger(self.queue, self.facts, self.clock)

    def empty_queue(self) -> int:
        count = 0
        for lane in LANES:
            while self.queue.get(block=False, partition=lane) is not None:
                count += 1
        return count

    def close(self) -> None:
        self.queue.close()
        self.facts.close()


def open_store(path: Path, clock: Clock) -> Store:
    return Store(SqliteQueue(path, clock=clock), SqliteDict(path), clock, path)


class NoFacts:
    """A ledger in which nothing was ever told."""

    def put(self, key: Any, value: Any, *, skip_if_exists: bool = False) -> bool:
        raise AssertionError((key, value, skip_if_exists))

    def get(self, key: Any, default: Any = None) -> Any:
        return default

    def keys(self, *prefixes: str) -> Iterator[Any]:
        return iter(())

    def items(self, *prefixes: str) -> Iterator[tuple[Any, Any]]:
        return iter(())


def ended_job(store: Store, subject: str, ending: Ending | None = None) -> Job:
    ledger = store.ledger()
    id = ledger.post("pull", subject, {"model": subject}, by="test").job.id
    claim = ledger.claim(id, worker="w", lease=timedelta(minutes=1))
    assert claim is not None
    return ledger.end(claim, ending or Ending("succeeded", result={"model": subject}), Reading(5, 5))


def pass_days(store: Store, days: float) -> None:
    store.clock.wait(days * 86_400)


LEASE = timedelta(seconds=600)


def claimed(ledger: Ledger, id: str) -> Claim:
    claim = ledger.claim(id, worker="w", lease=LEASE)
    assert claim is not None
    return claim
