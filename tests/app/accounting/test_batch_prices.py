"""The price of a batch that is told before it runs is what `cost` says of it afterwards, on a fleet that is played."""

import random
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from jobs.archive.archive import archive_facts
from jobs.archive.archived import USAGE, archive_at, archived_facts
from jobs.batches.estimate import DollarLimit, too_dear
from jobs.store import keys
from jobs.telemetry.usage import usage_in
from tests.support.batch_fleet import EMBEDDING, LARGE, OTHER, SMALL, BatchFleet, Model, Ran, lines_of

Shape = tuple[Model, int, int, int | None]
"""Whom they ask, how many lines, bytes of a prompt, and the limit of an answer."""

SHORT: Shape = (SMALL, 800, 120, None)
LONG: Shape = (SMALL, 500, 6000, None)
LIMITED: Shape = (SMALL, 800, 500, 64)
SECOND: Shape = (OTHER, 500, 400, None)
SECOND_LIMITED: Shape = (OTHER, 500, 400, 128)
LARGEST: Shape = (LARGE, 400, 800, None)
LARGEST_LIMITED: Shape = (LARGE, 400, 800, 256)
VECTORS: Shape = (EMBEDDING, 2000, 900, None)

FIRST: Sequence[Sequence[Shape]] = ([SHORT], [SECOND], [LARGEST], [VECTORS])
THEN: Sequence[Sequence[Shape]] = (
    [SHORT],
    [LONG],
    [LIMITED],
    [SECOND_LIMITED],
    [LARGEST_LIMITED],
    [VECTORS],
    [(SMALL, 400, 2000, None), (OTHER, 300, 400, None)],
    [(SMALL, 500, 300, 200), LARGEST],
    [SHORT],
)
"""Two models of one tier, and two of two tiers, among them."""


def off(told: float | None, really: float) -> float:
    """How far what was told is from what it was, as a part of that."""
    assert told is not None
    return told / really - 1


def nights(fleet: BatchFleet, shapes: Sequence[Sequence[Shape]], *, seed: int) -> list[Ran]:
    """A batch each night, after a day with more or fewer people on the tier that has most of them."""
    dice, ran = random.Random(seed), []
    for each in shapes:
        fleet.wait_until(9)
        fleet.people_ask(dice, SMALL, dice.randint(5, 40))
        fleet.wait_until(22)
        lines = [line for model, *like in each for line in lines_of(dice, model, *like)]  # type: ignore[arg-type]
        dice.shuffle(lines)
        ran.append(fleet.run(lines))
    return ran


@pytest.mark.parametrize("seed", [1, 2])
def test_what_is_told_is_what_it_costs(seed: int) -> None:
    """Of short and long prompts, with limits and without, of one model and of several, beside people who come by day:
    once a model was measured, the price of the lines that is told before is at most 10 % from what `cost` says of them,
    and the whole with its wake at most 10 % from all that was spent; so is what the batch itself says at its end."""
    fleet = BatchFleet()
    first = nights(fleet, FIRST, seed=seed)
    then = nights(fleet, THEN, seed=seed + 100)

    assert [ran.told.basis for ran in first] == ["usage", "guess", "guess", "guess"]
    assert (
        first[1].told.reason == "nothing was asked of qwen3:latest on a10g yet: it is taken to be as fast as is usual"
    )
    for shapes, ran in zip(THEN, then, strict=True):
        what = [(model.name, *like) for model, *like in shapes]
        assert ran.told.basis == "measured"
        assert abs(off(ran.told.use.dollars, ran.dollars)) <= 0.1, what
        assert abs(off(ran.told.dollars, ran.spent)) <= 0.1, what
        assert abs(off(ran.summary.dollars, ran.dollars)) <= 0.02, what
        assert abs(off(ran.told.use.gpu_seconds, sum(use.gpu_seconds for use in ran.uses))) <= 0.1, what
        lasted = (ran.told.done_at - ran.began_at).total_seconds()
        assert abs(off(lasted, ran.lasted)) <= 0.15, what


def a_day(fleet: BatchFleet) -> Ran:
    """People by day, and a batch at night."""
    [ran] = nights(fleet, [[(SMALL, 150, 300, None)]], seed=5)
    return ran


def test_what_was_served_adds_up() -> None:
    """What people, lines and what no record explains had of the serving is all of it, to the cent and below; of lines,
    by batch and key."""
    fleet = BatchFleet()
    ran = a_day(fleet)
    fleet.clock.tick(1)
    cost = fleet.cost(ran.began_at.replace(hour=0), fleet.clock.now())
    serving = sum(tier.dollars_of(tier.seconds["serving"]) for tier in cost.tiers)

    assert sum(use.dollars for use in cost.uses) == pytest.approx(serving, abs=1e-9)
    [lines] = [use for use in cost.uses if use.batch]
    assert (lines.key, lines.batch, lines.requests) == ("ann", ran.batch, 150)
    assert lines.gpu_seconds == pytest.approx(lines.seconds)
    people = sum(use.dollars for use in cost.uses if not use.batch)
    assert people == pytest.approx(serving - ran.dollars)
    said = list(cost.lines(200))
    assert "serving, by model, key and batch:" in said
    assert [*said[said.index("serving, by model, key and batch:") + 1].split()] == [
        *("TIER", "MODEL", "KEY", "BATCH", "REQUESTS", "TOOK", "GPU", "COST")
    ]
    told = cost.from_json(cost.as_json())
    assert list(told.lines(200)) == said


def test_what_was_archived_is_told_as_before(tmp_path: Any) -> None:
    """Lines keep their batch in the archive; rows of before there were batches are people's."""
    fleet = BatchFleet()
    ran = a_day(fleet)
    before = usage_in(fleet.entries())
    archive = archive_at(tmp_path)
    fleet.clock.tick(timedelta(days=20).total_seconds())
    archive_facts(fleet.facts, archive, fleet.clock.now(), lambda: None)

    assert not [key for key in fleet.facts.keys() if str(key).startswith(keys.USAGE)]  # noqa: SIM118 - no dict
    archived = archived_facts(archive, USAGE)
    assert usage_in(archived) == before
    assert {row.about.batch for row in before} == {"", ran.batch}
    old = {key: {**entry, "rows": [_older(row) for row in entry["rows"]]} for key, entry in archived.items()}
    assert {row.about.batch for row in usage_in(old)} == {""}


def _older(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "batch"}


def test_a_limit_is_kept_to_what_was_told() -> None:
    """A batch that was told to cost just less than its `max_dollars` runs to its end, but for a tenth; one that costs
    more is refused before."""
    fleet = BatchFleet()
    a_day(fleet)
    dice = random.Random(9)
    lines = lines_of(dice, SMALL, 800, 300, None)
    fleet.wait_until(22)
    told = fleet.tell(lines)
    assert told.dollars is not None
    assert too_dear(told.dollars * 0.99, told) is not None
    assert too_dear(told.dollars, told) is None
    ran = fleet.run(lines)
    assert not DollarLimit(told.dollars * 1.1, told.extra_dollars or 0.0)(ran.summary)
    assert DollarLimit(told.dollars * 0.9, told.extra_dollars or 0.0)(ran.summary)
