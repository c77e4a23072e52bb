"""What the schedules do in their turn: nothing is forgotten on the way, and one thing's failure is not another's."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from app.fleet.file import read
from app.fleet.schedule import jobs_of_night
from app.fleet.schema import Fleet, parse
from app.scheduler import runs
from app.scheduler.night_plan import Actual
from jobs.core.progress import Reading
from jobs.ledger.job import Ending, Job
from jobs.ledger.kinds import SERVERS_LANE, WEIGHTS_LANE
from jobs.store import keys
from jobs.weights.history import Memory
from jobs.weights.prune_plan import plan
from jobs.weights.survey import Survey
from tests.support.stores import Store, claimed, ended_job


def fleet() -> Fleet:
    document = read()
    document["windows"] = [{"tier": "a10g", "start": "0 8 * * *", "hours": 2, "models": ["llama3.2"]}]
    document["alerts"]["webhook_secret"] = "hook"
    return parse(document, "test")


def post_of(store: Store, sent_lanes: list[str]) -> runs.ScheduleContext:
    return runs.ScheduleContext(store.ledger(), store.facts, fleet(), store.clock, sent_lanes.append)


def empty(post: runs.ScheduleContext, memory: Memory, jobs: Sequence[Job]) -> Actual:
    """Nothing is there."""
    now = post.clock.now()
    nothing = Survey((), (), (), (), (), 0)
    pruning = plan(nothing, memory.weights_use([]), post.fleet.retention(), now)
    return Actual((), {}, memory, pruning, jobs_of_night(post.fleet.schedule.times, jobs, now))


def move_to(store: Store, hour: int) -> None:
    """This hour of a day in Berlin."""
    today = store.clock.now().astimezone(fleet().schedule.zone) + timedelta(days=1)
    store.clock.wait((today.replace(hour=hour, minute=0).astimezone(UTC) - store.clock.now()).total_seconds())


def test_a_window_that_opens_is_warmed_at_once(store: Store) -> None:
    """The tick that opens a window sends a worker for its models, which are posted once."""
    sent_lanes: list[str] = []
    move_to(store, 8)
    runs.tick(post_of(store, sent_lanes), lambda: None, lambda *_: None, lambda: None)
    assert sent_lanes == [SERVERS_LANE]
    runs.tick(post_of(store, sent_lanes), lambda: None, lambda *_: None, lambda: None)
    assert [job.subject for job in store.ledger().reader.jobs()] == ["llama3.2:latest"]


def test_a_window_warms_what_came_after_it_opened(store: Store) -> None:
    """A model that was not there when its window opened is warmed once it has been pulled: once, and not before."""

    def tick() -> list[str]:
        runs.tick(post_of(store, []), lambda: None, lambda *_: None, lambda: None)
        return [job.id for job in store.ledger().reader.jobs() if job.kind == "warm"]

    move_to(store, 8)
    ledger = store.ledger()
    (missed,) = tick()
    ledger.end(claimed(ledger, missed), Ending("failed", "not_found", "it is not there"), Reading())
    assert tick() == [missed]
    ended_job(store, "llama3.2:latest", Ending("failed", "network", "the line is down"))
    assert tick() == [missed]
    store.clock.wait(1)
    ended_job(store, "llama3.2:latest")
    again = tick()
    assert len(again) == 2
    assert tick() == again


def test_windows_are_kept_though_nobody_can_be_told(store: Store) -> None:
    """When delivery cannot be sent for the tick fails and says so, but its windows are open."""

    def fail() -> None:
        raise OSError("no delivery")

    store.facts.put(keys.NIGHT_RAN, {"v": 1, "at": datetime(2020, 1, 1, tzinfo=UTC).isoformat()})  # which is news
    move_to(store, 9)
    kept: dict[str, int] = {}
    with pytest.raises(OSError, match="no delivery"):
        runs.tick(post_of(store, []), fail, kept.__setitem__, lambda: None)
    assert kept == {"a10g": 1}


def test_a_night_sends_for_what_it_posts(store: Store) -> None:
    """The workers of a night's jobs are sent for at once, and the weights worker in any case."""
    sent_lanes: list[str] = []
    post = post_of(store, sent_lanes)
    runs.nightly(post, partial(empty, post))
    assert {job.kind for job in post.ledger.reader.jobs()} == {"pull"}
    assert sent_lanes == [WEIGHTS_LANE]


def test_a_night_that_broke_off_has_not_come(store: Store) -> None:
    """Only a night that reached its end is noted as run; one that did not is missed, and told of."""

    def fail(_: Memory, __: Sequence[Job]) -> Actual:
        raise OSError("no volume")

    post = post_of(store, [])
    with pytest.raises(OSError, match="no volume"):
        runs.nightly(post, fail)
    assert store.facts.get(keys.NIGHT_RAN) is None
    runs.nightly(post, partial(empty, post))
    assert store.facts.get(keys.NIGHT_RAN) is not None
