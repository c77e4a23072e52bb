"""The ledger under any order of steps: posters, workers, sweepers, archivers, kills, clock jumps, lost replies, wiped
queues."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.core.errors import Fenced, NotFound
from jobs.core.progress import Reading
from jobs.ledger.expiry import clear
from jobs.ledger.job import Ending, Job, JobState
from jobs.ledger.ledger import Ledger
from jobs.store.sqlite import SqliteDict, SqliteQueue
from jobs.testing.clock import HandClock
from tests.support.interleaving import Actor, TurnDict, TurnQueue

LEASE = timedelta(seconds=30)
ALLOWED = 3

IN_MEMORY = Path(":memory:")
"""The threads of this process share its one connection, as they would one to a file."""


class World:
    """Two posters, two workers, three sweepers, a canceller and two archivers on one store, moved by the test's hand.

    `holder` plays the staging folder: claiming takes it, giving an attempt up for lost takes it away, and only who
    still has it can publish.
    """

    def __init__(self) -> None:
        self.clock = HandClock()
        self.facts = SqliteDict(IN_MEMORY)
        self.queue = SqliteQueue(IN_MEMORY, clock=self.clock)
        self.watcher = Ledger(self.queue, self.facts, self.clock)
        self.posted: list[str] = []
        self.holder: dict[str, str] = {}
        self.published: list[str] = []
        self.outcomes: list[str] = []
        self.ended: set[str] = set()
        self.final_ends: list[str] = []
        self.checked: tuple[dict[str, Any], set[str]] | None = None
        self.actors = [
            *(Actor(f"poster {i}", self.as_poster) for i in range(2)),
            *(Actor(f"worker {i}", self.as_worker) for i in range(2)),
            *(Actor(f"sweeper {i}", self.as_sweeper) for i in range(3)),
            Actor("canceller", self.as_canceller),
            *(Actor(f"archiver {i}", self.as_archiver) for i in range(2)),
        ]

    def ledger(self) -> Ledger:
        return Ledger(TurnQueue(self.queue), TurnDict(self.facts), self.clock)

    def as_poster(self) -> None:
        ledger = self.ledger()
        for _ in range(3):
            before = set(self.ended)
            id = ledger.post("pull", "m", {"model": "m"}, by="test", attempts=ALLOWED).job.id
            assert id not in before, f"a post was answered with {id}, which had ended before it began"
            self.posted.append(id)

    def as_worker(self) -> None:
        ledger = self.ledger()
        for _ in range(6):
            id = ledger.next_id("weights", timedelta(0))
            claim = ledger.claim(id, worker="w", lease=LEASE) if id else None
            if claim is None:
                continue
            me = f"{claim.job.id}.{claim.n}"
            self.holder["m"] = me
            try:
                cancelled = ledger.beat(claim, Reading(1, 2), before_publishing=True)
                if not cancelled and self.holder.get("m") == me:
                    self.published.append(threading.current_thread().name)
                    self.check_publisher_not_ended(claim.job.id, claim.n)
                if ledger.end(claim, self.ending(cancelled), Reading(2, 2)).has_ended:
                    self.final_ends.append(claim.job.id)
            except Fenced:
                continue

    def ending(self, cancelled: bool) -> Ending:
        if cancelled:
            return Ending("cancelled")
        outcome = self.outcomes.pop() if self.outcomes else "succeeded"
        return (
            Ending("retry", "network", "cut", not_before=self.clock.now())
            if outcome == "retry"
            else Ending("succeeded")
        )

    def as_sweeper(self) -> None:
        ledger = self.ledger()
        for _ in range(4):
            ledger.sweep(self.take_staging_away)

    def take_staging_away(self, job: Job) -> None:
        self.holder.pop(job.subject, None)

    def as_canceller(self) -> None:
        ledger = self.ledger()
        for job in ledger.reader.jobs():
            with suppress(NotFound):  # it was archived meanwhile
                ledger.cancel(job.id, by="test")

    def as_archiver(self) -> None:
        ledger, facts = self.ledger(), TurnDict(self.facts)
        for _ in range(3):
            for job in ledger.reader.jobs():
                if job.has_ended:
                    ledger.retire(job)
            clear(facts, self.clock.now())

    def check_publisher_not_ended(self, id: str, n: int) -> None:
        assert id not in self.ended, f"attempt {n} of {id} published after the job had ended"
        assert self.facts.get(f"end/{id}/{n}") is None, f"attempt {n} of {id} published after it was ended"

    def check(self) -> None:
        """What holds between any two steps; as it did, where neither the facts nor what is known of them changed."""
        assert len(set(self.final_ends)) == len(self.final_ends), f"two final ends of one job: {self.final_ends}"
        entries = dict(self.facts.items())
        if self.checked == (entries, self.ended):
            return
        jobs = self.watcher.reader.jobs()  # folding raises on any move that the table does not have
        for key in entries:
            sort, _, rest = key.partition("/")
            id, _, n = rest.partition("/")
            if f"gone/{id}" not in entries and sort == "claim" and int(n) > 1:
                before = entries.get(f"end/{id}/{int(n) - 1}")
                assert before, f"attempt {n} of {id} was claimed while attempt {int(n) - 1} ran"
                assert before["outcome"] in {"retry", "lost"}, f"attempt {n} of {id} was claimed after a final end"
        assert sum(not job.has_ended for job in jobs) <= 1, (
            f"two live jobs of one subject: {[str(job) for job in jobs]}"
        )
        for job in jobs:
            assert len(job.attempts) <= ALLOWED, str(job)
            assert job.has_ended or job.id not in self.ended, f"{job} had ended"
        self.ended |= {job.id for job in jobs if job.has_ended}
        for id in self.ended:
            assert self.is_over(id), f"{id} had ended, and is {self.watcher.reader.get(id)}"
        self.checked = entries, set(self.ended)

    def is_over(self, id: str) -> bool:
        """It has ended, or it had and is archived."""
        try:
            return self.watcher.reader.get(id).has_ended
        except NotFound:
            return self.facts.get(f"gone/{id}") is not None

    def recover(self) -> None:
        """All processes are gone and the queue is empty; one healthy worker starts."""
        for actor in self.actors:
            actor.kill()
        while self.queue.get(block=False, partition="weights") is not None:
            pass
        ledger = Ledger(self.queue, self.facts, self.clock)
        for _ in range(ALLOWED + 2):
            self.clock.tick(LEASE.total_seconds() + 1)
            ledger.sweep()
            while (id := self.queue.get(block=False, partition="weights")) is not None:
                claim = ledger.claim(id, worker="healthy", lease=LEASE)
                if claim is not None:
                    ledger.end(claim, Ending("succeeded"), Reading())
            self.check()

    def close(self) -> None:
        for actor in self.actors:
            actor.kill()
        self.facts.close()
        self.queue.close()


@contextmanager
def a_world() -> Iterator[World]:
    world = World()
    try:
        yield world
    finally:
        world.close()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("step"), st.integers(0, 9), st.integers(1, 12)),
        st.tuples(st.just("lose reply"), st.integers(0, 9), st.just(1)),
        st.tuples(st.just("kill"), st.integers(0, 9), st.just(1)),
        st.tuples(st.just("tick"), st.sampled_from([1, 29, 31, 3601]), st.just(1)),
        st.tuples(st.just("wipe"), st.just(0), st.just(1)),
    ),
    min_size=10,
    max_size=120,
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS, outcomes=st.lists(st.sampled_from(["retry", "succeeded"]), max_size=8))
def test_no_order_of_steps_breaks_the_ledger(steps: list[tuple[str, int, int]], outcomes: list[str]) -> None:
    """Whatever the order, kills, lost replies, clock jumps and wiped queues: one live job of a subject, attempts
    within what was allowed, nothing published by an ended attempt, and every posted job ends (P1 to P4)."""
    with a_world() as world:
        world.outcomes = list(outcomes)
        for what, whom, times in steps:
            if what == "tick":
                world.clock.tick(whom)
            elif what == "wipe":
                while world.queue.get(block=False, partition="weights") is not None:
                    pass
            elif what == "kill":
                world.actors[whom].kill()
            else:
                for _ in range(times):
                    world.actors[whom].step(loses_reply=what == "lose reply")
            world.check()
            raise_failures(world.actors)
        world.recover()
        for id in world.posted:
            assert world.is_over(id), f"{world.watcher.reader.get(id)} was posted and never ended"


def raise_failures(actors: list[Actor]) -> None:
    for actor in actors:
        if actor.failure is not None:
            raise AssertionError(f"{actor.name} failed") from actor.failure


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(turns=st.lists(st.integers(0, 3), min_size=5, max_size=80))
def test_racing_posters_share_one_job(turns: list[int]) -> None:
    """Of any number of posters of one subject, in any order, one makes the job and the others attach to it (P2)."""
    clock = HandClock()
    facts, queue = SqliteDict(IN_MEMORY), SqliteQueue(IN_MEMORY, clock=clock)
    answers = []

    def post() -> None:
        answers.append(Ledger(TurnQueue(queue), TurnDict(facts), clock).post("pull", "m", {}, by="x"))

    actors = [Actor(f"poster {i}", post) for i in range(4)]
    for turn in turns:
        actors[turn].step()
    for actor in actors:
        while not actor.done:
            actor.step()
    raise_failures(actors)
    assert len({posted.job.id for posted in answers}) == 1
    assert sum(not posted.attached for posted in answers) == 1
    facts.close()
    queue.close()


@pytest.mark.parametrize("allowed", [1, ALLOWED])
@pytest.mark.parametrize("steps", range(1, 24))
def test_a_sleeper_publishes_nothing(steps: int, allowed: int) -> None:
    """A worker that falls asleep before any of its store operations, and wakes after a sweep and a second worker,
    publishes and ends nothing; the job ends once (P3, P4)."""
    with a_world() as world:
        world.watcher.post("pull", "m", {"model": "m"}, by="test", attempts=allowed)
        sleeper, other, sweeper = world.actors[2], world.actors[3], world.actors[4]
        for _ in range(steps):
            sleeper.step()
        world.clock.tick(31)
        before = len(world.published)
        for actor in (sweeper, other, sleeper):
            while not actor.done:
                actor.step()
                world.check()
        raise_failures(world.actors)
        (job,) = world.watcher.reader.jobs()
        assert job.state is (JobState.FAILED if is_all_lost(job) else JobState.SUCCEEDED), str(job)
        woke_as_holder = job.attempts[0].outcome == "lost"
        assert not (woke_as_holder and sleeper.name in world.published[before:]), (str(job), world.published)


def finish(world: World, *, then_wait: float = 0) -> None:
    """Whatever is alive is worked to its end, archived, and its facts are removed; time passes twice."""
    ledger = world.watcher
    for _ in range(2):
        ledger.sweep(world.take_staging_away)
        for job in [job for job in ledger.reader.jobs() if not job.has_ended]:
            claim = ledger.claim(job.id, worker="other", lease=LEASE)
            if claim is not None:
                ledger.end(claim, Ending("succeeded"), Reading())
        world.clock.tick(61)  # longer than any lease
    for job in ledger.reader.jobs():
        assert job.has_ended, str(job)
        world.ended.add(job.id)
        ledger.retire(job)
    for wait in (3601, then_wait):
        world.clock.tick(wait)
        clear(world.facts, world.clock.now())


@pytest.mark.parametrize("actor", ["poster 0", "worker 0", "sweeper 0", "canceller", "archiver 0"])
@pytest.mark.parametrize("steps", range(16))
def test_a_sleeper_wakes_in_another_age(steps: int, actor: str) -> None:
    """Whoever falls asleep before any store operation, and wakes when the job has ended and its facts are removed,
    neither brings it back, nor publishes, nor makes a second live job beside the next one (P1 to P4)."""
    with a_world() as world:
        first = world.watcher.post("pull", "m", {"model": "m"}, by="test", attempts=ALLOWED).job.id
        if actor == "archiver 0":
            world.watcher.cancel(first, by="test")
        sleeper = next(each for each in world.actors if each.name == actor)
        for _ in range(steps):
            sleeper.step()
        finish(world)
        left = {key.partition("/")[0] for key in world.facts.keys()}  # noqa: SIM118 - no dict
        assert left == {"job", "gone", "live", "open_complete", "cleared", "changes_forgotten"}
        second = world.watcher.post("pull", "m", {"model": "m"}, by="test", attempts=ALLOWED)
        assert not second.attached
        published = len(world.published)
        while not sleeper.done:
            sleeper.step()
            world.check()
        raise_failures(world.actors)
        assert published == len(world.published) or world.holder["m"].startswith(second.job.id)
        world.recover()


def test_a_beat_that_lasted_for_days_is_fenced(tmp_path: Path) -> None:
    """A holder that falls asleep inside a beat, and wakes when the end of its attempt was written and removed again,
    is fenced by the clock (P4)."""
    clock = HandClock()

    class Sleepy(SqliteDict):
        def get(self, key: Any, default: Any = None) -> Any:
            if key.startswith("end/") and not asleep:
                asleep.append(key)
                others = Ledger(queue, self, clock)
                clock.tick(31)
                others.sweep()
                others.retire(others.reader.get(job.id))
                clock.tick(3601)
                clear(self, clock.now())
            return super().get(key, default)

    asleep: list[str] = ["not yet"]
    facts, queue = Sleepy(tmp_path / "l"), SqliteQueue(tmp_path / "l", clock=clock)
    ledger = Ledger(queue, facts, clock)
    job = ledger.post("pull", "m", {}, by="x", attempts=1).job
    claim = ledger.claim(job.id, worker="w", lease=LEASE)
    assert claim is not None
    asleep.clear()
    with pytest.raises(Fenced, match="ran out"):
        ledger.beat(claim, Reading(), before_publishing=True)
    assert asleep
    facts.close()
    queue.close()


def test_an_id_is_given_up_at_last() -> None:
    """A month after a job was retired nothing of it is left, and the next job of its line has an id of its own."""
    with a_world() as world:
        first = world.watcher.post("pull", "m", {"model": "m"}, by="test").job.id
        world.watcher.cancel(first, by="test")
        finish(world, then_wait=31 * 86_400)
        assert sorted(world.facts.keys()) == ["changes_forgotten", "cleared", "live/pull/m", "open_complete"]
        line, _, generation = first.rpartition("-")
        assert world.watcher.post("pull", "m", {"model": "m"}, by="test").job.id == f"{line}-{int(generation) + 1}"


ARCHIVING = st.lists(
    st.one_of(
        st.tuples(st.just("step"), st.integers(0, 3), st.integers(1, 6)),
        st.tuples(st.just("tick"), st.sampled_from([31, 3601]), st.just(1)),
    ),
    min_size=20,
    max_size=80,
)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=ARCHIVING)
def test_no_order_of_archiving_breaks_the_ledger(steps: list[tuple[str, int, int]]) -> None:
    """While jobs of one subject are posted, worked, retired and cleared in any order: one of them lives at a time,
    what has ended stays so, and every posted job ends (P1 to P3)."""
    with a_world() as world:
        names = ("poster 0", "worker 0", "archiver 0", "archiver 1")
        actors = [each for name in names for each in world.actors if each.name == name]
        for what, whom, times in steps:
            if what == "tick":
                world.clock.tick(whom)
            else:
                for _ in range(times):
                    actors[whom].step()
            world.check()
            raise_failures(world.actors)
        world.recover()
        assert all(map(world.is_over, world.posted))


READERS: dict[str, Callable[[World, str], object]] = {
    "a comparison of the index with all jobs": lambda world, _: world.ledger().index_missing(),
    "a sweep of a ledger without an index": lambda world, _: world.ledger().sweep(),
    "a sweep": lambda world, _: world.ledger().sweep(),
    "a cancellation": lambda world, id: world.ledger().cancel(id, by="test"),
    "a second claim": lambda world, id: world.ledger().claim(id, worker="late", lease=LEASE),
}


@pytest.mark.parametrize("steps", range(12))
@pytest.mark.parametrize("about", ["queued", "running"])
@pytest.mark.parametrize("reader", READERS)
def test_what_was_read_before_an_end_holds_nobody_up(reader: str, about: str, steps: int) -> None:
    """Whoever read a job before it ended, and says after that how it stood, puts that right at once: what waits for
    the job is in the queue after two sweeps, though no lease has passed."""
    with a_world() as world:
        id = world.watcher.post("pull", "m", {"model": "m"}, by="test").job.id
        waiting = world.watcher.post("warm", "m", {"model": "m"}, by="test").job.id
        assert world.queue.get(block=False, partition="servers") == waiting
        assert world.watcher.claim(waiting, worker="other", lease=LEASE) is None  # it waits, out of the queue
        assert world.queue.get(block=False, partition="weights") == id
        if reader != "a sweep":
            world.facts.pop("open/" + id)
            world.facts.pop("open_complete", None)

        def act() -> None:
            READERS[reader](world, id)

        late = Actor(reader, act)

        def moves(steps: int) -> None:
            for _ in range(steps):
                late.step()

        if about == "queued":
            moves(steps)
        claim = world.watcher.claim(id, worker="worker", lease=LEASE)
        if about == "running":
            moves(steps)
        if claim is not None:  # else the late one has it, or has ended it
            world.watcher.end(claim, Ending("succeeded"), Reading())
        while not late.done:
            late.step()
        raise_failures([late])

        job = world.watcher.reader.get(id)
        for _ in range(2):
            world.watcher.sweep()
        assert (world.queue.get(block=False, partition="servers") == waiting) is job.has_ended
        assert job.has_ended or job.attempts[0].worker == "late"


@pytest.mark.parametrize("steps", range(24))
def test_who_read_before_a_cancellation_does_not_take_it_back(steps: int) -> None:
    """A job that waits for hours, and that a worker has to end when it is cancelled, is due from then on, though a
    sweep read it before that and says how it stands after it."""
    with a_world() as world:
        id = world.watcher.post("batch", "m", {"model": "m"}, by="test").job.id
        announced = world.facts.get("open/" + id) | {"posted": False}
        claim = world.watcher.claim(id, worker="worker", lease=LEASE)
        assert claim is not None
        world.watcher.end(claim, Ending("retry", "later", not_before=world.clock.now() + timedelta(hours=8)), Reading())
        world.facts.put("open/" + id, announced)  # as of who posts it a second time at once, with others

        def sweep() -> None:
            world.ledger().sweep()

        late = Actor("sweeper", sweep)
        for _ in range(steps):
            late.step()
        world.watcher.cancel(id, by="test")
        while not late.done:
            late.step()
        raise_failures([late])
        assert id in {world.queue.get(block=False, partition="batches") for _ in range(3)}
        assert world.facts.get("open/" + id)["not_before"] is None


@pytest.mark.parametrize("sort", ["job", "claim", "end"])
def test_a_lost_reply_is_recognised(sort: str, tmp_path: Path) -> None:
    """Who wins a conditional write and never hears of it finds its own token there and goes on as the winner."""

    class Deaf(SqliteDict):
        def put(self, key: Any, value: Any, *, skip_if_exists: bool = False) -> bool:
            written = super().put(key, value, skip_if_exists=skip_if_exists)
            return written and not key.startswith(f"{sort}/")

    clock = HandClock()
    facts, queue = Deaf(tmp_path / "l"), SqliteQueue(tmp_path / "l", clock=clock)
    ledger = Ledger(queue, facts, clock)
    posted = ledger.post("pull", "m", {}, by="x")
    claim = ledger.claim(posted.job.id, worker="w", lease=LEASE)
    assert not posted.attached
    assert claim is not None
    assert ledger.end(claim, Ending("succeeded"), Reading()).state is JobState.SUCCEEDED
    facts.close()
    queue.close()


def test_a_sleeper_that_wakes_after_its_lease_cannot_end(tmp_path: Path) -> None:
    """A holder that slept past its lease can neither beat nor end, though nobody swept yet (P4)."""
    clock = HandClock()
    facts, queue = SqliteDict(tmp_path / "l"), SqliteQueue(tmp_path / "l", clock=clock)
    ledger = Ledger(queue, facts, clock)
    job = ledger.post("pull", "m", {}, by="x").job
    claim = ledger.claim(job.id, worker="w", lease=LEASE)
    assert claim is not None
    clock.tick(31)
    with pytest.raises(Fenced, match=r"ran out 1\.0 s ago"):
        ledger.beat(claim, Reading())
    with pytest.raises(Fenced, match=r"ran out 1\.0 s ago"):
        ledger.end(claim, Ending("succeeded"), Reading())
    assert ledger.reader.get(job.id).state is JobState.RUNNING
    assert ledger.sweep().lost == (job.id,)
    assert ledger.reader.get(job.id).attempts[0].outcome == "lost"
    facts.close()
    queue.close()


def is_all_lost(job: Job) -> bool:
    return all(attempt.outcome == "lost" for attempt in job.attempts)
