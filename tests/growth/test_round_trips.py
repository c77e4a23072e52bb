"""What each operation asks of a deployment's stores, counted: its budget, and that the past adds nothing to it.

A round trip to Modal takes 10 to 50 ms. A listing is one, and streams what it lists; so beside the trips the entries
are counted, and neither may grow with the jobs that have ended.
"""

from collections.abc import Callable
from datetime import timedelta

import pytest

from jobs.core.progress import Reading
from jobs.ledger.attempts import Claim
from jobs.ledger.job import Ending
from jobs.ledger.ledger import Ledger
from jobs.testing.clock import HandClock
from tests.support.counting_stores import CountingStore, Trips

LEASE = timedelta(minutes=1)


class Scene:
    """A ledger with a past, and what can be done to it."""

    def __init__(self, ended: int = 0, queued: int = 0, running: int = 0) -> None:
        self.clock = HandClock()
        self.store = CountingStore(self.clock)
        self.number = 0
        ledger = self.ledger()
        ledger.sweep()
        for _ in range(ended):
            self.ended(ledger)
        for _ in range(running):
            self.claimed(ledger)
        for _ in range(queued):
            self.posted(ledger)
        self.store.trips.begin()

    def ledger(self) -> Ledger:
        return Ledger(self.store.queue, self.store.facts, self.clock)

    def posted(self, ledger: Ledger, kind: str = "pull") -> str:
        self.number += 1
        return ledger.post(kind, f"m{self.number}:latest", {"model": f"m{self.number}"}, by="test").job.id

    def claimed(self, ledger: Ledger, kind: str = "pull") -> Claim:
        id = self.posted(ledger, kind)
        self.store.queue.lanes["servers" if kind == "warm" else "weights"].remove(id)
        claim = ledger.claim(id, worker="w", lease=LEASE)
        assert claim is not None
        return claim

    def ended(self, ledger: Ledger) -> None:
        ledger.end(self.claimed(ledger), Ending("succeeded"), Reading())

    def counted(self, work: Callable[[], object]) -> Trips:
        self.store.trips.begin()
        work()
        return self.store.trips


def post_new(scene: Scene) -> Callable[[], object]:
    ledger = scene.ledger()
    return lambda: ledger.post("pull", "new:latest", {"model": "new"}, by="test")


def post_again(scene: Scene) -> Callable[[], object]:
    """Of a subject whose last job has ended."""
    ledger = scene.ledger()
    scene.ended(ledger)
    subject = f"m{scene.number}:latest"
    return lambda: ledger.post("pull", subject, {"model": "m"}, by="test")


def post_queued(scene: Scene) -> Callable[[], object]:
    ledger = scene.ledger()
    scene.posted(ledger)
    subject = f"m{scene.number}:latest"
    return lambda: ledger.post("pull", subject, {"model": "m"}, by="test")


def post_running(scene: Scene) -> Callable[[], object]:
    ledger = scene.ledger()
    scene.claimed(ledger)
    subject = f"m{scene.number}:latest"
    return lambda: ledger.post("pull", subject, {"model": "m"}, by="test")


def claim(scene: Scene) -> Callable[[], object]:
    ledger = scene.ledger()
    id = scene.posted(ledger)
    return lambda: ledger.claim(id, worker="w", lease=LEASE)


def claim_second(scene: Scene) -> Callable[[], object]:
    ledger = scene.ledger()
    first = scene.claimed(ledger)
    ledger.end(first, Ending("retry", "network", "cut", not_before=scene.clock.now()), Reading())
    return lambda: ledger.claim(first.job.id, worker="w", lease=LEASE)


def claim_warm(scene: Scene) -> Callable[[], object]:
    ledger = scene.ledger()
    id = scene.posted(ledger, "warm")
    return lambda: ledger.claim(id, worker="w", lease=LEASE)


def beat(scene: Scene) -> Callable[[], object]:
    ledger = scene.ledger()
    held = scene.claimed(ledger)
    return lambda: ledger.beat(held, Reading())


