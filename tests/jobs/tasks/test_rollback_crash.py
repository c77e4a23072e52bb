"""Rollbacks and prunes whose attempts fail or are killed at every step: the next attempt finishes the same thing."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobs.core.errors import Corrupt, Killed, Refused, ServerTrouble, Trouble
from jobs.core.model_name import ModelName
from jobs.core.progress import Reading
from jobs.core.retention import RetentionRules
from jobs.ledger.attempts import Claim
from jobs.ledger.job import Backoff, Ending, JobState, after_trouble
from jobs.registry.client import Registry
from jobs.tasks.context import TaskContext
from jobs.tasks.table import perform
from jobs.testing.clock import HandClock
from jobs.weights import restore
from jobs.weights.prune_plan import WeightsUse
from jobs.worker.attempt import RunningAttempt
from tests.support.crash_points import dies_at
from tests.support.models_directory import Sample, publish, sample, weights_at
from tests.support.pull_setup import snapshot
from tests.support.stores import open_store
from tests.support.waiting import PATIENCE

TINY = ModelName.parse("tiny")
OLD, NEW, NEWEST = (
    sample("tiny", each, b"both", config=b'{"v":"' + each + b'"}') for each in (b"old", b"new", b"newest")
)


class RollbackSetup:
    """A models directory with two versions of one model, and a ledger, on a clock that is moved by hand."""

    def __init__(self, root: Path, client: httpx.Client, closing: ExitStack) -> None:
        root.mkdir()
        self.clock = HandClock()
        store = open_store(root / "ledger.sqlite", self.clock)
        closing.callback(store.close)
        self.ledger = store.ledger()
        self.persists = 0
        self.failing: int | None = None
        self.weights = weights_at(root, persist=self.persist, clock=self.clock)
        self.context = TaskContext(self.clock, Registry(client=client), self.weights)
        for each in (OLD, NEW):
            publish(self.weights, each)
            self.clock.tick(60)
        self.persists = 0

    def persist(self) -> None:
        self.persists += 1
        if self.persists == self.failing:
            raise ServerTrouble("the volume cannot be committed for now")

    def post(self, kind: str = "rollback", **request: Any) -> str:
        return self.ledger.post(kind, str(TINY), request or {"model": "tiny"}, by="test", attempts=9).job.id

    def attempt(self, id: str, *, dies: int | None = None, records: bool = True) -> dict[str, Any] | None:
        """One attempt of a job; None when it was killed, or its end was not recorded. Both may be tried again."""
        self.clock.tick(60)
        claim = self.ledger.claim(id, worker="w", lease=timedelta(hours=1))
        assert claim is not None
        results: list[dict[str, Any]] = []

        def work() -> None:
            results.append(perform(RunningAttempt(claim, self.ledger, self.clock), self.context))

        try:
            died = dies_at(10_000 if dies is None else dies, work)
        except Trouble as trouble:
            self._end(claim, trouble)
            raise
        if died or not records:
            self._end(claim, Killed("killed"))
            return None
        self.ledger.end(claim, Ending("succeeded", result=results[0]), Reading())
        return results[0]

    def _end(self, claim: Claim, trouble: Trouble) -> None:
        ending = after_trouble(claim.job, trouble, now=self.clock.now(), backoff=Backoff(), spread=0)
        self.ledger.end(claim, replace(ending, not_before=None), Reading())

    def require(self, stands: Sample, thrown: Sample) -> None:
        """The one is published and the other can come back, both whole; nothing strange lies around."""
        found = self.weights.find(TINY)
        assert found is not None
        assert found.digest == stands.manifest.digest
        assert not self.weights.verify(found.manifest.blobs)
        folder = restore.newest_thrown(self.weights, TINY)
        assert folder.manifest == thrown.manifest
        assert restore.blob_paths(self.weights, folder)
        survey = self.weights.survey()
        assert not survey.broken
        assert not survey.strays


def require_told(result: dict[str, Any] | None) -> None:
    assert result is not None
    assert (result["digest"], result["left"]) == (OLD.manifest.digest, NEW.manifest.digest)


Make = Callable[[str], RollbackSetup]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    with httpx.Client(timeout=PATIENCE) as client, ExitStack() as closing:
        yield lambda name: RollbackSetup(tmp_path / name, client, closing)


def test_a_rollback_whose_commit_fails_brings_back_what_it_was_to_bring(make: Make) -> None:
    """Whichever commit fails, the next attempt ends at the version that the first one chose, commits it, and answers
    with it; asked anew, the newer one is back."""
    setup = make("whole")
    setup.attempt(setup.post())
    commits = setup.persists
    assert commits > 2
    for number in range(1, commits + 1):
        setup = make(str(number))
        setup.failing, id = number, setup.post()
        with pytest.raises(ServerTrouble):
            setup.attempt(id)
        before = setup.persists
        require_told(setup.attempt(id))
        assert setup.persists > before
        setup.require(OLD, NEW)
        setup.attempt(setup.post())
        setup.require(NEW, OLD)


def test_a_rollback_that_is_killed_brings_back_what_it_was_to_bring(make: Make) -> None:
    """Killed before any change to the disk, and its next attempt as well: the version asked for stands in the end."""
    for step in count(1):
        setup = make(str(step))
        id = setup.post()
        if setup.attempt(id, dies=step) is not None:
            break
        require_told(setup.attempt(id, dies=step) or setup.attempt(id))
        setup.require(OLD, NEW)
    assert step > 10


def test_a_rollback_that_was_done_but_not_recorded_is_told_as_done(make: Make) -> None:
    """Killed between its last step and the ledger, the next attempt answers with what was done and changes nothing."""
    setup = make("one")
    id = setup.post()
    setup.attempt(id, records=False)
    before = snapshot(setup.weights.layout.root)
    require_told(setup.attempt(id))
    assert snapshot(setup.weights.layout.root) == before
    setup.require(OLD, NEW)


@pytest.mark.parametrize(("commit", "pulled"), [(1, NEWEST), (2, NEWEST), (2, NEW), (3, NEWEST), (3, NEW)])
def test_a_rollback_goes_not_on_over_a_pull(make: Make, commit: int, pulled: Sample) -> None:
    """What was pulled between two attempts stays: the job is refused with what stands there, and nothing changes."""
    setup = make("one")
    setup.failing, id = commit, setup.post()
    with pytest.raises(ServerTrouble):
        setup.attempt(id)
    publish(setup.weights, pulled)
    before = snapshot(setup.weights.layout.root)
    with pytest.raises(Refused, match=rf"{pulled.manifest.digest[:12]} stands there now, and nothing was touched"):
        setup.attempt(id)
    assert snapshot(setup.weights.layout.root) == before
    assert setup.ledger.reader.get(id).state is JobState.FAILED


def test_what_a_rollback_decided_is_no_file_of_anybody_elses(make: Make) -> None:
    """A survey, a prune and an emptied trash pass it over; 30 days later the next of them removes it."""
    setup = make("one")
    setup.attempt(setup.post())
    [note] = setup.weights.layout.trash.glob("*-rollback@*.json")
    setup.require(OLD, NEW)
    setup.attempt(setup.post("prune", unused_days=None, empty_trash=True))
    assert not setup.weights.survey().trash
    assert [path.name for path in setup.weights.layout.trash.iterdir()] == [note.name]
    setup.clock.tick(timedelta(days=30).total_seconds())
    setup.attempt(setup.post("prune", unused_days=None, empty_trash=None))
    assert not list(setup.weights.layout.trash.iterdir())
    assert [model.digest for model in setup.weights.models()] == [OLD.manifest.digest]


def test_a_note_of_a_rollback_that_cannot_be_read_is_told(make: Make) -> None:
    """Nobody guesses what the attempt before decided: the job fails, and nothing changes."""
    setup = make("one")
    id = setup.post()
    setup.attempt(id, records=False)
    [note] = setup.weights.layout.trash.glob("*-rollback@*.json")
    note.write_text("{")
    with pytest.raises(Corrupt, match=f"what rollback {id} decided cannot be read"):
        setup.attempt(id)
    setup.require(OLD, NEW)


def test_a_prune_tried_again_spares_what_it_threw_itself(make: Make) -> None:
    """With --empty-trash as well: what an attempt moved to the trash has its grace before it, whichever commit of it
    failed; what lay there before it began is deleted."""
    for number in count(1):
        setup = make(str(number))
        kept = RetentionRules(unused=timedelta(days=30))
        began = setup.clock.now() - timedelta(days=300)
        setup.context = replace(setup.context, retention=kept, weights_use=partial(WeightsUse, used_since=began))
        file = setup.weights.layout.manifest(TINY)
        long_ago = (setup.clock.now() - timedelta(days=100)).timestamp()
        os.utime(file, (long_ago, long_ago))
        setup.failing, id = number, setup.post("prune", unused_days=None, empty_trash=True)
        try:
            setup.attempt(id)
        except ServerTrouble:
            setup.attempt(id)
        else:
            break
        [thrown] = setup.weights.survey().trash
        assert thrown.manifest == NEW.manifest, f"commit {number}"
        assert not setup.weights.models()
    assert number > 2
