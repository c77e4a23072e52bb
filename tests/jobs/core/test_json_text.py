"""Promises of the JSON that is made piece by piece: it is that of one call, and no call makes much of it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.core.json_text import MOST_AT_ONCE, json_bytes
from jobs.ledger.job import JobState

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=40,
)


def at_once(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(errors="replace")


@given(DOCUMENTS)
def test_it_is_the_json_of_one_call(document: Any) -> None:
    """Whatever stands in it."""
    try:
        made = json_bytes(document)
    except UnicodeEncodeError:  # half of a pair, which no JSON can hold
        with pytest.raises(UnicodeEncodeError):
            json.dumps(document, ensure_ascii=False).encode()
        return
    assert made == at_once(document)


@pytest.mark.parametrize("count", [0, 1, MOST_AT_ONCE, MOST_AT_ONCE + 1, 500])
def test_long_lists_and_objects_are_the_same(count: int) -> None:
    """At the top, inside, and deep inside."""
    rows = [{"name": f"n{number}", "of": list(range(number % 3))} for number in range(count)]
    named = {str(row["name"]): row for row in rows}
    document = {"rows": rows, "named": named, "deep": {"in": {"side": [rows, named]}}}
    assert json_bytes(document) == at_once(document)


def test_a_word_of_ours_is_a_key() -> None:
    """As the states of jobs are."""
    assert json_bytes({JobState.QUEUED: {JobState.RUNNING: 1}}) == at_once({JobState.QUEUED: {JobState.RUNNING: 1}})


def test_no_number_is_refused() -> None:
    """As everywhere: JSON has no word for it."""
    with pytest.raises(ValueError, match="JSON"):
        json_bytes({"rows": [{"size": float("nan")}]})
