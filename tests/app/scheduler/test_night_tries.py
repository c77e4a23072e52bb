"""A night that fails: tried again by itself, with growing pauses and an end, and somebody hears of it."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.fleet.schedule import jobs_of_night, night_began
from app.fleet.schema import declared
from app.local.nightly_thread import CHECK_EVERY, NightlyThread
from app.scheduler import runs
from app.scheduler.alert_check import check
from app.scheduler.night_plan import Actual
from jobs.core.clock import isoformat, parse_moment
from jobs.core.errors import NotFound, StoreUnavailable, Unsupported
from jobs.home.home import Stack, home_of
from jobs.ledger.job import Job
from jobs.listing.dead_memory import look_and_remember
from jobs.store import keys
from jobs.telemetry.night_tries import LONGEST, MOST, Tries, last_tries
from jobs.telemetry.nightly_report import lines, report
from jobs.testing.clock import HandClock
from jobs.weights.history import Memory
from jobs.weights.prune_plan import plan
from jobs.weights.survey import Survey
from tests.support.stores import Store

FLEET = declared()
NOW = datetime(2026, 6, 1, 1, tzinfo=UTC)
TICK = timedelta(minutes=5)


@dataclass
class Platform:
    """Ticks every five minutes, and a container for a night when one is sent for.

    Args:
        store: the ledger.
        meets: what the nights to come meet, one after the other; None for one that goes well.

    """

    store: Store
    meets: list[BaseException | None] = field(default_factory=list)
    began: list[datetime] = field(default_factory=list)
    """When a night did."""
    sent: int = 0
    is_full: bool = False
    """Nobody who is sent for arrives."""

    def __post_init__(self) -> None:
        self.post = runs.ScheduleContext(self.store.ledger(), self.store.facts, FLEET, self.store.clock, lambda _: None)

    def night(self) -> None:
        self.began.append(self.store.clock.now())
        meets = self.meets.pop(0) if self.meets else None

        def actual(memory: Memory, jobs: Sequence[Job]) -> Actual:
            if meets is not None:
                raise meets
            now, nothing = self.store.clock.now(), Survey((), (), (), (), (), 0)
            pruning = plan(nothing, memory.weights_use([]), FLEET.retention(), now)
            return Actual((), {}, memory, pruning, jobs_of_night(FLEET.schedule.times, jobs, now))

        runs.nightly(self.post, actual)

    def _call_night(self) -> None:
        self.sent += 1
        if not self.is_full:
            try:
                self.night()
            except BaseException:
                return

    def ticks(self, span: timedelta) -> None:
        for _ in range(span // TICK):
            self.store.clock.wait(TICK.total_seconds())
            runs.tick(self.post, lambda: None, lambda *_: None, self._call_night)

    def to_due(self) -> datetime:
        """Watch for some hours, until a night is due."""
        self.ticks(TICK)
        due = night_began(FLEET.schedule.times, self.store.clock.now()) + timedelta(days=1)
        self.store.clock.wait((due - self.store.clock.now()).total_seconds())
        return due.astimezone(UTC)

    def told(self) -> list[str]:
        now = self.store.clock.now()
        # No tick comes here for hours, and then one does: a watch tells that, rightly, and it is not the matter here.
        entries = {key: value for key, value in self.store.facts.items() if not key.startswith("incident/platform/")}
        return list(lines(report(entries, self.post.ledger.reader.jobs()), now))

    def incidents(self) -> dict[str, str]:
        now = self.store.clock.now()
        jobs = look_and_remember(self.post.ledger.reader, self.store.facts, now)
        found = check(jobs, self.store.facts, FLEET, now).open
        return {case.incident.key: case.incident.message for case in found if case.incident.kind == "nightly"}


@pytest.fixture
def platform(store: Store) -> Platform:
    return Platform(store)


def failing(platform: Platform, *meets: BaseException | None) -> datetime:
    """A night whose own run, and those after it, meet these."""
    due = platform.to_due()
    platform.meets = [*meets]
    with pytest.raises(type(meets[0]) if meets[0] else AssertionError):
        platform.night()
    return due


def test_a_night_that_failed_is_tried_again_by_the_ticks(platform: Platform) -> None:
    """The next tick sends for it, and what ran in the end says at which try, and what the one before met."""
    due = failing(platform, StoreUnavailable("the store did not answer"))
    platform.ticks(timedelta(hours=2))
    assert [at - due for at in platform.began] == [timedelta(0), TICK]
    assert platform.store.facts.get(keys.NIGHT_RAN)["tries"] == 2
    told = platform.told()
    assert "tries    2; one before met: the store did not answer" in told
    assert not [line for line in told if line.startswith("failed")]
    assert platform.incidents() == {}


def test_a_night_that_keeps_failing_is_given_up(platform: Platform) -> None:
    """Pauses double to an hour, tries have an end, the report and an incident say so; the next night is another."""
    due = failing(platform, *[ValueError("no volume")] * 30)
    platform.ticks(timedelta(minutes=16))
    assert platform.incidents() == {
        "nightly/run": "the night's run was due at 03:00 and has failed 3 times: ValueError: no volume"
    }
    assert "next try" in platform.told()[-1]
    platform.ticks(timedelta(hours=20))
    assert len(platform.began) == MOST
    pauses = [later - earlier for earlier, later in pairwise(platform.began)]
    assert pauses == sorted(pauses)
    assert [pause // TICK for pause in pauses] == [1, 2, 4, 8, 12, 12, 12]
    assert platform.told()[-1].strip() == "not tried again until the next night"
    assert platform.told()[-2].startswith("failed   the night of ")
    assert "8 times" in platform.told()[-2]
    assert platform.told()[-2].endswith("ValueError: no volume")
    assert report(dict(platform.store.facts.items()), [])["failing"]["next_at"] is None

    platform.meets.clear()
    platform.to_due()
    platform.night()
    assert platform.store.facts.get(keys.NIGHT_RAN)["due"].startswith(f"{due + timedelta(days=1):%Y-%m-%dT%H}")
    platform.ticks(timedelta(hours=1))
    assert platform.incidents() == {}
    assert not [line for line in platform.told() if line.startswith("failed")]


def test_a_night_that_was_killed_is_tried_again(platform: Platform) -> None:
    """One of which nothing more was heard is sent for when it must have ended."""
    failing(platform, SystemExit("killed"))
    platform.ticks(timedelta(hours=2))
    assert [(later - earlier) // TICK for earlier, later in pairwise(platform.began)] == [3]
    assert platform.store.facts.get(keys.NIGHT_RAN)["tries"] == 2


def test_a_night_that_did_not_come_is_sent_for(platform: Platform) -> None:
    """Whatever became of the schedule, the ticks see that nobody came; nor do they send without end."""
    platform.to_due()
    platform.is_full = True
    platform.ticks(timedelta(hours=20))
    assert platform.sent == MOST
    assert platform.incidents() == {"nightly/run": "the night's run was due at 03:00 and has not come"}
    platform.to_due()
    platform.is_full = False
    platform.ticks(timedelta(hours=1))
    assert platform.store.facts.get(keys.NIGHT_RAN)["tries"] == 1


def test_a_night_that_nobody_could_be_sent_for_says_why(platform: Platform) -> None:
    """A call that cannot be sent is a try that failed: the night's report has the reason, and the tick raises it."""
    platform.to_due()
    platform.store.clock.wait(3 * 3600)

    def refuse() -> None:
        raise NotFound("nothing is deployed")

    with pytest.raises(NotFound):
        runs.tick(platform.post, lambda: None, lambda *_: None, refuse)
    tries = last_tries(platform.store.facts)
    assert tries is not None
    assert (tries.count, tries.trouble) == (1, "nothing is deployed")


