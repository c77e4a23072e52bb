"""What is folded from all that there is costs twice as much for twice as much of it, counted by the calls it makes."""

import json
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import pytest

from app.fleet.schema import declared
from app.scheduler.alert_check import healths
from app.scheduler.alert_rules import AlertFacts, incidents
from app.scheduler.night_plan import Actual, night
from jobs.archive.archive import archive_facts, archive_jobs
from jobs.archive.archived import archive_at
from jobs.core.model_name import ModelName
from jobs.core.progress import Reading
from jobs.ledger.all_jobs import AllJobs
from jobs.ledger.dead_letters import dead, groups, lines
from jobs.ledger.expiry import clear
from jobs.ledger.job import Ending
from jobs.ledger.ledger import Ledger
from jobs.listing.dead_memory import KnownJobs
from jobs.listing.newest import page_of
from jobs.models.aliases import Aliases, notes
from jobs.models.index import Index
from jobs.store import keys
from jobs.telemetry.container_time import SHARES, Metered
from jobs.telemetry.cost import cost
from jobs.telemetry.incidents import Incident, cases, record
from jobs.telemetry.nightly_report import report
from jobs.telemetry.usage import UsageRecorder, Use, last_used, usage
from jobs.testing.clock import HandClock
from jobs.weights.history import Memory, recall
from jobs.weights.prune_plan import WeightsUse, could_go, plan
from jobs.weights.survey import Stray, Survey
from jobs.weights.trash import TrashFolder
from tests.support.call_counts import calls
from tests.support.counting_stores import CountingQueue, Trips
from tests.support.failing_stores import MemoryDict
from tests.support.models_directory import surveyed

N = 40
SPARE = 1.1
"""What does not grow, and what grows by the logarithm, as a sort does, is in it."""

LEASE = timedelta(minutes=1)
PAST = datetime(2026, 1, 1, tzinfo=UTC)
FLEET = declared()


@cache
def written(size: int, which: str) -> str:
    """What a world of this size has written down, as text, which no fold can change. Two of a size have no id in
    common."""
    clock, facts, queue = HandClock(PAST), MemoryDict(), CountingQueue(Trips())
    ledger = Ledger(queue, facts, clock)
    for number in range(size):
        _worked(ledger, "pull", f"m{number}:latest", failed=number % 5 == 0)
        _worked(ledger, "verify", f"m{number}:latest", failed=False)
        ledger.post("delete", f"m{number}:latest", {"model": f"m{number}"}, by="test")
    usage_recorder = UsageRecorder(facts, clock, "gateway")
    for number in range(size):
        for key in ("a", "b"):
            usage_recorder.add(Use(PAST, f"m{number}:latest", key, "a10g", "success"))
    usage_recorder.flush()
    incidents = _incidents(size)
    record(facts, (), incidents, clock.now())
    known, passed_at = cases(dict(facts.items(*keys.CASES))), clock.now() + timedelta(hours=1)
    record(facts, known, incidents[::2], passed_at)
    return json.dumps([dict(facts.items()), [[lane, list(waiting)] for lane, waiting in queue.lanes.items()]])


def _worked(ledger: Ledger, kind: str, subject: str, *, failed: bool) -> None:
    id = ledger.post(kind, subject, {"model": subject}, by="test").job.id
    claim = ledger.claim(id, worker="w", lease=LEASE)
    assert claim is not None
    result = {"models": [subject], "way": "registry", "digest": "d"}
    ending = Ending("failed", "network", "cut") if failed else Ending("succeeded", result=result)
    ledger.end(claim, ending, Reading())


def _incidents(size: int) -> list[Incident]:
    return [Incident("job", f"pull/m{number}", "failed") for number in range(size)]


class World:
    """So many models, each pulled and verified, used by two keys, and in trouble once; a fifth of the pulls failed."""

    def __init__(self, size: int, home: Path) -> None:
        facts, lanes = json.loads(written(size, home.name))
        self.clock = HandClock(PAST)
        self.facts = MemoryDict()
        self.facts.update(facts)
        self.archive = archive_at(home / str(size))
        queue = CountingQueue(Trips())
        queue.lanes = {lane: deque(waiting) for lane, waiting in lanes}
        self.ledger = Ledger(queue, self.facts, self.clock)
        self.incidents = _incidents(size)
        self.jobs = self.ledger.reader.jobs()
        self.clock.tick(3600)
        self.names = [ModelName.parse(f"m{number}") for number in range(size)]
        self.survey = self._survey(home / "weights")
        some = FLEET.models[0].model_copy(update={"pinned": True, "warmed": True})
        self.fleet = FLEET.model_copy(update={"models": [some.model_copy(update={"name": str(n)}) for n in self.names]})
        self.memory = recall(self.facts, self.jobs)
        self.plan = plan(
            self.survey, self.memory.weights_use(self.jobs), FLEET.retention(), self.clock.now() + timedelta(days=400)
        )
        seconds = dict.fromkeys(SHARES, 60.0)
        self.meters = [Metered("a10g", f"c{n}", PAST, self.clock.now(), seconds) for n in range(size)]
        target = {"target": "m0", "by": "key"}
        self.aliases = {f"a{number}": target for number in range(size)}

    def _survey(self, root: Path) -> Survey:
        """So many models, orphans and models in the trash, as if they were there."""
        models = tuple(surveyed(name, PAST) for name in self.names)
        orphans = tuple(Stray("orphan", root / f"sha256-{n:064x}", 5, PAST) for n in range(len(models)))
        thrown = tuple(TrashFolder(root / f"t{n}", PAST, 5, each.name, each.manifest) for n, each in enumerate(models))
        return Survey(models, (), orphans, (), thrown, 10_000)

    @property
    def alert_facts(self) -> AlertFacts:
        now = self.clock.now()
        entries = dict(self.facts.items()) | {each.key: each.as_json() for each in self.meters}
        return AlertFacts(entries, KnownJobs((), tuple(self.jobs)), healths(entries, self.fleet, now), [], now, now)


FOLDS: dict[str, Callable[[World], object]] = {
    "a night's plan": lambda world: night(
        world.fleet, Actual(world.survey.known, {}, world.memory, world.plan), world.clock.now()
    ),
    "a prune's plan": lambda world: plan(
        world.survey, WeightsUse(used_since=PAST), FLEET.retention(), PAST + timedelta(days=400)
    ),
    "a prune's plan in words": lambda world: (could_go(world.survey, world.plan), list(world.plan.rows())),
    "the alerts": lambda world: incidents(world.fleet, world.alert_facts),
    "the health of the tiers": lambda world: healths(world.alert_facts.entries, world.fleet, world.clock.now()),
    "the cost": lambda world: list(
        cost(
            world.meters,
            usage(world.facts),
            {"a10g": 1.0},
            since=PAST,
            until=world.clock.now(),
            as_of="today",
            source="test",
        ).lines()
    ),
    "the dead letters in groups": lambda world: groups(dead(world.jobs)),
    "the dead letters in words": lambda world: list(lines(dead(world.jobs), world.clock.now())),
    "the page of all jobs": lambda world: page_of(AllJobs.of(world.jobs).jobs, limit=20),
    "the names that stand for a model": lambda world: Aliases(made=world.aliases).by_target,
    "what is wrong with them": lambda world: notes(Aliases(made=world.aliases), lambda _: False),
    "the memory of the upkeep": lambda world: Memory.from_json(world.memory.as_json()),
    "the index of the weights": lambda world: Index.of(world.survey.known),
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
