"""A look that goes by what is open, has changed and was remembered tells what reading all jobs tells."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis.stateful import rule
from hypothesis.strategies import integers, lists, sampled_from, tuples

from jobs.ledger.all_jobs import AllJobs, waits_for
from jobs.ledger.expiry import clear
from jobs.ledger.job import ENDED, Attempt, Job, JobState, Place
from jobs.ledger.kinds import KINDS
from jobs.ledger.ledger import Ledger
from jobs.ledger.reader import LedgerReader
from jobs.listing.dead_memory import look_and_remember
from jobs.listing.looks import JobLooks, Look
from jobs.listing.recent_jobs import RECENT, Recent, counts_of
from jobs.store import keys
from jobs.testing.clock import HandClock
from tests.jobs.listing.test_jobs_view import ENDINGS, Deployment
from tests.support.counting_stores import CountingStore
from tests.support.stores import Store

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Looking(Deployment):
    """The same ledger, archived as it is: long after an end."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = JobLooks(self.clock)

    @rule(count=integers(1, 3))
    def archive(self, count: int) -> None:
        ago = self.clock.now() - timedelta(hours=2)
        ended = [job for job in self.ledger.reader.jobs() if job.ended_at is not None and job.ended_at < ago]
        leaving = sorted(ended, key=lambda job: str(job.ended_at))[:count]
        self.retired += leaving
        self.ledger.retire(*leaving)
        clear(self.store.facts, self.clock.now())

    @rule(begins_anew=sampled_from((True, False)))
    def look_again(self, begins_anew: bool) -> None:
        looks = JobLooks(self.clock) if begins_anew else self.looks
        agrees(looks.look(self.ledger.reader), self.ledger)


def agrees(look: Look, ledger: Ledger) -> None:
    """Whether it shows, counts and judges all jobs as they are."""
    reader = ledger.reader
    every = AllJobs.of(reader.jobs())
    listed: list[Job] = []
    before: Place | None = None
    while True:
        window = look.window(reader, before, 5)
        listed += window.jobs
        if window.end is None:
            break
        before = window.end

    def heard(jobs: list[Job]) -> list[object]:
        return [job.as_json() | ({"cancel_asked": None} if job.has_ended else {}) for job in jobs]

    assert heard(listed) == heard(list(every.jobs))
    assert {about: count for about, count in look.counts.items() if count} == counts_of(every.jobs)
    assert [job.id for job in look.going_on(reader)] == [job.id for job in every.jobs if not job.has_ended]
    waits = waits_for(every.jobs, KINDS)
    assert {id: job.id for id, job in look.waits_for.items()} == {id: job.id for id, job in waits.items()}
    assert {job.id for job in listed if look.is_current(reader, job)} == set(every.current)


Looking.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestALookIsAsGoodAsReadingAll = Looking.TestCase


def past(number: int, state: JobState = JobState.SUCCEEDED) -> Job:
    at = NOW + timedelta(seconds=number)
    ended_at = at if state in ENDED else None
    attempt = Attempt(1, at, "w", timedelta(0), at, ended_at, "succeeded" if ended_at else None)
    return Job(f"line{number:04}-1", "pull", f"m{number}:latest", "weights", state, {}, 1, at, "test", (attempt,))


@settings(max_examples=30, deadline=None)
@given(integers(0, 3 * RECENT), lists(lists(tuples(integers(-RECENT, 4 * RECENT), sampled_from("er")), max_size=60)))
def test_the_recent_jobs_are_all_from_their_floor_on(ended: int, steps: list[list[tuple[int, str]]]) -> None:
    """Whatever ends and is archived, in whichever order, the recent jobs are all that ended from their floor on."""
    there = {job.id: job for job in map(past, range(ended))}
    recent = Recent.of(there.values())
    for step in steps:
        changed: dict[str, Job | None] = {}
        for number, what in step:
            job = past(number + RECENT)
            changed[job.id] = job if what == "e" else None
        there |= {id: job for id, job in changed.items() if job is not None}
        for id in [id for id, job in changed.items() if job is None]:
            there.pop(id, None)
        recent = recent.after(changed)
        true = [job for job in there.values() if recent.floor is None or job.place >= recent.floor]
        assert list(recent.jobs) == sorted(true, key=lambda job: job.place, reverse=True)
        assert len(recent.jobs) <= RECENT


def test_few_that_are_left_of_the_recent_ones_are_made_more_again() -> None:
    """When most of the recent jobs have been archived, the next look reads all once, and none after it does."""
    clock = HandClock()
    store = CountingStore(clock)
    ledger = Ledger(store.queue, store.facts, clock)
    ids = [ledger.post("pull", f"m{n}:latest", {"model": "m"}, by="test").job.id for n in range(RECENT + 20)]
    for id in ids:
        ledger.cancel(id, by="test")
    look_and_remember(ledger.reader, store.facts, clock.now())
    ledger.retire(*map(ledger.reader.get, ids[30:]))
    listings = []
    shown = []
    for _ in range(3):
        store.trips.begin()
        known = look_and_remember(ledger.reader, store.facts, clock.now())
        listings.append(store.trips.asked.count("items of jobs"))
        assert known.ended.recent is not None
        shown.append({job.id for job in known.ended.recent.jobs})
    assert listings == [0, 1, 0]
    assert shown[0] < shown[1] == shown[2] == set(ids[:30])


