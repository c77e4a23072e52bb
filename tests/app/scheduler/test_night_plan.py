"""Promises of app.scheduler.night_plan: what a night is for, and why; on fleets and volumes of every shape."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st

from app.deployment.volume_queries import actual_from
from app.fleet.file import read
from app.fleet.schedule import night_began
from app.fleet.schema import Fleet, declared, parse
from app.scheduler.night_plan import Actual, Night, UpstreamTag, asked_about, night
from app.scheduler.upstream_tags import upstream_tags
from jobs.batches.files.files_due import expect
from jobs.core.model_name import ModelName
from jobs.core.retry import NEVER
from jobs.ledger.job import BY_NIGHTLY, Job, JobState
from jobs.registry.client import Registry
from jobs.weights.history import LeftModel, Memory
from jobs.weights.manifest import ModelDetails
from jobs.weights.prune_plan import WeightsUse, plan
from jobs.weights.survey import Broken, Stray, Survey, SurveyedModel
from tests.support.failing_stores import MemoryDict
from tests.support.models_directory import Sample, sample

FLEET = declared()
NOW = datetime(2026, 6, 1, 2, tzinfo=UTC)
LLAMA, DEEPSEEK = (ModelName.parse(model.name) for model in FLEET.models)
HASHED = {LLAMA: NOW - timedelta(days=1), DEEPSEEK: NOW - timedelta(days=2)}


def whole(model: Sample) -> SurveyedModel:
    manifest = model.manifest
    return SurveyedModel(model.name, manifest.digest, manifest.size, NOW, manifest, ModelDetails())


def stocked(name: ModelName, *contents: bytes) -> SurveyedModel:
    return whole(sample(str(name), *contents))


def job(kind: str, subject: str, by: str = BY_NIGHTLY) -> Job:
    return Job(f"{kind}-{subject}", kind, subject, "weights", JobState.SUCCEEDED, {}, 1, NOW, by)


def actual(
    *found: SurveyedModel | Broken,
    memory: Memory | None = None,
    newer: Iterable[tuple[ModelName, UpstreamTag]] = (),
    tonight: tuple[Job, ...] = (),
    strays: tuple[Stray, ...] = (),
) -> Actual:
    models = tuple(each for each in found if isinstance(each, SurveyedModel))
    broken = tuple(each for each in found if isinstance(each, Broken))
    known = {model.name.folded(): UpstreamTag(model.manifest) for model in models} | dict(newer)
    here = Survey(models, broken, strays, (), (), 0)
    return Actual(
        found, known, memory or Memory(verified=HASHED), plan(here, WeightsUse(), FLEET.retention(), NOW), tonight
    )


def steps(found: Actual, fleet: Fleet = FLEET) -> list[tuple[str, str]]:
    return [(step.kind, step.subject) for step in night(fleet, found, NOW).steps]


def unwarmed() -> Fleet:
    document = read()
    for model in document["models"]:
        model["warmed"] = False
    return parse(document, "test")


def test_what_is_pinned_and_absent_is_pulled() -> None:
    """Absent, or not whole: both are pulled, and a model that nobody pinned is left absent."""
    broken = Broken(LLAMA, Path("m"), 5, "1 is missing", sample("llama3.2").manifest)
    found = night(FLEET, actual(broken), NOW)
    assert [(step.kind, step.subject, step.why) for step in found.steps] == [
        ("pull", "llama3.2:latest", "the fleet pins it, and it is not here in whole"),
        ("pull", "deepseek-r1:32b", "the fleet pins it, and it is not here in whole"),
    ]
    document = read()
    document["models"][0]["pinned"] = False
    assert steps(actual(), parse(document, "test")) == [("pull", "deepseek-r1:32b")]


def test_a_tag_that_moved_upstream_is_pulled() -> None:
    """With both digests; the same model in other bytes, as Ollama writes manifests, has not moved."""
    here, moved = stocked(LLAMA, b"old"), sample("llama3.2", b"new").manifest
    found = night(unwarmed(), actual(here, newer=[(LLAMA.folded(), UpstreamTag(moved))]), NOW)
    pull = found.steps[0]
    assert (pull.kind, pull.subject, pull.size) == ("pull", "llama3.2:latest", moved.size)
    assert pull.why == f"its tag moved upstream, from {here.digest[:12]} to {moved.digest[:12]}"
    respelled = type(moved)(here.manifest.raw + b"\n", here.manifest.config, here.manifest.layers)
    told = steps(actual(here, newer=[(LLAMA.folded(), UpstreamTag(respelled))]))
    assert ("pull", "llama3.2:latest") not in told


def test_a_registry_that_does_not_answer_is_told() -> None:
    """It fails nobody: the night goes on with all else, and says what could not be learnt."""
    found = night(FLEET, actual(stocked(LLAMA), newer=[(LLAMA.folded(), UpstreamTag(None, "no route"))]), NOW)
    assert "whether llama3.2:latest moved upstream could not be learnt: no route" in found.notes
    assert ("warm", "llama3.2:latest") in [(step.kind, step.subject) for step in found.steps]
    down = Registry(client=httpx.Client(transport=httpx.MockTransport(_refused)), requests=NEVER)
    told = upstream_tags(down, [LLAMA, DEEPSEEK])
    assert {each.manifest for each in told.values()} == {None}
    assert "registry.ollama.ai" in told[LLAMA.folded()].trouble


def _refused(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("nobody there", request=request)


def test_only_what_is_declared_and_here_is_asked_about() -> None:
    """Nobody asks upstream about a model that is absent, broken, or that the fleet does not name."""
    assert asked_about(FLEET, (stocked(DEEPSEEK), stocked(ModelName.parse("other")))) == (DEEPSEEK,)


def test_what_was_rolled_back_from_is_not_pulled_again() -> None:
    """Until the tag moves once more; the plan says so, and how to have it all the same."""
    here, bad, better = stocked(LLAMA, b"old"), *(sample("llama3.2", text).manifest for text in (b"bad", b"better"))
    memory = Memory(verified=HASHED, left={LLAMA.folded(): LeftModel(bad.digest, NOW)})
    found = night(FLEET, actual(here, memory=memory, newer=[(LLAMA.folded(), UpstreamTag(bad))]), NOW)
    assert ("pull", "llama3.2:latest") not in [(step.kind, step.subject) for step in found.steps]
    assert (
        f"llama3.2:latest stays: the newer {bad.digest[:12]} was rolled back from on 2026-06-01;"
        " `ollama-modal pull llama3.2:latest` takes that one after all"
    ) in found.notes
    assert ("pull", "llama3.2:latest") in steps(
        actual(here, memory=memory, newer=[(LLAMA.folded(), UpstreamTag(better))])
    )


def test_a_prune_comes_first_and_only_with_something_to_do() -> None:
    """What leaves the trash makes room for what is pulled; with nothing to prune there is no job."""
    stray = Stray("orphan", Path("sha256-1"), 5, NOW)
    found = night(FLEET, actual(strays=(stray,)), NOW)
    assert [step.kind for step in found.steps] == ["prune", "pull", "pull"]
    assert [row[0] for row in found.rows()] == ["prune", "  to trash", "pull", "pull"]
    assert "prune" not in [kind for kind, _ in steps(actual())]


def test_what_comes_tonight_is_neither_verified_nor_warmed() -> None:
    """The pull hashes every byte, and the warm-ups of a night are for what was here."""
    assert steps(actual(stocked(LLAMA), stocked(DEEPSEEK), tonight=(job("pull", str(LLAMA.folded())),))) == [
        ("verify", "deepseek-r1:32b"),
        ("warm", "deepseek-r1:32b"),
    ]


def test_what_is_not_whole_is_verified_first() -> None:
    """A verification fetches what is missing, so a broken model waits for nobody; a torn one is told."""
    name = ModelName.parse("half")
    broken = Broken(name, Path("m"), 5, "1 is missing", sample("half").manifest)
    torn = Broken(ModelName.parse("torn"), Path("t"), 5, "cut")
    found = night(unwarmed(), actual(broken, torn, stocked(LLAMA), stocked(DEEPSEEK)), NOW)
    assert [(step.subject, step.why) for step in found.steps] == [("half:latest", "blobs of it are missing")]
    assert "torn:latest is torn: pull it again, or delete it" in found.notes


def test_a_night_has_one_share() -> None:
    """Once part of it is posted, the rest waits for the next night; what a person posts is none of it."""
    here = (stocked(LLAMA), stocked(DEEPSEEK))
    assert ("verify", "deepseek-r1:32b") in steps(actual(*here))
    assert ("verify", "deepseek-r1:32b") in steps(actual(*here, tonight=(job("verify", "other", by="me"),)))
    assert not [kind for kind, _ in steps(actual(*here, tonight=(job("verify", "other"),))) if kind == "verify"]


@settings(deadline=None, max_examples=60)
@given(sizes=st.lists(st.integers(1, 5_000), min_size=1, max_size=12), span=st.integers(1, 12), data=st.data())
def test_all_is_read_within_the_retention(sizes: list[int], span: int, data: st.DataObject) -> None:
    """Night after night the shares cover everything: no model waits longer than the days, and no night reads all of it
    when there is more than one night and one model."""
    document = read()
    document["volume"]["retention"]["verify_days"] = span
    fleet = parse(document, "test")
    models = [stocked(ModelName.parse(f"m{index}"), b"x" * size) for index, size in enumerate(sizes)]
    verified: dict[ModelName, datetime] = {}
    for each in models:
        if data.draw(st.booleans()):
            verified[each.name] = NOW - timedelta(days=data.draw(st.integers(0, span - 1)))
    oldest = {each.name: verified.get(each.name, NOW) for each in models}
    for number in range(2 * span + 1):
        now = NOW + timedelta(days=number)
        found = night(fleet, actual(*models, memory=Memory(verified=dict(verified))), now)
        for step in found.steps:
            if step.kind == "verify":
                verified[ModelName.parse(step.subject)] = oldest[ModelName.parse(step.subject)] = now
        assert all(now - at < timedelta(days=span) or span == 1 for at in oldest.values())
    assert set(verified) == {each.name for each in models}


def test_a_night_that_an_hour_is_missing_from_or_comes_twice_is_one_night() -> None:
    """When clocks go forward or back at the fleet's very hour, there is one night, and its jobs are posted once."""
    document = read()
    document["schedule"]["nightly_hour"] = 2  # Berlin has no such hour on March 29, and has it twice on October 25
    fleet = parse(document, "test")
    for month, day in ((3, 29), (10, 25)):
        noons = [datetime(2026, month, each, 12, tzinfo=UTC) for each in (day - 1, day, day + 1)]
        began = [night_began(fleet.schedule.times, noon) for noon in noons]
        assert len(set(began)) == 3
        assert all(timedelta(hours=22) < later - earlier < timedelta(hours=26) for earlier, later in pairwise(began))
        hours = [began[1] + timedelta(minutes=30 * count) for count in range(48)]
        assert {night_began(fleet.schedule.times, at) for at in hours if at < began[2]} == {began[1]}