def test_our_own_failure_is_not_told_as_the_platforms(platform: Platform) -> None:
    """A tick of which a part of ours fails every time is no platform that was away."""

    def fail(_: str) -> None:
        raise NotFound("no such worker")

    platform.ticks(TICK)
    platform.post.ledger.post("pull", "m:latest", {"model": "m"}, by="test")
    for _ in range(8):
        platform.store.clock.wait(TICK.total_seconds())
        with pytest.raises(NotFound):
            runs.tick(replace(platform.post, send_worker=fail), lambda: None, lambda *_: None, lambda: None)
    assert platform.store.facts.get("incident/platform/gap/1") is None


def test_a_night_from_before_the_deployment_is_not_sent_for(platform: Platform) -> None:
    """What was due before anybody watched is nobody's to make up for."""
    platform.store.clock.wait(6 * 3600)
    platform.ticks(timedelta(hours=3))
    assert (platform.sent, platform.incidents()) == (0, {})


def test_trouble_that_cannot_be_written_down_is_raised_all_the_same(platform: Platform) -> None:
    """When the store is away, what the night met is the error that is seen, and it is tried again as a silent one."""
    platform.to_due()
    platform.meets = [StoreUnavailable("away")]
    put = platform.store.facts.put

    class Gone(type(platform.store.facts)):  # type: ignore[misc] # the class is that of the fixture
        def put(self, key: object, value: object, *, skip_if_exists: bool = False) -> bool:
            if key == keys.NIGHT_TRIES and isinstance(value, dict) and value["state"] == "failed":
                raise StoreUnavailable("still away")
            return put(key, value, skip_if_exists=skip_if_exists)

    facts = Gone(platform.store.path)
    platform.post = runs.ScheduleContext(platform.post.ledger, facts, FLEET, platform.store.clock, lambda _: None)
    with pytest.raises(StoreUnavailable, match=r"^away\b"):
        platform.night()
    platform.ticks(timedelta(minutes=20))
    facts.close()
    assert platform.store.facts.get(keys.NIGHT_RAN)["tries"] == 2


