"""What is remembered of the jobs and brought up to date is what reading all of them tells."""

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from hypothesis.strategies import booleans, integers, sampled_from

from jobs.core.progress import Reading
from jobs.ledger import dead_letters
from jobs.ledger.all_jobs import AllJobs
from jobs.ledger.expiry import clear
from jobs.ledger.job import Ending, Job, JobState
from jobs.ledger.ledger import Ledger
from jobs.listing.dead_memory import look_and_remember
from jobs.listing.jobs_view import JobsView
from jobs.store import keys
from jobs.testing.clock import HandClock
from tests.support.counting_stores import CountingStore

if TYPE_CHECKING:
    from jobs.ledger.attempts import Claim

LEASE = timedelta(minutes=2)
ENDINGS = (
    Ending("succeeded", result={"size": 1}),
    Ending("failed", "network", "cut"),
    Ending("failed", "disk", "full"),
    Ending("retry", "network", "cut"),
    Ending("cancelled"),
)


def shown(told: AllJobs) -> dict[str, object]:
    """What of it is the same however it came about: who ends an attempt need not have heard that it was to stop."""
    return {
        "jobs": [job.as_json() | ({"cancel_asked": None} if job.has_ended else {}) for job in told.jobs],
        "current": set(told.current),
    }


class Deployment(RuleBasedStateMachine):
    """A ledger that several change in any order, one who remembers its jobs, and a check every now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = HandClock()
        self.store = CountingStore(self.clock)
        self.ledger = Ledger(self.store.queue, self.store.facts, self.clock)
        self.view = JobsView(self.clock)
        self.held: list[Claim] = []
        self.ids: list[str] = []
        self.retired: list[Job] = []
        self.number = 0

    @rule(kind=sampled_from(("pull", "verify", "delete", "warm")), model=integers(0, 2))
    def post(self, kind: str, model: int) -> None:
        subject = f"m{model}:latest"
        posted = self.ledger.post(kind, subject, {"model": subject}, by="test", attempts=2)
        self.ids.append(posted.job.id)

    @precondition(lambda self: self.ids)
    @rule(which=integers(0, 50))
    def claim(self, which: int) -> None:
        held = self.ledger.claim(self.ids[which % len(self.ids)], worker="w", lease=LEASE)
        self.held += [held] if held else []

    @precondition(lambda self: self.held)
    @rule(ending=sampled_from(ENDINGS))
    def end(self, ending: Ending) -> None:
        held = self.held.pop()
        if self.clock.now() < held.held_until:
            self.ledger.end(held, ending, Reading())

    @precondition(lambda self: self.held)
    @rule(completed=integers(1, 100))
    def beat(self, completed: int) -> None:
        held = self.held[-1]
        if self.clock.now() < held.held_until:
            self.ledger.beat(held, Reading(completed, 100))

    @precondition(lambda self: self.ids)
    @rule(which=integers(0, 50), dismisses=booleans())
    def change(self, which: int, dismisses: bool) -> None:
        id = self.ids[which % len(self.ids)]
        job = self.ledger.reader.find(id)
        if job is None:
            return
        if dismisses and job.state is JobState.FAILED:
            self.ledger.dismiss(id, by="test")
        elif not job.has_ended:
            self.ledger.cancel(id, by="test")

    @rule(minutes=sampled_from((0.1, 5, 50, 200)))
    def wait(self, minutes: float) -> None:
        self.clock.tick(minutes * 60)

    @rule()
    def sweep(self) -> None:
        self.ledger.sweep()

    @rule(count=integers(1, 3))
    def archive(self, count: int) -> None:
        """What ended first leaves first, some together; what was told of changes an hour ago is told no more."""
        ended = [job for job in self.ledger.reader.jobs() if job.ended_at is not None]
        leaving = sorted(ended, key=lambda job: str(job.ended_at))[:count]
        self.retired += leaving
        self.ledger.retire(*leaving)
        clear(self.store.facts, self.clock.now())

    @rule()
    def look(self) -> None:
        jobs = self.ledger.reader.jobs()
        assert shown(self.view.look(self.ledger.reader)) == shown(AllJobs.of(jobs))

    @rule()
    def check(self) -> None:
        jobs = self.ledger.reader.jobs()
        known = look_and_remember(self.ledger.reader, self.store.facts, self.clock.now())
        assert {job.id for job in known.going_on} == {job.id for job in jobs if not job.has_ended}
        assert {job.id for job in known.dead} <= {job.id for job in jobs if job.state is JobState.FAILED}
        dead = {job.id for job in dead_letters.dead([*jobs, *self.retired])} - {job.id for job in self.retired}
        missing = dead - {job.id for job in known.dead}
        assert not missing


Deployment.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestWhatIsRememberedIsWhatIsThere = Deployment.TestCase


def test_an_unchanged_ledger_is_shown_by_the_same_object() -> None:
    """While nothing changes, what was made of all jobs is made once, at the cost of two listings a look."""
    deployment = Deployment()
    deployment.post("pull", 1)
    first = deployment.view.look(deployment.ledger.reader)
    deployment.store.trips.begin()
    assert deployment.view.look(deployment.ledger.reader) is first
    assert deployment.store.trips.asked == ["items of open", "items of changes"]
    deployment.view.forget()
    assert shown(deployment.view.look(deployment.ledger.reader)) == shown(first)


def test_who_looks_seldom_reads_all() -> None:
    """After so long that changes may have been removed, all jobs are read, and nothing is missed."""
    deployment = Deployment()
    deployment.view.look(deployment.ledger.reader)
    deployment.post("pull", 1)
    deployment.claim(0)
    deployment.end(ENDINGS[1])
    deployment.clock.tick(2 * 3600)
    clear(deployment.store.facts, deployment.clock.now())
    assert not list(deployment.store.facts.keys(keys.CHANGED))
    (job,) = deployment.view.look(deployment.ledger.reader).jobs
    assert job.state is JobState.FAILED


def test_many_that_are_archived_at_once_are_one_change() -> None:
    """However many jobs leave for the archive in a step, who looks reads one entry more, and shows none of them."""
    deployment = Deployment()
    jobs = [deployment.ledger.post("pull", f"m{n}:latest", {"model": "m"}, by="test").job for n in range(40)]
    for job in jobs:
        deployment.ledger.cancel(job.id, by="test")
    deployment.clock.tick(2 * 3600)
    clear(deployment.store.facts, deployment.clock.now())
    assert len(deployment.view.look(deployment.ledger.reader).jobs) == len(jobs)
    deployment.ledger.retire(*map(deployment.ledger.reader.get, (job.id for job in jobs[:30])))
    deployment.store.trips.begin()
    left = deployment.view.look(deployment.ledger.reader).jobs
    assert {job.id for job in left} == {job.id for job in jobs[30:]}
    assert (len(deployment.store.trips), deployment.store.trips.listed) == (2, 1 + 1)  # and up to when was forgotten


def test_a_check_reads_what_has_changed() -> None:
    """The second check makes two listings, whatever lies behind, and still knows what failed before the first."""
    deployment = Deployment()
    for model in range(3):
        deployment.post("pull", model)
        deployment.claim(model)
        deployment.end(ENDINGS[1])
    now = deployment.clock.now()
    first = look_and_remember(deployment.ledger.reader, deployment.store.facts, now)
    assert len(first.dead) == 3
    deployment.clock.tick(1800)
    deployment.ledger.dismiss(deployment.ids[0], by="test")
    deployment.post("pull", 1)
    deployment.store.trips.begin()
    later = look_and_remember(deployment.ledger.reader, deployment.store.facts, deployment.clock.now())
    assert [job.id for job in later.dead] == [deployment.ids[2]]
    assert deployment.store.trips.asked == [
        "items of open", "items of changes", "put dead_letters",
    ]  # fmt: skip
    assert later.heard["weights"].worker == "w"


@pytest.mark.parametrize("minutes", [0, 40])
def test_a_job_that_is_dismissed_when_it_is_retired_stays_retired(minutes: int) -> None:
    """Nor does whoever dismisses it bring back what was retired together with it, then or once that is told no more."""
    deployment = Deployment()
    for model in range(2):
        deployment.post("pull", model)
    deployment.look()
    for which in range(2):
        deployment.claim(which)
        deployment.end(Ending("failed", "network", "cut"))
    deployment.archive(2)
    deployment.look()
    deployment.wait(minutes)
    for which in range(2):
        deployment.change(which, dismisses=True)
    deployment.look()
    deployment.wait(minutes)
    clear(deployment.store.facts, deployment.clock.now())
    deployment.look()
    assert deployment.view.look(deployment.ledger.reader).jobs == ()
