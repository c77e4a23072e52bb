"""Promises of jobs.catalog."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.catalog import A10G, H100, KNOWN_TIERS, LOCAL, Tier, place

GB = 1_000_000_000


@pytest.mark.parametrize(
    ("size", "tier"),
    [(2 * GB, A10G), (20 * GB, A10G), (20 * GB + 1, H100), (43 * GB, H100), (400 * GB, H100), (0, A10G)],
)
def test_a_model_goes_to_the_smallest_tier_that_holds_it(size: int, tier: Tier) -> None:
    """Weights and a fifth more decide, whatever order the tiers are named in; beyond all of them, the largest."""
    assert place(size, [A10G, H100]).tier == tier
    assert place(size, [H100, A10G]).tier == tier


def test_the_reason_can_be_read() -> None:
    """The reason names the size, the need and what the tier has, and warns where it is not enough."""
    assert place(20 * GB, [A10G]).reason == "20 GB of weights need about 24 GB of memory; a10g has 24 GB"
    assert place(100 * GB, [A10G, H100]).reason == (
        "100 GB of weights need about 120 GB of memory; no tier has that much, and h100 has 80 GB:"
        " part of it runs on the CPU"
    )


def test_one_machine_takes_everything_and_promises_nothing() -> None:
    """The local tier has no limit and no GPU that a model could fall from."""
    placed = place(900 * GB, [LOCAL])
    assert placed.tier is KNOWN_TIERS["local"]
    assert not placed.tier.gpu_promised
    assert "no known limit" in placed.reason


def test_no_tier_at_all_is_a_mistake_of_the_caller() -> None:
    """Placing on nothing says so."""
    with pytest.raises(ValueError, match="no tier"):
        place(1, [])


@given(st.integers(0, 10**13), st.lists(st.sampled_from([A10G, H100, LOCAL]), min_size=1))
def test_a_larger_tier_is_never_chosen_while_a_smaller_one_holds_it(size: int, tiers: list[Tier]) -> None:
    """No tier given is smaller than the chosen one and still large enough."""
    chosen = place(size, tiers).tier.vram_bytes
    limits = [float("inf") if tier.vram_bytes is None else tier.vram_bytes for tier in tiers]
    enough = [limit for limit in limits if limit >= size * 1.2]
    assert (float("inf") if chosen is None else chosen) == (min(enough) if enough else max(limits))