def six_remembered() -> tuple[HandClock, CountingStore, Ledger, list[str]]:
    """A store with six jobs that have ended, of which only what a look remembers is told."""
    clock = HandClock()
    store = CountingStore(clock)
    ledger = Ledger(store.queue, store.facts, clock)
    ids = [ledger.post("pull", f"m{n}:latest", {"model": "m"}, by="test").job.id for n in range(6)]
    for id in ids:
        ledger.cancel(id, by="test")
    clock.tick(2 * 3600)
    clear(store.facts, clock.now())
    look_and_remember(ledger.reader, store.facts, clock.now())
    return clock, store, ledger, ids


def test_what_an_older_version_archived_is_counted_right() -> None:
    """An older version does not say what it archived: all jobs are read once, and the count is right."""
    clock, store, ledger, ids = six_remembered()
    ledger.retire(*map(ledger.reader.get, ids[:4]))
    key = keys.changed(f"-{ids[0]}")
    told = dict(store.facts.get(key))
    del told["retired"]
    store.facts.put(key, told)
    for listings in (1, 0):
        store.trips.begin()
        known = look_and_remember(ledger.reader, store.facts, clock.now())
        assert sum(known.ended.counts.values()) == 2
        assert store.trips.asked.count("items of jobs") == listings


def test_what_is_archived_is_counted_no_more() -> None:
    """What leaves for the archive is taken off the count once, by what whoever archives says, and nothing is listed."""
    clock, store, ledger, ids = six_remembered()
    ledger.retire(*map(ledger.reader.get, ids[:2]))
    ledger.retire(*map(ledger.reader.get, ids[2:5]))
    looks = JobLooks(clock)
    store.trips.begin()
    for _ in range(2):
        assert looks.look(ledger.reader).counts == {("pull", "m5:latest", "cancelled"): 1}
        known = look_and_remember(ledger.reader, store.facts, clock.now())
        assert known.ended.counts == {("pull", "m5:latest", "cancelled"): 1}
    assert "items of jobs" not in store.trips.asked


class EndsMeanwhile(LedgerReader):
    """Reads all jobs, and right after that something happens."""

    happens: Callable[[], object]

    def jobs(self, newest: int | None = None) -> list[Job]:
        found = super().jobs(newest)
        self.happens()
        return found


def test_what_ends_while_all_are_read_is_counted_once() -> None:
    """Of what happens while all jobs are read nothing is missed, and nothing is counted twice by the next look."""
    clock = HandClock()
    store = CountingStore(clock)
    ledger = Ledger(store.queue, store.facts, clock)
    first, second = (ledger.post("pull", f"m{n}:latest", {"model": "m"}, by="test").job.id for n in range(2))
    ledger.cancel(first, by="test")
    clock.tick(2 * 3600)
    clear(store.facts, clock.now())
    reader = EndsMeanwhile(store.facts)

    def happens() -> None:
        ledger.cancel(second, by="test")
        ledger.retire(ledger.reader.get(first))

    reader.happens = happens
    for _ in range(2):
        known = look_and_remember(reader, store.facts, clock.now())
        assert known.ended.counts == {("pull", "m1:latest", "cancelled"): 1}
        assert known.ended.recent is not None
        assert [job.id for job in known.ended.recent.jobs] == [second]


def test_a_night_counts_anew() -> None:
    """What no change told of, since whoever wrote the fact died before that, is known again when all were read."""
    clock = HandClock()
    store = CountingStore(clock)
    ledger = Ledger(store.queue, store.facts, clock)
    id = ledger.post("pull", "m:latest", {"model": "m"}, by="test").job.id
    look_and_remember(ledger.reader, store.facts, clock.now())
    ledger.cancel(id, by="test")
    store.facts.pop(keys.changed(id))
    known = look_and_remember(ledger.reader, store.facts, clock.now())
    assert not known.ended.counts
    known = look_and_remember(ledger.reader, store.facts, clock.now(), every=ledger.reader.jobs())
    assert known.ended.counts == counts_of([ledger.reader.get(id)])
    assert look_and_remember(ledger.reader, store.facts, clock.now()).ended.counts == known.ended.counts


def test_one_machine_counts_by_the_same(store: Store) -> None:
    """Where the ledger has its jobs in their order, a look counts and shows them as it does elsewhere."""
    ledger = store.ledger()
    ids = [ledger.post("pull", f"m{n}:latest", {"model": "m"}, by="test").job.id for n in range(8)]
    for id in ids[:5]:
        ledger.cancel(id, by="test")
    looks = JobLooks(store.clock)
    agrees(looks.look(ledger.reader), ledger)
    ledger.cancel(ids[6], by="test")
    agrees(looks.look(ledger.reader), ledger)
    look_and_remember(ledger.reader, store.facts, store.clock.now())
    agrees(JobLooks(store.clock).look(ledger.reader), ledger)


def test_a_job_that_is_dismissed_days_later_is_counted_once() -> None:
    """To dismiss what failed long ago changes no count."""
    deployment = Deployment()
    deployment.post("pull", 1)
    deployment.claim(0)
    deployment.end(ENDINGS[1])
    deployment.clock.tick(3 * 3600)
    clear(deployment.store.facts, deployment.clock.now())
    ledger, facts = deployment.ledger, deployment.store.facts
    before = look_and_remember(ledger.reader, facts, deployment.clock.now()).ended.counts
    ledger.dismiss(deployment.ids[0], by="test")
    assert look_and_remember(ledger.reader, facts, deployment.clock.now()).ended.counts == before
