"""When batches of a deployment begin: what they wake and what that takes, who goes early, and who may sleep after."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from app.fleet.file import read
from app.fleet.schema import Fleet, parse
from app.local.nightly_thread import NightlyThread
from app.model_server.report import Report
from app.scheduler import runs
from app.scheduler.alert_check import check
from app.scheduler.batch_starts import OwnStarts, RentedStarts, RentedTiers, put_early
from app.scheduler.wake_budget import Wakes
from jobs.batches.batch_store import BatchStore
from jobs.batches.records import BatchRecord, BatchStart, BatchState, BatchStatus, BatchUse, Estimate, new_batch_id
from jobs.batches.start_rules import BatchStarts, NotYet, StartNow
from jobs.batches.woken_tiers import WokenTier
from jobs.core.progress import Reading
from jobs.home.home import Stack, home_of
from jobs.ledger.job import Ending
from jobs.ledger.kinds import BATCHES_LANE
from jobs.listing.dead_memory import look_and_remember
from jobs.store import keys
from jobs.testing.clock import HandClock
from tests.support.stores import LEASE, Store, open_store

HOUR = timedelta(hours=1)
TIER = "a10g"


def fleet_with(*, wakes: int = 2, windows: tuple[str, ...] = (), least: int = 0, **alerts: Any) -> Fleet:
    document = read()
    document["tiers"][TIER] |= {"own_wakes_per_day": wakes, "min_containers": least}
    document["windows"] = [{"tier": TIER, "start": each, "hours": 2, "models": ["llama3.2"]} for each in windows]
    document["schedule"]["timezone"] = "UTC"
    document["alerts"] |= alerts
    return parse(document, "test")


@dataclass(frozen=True, eq=False)
class Case:
    """A deployment's ledger at noon, and batches of one tier in it."""

    store: Store
    fleet: Fleet

    @property
    def starts(self) -> RentedStarts:
        return RentedStarts(self.store.ledger(), self.store.facts, self.fleet, self.store.clock)

    def batch(self, start: BatchStart = "cheapest", *, within: timedelta = 24 * HOUR, takes: float = 3600) -> "Posted":
        now = self.store.clock.now()
        record = BatchRecord(
            new_batch_id("openai"), "openai", "anna", "file-1", "/v1/chat/completions", "24h", now, now + within, start
        )
        batch = BatchStore(self.store.facts, self.store.ledger(), self.store.clock).post(record)
        assert batch.job_id is not None
        return Posted(self, record, batch.job_id, Estimate(BatchUse(), takes, None, now, "guess"))

    def report(self, state: str = "serving", tier: str = TIER) -> None:
        report = Report(tier, "ta-1", state, self.store.clock.now())
        self.store.facts.put(report.key, report.as_json())

    def wait(self, span: timedelta) -> None:
        self.store.clock.wait(span.total_seconds())

    def used(self) -> int:
        return Wakes(self.store.facts, self.fleet).used(TIER, self.store.clock.now())

    def woken(self) -> WokenTier | None:
        return WokenTier.of(self.store.facts, TIER)

    def queued(self) -> list[str]:
        """What is in the queue of batches, which is empty afterwards."""
        found = []
        while (id := self.store.queue.get(block=False, partition=BATCHES_LANE)) is not None:
            found.append(id)
        return found

    def tick(self, sent: Callable[[str], object] = lambda _: None) -> None:
        context = runs.ScheduleContext(self.store.ledger(), self.store.facts, self.fleet, self.store.clock, sent)
        runs.tick(context, lambda: None, lambda *_: None, lambda: None)


@dataclass(frozen=True)
class Posted:
    case: Case
    record: BatchRecord
    job: str
    estimate: Estimate

    def asks(self) -> StartNow | NotYet:
        return self.case.starts.may_start(self.record, self.estimate, [TIER])

    def runs(self) -> None:
        """Its attempt goes on, and has said on which tier."""
        assert self.case.store.ledger().claim(self.job, worker="w", lease=LEASE)
        self.says("in_progress")

    def waits(self, starts: BatchStarts | None = None) -> None:
        """It has asked, and its attempt has ended until it is time."""
        decision = (starts or self.case.starts).may_start(self.record, self.estimate, [TIER])
        assert isinstance(decision, NotYet)
        ledger = self.case.store.ledger()
        claim = ledger.claim(self.job, worker="w", lease=LEASE)
        assert claim is not None
        self.says("validating")
        ledger.end(claim, Ending("retry", not_before=decision.not_before), Reading())
        self.case.queued()

    def says(self, status: BatchStatus) -> None:
        state = BatchState(status, self.job, self.case.store.clock.now(), estimate=self.estimate, tiers=(TIER,))
        self.case.store.facts.put(keys.batch_state(self.record.id), state.as_json())

    def over(self) -> None:
        self.case.starts.over(self.record, [TIER])


@pytest.fixture
def clock() -> HandClock:
    return HandClock(datetime(2026, 3, 2, 12, tzinfo=UTC))