def test_a_clock_that_is_set_back_breaks_no_night_off(platform: Platform) -> None:
    """An hour that comes again, with the night in it or just after it, posts nothing anew, and the night is told with
    the jobs that it posted."""
    platform.to_due()
    platform.store.clock.wait(300)
    platform.night()
    jobs, told = platform.post.ledger.reader.jobs(), platform.told()
    assert jobs
    for back in (600, 3000):
        platform.store.clock.wait(-back)
        for _ in range(back // 300):
            platform.night()
            platform.ticks(TICK)
            assert (platform.post.ledger.reader.jobs(), platform.told()) == (jobs, told)
        platform.store.clock.wait(back % 300)


def test_a_clock_that_ran_ahead_is_forgotten(platform: Platform) -> None:
    """Nights of a clock that was a year ahead hold none of this year's back."""
    platform.store.clock.wait(366 * 86_400)
    platform.to_due()
    platform.night()
    platform.store.clock.wait(-365 * 86_400)
    for job in platform.post.ledger.reader.jobs():
        platform.post.ledger.cancel(job.id, by="test")
    platform.to_due()
    platform.night()
    told = report(dict(platform.store.facts.items()), platform.post.ledger.reader.jobs())
    assert told["due"].startswith("2026")
    assert {job["why"] for job in told["jobs"]} == {"the fleet pins it, and it is not here in whole"}


def test_one_machine_tries_its_nights_again(tmp_path: Path) -> None:
    """A night that cannot be done there is tried with the same pauses and end; a start of `up` tries at once."""
    home, clock = home_of({"OLLAMA_MODAL_HOME": str(tmp_path)}), HandClock()
    why = "the models directory is the server's"
    stack = Stack(pid=1, started_at=clock.now(), simulated=True, servers=(), models=None, why_by_server=why)
    clock.wait((night_began(FLEET.schedule.times, clock.now()) + timedelta(days=1) - clock.now()).total_seconds())

    def up(span: timedelta) -> list[int]:
        """In which minutes a night was tried."""
        nights, tried = NightlyThread(home, stack, FLEET, clock), []
        for minute in range(span // CHECK_EVERY):
            with suppress(Unsupported):
                nights.run_if_due()
            tries = last_tries(facts)
            assert tries is not None
            assert tries.trouble == f"the models directory is not ours to keep: {why}"
            if tries.at == clock.now():
                tried.append(minute)
            clock.wait(CHECK_EVERY.total_seconds())
        return tried

    facts = home.facts()
    assert up(timedelta(hours=12)) == [0, 5, 15, 35, 75, 135, 195, 255]
    assert up(timedelta(hours=2)) == [0]
    facts.close()


@given(st.lists(st.tuples(st.floats(-7_200, 90_000), st.sampled_from(["send", "begin", "fail", "run"])), max_size=60))
def test_tries_have_an_end_on_any_clock(events: list[tuple[float, str]]) -> None:
    """Whoever sends, begins, fails or dies, on a clock that jumps: what is written reads back, and a night that is not
    given up and has not run is tried again within an hour of the last try, by the clock as it then is."""
    now, tries = NOW, Tries(NOW)
    for seconds, event in events:
        now += timedelta(seconds=seconds)
        if tries.is_due(now):
            match event:
                case "send":
                    tries = tries.sent(now)
                case "begin":
                    tries = tries.begun(now)
                case "fail":
                    tries = tries.begun(now).failed(OSError("no volume"))
                case "run":
                    tries = tries.begun(now).ran()
        assert Tries.from_json(tries.as_json()) == replace(tries, at=tries.at and ms(tries.at))
        assert tries.count <= MOST
        assert tries.is_given_up or tries.is_due(now + LONGEST)


def ms(at: datetime) -> datetime:
    return parse_moment(isoformat(at))
