"""Other names for models: which model stands behind which name, and what is no alias."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.core.errors import BadName
from jobs.core.model_name import ModelName
from jobs.models.aliases import FLEET, Aliases, as_made, complaints, need_alias

DECLARED = Aliases(
    {
        "gpt-4o": "qwen3:30b",
        "claude-*": "llama3.2",
        "claude-*-haiku*": "tiny",
        "*-mini": "small",
        "team/assistant:v2": "hf.co/user/repo:Q4_K_M",
    }
)


def target(text: str, aliases: Aliases = DECLARED) -> str | None:
    alias = aliases.of(ModelName.parse(text))
    return None if alias is None else str(alias.target)


@pytest.mark.parametrize(
    ("asked", "model"),
    [
        ("gpt-4o", "qwen3:30b"),
        ("GPT-4o:latest", "qwen3:30b"),
        ("gpt-4o:other", None),
        ("gpt-4", None),
        ("claude-sonnet-4", "llama3.2:latest"),
        ("Claude-3-5-Haiku-20241022", "tiny:latest"),
        ("claude-3:beta", "llama3.2:latest"),
        ("gpt-4o-mini", "small:latest"),
        ("gpt-4o-mini:latest", "small:latest"),
        ("gpt-4o-mini:v1", None),
        ("claude-mini", "llama3.2:latest"),
        ("anthropic/claude-3", None),
        ("team/assistant:v2", "hf.co/user/repo:Q4_K_M"),
        ("team/assistant", None),
    ],
)
def test_what_stands_behind_a_name(asked: str, model: str | None) -> None:
    """Case and `:latest` fold as with models; a name goes before a pattern, and of patterns the one that says most."""
    assert target(asked) == model


def test_the_order_of_patterns_is_that_of_no_file() -> None:
    """Whatever order they are declared in, the same pattern answers; of two that say as much, the first by alphabet."""
    one = Aliases({"ab*": "one", "*ba": "two"})
    other = Aliases({"*ba": "two", "ab*": "one"})

    assert target("abba", one) == target("abba", other) == "two:latest"


def test_made_ones_stand_beside_declared_ones() -> None:
    """What `ollama cp` made goes before patterns, and what the fleet declares goes before that."""
    made = {
        name: as_made(ModelName.parse("tiny"), "ann", "2026-01-01") for name in ("claude-x:latest", "gpt-4o:latest")
    }
    both = DECLARED.with_made(made)

    assert (target("claude-x", both), target("gpt-4o", both)) == ("tiny:latest", "qwen3:30b")
    assert {alias.text: alias.by for alias in both.all if alias.target.model == "tiny"} == {
        "claude-x:latest": "ann",
        "claude-*-haiku*": FLEET,
    }
    assert both.with_made(dict(made)) is both


@pytest.mark.parametrize("entry", [None, {}, {"target": "a b", "by": "x"}, {"target": 3, "by": "x"}, "text"])
def test_what_cannot_be_read_hides_no_other(entry: object) -> None:
    """An entry of the ledger that is none is passed over; the others are there."""
    made = {"good:latest": as_made(ModelName.parse("tiny"), "ann", "now"), "bad:latest": entry}

    assert [alias.text for alias in Aliases({}, made).all] == ["good:latest"]
    assert Aliases().with_made(entry).all == ()


@pytest.mark.parametrize("text", ["*", "**", "a?*", "a b*", "", "a b", "x@sha256:*", "*" * 300])
def test_what_is_no_alias(text: str) -> None:
    """A `*` alone would answer whatever is mistyped, so it is no alias; nor is what no name could fit."""
    with pytest.raises(BadName):
        need_alias(text)


@given(st.from_regex(r"[a-z0-9*.-]{1,12}", fullmatch=True), st.from_regex(r"[a-z0-9][a-z0-9.-]{0,12}", fullmatch=True))
def test_only_the_star_means_something(pattern: str, name: str) -> None:
    """Every other sign of a pattern stands for itself."""
    try:
        need_alias(pattern)
    except BadName:
        return
    found = Aliases({pattern: "x"}).of(ModelName.parse(name))
    if "*" not in pattern:
        assert (found is not None) == (pattern == name)
    elif found is not None:
        assert name.startswith(pattern.partition("*")[0]) or f"{name}:latest".startswith(pattern.partition("*")[0])


def test_what_is_wrong_with_them() -> None:
    """An alias whose model is not here is told with how to pull it; one that a model hides, with what to leave out."""
    here = {"gpt-4o:latest", "qwen3:30b", "tiny:latest", "small:latest", "hf.co/user/repo:Q4_K_M"}

    assert complaints(DECLARED, lambda name: str(name) in here) == [
        "warning: the alias gpt-4o of qwen3:30b has no effect: a model of that name is here",
        "hint: leave the alias out, or `ollama-modal delete gpt-4o`",
        "warning: claude-* is an alias of llama3.2:latest, which is not here",
        "hint: `ollama-modal pull llama3.2:latest`",
    ]