@pytest.fixture
def case(store: Store) -> Case:
    return Case(store, fleet_with())


# -- what it wakes -----------------------------------------------------------------------------------------------------


def test_a_batch_that_has_to_begin_takes_a_wake(case: Case) -> None:
    """One of the tier's own of the day; asked again while the tier comes, it is the same, and may still wake it."""
    batch = case.batch(within=HOUR)

    for _ in range(2):
        decision = batch.asks()
        assert isinstance(decision, StartNow)
        assert decision.wakes == (TIER,)
    assert (case.used(), case.woken()) == (1, WokenTier(case.store.clock.now()))


def test_one_wake_is_enough_for_many(case: Case) -> None:
    """All that begin while the tier comes share it, whatever they wait for; what begins once it sleeps again takes
    another."""
    first, second = case.batch(within=HOUR), case.batch("awake")
    assert isinstance(second.asks(), NotYet)
    first.asks()
    case.wait(timedelta(minutes=3))

    assert isinstance(second.asks(), StartNow)
    assert isinstance(case.batch("now").asks(), StartNow)
    assert case.used() == 1
    first.over()
    case.wait(timedelta(minutes=1))
    assert isinstance(case.batch("now").asks(), StartNow)
    assert case.used() == 2


def test_a_gpu_that_is_awake_is_not_woken(case: Case) -> None:
    """Who rides along takes no wake, and wakes nothing should it fall asleep."""
    case.report()

    for start in ("now", "awake", "cheapest"):
        assert case.batch(start).asks() == StartNow()
    assert isinstance(case.batch("window").asks(), NotYet)
    assert case.used() == 0


def test_without_a_wake_it_waits_for_the_next_day(store: Store) -> None:
    """When the day's are used up it is told so, and asks again at midnight; one that was to begin at once begins."""
    case = Case(store, fleet_with(wakes=0))
    waits = case.batch(within=HOUR).asks()

    assert isinstance(waits, NotYet)
    assert waits.not_before == datetime(2026, 3, 3, tzinfo=UTC)
    assert "its 0 wakes of our own for today are used up (tiers.a10g.own_wakes_per_day)" in waits.note
    assert "it will not be done by its deadline" in waits.note
    assert isinstance(case.batch("now").asks(), StartNow)
    assert case.used() == 1


def test_nothing_is_woken_on_a_spent_budget(store: Store) -> None:
    """Not even by a batch that was to begin at once."""
    case = Case(store, fleet_with(monthly_budget_dollars=0.01, on_budget="no_wakes"))
    store.facts.put(keys.spent("2026-03"), {"v": 1, "dollars": 5})
    meter = {"tier": TIER, "container": "ta-0", "started_at": "2026-03-02T08:00:00Z", "at": "2026-03-02T09:00:00Z"}
    store.facts.put(keys.meter(TIER, "ta-0"), {**meter, "seconds": {"serving": 3600}, "dollars_per_hour": 5.0})
    decision = case.batch("now").asks()

    assert isinstance(decision, NotYet)
    assert "the month's budget is spent" in decision.note
    assert case.used() == 0


# -- who goes early ----------------------------------------------------------------------------------------------------


def test_a_tick_has_a_batch_begin_whose_window_opens(store: Store) -> None:
    """The tick that opens the window puts it into the queue, and sends a worker; one that waits for a GPU to be awake
    goes once one is."""
    case = Case(store, fleet_with(windows=("0 20 * * *",)))
    window, awake = case.batch("window"), case.batch("awake", within=48 * HOUR)
    window.waits()
    awake.waits()
    sent: list[str] = []
    case.tick(sent.append)
    assert (sent, case.queued()) == ([], [])

    case.wait(8 * HOUR + timedelta(seconds=1))
    sent.clear()
    case.tick(sent.append)
    assert BATCHES_LANE in sent
    assert set(case.queued()) == {window.job}
    assert window.asks() == StartNow()
    case.report()
    case.tick()
    assert awake.job in case.queued()


def test_what_waits_begins_with_what_wakes(case: Case) -> None:
    """A batch that wakes a tier takes along those that wait for a GPU to be awake, and no others."""
    cheapest, window = case.batch("cheapest"), case.batch("window")
    cheapest.waits()
    window.waits()
    case.batch("now").asks()

    assert case.queued()[-1] == cheapest.job
    assert isinstance(cheapest.asks(), StartNow)
    assert isinstance(window.asks(), NotYet)


def test_a_tick_asks_nothing_where_no_batch_waits(case: Case) -> None:
    """Neither of the tiers nor of the batches."""

    class Refusing(RentedTiers):
        def now(self, *_: Any) -> Any:
            raise AssertionError

    case.store.ledger().post("pull", "llama3.2:latest", {}, by="test")
    case.batch().runs()
    going_on = case.store.ledger().sweep().going_on
    tiers = Refusing(case.store.facts, case.fleet)

    ledger, entries, now = case.store.ledger(), [each.said for each in going_on], case.store.clock.now()
    assert put_early(ledger, NoneMayAsk(), tiers, entries, now) == []


