"""Promises of jobs.weights.prune_plan: what goes, what stays, and why; on directories of every shape."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.core.model_name import ModelName
from jobs.core.retention import RetentionRules
from jobs.weights.manifest import Manifest, ModelDetails
from jobs.weights.prune_plan import PrunePlan, WeightsUse, could_go, plan
from jobs.weights.staging import StagingFolder, slug
from jobs.weights.survey import Broken, Stray, StrayKind, Survey, SurveyedModel
from jobs.weights.trash import TrashFolder
from tests.support.models_directory import sample

NOW = datetime(2026, 6, 1, 3, tzinfo=UTC)
ROOT = Path("models")


def days(count: float) -> timedelta:
    return timedelta(days=count)


def name(text: str) -> ModelName:
    return ModelName.parse(text)


def model(text: str, *contents: bytes, came: timedelta = timedelta(days=200)) -> SurveyedModel:
    manifest = sample(text, *(contents or (text.encode() * 1000,)), config=b"{}").manifest
    return SurveyedModel(name(text), manifest.digest, manifest.size, NOW - came, manifest, ModelDetails())


def stray(kind: StrayKind, file: str = "f", size: int = 10, age: timedelta = timedelta(days=9)) -> Stray:
    return Stray(kind, ROOT / file, size, NOW - age)


def staging(subject: str, age: timedelta, holder: str = "") -> StagingFolder:
    return StagingFolder(ROOT / subject, slug(subject), holder, 10, NOW - age)


def folder(file: str, age: timedelta, manifest: Manifest | None = None) -> TrashFolder:
    return TrashFolder(ROOT / file, NOW - age, 100, name("tiny") if manifest else None, manifest)


def survey(
    *models: SurveyedModel,
    broken: tuple[Broken, ...] = (),
    strays: tuple[Stray, ...] = (),
    stagings: tuple[StagingFolder, ...] = (),
    trash: tuple[TrashFolder, ...] = (),
) -> Survey:
    blobs = {layer.digest: layer.size for each in models for layer in each.manifest.blobs}
    rest = [each.size for group in (strays, stagings, trash) for each in group]
    return Survey(models, broken, strays, stagings, trash, sum(blobs.values()) + sum(rest))


def used(**ages: timedelta) -> WeightsUse:
    return WeightsUse(used={name(text): NOW - age for text, age in ages.items()}, used_since=NOW - days(300))


def names(found: PrunePlan) -> list[str]:
    return [each.name for each in found.throw]


OLD = RetentionRules(unused=days(60))


def test_a_model_that_nobody_used_goes() -> None:
    """The plan says when it was last used and how long ago; one that was used since stays."""
    found = plan(survey(model("old"), model("new")), used(old=days(61), new=days(59)), OLD, NOW)
    [gone] = found.throw
    assert (gone.name, gone.why) == ("old:latest", "last used 2026-04-01, 61 days ago")
    assert not found.notes


def test_a_model_never_used_counts_from_when_it_came() -> None:
    """By its pull, or by its manifest where no pull is known; never from before the first record of any use."""
    models = survey(model("early"), model("late", came=days(10)), model("pulled"))
    use = WeightsUse(used_since=NOW - days(90), came={name("pulled"): NOW - days(20)})
    found = plan(models, use, OLD, NOW)
    assert [(each.name, each.why) for each in found.throw] == [
        ("early:latest", "never used since 2026-03-03, 90 days ago")
    ]
    assert names(plan(models, WeightsUse(used_since=NOW - days(5)), OLD, NOW)) == []


def test_a_model_pulled_again_counts_from_then() -> None:
    """Its last use was long before, but somebody wanted it since."""
    assert not names(plan(survey(model("old", came=days(1))), used(old=days(100)), OLD, NOW))


def test_without_any_record_nothing_is_unused() -> None:
    """Where no use was ever recorded, no model goes for want of it, over the quota or not, and the plan says why."""
    retention = RetentionRules(unused=days(1), quota_bytes=1)
    found = plan(survey(model("old")), WeightsUse(), retention, NOW)
    assert not found.throw
    assert found.notes[0] == "no use was ever recorded, so nobody can tell which model is unused: none goes for that"


@pytest.mark.parametrize(
    ("use", "retention", "why"),
    [
        (WeightsUse(), RetentionRules(OLD.unused, kept={name("old"): "the fleet pins it"}), "the fleet pins it"),
        (WeightsUse(loaded=frozenset({name("old")})), OLD, "a server has it in memory"),
        (WeightsUse(pulling=frozenset({name("old")})), OLD, "it is being pulled"),
    ],
)
def test_what_is_safe_stays_and_is_told(use: WeightsUse, retention: RetentionRules, why: str) -> None:
    """Pinned, loaded, or being pulled, in whatever spelling: it stays, and the plan says for which of these."""
    known = WeightsUse({name("old"): NOW - days(61)}, NOW - days(300), {}, use.pulling, frozenset(), use.loaded)
    found = plan(survey(model("OLD")), known, retention, NOW)
    assert not found.throw
    assert found.notes == (f"OLD:latest stays, though last used 2026-04-01, 61 days ago: {why}",)


def test_a_model_used_today_stays_over_the_quota() -> None:
    """Whoever talks to it pauses now and then; the plan says that it cannot get under the quota."""
    found = plan(survey(model("busy")), used(busy=timedelta(hours=23)), RetentionRules(quota_bytes=10), NOW)
    assert not found.throw
    assert found.notes == (
        "busy:latest stays, though over the quota of 10 B, and last used 2026-05-31: used at 04:00 UTC",
        "4.0 kB would still be over the quota of 10 B: all that is left is kept, in use, or of unknown use",
    )


def test_over_the_quota_the_least_recently_used_goes_first() -> None:
    """As many go as it takes, and no more; what they share with others is not counted as freed."""
    here = survey(model("aaaa", b"x" * 1000), model("bbbb", b"y" * 1000), model("cccc", b"y" * 1000, b"z" * 1000))
    use = used(aaaa=days(3), bbbb=days(5), cccc=days(4))
    found = plan(here, use, RetentionRules(quota_bytes=1500), NOW)
    assert [(each.name, each.size) for each in found.throw] == [("bbbb:latest", 0), ("cccc:latest", 2000)]
    assert found.throw[0].why == "over the quota of 1.5 kB, and last used 2026-05-27"
    assert not plan(here, use, RetentionRules(quota_bytes=4000), NOW).throw


def test_the_trash_is_no_reason_to_throw_more_away() -> None:
    """Models go until those that stay fit the quota; what lies in the trash is on its way out already."""
    here = survey(model("aaaa"), trash=(folder("t", days(1)),))
    assert not plan(here, used(aaaa=days(9)), RetentionRules(quota_bytes=4010), NOW).throw


def test_leftovers_go_when_nobody_touched_them_for_long() -> None:
    """Part files and stagings go after their hours, unless a live job holds the staging; orphans go at once."""
    here = survey(
        strays=(
            stray("partial", "old-partial"),
            stray("part", "old-part"),
            stray("temp", "old-temp"),
            stray("partial", "new-partial", age=days(1)),
            stray("orphan", "orphan"),
            stray("unknown", "notes.txt"),
        ),
        stagings=(staging("pull a", days(9)), staging("pull b", days(9), "x.1"), staging("pull c", days(1))),
    )
    found = plan(here, WeightsUse(staging=frozenset({slug("pull b")})), RetentionRules(), NOW)
    assert names(found) == ["orphan", "old-partial", "old-part", "old-temp", "pull a"]
    assert found.notes == ("1 file that is not ours is never touched: 'notes.txt'",)


def test_orphans_wait_for_pulls() -> None:
    """A pull that is under way may count on a blob that no manifest refers to yet."""
    here = survey(strays=(stray("orphan"),))
    found = plan(here, WeightsUse(pulling=frozenset({name("other")})), RetentionRules(), NOW)
    assert not found.throw
    assert found.notes == ("1 blob (10 B) of no model: left alone while something is pulled, which may need them",)


def test_a_torn_manifest_keeps_every_blob() -> None:
    """Nobody knows what half a manifest refers to: no model, no orphan, nothing in the trash goes, and it is said."""
    torn = Broken(name("torn"), ROOT / "torn", 5, "cut")
    here = survey(
        model("old"), broken=(torn,), strays=(stray("orphan"), stray("temp", "t")), trash=(folder("t", days(99)),)
    )
    found = plan(here, used(old=days(99)), OLD, NOW, empty_trash=True)
    assert names(found) == ["t"]
    assert not found.delete
    assert found.notes == (
        (
            "the manifest of torn:latest is torn, so nobody can tell which blobs it needs: no model and no blob goes,"
            " and the trash stays; pull torn:latest again, or delete it"
        ),
    )


def test_a_broken_model_is_left_alone() -> None:
    """It refers to what is there of it; whether it is worth mending is for a person to say."""
    whole = model("half")
    broken = Broken(whole.name, ROOT / "half", 5, "1 is missing", whole.manifest)
    found = plan(survey(broken=(broken,)), used(half=days(99)), OLD, NOW)
    assert found.is_empty
    assert found.notes == ("half:latest is broken (1 is missing) and left alone: pull it again, or delete it",)


def test_the_trash_is_emptied_after_its_grace() -> None:
    """To the moment; sooner only when asked for; and a clock that was set back makes nothing due."""
    here = survey(trash=(folder("due", days(7)), folder("new", days(6.9)), folder("future", -timedelta(hours=1))))
    found = plan(here, WeightsUse(), RetentionRules(grace=days(7)), NOW)
    assert [(each.name, each.why) for each in found.delete] == [
        ("due", "in the trash since 2026-05-25, longer than its 7 days")
    ]
    assert [each.name for each in plan(here, WeightsUse(), RetentionRules(), NOW, empty_trash=True).delete] == [
        "due",
        "new",
        "future",
    ]


def test_an_hour_set_back_makes_nothing_unused() -> None:
    """Uses and pulls that seem to lie in the future are recent, not old."""
    here = survey(model("tiny", came=-timedelta(hours=1)), stagings=(staging("pull a", -timedelta(hours=1)),))
    assert plan(here, used(tiny=-timedelta(hours=1)), RetentionRules(unused=timedelta(seconds=1)), NOW).is_empty


def test_what_could_be_freed_is_told_to_whose_pull_does_not_fit() -> None:
    """How much a prune frees, how much lies in the trash and until when, and the biggest models."""
    here = survey(
        model("small"),
        model("large", b"l" * 50_000, came=days(1)),
        strays=(stray("orphan", size=30_000),),
        stagings=(staging("pull a", days(9)),),
        trash=(folder("due", days(9)), folder("new", days(1))),
    )
    told = could_go(here, plan(here, used(small=days(70)), OLD, NOW))
    assert told == (
        "could be freed: 100 B in the trash whose grace is over: `ollama-modal prune`;"
        " 100 B in the trash: `ollama-modal prune --empty-trash`;"
        " 35 kB by `ollama-modal prune`: 1 unused models, 1 blobs of no model, 1 unfinished pulls;"
        " they count until the trash is emptied, after 7 days or by --empty-trash;"
        " delete a model, biggest first: large:latest (50 kB), small:latest (5.0 kB)"
    )
    empty = survey()
    assert could_go(empty, plan(empty, WeightsUse(), OLD, NOW)) == "nothing here could be freed: raise the quota"


def test_a_retention_is_written_down_and_read_back() -> None:
    """The command line follows the retention that `up` was started with."""
    whole = RetentionRules(days(60), days(7), timedelta(hours=72), 5, {name("a"): "the fleet pins it"})
    assert RetentionRules.from_json(whole.as_json()) == whole
    assert RetentionRules.from_json(RetentionRules().as_json()) == RetentionRules()


ages = st.timedeltas(timedelta(hours=-2), timedelta(days=400))
drawn_model = st.tuples(st.sampled_from("abcdefgh"), st.sets(st.integers(0, 5), min_size=1), ages, ages)
drawn_models = st.lists(drawn_model, max_size=6, unique_by=lambda each: each[0])


@settings(deadline=None)
@given(drawn=drawn_models, quota=st.none() | st.integers(0, 20_000), unused=st.none() | ages, data=st.data())
def test_a_plan_is_minimal_safe_and_done_once(
    drawn: Any, quota: int | None, unused: timedelta | None, data: Any
) -> None:
    """Whatever is there: nothing safe goes, sizes are what only the thrown need, under the quota none goes for it,
    and planning again after the plan was followed finds nothing."""
    models = [model(text, *(bytes([65 + part]) * 1000 for part in parts), came=came) for text, parts, came, _ in drawn]
    use = WeightsUse({name(text): NOW - ago for text, _, _, ago in drawn if ago > days(30)}, NOW - days(300))
    kept = data.draw(st.sets(st.sampled_from([each.name for each in models]))) if models else set()
    retention = RetentionRules(unused=unused, quota_bytes=quota, kept=dict.fromkeys(kept, "kept"))
    here = survey(*models)

    found = plan(here, use, retention, NOW)

    thrown = {name(text) for text in names(found)}
    assert not thrown & kept
    left = survey(*(each for each in models if each.name not in thrown))
    assert here.usage_bytes - found.thrown_bytes == left.usage_bytes
    assert plan(left, use, retention, NOW).is_empty
    if quota is None and unused is None:
        assert not thrown