def beat_before_publishing(scene: Scene) -> Callable[[], object]:
    ledger = scene.ledger()
    held = scene.claimed(ledger)
    return lambda: ledger.beat(held, Reading(), before_publishing=True)


def end(scene: Scene) -> Callable[[], object]:
    ledger = scene.ledger()
    held = scene.claimed(ledger)
    return lambda: ledger.end(held, Ending("succeeded"), Reading())


def end_for_now(scene: Scene) -> Callable[[], object]:
    ledger = scene.ledger()
    held = scene.claimed(ledger)
    return lambda: ledger.end(held, Ending("retry", "network", "cut", not_before=scene.clock.now()), Reading())


def cancel_queued(scene: Scene) -> Callable[[], object]:
    ledger = scene.ledger()
    id = scene.posted(ledger)
    return lambda: ledger.cancel(id, by="test")


def cancel_running(scene: Scene) -> Callable[[], object]:
    ledger = scene.ledger()
    held = scene.claimed(ledger)
    return lambda: ledger.cancel(held.job.id, by="test")


def sweep(scene: Scene) -> Callable[[], object]:
    """By a ledger that has just been opened, as each tick's is."""
    scene.clock.tick(300)
    return scene.ledger().sweep


BUDGETS: dict[Callable[[Scene], Callable[[], object]], tuple[int, str]] = {
    post_new: (6, ""),
    post_again: (6, ""),
    post_queued: (6, ""),
    post_running: (8, "who attaches is told of the whole job: its claim, end and beat beside its request"),
    claim: (5, ""),
    claim_second: (7, "the story of an attempt before it, two facts each, which decide whether another is worth it"),
    claim_warm: (6, "one listing of the open jobs, whether the model is being changed"),
    beat: (2, ""),
    beat_before_publishing: (
        3,
        "both is asked for certain: whether somebody cancelled it, and whether somebody ended it",
    ),
    end: (4, ""),
    end_for_now: (4, ""),
    cancel_queued: (12, "the job, the wish, and then a claim and an end, so that a worker that claims just now loses"),
    cancel_running: (7, "the whole job, and the wish"),
    sweep: (2, ""),
}
"""The most round trips of each operation; where that is more than was meant, why."""


@pytest.mark.parametrize("operation", BUDGETS, ids=lambda operation: operation.__name__)
def test_an_operation_keeps_to_its_budget(operation: Callable[[Scene], Callable[[], object]]) -> None:
    """Each operation on the ledger makes no more round trips than its budget says."""
    scene = Scene(ended=3, queued=2)
    trips = scene.counted(operation(scene))
    most, _ = BUDGETS[operation]
    assert len(trips) <= most, trips.asked


@pytest.mark.parametrize("operation", BUDGETS, ids=lambda operation: operation.__name__)
def test_the_past_costs_nothing(operation: Callable[[Scene], Callable[[], object]]) -> None:
    """With ten times as many jobs that have ended an operation makes the same round trips, and lists no more."""
    few, many = (
        (len(trips), trips.listed)
        for trips in (scene.counted(operation(scene)) for scene in (Scene(ended=10), Scene(ended=100)))
    )
    assert few == many


@pytest.mark.parametrize("queued", [20, 40, 500])
def test_jobs_that_wait_cost_a_sweep_no_trip(queued: int) -> None:
    """However many jobs wait in the queue, a sweep is one listing and a count of the lane, by whoever it is made."""
    scene = Scene(ended=5, queued=queued)
    for _ in range(3):
        trips = scene.counted(sweep(scene))
        assert len(trips) == 2, trips.asked
        assert trips.listed == queued + 1


@pytest.mark.parametrize("running", [0, 3, 6])
def test_a_running_job_costs_a_sweep_one_read(running: int) -> None:
    """Of a job that runs and beats, a sweep reads the beat."""
    scene = Scene(ended=5, queued=5)
    ledger = scene.ledger()
    held = [scene.claimed(ledger) for _ in range(running)]
    for _ in range(10):
        scene.clock.tick(30)
        for each in held:
            ledger.beat(each, Reading())
    trips = scene.counted(scene.ledger().sweep)
    assert len(trips) == 2 + len(held), trips.asked