class NoneMayAsk:
    """Facts that nobody may ask for."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


def test_a_batch_of_a_tier_that_is_gone_waits_for_its_time(store: Store) -> None:
    """It stops no other from beginning."""
    case = Case(store, fleet_with())
    gone, other = case.batch(), case.batch()
    gone.waits()
    other.waits()
    state = BatchState("validating", "", store.clock.now(), tiers=("gone",))
    store.facts.put(keys.batch_state(gone.record.id), state.as_json())
    case.report()
    case.tick()

    assert case.queued() == [other.job]


def silent_lanes(case: Case) -> list[str]:
    """The lanes of which somebody is told that nobody works there."""
    now = case.store.clock.now()
    jobs = look_and_remember(case.store.ledger().reader, case.store.facts, now)
    found = check(jobs, case.store.facts, case.fleet, now).open
    return [each.incident.subject for each in found if each.incident.kind == "worker"]


def test_a_lane_is_silent_only_where_a_batch_could_begin(case: Case) -> None:
    """One that waits for its time waits for no worker; once it is time, and none comes, somebody is told."""
    batch = case.batch(within=3 * HOUR)
    batch.waits()
    case.wait(HOUR)
    assert silent_lanes(case) == []

    case.wait(HOUR)
    assert silent_lanes(case) == [BATCHES_LANE]


# -- when it is over ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["in one worker", "in two"])
def test_servers_may_leave_when_the_last_batch_is_over(case: Case, where: str) -> None:
    """Not while another one sends lines there; the last one tells them, though the other's results are still put
    together."""
    one = case.starts
    first, second = case.batch("now"), case.batch("now")
    starts = {first: one, second: one if where == "in one worker" else case.starts}
    for each in (first, second):
        starts[each].may_start(each.record, each.estimate, [TIER])
        each.runs()
    starts[first].over(first.record, [TIER])
    assert case.woken() == WokenTier(case.store.clock.now())

    first.says("finalizing")
    starts[second].over(second.record, [TIER])
    assert case.woken() == WokenTier(case.store.clock.now(), case.store.clock.now())


@pytest.mark.parametrize("kept_by", ["people", "a window", "least"])
def test_what_something_else_keeps_up_stays(store: Store, kept_by: str) -> None:
    """A tier that no batch woke, that a window keeps awake, or that is never to sleep."""
    case = Case(store, fleet_with(least=1 if kept_by == "least" else 0))
    batch = case.batch("now")
    if kept_by == "people":
        case.report()
    batch.asks()
    if kept_by == "a window":
        store.facts.put(keys.window(TIER), True)
    batch.over()

    woken = case.woken()
    assert woken is None or woken.over_at is None


def test_a_batch_that_comes_meanwhile_keeps_it(case: Case) -> None:
    """One that begins on servers which were told to leave a moment ago takes that back."""
    first = case.batch("now")
    first.asks()
    case.report()
    first.over()
    woken = case.woken()
    assert woken is not None
    assert woken.over_at is not None

    assert case.batch("awake").asks() == StartNow()
    assert case.woken() == WokenTier(woken.woken_at)


# -- one machine -------------------------------------------------------------------------------------------------------


def test_on_one_machine_all_begin_at_once_but_for_windows(store: Store) -> None:
    """Its servers are always awake. A window counts, of its own tier or of any where one server stands for all."""
    case = Case(store, fleet_with(windows=("0 20 * * *",)))
    own, bare = OwnStarts(case.fleet, store.clock), OwnStarts(None, store.clock)
    for start in ("now", "awake", "cheapest"):
        batch = case.batch(start)
        assert own.may_start(batch.record, batch.estimate, ["local"]) == StartNow()
    batch = case.batch("window")
    for tier in (TIER, "local"):
        waits = own.may_start(batch.record, batch.estimate, [tier])
        assert isinstance(waits, NotYet)
        assert waits.not_before == datetime(2026, 3, 2, 20, tzinfo=UTC)
    assert isinstance(bare.may_start(batch.record, batch.estimate, ["local"]), NotYet)  # until its latest start

    case.wait(8 * HOUR)
    assert own.may_start(batch.record, batch.estimate, ["local"]) == StartNow()


def test_the_thread_of_windows_has_a_batch_begin(tmp_path: Path) -> None:
    """What waited for its latest start, as nothing was declared, begins in a window of a fleet that says more."""
    home, clock = home_of({"OLLAMA_MODAL_HOME": str(tmp_path)}), HandClock(datetime(2026, 3, 2, 12, tzinfo=UTC))
    home.prepare()
    store = open_store(tmp_path / "ledger.sqlite", clock)
    case = Case(store, fleet_with(windows=("0 12 * * *",)))
    batch = case.batch("window")
    batch.waits(OwnStarts(None, clock))
    stack = Stack(pid=1, started_at=clock.now(), simulated=True, servers=(), models=None)

    NightlyThread(home, stack, case.fleet, clock).begin_batches()

    assert case.queued() == [batch.job]
    store.close()
