"""What is told of the last night: its jobs as they stand now, what they moved, what it left alone."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from app.fleet.schedule import jobs_of_night, night_began
from app.fleet.schema import declared
from app.gateway.dashboard.nightly import NightResponse
from app.scheduler import alert_check, runs
from app.scheduler.night_plan import Actual, UpstreamTag
from jobs.core.clock import isoformat
from jobs.core.model_name import ModelName
from jobs.core.progress import Reading
from jobs.ledger.job import Ending, Job
from jobs.listing.dead_memory import look_and_remember
from jobs.store import keys
from jobs.telemetry.nightly_report import line, lines, report
from jobs.testing.clock import HandClock
from jobs.weights.history import Memory
from jobs.weights.prune_plan import plan
from jobs.weights.survey import Survey
from tests.support.models_directory import surveyed
from tests.support.ops_api import CHAT_KEY, ops_api
from tests.support.stores import Store

FLEET = declared()
HERE, ABSENT = (ModelName.parse(model.name) for model in FLEET.models)


def night(store: Store, *names: ModelName) -> None:
    """A run of the night, with these models on the volume and a registry that says nothing."""

    def actual(memory: Memory, jobs: Sequence[Job]) -> Actual:
        now = store.clock.now()
        models = tuple(surveyed(name, now) for name in names)
        here = Survey(models, (), (), (), (), sum(model.size for model in models))
        silent = {name.folded(): UpstreamTag(None, "no route") for name in names}
        pruning = plan(here, memory.weights_use(jobs), FLEET.retention(), now)
        return Actual(models, silent, memory, pruning, jobs_of_night(FLEET.schedule.times, jobs, now))

    runs.nightly(runs.ScheduleContext(store.ledger(), store.facts, FLEET, store.clock, lambda _: None), actual)


def end(store: Store, kind: str, ending: Ending) -> None:
    ledger = store.ledger()
    job = next(job for job in ledger.reader.jobs() if job.kind == kind)
    claim = ledger.claim(job.id, worker="w", lease=timedelta(minutes=1))
    assert claim is not None
    ledger.end(claim, ending, Reading())


def told(store: Store) -> dict[str, Any]:
    return report(dict(store.facts.items()), store.ledger().reader.jobs())


def test_a_night_is_told_with_its_jobs_as_they_stand_now(store: Store) -> None:
    """Each job with its reason and its end, the bytes that moved, what it left alone, and what came up since."""
    store.clock.wait(
        (night_began(FLEET.schedule.times, store.clock.now()) + timedelta(days=1) - store.clock.now()).seconds
    )
    night(store, HERE)
    assert told(store)["summary"] == "3 jobs, 3 queued; pulled 0 B, freed 0 B, verified 0 B"
    size = surveyed(HERE, store.clock.now()).size
    end(store, "pull", Ending("succeeded", result={"way": "registry", "fetched_bytes": 2_000_000}))
    end(store, "verify", Ending("succeeded", result={"models": [str(HERE)], "bytes": size}))
    end(store, "warm", Ending("failed", "refused", "tier 'a10g' was not woken", "raise own_wakes_per_day"))
    store.clock.wait(600)
    now = store.clock.now()
    alert_check.check(look_and_remember(store.ledger().reader, store.facts, now), store.facts, FLEET, now)

    found = told(store)

    assert (found["pulled_bytes"], found["verified_bytes"]) == (2_000_000, size)
    assert [(each["kind"], each["state"], each["class"]) for each in found["jobs"]] == [
        ("pull", "succeeded", None), ("verify", "succeeded", None), ("warm", "failed", "refused"),
    ]  # fmt: skip
    assert [each["kind"] for each in found["opened"]] == ["job"]
    assert found["left"][:1] == [f"whether {HERE} moved upstream could not be learnt: no route"]
    shown = "\n".join(lines(found, store.clock.now()))
    assert "the fleet pins it, and it is not here in whole" in shown
    assert "    refused: tier 'a10g' was not woken" in shown
    assert "100 % of it read in full this night: all of it within the last" in shown
    assert line(found, store.clock.now()).endswith("incidents since: 1 opened")


def test_a_second_run_of_a_night_takes_nothing_from_its_report(store: Store) -> None:
    """What a second run finds done already is told as posted by the night; its own time is that of the first."""
    night(store, HERE)
    first = told(store)
    store.clock.wait(60)
    night(store, HERE)
    assert told(store) == first


def test_a_night_that_broke_off_is_told_by_the_one_that_followed(store: Store) -> None:
    """Jobs that a run posted before it could write them down are found among the jobs."""
    night(store)
    before = dict(store.facts.get(keys.NIGHT_RAN))
    store.facts.put(keys.NIGHT_RAN, {**before, "jobs": []})
    assert [each["why"] for each in told(store)["jobs"]] == ["posted by a run that broke off"] * len(before["jobs"])


def test_a_record_of_before_still_opens(store: Store) -> None:
    """A night of which only its time was kept is told as far as it is known; no night at all is told as such."""
    assert "no night has come yet" in "\n".join(lines(told(store), store.clock.now()))
    store.facts.put(keys.NIGHT_RAN, {"v": 1, "at": isoformat(store.clock.now())})
    assert told(store)["summary"] == "nothing was to be done"
    assert (told(store)["jobs"], told(store)["share"]) == ([], None)


def test_what_has_been_archived_since_is_told_as_such(store: Store) -> None:
    """A job that has left the ledger keeps its line."""
    night(store)
    found = report(dict(store.facts.items()), [])
    assert {each["state"] for each in found["jobs"]} == {"archived"}


def test_it_is_part_of_the_ops_api(tmp_path: Path, store: Store) -> None:
    """Whoever has a key is answered in the documented shape, others are not."""
    night(store, HERE)
    with ops_api(tmp_path / "there", HandClock(store.clock.now())) as there:
        client = TestClient(there.app())
        assert client.get("/ops/v1/night").status_code == 401
        answers = [client.get("/ops/v1/night", headers={"x-api-key": CHAT_KEY}).json()]
        there.store().facts.put(keys.NIGHT_RAN, store.facts.get(keys.NIGHT_RAN))
        answers.append(client.get("/ops/v1/night", headers={"x-api-key": CHAT_KEY}).json())
    none, some = map(NightResponse.model_validate, answers)
    assert (none.at, len(some.jobs)) == (None, 3)
