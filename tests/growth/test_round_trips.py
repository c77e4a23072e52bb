"""What each operation asks of a deployment's stores, counted: its budget, and that the past adds nothing to it.

A round trip to Modal takes 10 to 50 ms. A listing is one, and streams what it lists; so beside the trips the entries
are counted, and neither may grow with the jobs that have ended.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from app.deployment.volume_queries import loaded
from app.fleet.file import read
from app.fleet.schedule import jobs_of_night
from app.fleet.schema import Fleet, parse
from app.gateway.auth.key_lines import FixedLines
from app.gateway.auth.keys import Keys
from app.gateway.auth.live_keys import LiveKeys
from app.model_server.report import Report
from app.scheduler import runs
from app.scheduler.night_plan import Actual
from jobs.access.keys.key_copy import copy_at, keep_keys
from jobs.access.keys.key_records import KeySettings
from jobs.access.keys.key_store import KeyStore
from jobs.access.keys.proofs import hash_of
from jobs.core.progress import Reading
from jobs.ledger.attempts import Claim
from jobs.ledger.job import Ending, Job
from jobs.ledger.kinds import ALL
from jobs.ledger.ledger import Ledger
from jobs.store import keys
from jobs.store.sqlite import SqliteDict, SqliteQueue
from jobs.telemetry.usage import UsageRecorder, Use
from jobs.testing.clock import HandClock
from jobs.weights.history import Memory
from jobs.weights.prune_plan import plan
from jobs.weights.survey import Survey
from tests.support.counting_stores import CountingStore, Trips

LEASE = timedelta(minutes=1)

N = 20


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

    def work_off(self) -> None:
        """Have all that waits done."""
        ledger = self.ledger()
        for job in ledger.reader.jobs():
            if not job.has_ended and (claim := ledger.claim(job.id, worker="w", lease=LEASE)):
                ledger.end(claim, Ending("succeeded"), Reading())

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


def look(scene: Scene) -> Callable[[], object]:
    """Of a follower, at a job that runs."""
    ledger = scene.ledger()
    held = scene.claimed(ledger)
    job = ledger.reader.get(held.job.id)
    ledger.beat(held, Reading(5, 10))
    return lambda: ledger.reader.look(job)


def look_queued(scene: Scene) -> Callable[[], object]:
    ledger = scene.ledger()
    job = ledger.reader.get(scene.posted(ledger))
    return lambda: ledger.reader.look(job)


def failed(scene: Scene, ledger: Ledger, kind: str) -> str:
    held = scene.claimed(ledger, kind)
    ledger.end(held, Ending("failed", "network", "cut"), Reading())
    return held.job.id


def retry(scene: Scene) -> Callable[[], object]:
    ledger = scene.ledger()
    id = failed(scene, ledger, "pull")
    return lambda: ledger.retry(id, by="test")


def retry_delete(scene: Scene) -> Callable[[], object]:
    """Of a model that was pulled and verified before, as others were pruned."""
    ledger = scene.ledger()
    scene.ended(ledger)
    subject = f"m{scene.number}:latest"
    for kind, about in (("verify", subject), ("prune", ALL), ("delete", subject)):
        job = ledger.post(kind, about, {}, by="test").job
        held = ledger.claim(job.id, worker="w", lease=LEASE)
        assert held is not None
        ledger.end(held, Ending("failed", "network", "cut"), Reading())
        scene.clock.tick(1)
    return lambda: ledger.retry(job.id, by="test")


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
    end_for_now: (3, ""),
    look: (2, ""),
    look_queued: (2, ""),
    cancel_queued: (13, "the job, the wish, and then a claim and an end, so that a worker that claims just now loses"),
    cancel_running: (9, "the whole job, the wish, a word to those who look at it, and whether it has ended meanwhile"),
    retry: (13, "the whole story of the job, and a post"),
    retry_delete: (33, "as `retry`, and of each line that a later change of the model may be in what its last job was"),
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


# -- the schedules -----------------------------------------------------------------------------------------------------

FLEET = parse(read(), "fleet.toml")


def context(scene: Scene) -> runs.ScheduleContext:
    return runs.ScheduleContext(scene.ledger(), scene.store.facts, FLEET, scene.clock, lambda _: None)


def tick(scene: Scene) -> None:
    runs.tick(context(scene), lambda: None, lambda _, __: None, lambda: None)


def fleet_of(models: int) -> Fleet:
    """One that pins so many models, none of which is here."""
    some = FLEET.models[0].model_copy(update={"pinned": True, "warmed": False})
    return FLEET.model_copy(update={"models": [some.model_copy(update={"name": f"p{n}"}) for n in range(models)]})


def nothing_there(now: runs.ScheduleContext, memory: Memory, jobs: Sequence[Job]) -> Actual:
    """As `volume_queries.actual` finds it on an empty volume."""
    at = now.clock.now()
    use = memory.weights_use(jobs, loaded(now.facts))
    pruning = plan(Survey((), (), (), (), (), 0), use, FLEET.retention(), at)
    return Actual((), {}, memory, pruning, jobs_of_night(FLEET.schedule.times, jobs, at))


@pytest.mark.parametrize(("queued", "running"), [(0, 0), (500, 0), (20, 4), (40, 4)])
def test_a_tick_costs_a_dozen_trips(queued: int, running: int) -> None:
    """A tick makes twelve round trips, and one more for each running job; jobs that wait, servers and days of usage
    that are known cost none."""
    scene = Scene(ended=5, queued=queued)
    ledger = scene.ledger()
    held = [scene.claimed(ledger) for _ in range(running)]
    for number in range(20):
        report = Report("a10g", f"c{number}", "ended", scene.clock.now())
        scene.store.facts.put(report.key, report.as_json())
        usage_recorder = UsageRecorder(scene.store.facts, scene.clock, f"gateway-{number}")
        usage_recorder.add(Use(scene.clock.now(), "m1:latest", "key", "a10g", "success"))
        usage_recorder.flush()
    for _ in range(2):
        scene.clock.tick(300)
        for each in held:
            each.held_until, each.held_for = scene.clock.now() + LEASE, scene.clock.monotonic() + 60
            ledger.beat(each, Reading())
        trips = scene.counted(lambda: tick(scene))
    assert len(trips) <= 12 + running, trips.asked


@pytest.mark.parametrize("failed", [3, 30, 60])
def test_a_tick_costs_the_same_however_much_is_wrong(failed: int) -> None:
    """Each job that failed for good is an incident, told of once; that they are so still is one write for all."""
    scene = Scene(ended=10, queued=2)
    ledger = scene.ledger()
    for _ in range(failed):
        ledger.end(scene.claimed(ledger), Ending("failed", "network", "cut"), Reading())
    tick(scene)  # which writes each of them down
    for _ in range(3):
        scene.clock.tick(300)
        trips = scene.counted(lambda: tick(scene))
        assert len(trips) <= 12, trips.asked
    assert len([key for key in scene.store.sorts["incidents"].kept if key.startswith(keys.INCIDENT)]) == failed


@pytest.mark.parametrize("ended", [40, 80])
def test_a_tick_lists_no_job_that_has_ended(ended: int) -> None:
    """What a tick lists does not grow with the jobs that ended more than an hour ago."""
    listed = []
    for past in (0, ended):
        scene = Scene(ended=past, queued=2)
        tick(scene)
        scene.clock.tick(1800)
        tick(scene)
        scene.clock.tick(2400)
        for key in list(scene.store.facts.keys(keys.CHANGED)):  # as the archive does
            scene.store.facts.pop(key)
        listed.append(scene.counted(lambda: tick(scene)).listed)  # noqa: B023 - called at once
    assert listed[0] == listed[1]


def nights(scene: Scene, fleet: Fleet, count: int = 1) -> Trips:
    """What the last of so many nights asks, a day apart, with everything that was posted done in between."""
    for number in range(count):
        if number:
            scene.work_off()
            scene.clock.tick(86_400)
        now = replace(context(scene), fleet=fleet)
        trips = scene.counted(lambda: runs.nightly(now, partial(nothing_there, now)))  # noqa: B023
    return trips


@pytest.mark.parametrize("ended", [0, 500])
@pytest.mark.parametrize("steps", [1, N, 2 * N])
def test_a_night_keeps_to_its_budget(steps: int, ended: int) -> None:
    """A night makes forty round trips and two a step, however many jobs wait and have ended; one a step where the
    subject had a job before."""
    for count, each in ((1, 2), (2, 1)):
        scene = Scene(ended=ended, queued=4)
        trips = nights(scene, fleet_of(steps), count)
        assert sum(asked.startswith("put job/") for asked in trips.asked) == steps
        assert len(trips) <= 40 + each * steps, trips.asked
        assert trips.asked.count("items of jobs") == 2  # the jobs, and what they are about


@pytest.mark.parametrize("steps", [N, 2 * N])
def test_a_night_that_finds_its_jobs_open_looks_at_each(steps: int) -> None:
    """A step whose job is still open from the night before costs what a post by itself costs, and posts nothing."""
    scene, fleet = Scene(), fleet_of(steps)
    nights(scene, fleet)
    scene.clock.tick(86_400)
    trips = nights(scene, fleet)
    assert not [asked for asked in trips.asked if asked.startswith("put job/")]
    assert len(trips) <= 40 + 6 * steps, trips.asked


@pytest.mark.parametrize("days", [1, 5])
@pytest.mark.parametrize("entries", [N, 2 * N])
def test_a_night_touches_what_a_dict_would_forget(entries: int, days: int) -> None:
    """What would fade in a week, a night reads by its key once it is some days old: each entry of usage, and what each
    open job consists of, five facts. What is younger costs nothing."""
    scene = Scene(queued=entries)
    day = scene.clock.now().date().isoformat()
    for number in range(entries):
        scene.store.facts.put(keys.usage(day, f"gateway-{number}"), {"v": 1, "rows": []})
    scene.clock.tick(days * 86_400)
    trips = nights(scene, fleet_of(1))
    assert sum(asked.startswith("get usage/") for asked in trips.asked) == (entries if days == 5 else 0)
    assert len(trips) <= 40 + 2 + (6 * entries if days == 5 else 0), trips.asked


# -- keys --------------------------------------------------------------------------------------------------------------


class KeyScene:
    """So many keys, and as many jobs that have ended; the clock, and the store that counts."""

    def __init__(self, count: int) -> None:
        self.scene = Scene(ended=count)
        self.facts, self.clock = self.scene.store.facts, self.scene.clock
        for number in range(count):
            KeyStore(self.facts, self.clock).make(f"k{number}", hash_of(str(number)), KeySettings(), by="test")

    def counted(self, work: Callable[[], object]) -> Trips:
        return self.scene.counted(work)


KEY_ACTS: dict[str, tuple[int, Callable[[KeyStore], object]]] = {
    "list": (1, lambda store: store.all()),
    "make": (2, lambda store: store.make("new", hash_of("new"), KeySettings(), by="test")),
    "set": (2, lambda store: store.change("k1", lambda _: KeySettings(scopes=("admin",)), by="test")),
    "rotate": (2, lambda store: store.rotate("k1", hash_of("other"), timedelta(hours=1), by="test")),
    "revoke": (2, lambda store: store.revoke("k1", by="test")),
}
"""What each may cost in trips: a listing, and a write."""


@pytest.mark.parametrize("count", [N, 2 * N])
@pytest.mark.parametrize("act", KEY_ACTS)
def test_an_act_on_a_key_is_a_listing_and_a_write(act: str, count: int) -> None:
    """However many keys and jobs there are; what is listed are keys and nothing else."""
    most, do = KEY_ACTS[act]
    scene = KeyScene(count)
    trips = scene.counted(lambda: do(KeyStore(scene.facts, scene.clock)))
    assert len(trips) == most, trips.asked
    assert trips.listed == count


@pytest.mark.parametrize("count", [N, 2 * N])
def test_a_gateway_reads_all_keys_by_one_trip(count: int) -> None:
    """Each time, however many there are, and with nothing else in it."""
    scene = KeyScene(count)
    live = LiveKeys(FixedLines(Keys(is_open=False)), scene.facts, scene.clock)
    trips = scene.counted(live.refresh)
    assert (len(trips), trips.listed, live.count) == (1, count, count), trips.asked


@pytest.mark.parametrize("count", [N, 2 * N])
def test_a_night_copies_keys_by_two_trips(count: int, tmp_path: Path) -> None:
    """It lists them and writes them anew, so that the Dict keeps them; an hour later, with no change, it lists them."""
    scene = KeyScene(count)
    copy = copy_at(tmp_path)

    def keep() -> object:
        return keep_keys(scene.facts, copy, scene.clock.now(), lambda: None)

    assert len(scene.counted(keep)) == 2, scene.scene.store.trips.asked
    scene.clock.tick(3600)
    assert len(scene.counted(keep)) == 1


# -- what fresh ledgers put into the queue -----------------------------------------------------------------------------


class File:
    """One machine's queue and dict, and how often an id was put into the queue."""

    def __init__(self, path: Path, clock: HandClock) -> None:
        self.facts = SqliteDict(path)
        self.clock = clock
        self.queue = PutsCounted(path, clock=clock)

    def close(self) -> None:
        self.queue.close()
        self.facts.close()


