"""The table of kinds: what is posted for each, and what is refused."""

from typing import Any

import pytest

from jobs.core.errors import BadName, BadRequest
from jobs.ledger.kinds import KINDS


@pytest.mark.parametrize(
    ("kind", "model", "typed", "expected"),
    [
        ("pull", "Tiny", {}, ("tiny:latest", {"model": "Tiny", "way": "auto", "rate_limit": None})),
        ("pull", "Tiny", {"way": "server", "rate_limit": "5MB"},
         ("tiny:latest", {"model": "Tiny", "way": "server", "rate_limit": 5_000_000})),
        ("verify", "Tiny", {}, ("tiny:latest", {"model": "Tiny"})),
        ("verify", None, {}, ("*", {"model": None})),
        ("delete", "Tiny", {}, ("tiny:latest", {"model": "Tiny"})),
        ("prune", None, {"empty_trash": False}, ("*", {"unused_days": None, "empty_trash": None})),
        ("prune", None, {"unused_days": 30.0, "empty_trash": True}, ("*", {"unused_days": 30.0, "empty_trash": True})),
        ("rollback", "Tiny", {}, ("tiny:latest", {"model": "Tiny"})),
        ("warm", "Tiny", {"tier": "a10g"}, ("tiny:latest", {"model": "Tiny", "tier": "a10g"})),
    ],
)  # fmt: skip
def test_what_is_typed_is_what_is_stored(
    kind: str, model: str | None, typed: dict[str, Any], expected: tuple[str, dict[str, Any]]
) -> None:
    """A request is stored under the same keys, in the same order, as it always was."""
    posted = KINDS[kind].request(model, KINDS[kind].read(typed))
    assert (posted.kind, posted.subject, list(posted.request.items())) == (kind, expected[0], list(expected[1].items()))


def test_defaults_fill_what_is_left_out() -> None:
    """What is left out is as the defaults say; what is given is not changed by them."""
    pull, defaults = KINDS["pull"], {"rate_limit": 7}
    assert pull.request("tiny", defaults=defaults).request["rate_limit"] == 7
    assert pull.request("tiny", {"rate_limit": 9}, defaults).request["rate_limit"] == 9


def test_what_makes_no_sense_is_refused() -> None:
    """A value outside its limits, a parameter that the kind does not have, and no model where one is needed."""
    with pytest.raises(BadRequest, match="--unused-days 0 makes no sense"):
        KINDS["prune"].read({"unused_days": 0.0})
    with pytest.raises(BadRequest, match="--rate-limit 2000PB makes no sense"):
        KINDS["pull"].read({"rate_limit": "2000PB"})
    with pytest.raises(BadRequest, match="there is no way to pull called 'up'") as refused:
        KINDS["pull"].read({"way": "up"})
    assert refused.value.hint == "ways are auto, registry, server"
    with pytest.raises(BadRequest, match="a warm has no parameter 'teir'"):
        KINDS["warm"].request("tiny", {"teir": "a10g"})
    with pytest.raises(BadName, match="the model name is empty"):
        KINDS["delete"].request()
