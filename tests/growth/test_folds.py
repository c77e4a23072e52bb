"""What is folded from all that there is costs twice as much for twice as much of it, counted by the calls it makes."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobs.core.progress import Reading
from jobs.ledger.dead_letters import dead
from jobs.ledger.expiry import clear
from jobs.ledger.job import Ending
from jobs.ledger.ledger import Ledger
from jobs.store import keys
from jobs.telemetry.archive import archive_at, archive_facts, archive_jobs
from jobs.telemetry.incidents import Incident, cases, record
from jobs.telemetry.nightly_report import report
from jobs.telemetry.usage import UsageRecorder, Use, last_used, usage
from jobs.testing.clock import HandClock
from jobs.weights.history import recall
from tests.support.call_counts import calls
from tests.support.counting_stores import CountingQueue, Trips
from tests.support.failing_stores import MemoryDict

N = 40
SPARE = 1.1
"""What does not grow, and what grows by the logarithm, as a sort does, is in it."""

LEASE = timedelta(minutes=1)
PAST = datetime(2026, 1, 1, tzinfo=UTC)


class World:
    """So many models, each pulled and verified, used by two keys, and in trouble once; a fifth of the pulls failed."""

    def __init__(self, size: int, home: Path) -> None:
        self.clock = HandClock(PAST)
        self.facts = MemoryDict()
        self.archive = archive_at(home / str(size))
        self.ledger = Ledger(CountingQueue(Trips()), self.facts, self.clock)
        for number in range(size):
            self._worked("pull", f"m{number}:latest", failed=number % 5 == 0)
            self._worked("verify", f"m{number}:latest", failed=False)
            self.ledger.post("delete", f"m{number}:latest", {"model": f"m{number}"}, by="test")
        usage_recorder = UsageRecorder(self.facts, self.clock, "gateway")
        for number in range(size):
            for key in ("a", "b"):
                usage_recorder.add(Use(PAST, f"m{number}:latest", key, "a10g", "success"))
        usage_recorder.flush()
        self.incidents = [Incident("job", f"pull/m{number}", "failed") for number in range(size)]
        record(self.facts, (), self.incidents, self.clock.now())
        known, passed_at = cases(dict(self.facts.items(*keys.CASES))), self.clock.now() + timedelta(hours=1)
        record(self.facts, known, self.incidents[::2], passed_at)
        self.jobs = self.ledger.reader.jobs()
        self.clock.tick(3600)

    def _worked(self, kind: str, subject: str, *, failed: bool) -> None:
        id = self.ledger.post(kind, subject, {"model": subject}, by="test").job.id
        claim = self.ledger.claim(id, worker="w", lease=LEASE)
        assert claim is not None
        result = {"models": [subject], "way": "registry", "digest": "d"}
        ending = Ending("failed", "network", "cut") if failed else Ending("succeeded", result=result)
        self.ledger.end(claim, ending, Reading())


FOLDS: dict[str, Callable[[World], object]] = {
    "all jobs": lambda world: world.ledger.reader.jobs(),
    "all ids": lambda world: world.ledger.reader.ids(),
    "the jobs of a subject": lambda world: world.ledger.reader.select(subject="m1:latest"),
    "the dead letters": lambda world: dead(world.jobs),
    "what the weights' upkeep recalls": lambda world: recall(world.facts, world.jobs),
    "who uses the weights": lambda world: recall(world.facts, world.jobs).weights_use(world.jobs),
    "usage": lambda world: usage(world.facts),
    "when models were last used": lambda world: last_used(world.facts),
    "a sweep": lambda world: world.ledger.sweep(),
    "the comparison with all jobs": lambda world: world.ledger.index_all(world.jobs),
    "the cases": lambda world: cases(dict(world.facts.items(*keys.CASES))),
    "a check of the cases": lambda world: record(
        world.facts, cases(dict(world.facts.items(*keys.CASES))), world.incidents, world.clock.now()
    ),
    "the night's report": lambda world: report(dict(world.facts.items()), world.jobs),
    "what the archive takes of jobs": lambda world: archive_jobs(
        world.ledger, world.facts, world.archive, world.clock.now() + timedelta(days=6), lambda: None
    ),
    "what the archive takes of facts": lambda world: archive_facts(
        world.facts, world.archive, world.clock.now() + timedelta(days=6), lambda: None
    ),
    "what is cleared": lambda world: clear(world.facts, world.clock.now() + timedelta(days=40)),
}


@pytest.mark.parametrize("fold", FOLDS)
def test_twice_as_much_costs_twice_as_much(fold: str, tmp_path: Path) -> None:
    """With twice the models, jobs, uses and incidents, a fold makes no more than twice the calls."""
    once, twice = (_calls(FOLDS[fold], size, tmp_path) for size in (N, 2 * N))
    assert once > 0
    assert twice <= 2 * SPARE * once, (once, twice)


def _calls(fold: Callable[[World], object], size: int, home: Path) -> int:
    """Of a fold of a world that nobody has folded before; another one is folded first."""
    worlds = iter([World(size, home / "first"), World(size, home / "second")])
    return calls(lambda: fold(next(worlds)))
