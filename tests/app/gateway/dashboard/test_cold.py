"""What a gateway tells of cold starts: by their phases, to whoever may know of their models."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.fleet.schema import load
from app.gateway.auth.keys import ANYONE, Caller
from app.gateway.dashboard.cold import MOST, Cold, ColdResponse
from app.gateway.dashboard.cost import Costs
from jobs.telemetry.cold_starts import ColdStart, Phase, cold_starts
from jobs.telemetry.cold_table import lines
from jobs.telemetry.cost import Cost
from jobs.testing.clock import HandClock

NOW = datetime(2026, 9, 15, 8, 30, tzinfo=UTC)
GB = 1_000_000_000


def start(n: int, *, model: str = "llama3.2:latest", tier: str = "a10g", **took: float) -> ColdStart:
    seconds: dict[Phase, float] = {"container": 4.0, "engine": 2.0, "memory": 2.0, **took}  # type: ignore[dict-item]
    return ColdStart(tier, "ta-1", n, "start" if n % 2 else "load", NOW - timedelta(hours=n), model, 2 * GB, seconds)


def entries(*starts: ColdStart) -> dict[str, Any]:
    return {each.key: each.as_json() for each in starts}


@pytest.fixture
def known() -> dict[str, Any]:
    odd = {"cold/a10g/ta-9/0": {"tier": "a10g"}, "cold/a10g/ta-9/1": None}
    return entries(start(1), start(2, model="secret:latest"), start(3, engine=8.0), start(24 * 9)) | odd


def test_they_are_listed_with_their_medians(known: dict[str, Any]) -> None:
    """The newest first, of the last week, each with its sum and rate; what makes no sense is left out."""
    told = ColdResponse.model_validate(Cold(HandClock(NOW)).as_json(ANYONE, None, known))

    assert [(each.n, each.total_seconds, each.bytes_per_second) for each in told.starts] == [
        (1, 8.0, GB), (2, 8.0, GB), (3, 14.0, GB),
    ]  # fmt: skip
    (tier,) = told.tiers
    assert (tier.starts, tier.loads, tier.median_seconds["engine"]) == (2, 1, 5.0)
    longer = Cold(HandClock(NOW)).as_json(ANYONE, NOW - timedelta(days=10), known)
    assert len(longer["starts"]) == 4


def test_a_key_for_some_models_sees_theirs(known: dict[str, Any]) -> None:
    """Nothing tells it that there are others."""
    caller = Caller("alice", frozenset({"chat"}), ("llama*",))
    told = Cold(HandClock(NOW)).as_json(caller, None, known)

    assert {each["model"] for each in told["starts"]} == {"llama3.2:latest"}
    assert (told["older"], told["tiers"][0]["loads"]) == (0, 0)


def test_an_answer_has_an_end() -> None:
    """Of very many the newest come, and how many more there are; the medians are of all."""
    many = entries(*(ColdStart("a10g", f"ta-{n}", n, "load", NOW, "m", None, {"memory": 1}) for n in range(MOST + 7)))
    told = Cold(HandClock(NOW)).as_json(ANYONE, None, many)

    assert (len(told["starts"]), told["older"], told["tiers"][0]["loads"]) == (MOST, 7, MOST + 7)


def test_costs_tell_what_was_waited_for(known: dict[str, Any]) -> None:
    """Rented or not, the estimate has the phases of its days, and so do its lines; one of an older gateway has none."""
    for fleet in (load(), None):
        told = Costs(HandClock(NOW), fleet).as_json(ANYONE, None, known)
        assert [(each["tier"], each["starts"], each["loads"]) for each in told["cold"]] == [("a10g", 2, 1)]
        assert any("a10g: 2 cold, 1 of a load alone" in line for line in Cost.from_json(told).lines(None))
        del told["cold"]
        assert Cost.from_json(told).cold == ()


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=3), each, max_size=2),
)


@given(VALUES, st.data())
def test_a_fact_that_makes_no_sense_harms_nobody(value: Any, data: st.DataObject) -> None:
    """Whatever stands in the place of one of its fields, or of all of it, the others are listed, and all that is told
    can be sent on and shown."""
    whole, other = start(1).as_json(), start(3)
    at = data.draw(st.sampled_from([whole, whole["seconds"]]))
    at[data.draw(st.sampled_from(sorted(at)))] = value
    odd = {"cold/a10g/ta-0/1": data.draw(st.sampled_from([whole, value])), other.key: other.as_json()}
    told = Cold(HandClock(NOW)).as_json(ANYONE, None, odd)

    ColdResponse.model_validate(json.loads(json.dumps(told, allow_nan=False)))
    assert 3 in {each["n"] for each in told["starts"]}
    assert list(lines(cold_starts(odd), NOW, 80))


def test_a_start_opens_as_it_was_written() -> None:
    """What is written down is read again as it was."""
    whole = start(1, handover=0.5)
    assert cold_starts(entries(whole)) == [ColdStart.from_json(whole.as_json())]
    [again] = cold_starts(entries(whole))
    assert again.seconds == whole.seconds
