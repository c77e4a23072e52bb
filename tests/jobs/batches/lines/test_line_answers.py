"""What becomes of a line, by how it was answered."""

import json
from datetime import timedelta
from typing import Any

import pytest

from jobs.batches.lines.line_answers import (
    A_WHILE,
    SOON,
    Answer,
    Answered,
    BudgetIsSpent,
    GivenBack,
    ModelUnknown,
    Outcome,
    PassRefused,
    TryAgain,
    Used,
    outcome_of,
)

TOLD = {"error": {"message": "no"}}


def outcome(status: int, body: Any = TOLD, **headers: str) -> Outcome:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return outcome_of(Answer(status, named, body if isinstance(body, bytes) else json.dumps(body).encode()))


@pytest.mark.parametrize(
    ("usage", "used"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}, Used(3, 4)),
        ({"prompt_tokens": 3, "total_tokens": 3}, Used(3, 0)),
        ({"input_tokens": 3, "output_tokens": 4}, Used(3, 4)),
        ({"input_tokens": 3, "output_tokens": 4, "cache_read_input_tokens": 5}, Used(8, 4)),
        ({"prompt_tokens": "many", "completion_tokens": -4}, Used()),
        (None, Used()),
    ],
)
def test_an_answer_is_a_result_with_its_tokens(usage: Any, used: Used) -> None:
    """Of each dialect; what makes no sense counts nothing, and is no reason to ask again."""
    assert outcome(200, {"usage": usage}) == Answered(is_good=True, used=used)


@pytest.mark.parametrize("status", [400, 403, 413, 422])
def test_what_is_refused_is_an_error_at_once(status: int) -> None:
    """Another try would be refused as well."""
    assert outcome(status) == Answered(is_good=False)


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504])
def test_what_failed_is_tried_again(status: int) -> None:
    """When it is told when, not before."""
    assert outcome(status) == TryAgain(f"{status}: no")
    assert outcome(status, retry_after="7") == TryAgain(f"{status}: no", timedelta(seconds=7))


def test_an_answer_that_is_none_is_tried_again() -> None:
    """A page of a proxy with status 200 is no result."""
    assert outcome(200, b"<html>") == TryAgain("the answer is no JSON object, but b'<html>'")
    assert isinstance(outcome(200, b"[]"), TryAgain)


def test_a_line_that_is_not_wanted_now_goes_back() -> None:
    """The gateway's word counts, whatever the status; a long wait holds for the others of the tier as well."""
    assert outcome(503, x_batch_line="not-now") == GivenBack(SOON, "no", for_all=False)
    assert outcome(503, x_batch_line="not-now", retry_after="10") == GivenBack(
        timedelta(seconds=10), "no", for_all=True
    )
    assert outcome(429) == GivenBack(A_WHILE, "no", for_all=True)
    assert outcome(429, retry_after="0.5") == GivenBack(timedelta(seconds=0.5), "no", for_all=True)


@pytest.mark.parametrize("said", ["", "soon", "-1", "inf", "nan", "9" * 400])
def test_a_wait_that_makes_no_sense_is_none(said: str) -> None:
    """Nobody waits for ever because of a header."""
    found = outcome(503, x_batch_line="not-now", retry_after=said)
    assert isinstance(found, GivenBack)
    assert found.after == SOON


def test_what_ends_a_batch_is_told_from_what_ends_a_line() -> None:
    """A budget, a pass, a model."""
    assert outcome(429, x_batch_line="spent") == BudgetIsSpent("no")
    assert outcome(401, x_batch_line="refused") == PassRefused("no")
    assert outcome(404) == ModelUnknown("no")
    assert outcome(401) == Answered(is_good=False)


@pytest.mark.parametrize(("said", "room"), [("7", 7), ("0", 0), ("", None), ("-1", None), ("many", None)])
def test_the_room_is_a_number_or_nothing(said: str, room: int | None) -> None:
    """A header that makes no sense changes nothing."""
    assert Answer(200, {"x-batch-room": said}, b"").room == room


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":{"message":"no such option"}}', "no such option"),
        (b'{"error":"no such option"}', "no such option"),
        (b'{"type":"error","error":{"type":"api_error","message":"no such option"}}', "no such option"),
        (b"no such option", "no such option"),
        (b"", "nothing was said"),
    ],
)
def test_an_errors_words_are_found(body: bytes, message: str) -> None:
    """In each dialect's shape, and in none."""
    assert outcome(500, body) == TryAgain(f"500: {message}")
