"""A tick and a night on the real client, with each of their calls failing once: all that is due is done, and once."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import modal
import pytest
from grpclib import GRPCError, Status
from modal.client import Client

from app.fleet.file import read
from app.fleet.schedule import jobs_of_night
from app.fleet.schema import Fleet, parse
from app.model_server.report import Report
from app.platform.limits import CallLimits
from app.platform.store import LimitedDict, LimitedQueue
from app.scheduler import runs
from app.scheduler.night_plan import Actual
from jobs.core.clock import SystemClock
from jobs.core.errors import StoreUnavailable
from jobs.core.retry import Policy
from jobs.ledger.job import Job, JobState
from jobs.ledger.ledger import Ledger
from jobs.store import keys
from jobs.testing.clock import HandClock
from jobs.weights.history import Memory
from jobs.weights.prune_plan import plan
from jobs.weights.survey import Survey
from tests.modal.platform.plane import Platform

LIMIT = timedelta(seconds=0.4)
LIMITS = CallLimits(
    entry=LIMIT,
    listing=LIMIT,
    retry=Policy(attempts=5, within=timedelta(seconds=20), first=timedelta(milliseconds=5)),
)


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    with Platform() as platform:
        yield platform


@pytest.fixture(scope="module")
def client(platform: Platform) -> Iterator[Client]:
    with platform.client() as client:
        yield client


@pytest.fixture(autouse=True)
def undisturbed(platform: Platform) -> Iterator[None]:
    yield
    platform.wire.meddler = lambda *_: None


def fleet() -> Fleet:
    document = read()
    document["windows"] = [{"tier": "a10g", "start": "0 * * * *", "hours": 24, "models": ["llama3.2"]}]  # always open
    document["alerts"]["webhook_secret"] = "hook"
    return parse(document, "test")


class LedgerOnPlane:
    """A ledger of its own on the plane, with something to do for every part of a tick."""

    def __init__(self, client: Client, name: str) -> None:
        self.facts_name, self.queue_name = f"facts-{name}", f"queue-{name}"
        self.again(client)
        self.clock = HandClock(SystemClock().now())
        self.sent_lanes: list[str] = []
        self.told = 0
        self.kept: dict[str, int] = {}

    def again(self, client: Client) -> None:
        """As a container begins: what was looked up before is unknown."""
        self.facts = LimitedDict(modal.Dict.from_name(self.facts_name, create_if_missing=True, client=client), LIMITS)
        self.queue = LimitedQueue(modal.Queue.from_name(self.queue_name, create_if_missing=True, client=client), LIMITS)

    def prepare(self) -> None:
        """A job that is due, one whose worker died, a server that went silent."""
        ledger = Ledger(self.queue, self.facts, self.clock)
        self.due = ledger.post("pull", "due:latest", {"model": "due"}, by="test").job.id
        self.lost = ledger.post("pull", "lost:latest", {"model": "lost"}, by="test").job.id
        assert ledger.claim(self.lost, worker="dead", lease=timedelta(minutes=1)) is not None
        while self.queue.get(block=False, partition="weights") is not None:
            pass
        self.report = Report("a10g", "ta-1", "serving", self.clock.now())
        self.facts.put(self.report.key, self.report.as_json())
        self.clock.wait(600)

    def post(self) -> runs.ScheduleContext:
        return runs.ScheduleContext(
            Ledger(self.queue, self.facts, self.clock), self.facts, fleet(), self.clock, self.sent_lanes.append
        )

    def tick(self) -> None:
        def send_for_delivery() -> None:
            self.told += 1

        runs.tick(self.post(), send_for_delivery, self.kept.__setitem__, lambda: None)

    def night(self) -> None:
        runs.nightly(self.post(), partial(nothing_there, self.post()))

    def assert_all_done(self) -> None:
        ledger = Ledger(self.queue, self.facts, self.clock)
        due, lost = ledger.reader.get(self.due), ledger.reader.get(self.lost)
        assert due.state is JobState.QUEUED
        assert [each.outcome for each in lost.attempts] == ["lost"]
        assert lost.is_due(self.clock.now())
        assert self.sent_lanes.count("weights") >= 1
        assert {self.due, self.lost} <= set(iter(lambda: self.queue.get(block=False, partition="weights"), None))
        assert self.facts.get(self.report.key)["state"] == "silent"
        assert self.facts.get(keys.window("a10g")) is True
        assert self.kept == {"a10g": 1}
        warmed = [job for job in ledger.reader.jobs() if job.kind == "warm"]
        assert [(job.subject, job.posted_by) for job in warmed] == [("llama3.2:latest", "window")]


def nothing_there(post: runs.ScheduleContext, memory: Memory, jobs: Sequence[Job]) -> Actual:
    now = post.clock.now()
    nothing = Survey((), (), (), (), (), 0)
    pruning = plan(nothing, memory.weights_use([]), post.fleet.retention(), now)
    return Actual((), {}, memory, pruning, jobs_of_night(post.fleet.schedule.times, jobs, now))


class EachEighth:
    """The first call of each name goes wrong, and each eighth after that."""

    def __init__(self, answer: Callable[[], Any]) -> None:
        self.answer = answer
        self.seen: Counter[str] = Counter()
        self.met: Counter[str] = Counter()

    def __call__(self, name: str, _: str) -> Any:
        self.seen[name] += 1
        if self.seen[name] % 8 != 1:
            return None
        self.met[name] += 1
        return self.answer()


FAILURES: dict[str, Callable[[], Any]] = {
    "unavailable": lambda: GRPCError(Status.UNAVAILABLE, "away"),
    "failed precondition": lambda: GRPCError(Status.FAILED_PRECONDITION, "not now"),
    "never": lambda: "never",
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("schedule", ["tick", "night"])
def test_a_tick_or_night_outlives_the_failure_of_its_calls(
    platform: Platform, client: Client, schedule: str, failure: str
) -> None:
    """Whichever calls of a tick or a night fail once, or are never answered, it does all its work, and nothing twice.
    What it calls is counted, so that a new call is among them."""
    name = f"{schedule}-{failure}".replace(" ", "-")
    setup = LedgerOnPlane(client, name)
    setup.prepare()
    setup.again(client)
    platform.wire.meddler = meddler = EachEighth(FAILURES[failure])
    getattr(setup, schedule)()
    platform.wire.meddler = lambda *_: None

    assert set(meddler.met) == set(meddler.seen)
    assert {"DictGetOrCreate", "QueueGetOrCreate", "DictGet", "DictUpdate", "DictContents", "QueuePut"} <= set(
        meddler.met
    )
    assert meddler.met["DictGet"] > 2
    if schedule == "night":
        assert setup.facts.get(keys.NIGHT_RAN) is not None
        setup.tick()
    setup.assert_all_done()


@pytest.mark.parametrize("away", ["DictContents", "QueuePut", "DictUpdate"])
def test_a_scheduledoes_the_rest_when_a_part_of_it_fails(platform: Platform, client: Client, away: str) -> None:
    """Where a call fails for as long as a tick lasts, what needs it fails by name, and everything else is done; the
    next tick does what was left, and opens an incident that names the platform."""
    setup = LedgerOnPlane(client, f"away-{away}")
    setup.prepare()
    setup.again(client)
    platform.wire.meddler = lambda name, _: GRPCError(Status.FAILED_PRECONDITION, "not now") if name == away else None
    if away == "QueuePut":  # only an id: a sweep puts it again
        setup.tick()
    else:
        with pytest.raises(StoreUnavailable) as caught:
            setup.tick()
        assert "tick did all but this: " in "".join(caught.value.__notes__)
    platform.wire.meddler = lambda *_: None
    if away == "DictContents":
        assert setup.kept == {"a10g": 1}
        assert setup.facts.get(keys.window("a10g")) is True

    setup.clock.wait(120)
    setup.tick()
    setup.assert_all_done()
    if away == "DictContents":
        told = setup.facts.get("incident/platform/tick/1")
        assert told["message"].startswith(
            "the platform failed a tick at the sweep of the ledger, the windows, the watch: "
        )


def test_a_store_that_was_away_is_told_of_afterwards(platform: Platform, client: Client) -> None:
    """The tick that finds it again opens an incident that says since when no tick was done; one that comes in its time
    says nothing."""
    setup = LedgerOnPlane(client, "gap")
    setup.tick()
    setup.clock.wait(5 * 60)
    setup.tick()
    assert setup.facts.get("incident/platform/gap/1") is None
    platform.wire.meddler = lambda name, _: GRPCError(Status.FAILED_PRECONDITION, "gone") if "Dict" in name else None
    setup.clock.wait(5 * 60)
    with pytest.raises(StoreUnavailable):
        setup.tick()
    platform.wire.meddler = lambda *_: None
    setup.clock.wait(11 * 60)
    setup.tick()
    told = setup.facts.get("incident/platform/gap/1")
    assert told["message"].startswith("the platform was away: no tick did all of its work between ")