def test_a_plan_is_json_and_words() -> None:
    """`plan` prints the same steps as a table and as JSON, with what a prune would do among them."""
    found: Night = night(FLEET, actual(), NOW)
    assert found.as_json()["steps"][0] == {
        "kind": "pull",
        "subject": "llama3.2:latest",
        "why": "the fleet pins it, and it is not here in whole",
        "size": None,
    }
    assert found.summary == "2 jobs to post"
    one = actual(stocked(LLAMA), tonight=(job("verify", "x"),))
    assert night(unwarmed(), one, NOW).summary == "1 job to post"
    assert night(unwarmed(), actual(stocked(LLAMA), stocked(DEEPSEEK), tonight=(job("verify", "x"),)), NOW).summary == (
        "all is as it should be"
    )


def test_files_of_batches_are_pruned_when_something_is_due() -> None:
    """What the ledger says to be due of batches is a step with that reason, once a night; where nothing is, none."""
    here = stocked(LLAMA)
    found = replace(actual(here), batches_due="1 batch ended more than 30 days ago")
    [step] = [step for step in night(FLEET, found, NOW).steps if step.kind == "prune_batches"]
    assert (step.subject, step.request, step.why) == ("*", {}, "1 batch ended more than 30 days ago")
    assert ("prune_batches", "*") not in steps(actual(here))
    posted = Job("1", "prune_batches", "*", "batches", JobState.SUCCEEDED, {}, 3, NOW, BY_NIGHTLY)
    assert ("prune_batches", "*") not in steps(replace(found, tonight=(posted,)))


def test_a_deployments_night_knows_what_is_due_of_batches() -> None:
    """It finds that in the ledger, and sees no file of theirs."""
    facts, here = MemoryDict(), Survey((), (), (), (), (), 0)
    registry = Registry(requests=NEVER)
    found = actual_from(here, (), facts, fleet=FLEET, memory=Memory(), registry=registry, now=NOW)
    assert found.batches_due == ""
    expect(facts, NOW - timedelta(days=1))
    found = actual_from(here, (), facts, fleet=FLEET, memory=Memory(), registry=registry, now=NOW)
    assert found.batches_due == "files are over since 2026-05-31"