class PutsCounted(SqliteQueue):
    puts = 0

    def put(self, v: Any, block: bool = True, *, partition: str | None = None) -> None:
        self.puts += 1
        super().put(v, block, partition=partition)


def tick_often(
    ledger: Callable[[], Ledger], clock: HandClock, *, empty: Callable[[], object], queued: int
) -> list[int]:
    """How many ids each of ten ticks puts in: of ledgers that were just opened, with nobody who takes them."""
    for number in range(queued):
        ledger().post("pull", f"m{number}:latest", {"model": f"m{number}"}, by="test")
    put_in = []
    for tick in range(10):
        clock.tick(300)
        if tick == 5:
            empty()  # the platform forgets what is queued
        put_in.append(len(ledger().sweep().enqueued))
    return put_in


def test_a_job_is_put_in_once_by_whoever_ticks_on_a_deployment() -> None:
    """When a job was put in last is a fact: ten ticks, each with a ledger of its own, put in none that is in the queue,
    and each that the queue has lost once; though nobody works there."""
    scene = Scene()
    queue = scene.store.queue
    put_in = tick_often(scene.ledger, scene.clock, empty=queue.lanes.clear, queued=60)
    assert put_in == [0, 0, 0, 0, 0, 60, 0, 0, 0, 0]
    assert len(queue.lanes["weights"]) == 60


def test_a_job_is_put_in_once_by_whoever_ticks_on_one_machine(tmp_path: Path) -> None:
    """The same in one machine's file: each job is put into its queue as it is posted, and once when it was lost."""
    clock = HandClock()
    file = File(tmp_path / "l", clock)

    def empty() -> None:
        while file.queue.get(block=False, partition="weights") is not None:
            pass

    put_in = tick_often(lambda: Ledger(file.queue, file.facts, clock), clock, empty=empty, queued=60)
    assert put_in == [0, 0, 0, 0, 0, 60, 0, 0, 0, 0]
    assert (file.queue.puts, file.queue.len(partition="weights")) == (120, 60)
    file.close()
