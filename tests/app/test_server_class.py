"""The name of a tier makes the name of the class that serves it."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.fleet.values import MOST_OF_A_TIER, TIER
from app.resources import APP, GATEWAY, server_class

TIERS = st.from_regex(TIER, fullmatch=True, alphabet=string.ascii_lowercase + string.digits + "-").filter(
    lambda text: len(text) <= MOST_OF_A_TIER
)
NAMES = TIERS | st.text(string.ascii_letters + string.digits + "-_:. ²é", max_size=MOST_OF_A_TIER)


def address_part(name: str) -> str:
    """What Modal's addresses have of the name of a server."""
    return name.lower().replace("_", "-")


@pytest.mark.parametrize(
    ("tier", "name"),
    [
        *(("a10g", "OllamaA10G"), ("h100", "OllamaH100"), ("l4", "OllamaL4"), ("l40s", "OllamaL40S")),
        *(("h100-2", "OllamaH100_2"), ("a100-80gb", "OllamaA100_80GB"), ("rtx-pro-6000", "OllamaRtx_Pro_6000")),
        *(("small", "OllamaSmall"), ("long-reasoning", "OllamaLong_Reasoning"), ("7", "Ollama7")),
    ],
)
def test_classes_read_well(tier: str, name: str) -> None:
    """GPUs are written as they are known, words as words; the two that were there first keep their names."""
    assert server_class(tier) == name


@given(TIERS)
def test_a_class_can_be_written_and_found(tier: str) -> None:
    """It is an identifier, as a module's attribute has to be, no longer than Modal allows, and says its tier again."""
    name = server_class(tier)

    assert name.isascii()
    assert name.isidentifier()
    assert len(name) <= 64
    assert address_part(name) == f"ollama{tier}"
    assert address_part(name) not in {address_part(GATEWAY), address_part(APP)}


@given(NAMES, NAMES)
def test_no_two_tiers_have_one_class(one: str, other: str) -> None:
    """Of two names that would make one class, or one address, at most one is that of a tier; else they are the same."""
    are_one = address_part(server_class(one)) == address_part(server_class(other))

    assert one == other or not are_one or not (TIER.fullmatch(one) and TIER.fullmatch(other))


@pytest.mark.parametrize("others", [("h100-2", "h100_2", "H100-2", "h100:2"), ("h100", "H100", "h100-", "-h100")])
def test_of_names_that_look_alike_one_is_a_tiers(others: tuple[str, ...]) -> None:
    """What differs in its case or its dashes alone is not taken for another tier."""
    assert [name for name in others if TIER.fullmatch(name)] == [others[0]]
