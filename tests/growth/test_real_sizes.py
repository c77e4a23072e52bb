"""Models of a gigabyte to three hundred, five hundred of them, on quotas of terabytes: nights, plans and prunes.

Their weights are holes in files (`tests.support.large_models`), so nothing here is hashed: a verification is told as
done. Sizes that no disk has, up to a petabyte each, and spans of years are drawn for the parts that are pure.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.deployment.status import status
from app.local.coming_night import coming_night
from app.local.nightly_thread import NightlyThread
from app.scheduler.alert_check import check
from app.scheduler.night_plan import Actual, night
from jobs.core.errors import QuotaExceeded
from jobs.core.model_name import ModelName
from jobs.core.retention import RetentionRules
from jobs.core.units import human_bytes
from jobs.home.home import Stack, home_of
from jobs.home.status import weights_of
from jobs.ledger.job import JobState
from jobs.ledger.job_text import story
from jobs.listing.dead_memory import known_jobs, look_and_remember
from jobs.telemetry.nightly_report import lines, report
from jobs.testing.clock import HandClock
from jobs.weights.history import Memory
from jobs.weights.manifest import ModelDetails
from jobs.weights.prune_plan import WeightsUse, could_go, plan
from jobs.weights.survey import Stray, StrayKind, Survey, SurveyedModel
from jobs.weights.trash import TrashFolder
from tests.support.large_models import GB, TB, LargeModels, fleet_of, large_models, manifest_of, sizes

NOW = datetime(2026, 6, 1, 2, tzinfo=UTC)
COUNT, QUOTA, WEEK = 500, 24 * TB, 7
NAMES = [f"m{n}" for n in range(COUNT)]


# On a disk


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LargeModels]:
    """Five hundred models, 26 TB, two more than its quota, after a night."""
    with large_models(
        tmp_path_factory.mktemp("large"), fleet_of(QUOTA, ["m0", "m1"], verify_days=WEEK, unused_days=3650)
    ) as large:
        for name, size in zip(NAMES, sizes(COUNT), strict=True):
            large.put(name, manifest_of(name, size, 1_000_000))
        large.before = {name: manifest.size for name, manifest in large.manifests.items()}
        for back in range(5):
            large.use(*NAMES[back::5], at=large.clock.now() - timedelta(days=10 + back))
        large.clock.wait(86_400)
        large.upstream["m1:latest"] = manifest_of("m1", 20 * GB, 2_000_000)
        large.night()
        large.clock.wait(86_400)
        yield large


def test_a_night_of_terabytes_is_posted_as_planned(large: LargeModels) -> None:
    """What `plan` prints is what is posted, a second run posts nothing, all of it is done, and the report words it."""
    [seen] = large.seen
    planned = [(step.kind, step.subject) for step in seen.planned.steps]
    assert sorted((job.kind, job.subject) for job in seen.posted) == sorted(planned)
    assert {kind for kind, _ in planned} == {"prune", "pull", "verify"}
    assert seen.again == []
    assert json.loads(json.dumps(seen.planned.as_json()))["steps"]
    assert all(len(row) == 4 for row in seen.planned.rows())
    jobs = large.ledger.reader.jobs()
    assert {job.state for job in jobs} == {JobState.SUCCEEDED}
    told = "\n".join(lines(report(dict(large.facts.items()), jobs), large.clock.now()))
    assert "succeeded; pulled 20 GB, freed 0 B, verified 3.5 TB" in told
    assert "weights  24 TB, 15 % of it read in full this night" in told
    assert all(story(job, large.clock.now()) for job in jobs)


def test_a_share_is_a_share(large: LargeModels) -> None:
    """A night reads a seventh of what stays, and no more than the last model above it."""
    [seen] = large.seen
    share = seen.planned.share
    assert share is not None
    read = sum(step.size or 0 for step in seen.planned.steps if step.kind == "verify")
    going = {each.name for each in seen.planned.pruning.of("model")}
    assert share.bytes == sum(size for name, size in large.before.items() if name not in going)
    assert share.bytes / WEEK <= read <= share.bytes / WEEK + 301 * GB


def test_a_prune_of_terabytes_gets_under_its_quota(large: LargeModels) -> None:
    """The least recently used go until the rest fits; nothing is posted for what goes, and so nothing fails for it."""
    [prune] = [job for job in large.ledger.reader.jobs() if job.kind == "prune"]
    assert prune.result is not None
    thrown = {each["name"] for each in prune.result["throw"]}
    assert 10 < len(thrown) < COUNT / 2
    assert sum(each["size"] for each in prune.result["throw"]) == prune.result["thrown_bytes"] > 2 * TB
    assert not thrown & {step.subject for step in large.seen[0].planned.steps}
    found = large.weights.survey()
    assert {str(model.name) for model in found.models} == {f"{name}:latest" for name in NAMES} - thrown
    assert found.usage_bytes <= QUOTA
    assert len([folder for folder in found.trash if folder.manifest]) == len(thrown)


def test_what_is_too_large_is_refused_with_what_could_go(large: LargeModels) -> None:
    """A pull that the quota does not hold is refused, with sizes in words, and what a prune could free."""
    hint = could_go(large.weights.survey(), large.seen[0].planned.pruning)
    with pytest.raises(QuotaExceeded, match=r"400 GB needed, but the weights use 2\d TB of a quota of 24 TB"):
        large.weights.room_for(400 * GB, QUOTA)
    assert "(300 GB)" in hint


def test_the_watch_and_status_word_terabytes(large: LargeModels) -> None:
    """Near its quota, and nowhere else in trouble."""
    now = large.clock.now()
    wrong = check(look_and_remember(large.ledger.reader, large.facts, now), large.facts, large.fleet, now).open
    assert [case.incident.message for case in wrong] == ["the weights take 24 TB of their quota of 24 TB"]
    assert list(
        status(
            large.facts,
            now,
            large.fleet.tiers,
            deployed=True,
            known=known_jobs(large.ledger.reader, now),
            of_night=(),
        ).lines()
    )


def test_one_machine_plans_the_same_directory(large: LargeModels, tmp_path: Path) -> None:
    """`plan`, the night and the watch of `up` on a directory of terabytes, with no registry to be had."""
    home, clock = home_of({"OLLAMA_MODAL_HOME": str(tmp_path)}), HandClock(large.clock.now())
    stack = Stack(
        pid=1,
        started_at=clock.now(),
        simulated=True,
        servers=(),
        models=large.root,
        retention=large.fleet.retention(),
        mirror="http://127.0.0.1:9",
    )
    planned = coming_night(home, stack, large.fleet, clock)
    assert {step.kind for step in planned.steps} == {"prune", "verify"}  # the weights that m1 had before
    assert any("could not be learnt" in note for note in planned.notes)
    nights = NightlyThread(home, stack, large.fleet, clock)
    nights.run_if_due()
    nights.check_alerts()
    jobs = home.ledger(clock).reader.jobs()
    assert sorted((job.kind, job.subject) for job in jobs) == sorted((s.kind, s.subject) for s in planned.steps)
    assert weights_of(large.root, home, clock).survey().usage_bytes == large.weights.survey().usage_bytes


# Drawn


SIZES = st.integers(0, 2**50)
SPANS = st.integers(0, 30 * 366 * 86_400).map(lambda seconds: timedelta(seconds=seconds))


def model(name: str, size: int, age: timedelta) -> SurveyedModel:
    manifest = manifest_of(name, size)
    return SurveyedModel(ModelName.parse(name), manifest.digest, manifest.size, NOW - age, manifest, ModelDetails())


KINDS: st.SearchStrategy[StrayKind] = st.sampled_from(("orphan", "partial", "part", "temp"))


@st.composite
def surveys(draw: st.DrawFn) -> Survey:
    models = [model(f"m{n}", size, draw(SPANS)) for n, size in enumerate(draw(st.lists(SIZES, max_size=8)))]
    kinds = draw(st.lists(KINDS, max_size=3))
    strays = [Stray(kind, Path(f"{kind}{n}"), draw(SIZES), NOW - draw(SPANS)) for n, kind in enumerate(kinds)]
    trash = [TrashFolder(Path(f"t{n}"), NOW - draw(SPANS), draw(SIZES)) for n in range(draw(st.integers(0, 3)))]
    used = sum(each.size for each in models) + sum(each.size for each in strays) + sum(each.size for each in trash)
    return Survey(tuple(models), (), tuple(strays), (), tuple(trash), used)


RETENTIONS = st.builds(
    RetentionRules,
    unused=st.none() | st.integers(1, 3650).map(lambda days: timedelta(days=days)),
    grace=st.integers(1, 365).map(lambda days: timedelta(days=days)),
    unfinished=st.integers(1, 8760).map(lambda hours: timedelta(hours=hours)),
    quota_bytes=st.none() | st.integers(1, 1_000_000).map(lambda quota: quota * GB),
)


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(found=surveys(), retention=RETENTIONS, used=SPANS, span=st.integers(1, 365))
def test_a_plan_and_a_night_reckon_to_the_byte(
    found: Survey, retention: RetentionRules, used: timedelta, span: int
) -> None:
    """Of any sizes and ages: what goes is what is over, words and JSON hold it, and a night's share is one of what
    stays."""
    names = {each.name: NOW - used for each in found.models}
    around = WeightsUse(used=names, used_since=NOW - used, came={})
    pruning = plan(found, around, retention, NOW)
    assert json.loads(json.dumps(pruning.as_json()))["usage_bytes"] == found.usage_bytes
    assert pruning.thrown_bytes <= found.usage_bytes - found.trash_bytes
    left = found.usage_bytes - found.trash_bytes - pruning.thrown_bytes
    if retention.quota_bytes is not None and left > retention.quota_bytes:
        assert any("would still be over the quota" in note for note in pruning.notes)
    assert could_go(found, pruning)
    assert RetentionRules.from_json(json.loads(json.dumps(retention.as_json()))) == retention

    fleet = fleet_of(1_000_000 * GB, verify_days=span)
    memory = Memory(verified={each.name: NOW - used for each in found.models[::2]})
    planned = night(fleet, Actual(found.known, {}, memory, pruning), NOW)
    going = {each.name for each in pruning.of("model")}
    staying = [each for each in found.models if str(each.name) not in going]
    total = sum(each.size for each in staying)
    read = [step.size or 0 for step in planned.steps if step.kind == "verify"]
    is_all = len(read) == len(staying)
    assert sum(read) * span >= total or is_all
    assert planned.share is not None
    assert planned.share.bytes == total
    assert planned.share.all_read_by <= NOW + timedelta(days=span)
    assert not going & {step.subject for step in planned.steps if step.kind != "prune"}
    for row in planned.rows():
        assert all(isinstance(cell, str) for cell in row)


@settings(max_examples=30)
@given(drawn=st.lists(SIZES, min_size=1, max_size=10), span=st.integers(1, 14), began=st.integers(1, 30 * 366))
def test_years_of_nights_read_everything_in_time(drawn: list[int], span: int, began: int) -> None:
    """Night after night, with models of up to a petabyte that were read last years ago or never: all is read within the
    days, and a night that is late for all of them reads no more than all of them."""
    fleet = fleet_of(1_000_000 * GB, verify_days=span)
    models = tuple(model(f"m{n}", size, timedelta(days=began)) for n, size in enumerate(drawn))
    here = Survey(models, (), (), (), (), sum(each.size for each in models))
    verified = {each.name: NOW - timedelta(days=began) for each in models[::2]}
    for number in range(span + 1):
        now = NOW + timedelta(days=number)
        pruning = plan(here, WeightsUse(), fleet.retention(), now)
        planned = night(fleet, Actual(models, {}, Memory(verified=dict(verified)), pruning), now)
        for step in planned.steps:
            assert step.kind == "verify"
            verified[ModelName.parse(step.subject)] = now
    assert set(verified) == {each.name for each in models}
    assert min(verified.values()) > now - timedelta(days=span) - timedelta(days=1)
    assert human_bytes(here.usage_bytes)
