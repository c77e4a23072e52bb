"""A month of a fleet, played in seconds: what it comes to is what was declared, planned and priced before."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from jobs.archive.archived import CASES, COLD, METERS, REPORTS, TURNS, USAGE, WAKES, archived_facts, archived_jobs
from jobs.core.model_name import ModelName
from jobs.ledger.job import JobState
from jobs.store.keys import TABLE
from tests.support.checkout import ROOT
from tests.support.month import BEGIN, DAYS, Month, foretold, played
from tests.support.month_report import WIDTH, report
from tests.support.stored_keys import patterns_of

TIERS = ["a10g", "h100"]
README = ROOT / "app" / "README.md"

HEARD = [
    "deepseek-r1:32b is pinned and not there",
    "llama3.2 is pinned and not there",
    "qwen3 is pinned and not there",
    "passed: deepseek-r1:32b is pinned and not there",
    "passed: llama3.2 is pinned and not there",
    "passed: qwen3 is pinned and not there",
    "the pull of nonesuch:latest failed for good",
    "the pull of whale:latest failed for good",
    "passed: the pull of nonesuch:latest failed for good",
    "passed: the pull of whale:latest failed for good",
    "the pull of mixtral:latest failed for good",
    "passed: the pull of mixtral:latest failed for good",
    "tier a10g is lost",
    "passed: tier a10g is lost",
    "tier h100 was not woken",
    "passed: tier h100 was not woken",
    "the servers have cost more than $80 in 2026-10",
    "the warm of deepseek-r1:32b failed for good",
    "tier h100 is lost",
    "passed: tier h100 is lost",
    "passed: the warm of deepseek-r1:32b failed for good",
    "the night's run was due at 03",
    "passed: the night's run was due at 03",
    "passed: the servers have cost more than $80 in 2026-10",
]


@pytest.fixture(scope="module")
def month(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Month]:
    with played(tmp_path_factory.mktemp("month")) as month:
        yield month


def test_every_key_is_in_the_table(month: Month) -> None:
    """Each key that a month leaves in the ledger, or left in it before it was archived, belongs to exactly one entry of
    the table of keys; and all entries come up but those of what did not happen, or is over at its end."""
    archived = [
        key
        for sort in (METERS, WAKES, CASES, TURNS, REPORTS, USAGE, COLD)
        for key in archived_facts(month.archive, sort)
    ]

    met = patterns_of([*month.facts.keys(), *archived])

    did_not_happen = {"cancel/<id>", "dismissed/<id>", "platform/<who>", "aliases", "sorts/moving", "sorts/moved"} | {
        "key/<name>/<n>",  # all keys are the secret's
        *("grant/<key>/<span>/<n>", "took/<key>/<span>/<account>"),  # no key has a budget
        "seen/<key>",  # of an older version
        *("batch/<id>", "batch_state/<id>", "batch_end/<id>", "batch_pass/<id>"),  # nobody posts a batch
        *("batch_speed/<tier>/<model>", "batch_files", "leave/<tier>"),
    }
    is_over = {"open/<id>", "worker/<lane>"}
    assert {entry.pattern for entry in TABLE} - met == did_not_happen | is_over


def test_the_weights_are_as_declared(month: Month) -> None:
    """What is pinned or in a window is there, whole and in the version that was chosen; what nobody used has gone."""
    found = month.survey()
    declared = {model.parsed.folded() for model in month.fleet.models if model.pinned}
    assert declared | {ModelName.parse("gemma3").folded()} == {model.name.folded() for model in found.models}
    first = next(job for job in month.jobs() if (job.kind, job.subject) == ("pull", "llama3.2:latest"))
    llama = month.mounted.weights.find(ModelName.parse("llama3.2"))
    assert llama is not None
    assert first.result is not None
    assert first.result["digest"] == llama.digest  # the newer one was rolled back, and no night takes it up again
    assert (found.broken, found.orphans) == ((), ())
    assert found.trash_bytes == 0
    assert found.usage_bytes < month.fleet.volume.quota_bytes


def test_each_night_posts_what_was_planned(month: Month) -> None:
    """A night posts exactly what `plan` printed before it; run again, it posts nothing."""
    for seen in month.nights:
        planned = sorted((step.kind, step.subject) for step in seen.planned.steps)
        assert sorted((job.kind, job.subject) for job in seen.posted) == planned, seen.at
        assert seen.again == []


@pytest.mark.parametrize("tier", TIERS)
def test_wakes_are_those_foretold(month: Month, tier: str) -> None:
    """Tiers start for the windows and warm-ups foretold and for callers, never else, and within the wake budget."""
    told = foretold(month, tier)
    assert len(month.starts_of(tier)) == month.starts_foretold(tier)
    assert sum(month.own_wakes(tier).values()) == told.openings + told.nights
    assert max(month.own_wakes(tier).values()) <= month.fleet.tier(tier).own_wakes_per_day


@pytest.mark.parametrize("tier", TIERS)
def test_the_price_is_the_one_foretold(month: Month, tier: str) -> None:
    """What the containers counted comes to the price foretold, within one per cent.

    A container that is killed has not told its last minutes, and a start inside a window is cold for one of its own.
    """
    assert month.dollars(tier) == pytest.approx(foretold(month, tier).dollars, rel=0.01)


def test_no_alert_is_missing_or_doubled(month: Month) -> None:
    """The webhook hears of each trouble once and once of its end, though it hung for a day."""
    heard = [text.splitlines()[0] for text in month.heard]
    assert len(heard) == len(HEARD), heard
    assert [text for text, begin in zip(heard, HEARD, strict=True) if not text.startswith(begin)] == []
    assert {case.delivered for case in month.cases()} == {frozenset({"opened", "recovered"})}


def test_the_dict_stays_small(month: Month) -> None:
    """The Dict holds some days at any time; the archive holds the rest, and jobs are read across both."""
    assert month.most_entries < 600
    in_dict, archived = month.ledger.reader.jobs(), archived_jobs(month.archive, BEGIN - timedelta(days=1))
    assert min(job.posted_at for job in in_dict) > month.clock.now() - timedelta(days=8)
    assert len({job.id for job in archived}) > len(in_dict)
    posted = {job.id for seen in month.nights for job in seen.posted}
    assert posted <= {job.id for job in month.jobs()}


def test_everything_that_was_begun_has_ended(month: Month) -> None:
    """No job hangs: what failed did so for a reason that somebody was told of."""
    assert all(job.has_ended for job in month.jobs())
    failed = {(job.kind, job.subject) for job in month.jobs() if job.state is JobState.FAILED}
    assert failed == {("pull", f"{name}:latest") for name in ("nonesuch", "whale", "mixtral")} | {
        ("warm", "deepseek-r1:32b")
    }


def test_clocks_that_jump_do_no_harm(month: Month) -> None:
    """A clock set back by an hour brings the night again, which posts nothing; the long night in October comes once."""
    nights = {day: [seen for seen in month.nights if seen.at.day == day and seen.at.month == 10] for day in (25, 28)}
    assert [seen.at for seen in nights[25]] == [datetime(2026, 10, 25, 2, tzinfo=UTC)]
    assert [bool(seen.posted) for seen in nights[28]] == [True, False]
    opened = [
        at for at in month.starts_of("h100") if abs(at - datetime(2026, 10, 25, 1, tzinfo=UTC)) < timedelta(hours=3)
    ]
    assert len(opened) == 1  # its window, and the warm-up in it


def test_a_night_slept_through_is_the_only_one_missing(month: Month) -> None:
    """Every night but that one came."""
    assert len({seen.at.date() for seen in month.nights}) == DAYS - 1


def test_the_page_is_the_one_that_is_shown(month: Month) -> None:
    """The month fits on a page of a hundred columns, and the document shows it as it is.

    But for what happened: whether a grace of seven days is over in its seventh night is a matter of seconds.
    """
    page = report(month)
    assert max(map(len, page.splitlines())) <= WIDTH
    assert page[page.index("Nights\n") :] in README.read_text("utf-8")
