"""Tiers as anybody declares them: any of Modal's GPUs, several of them, a list of those that do."""

from typing import Any

import pytest

from app.fleet.file import BadFleet, read
from app.fleet.gpus import KINDS, GpuChoice, named_like
from app.fleet.schema import Fleet, parse
from jobs.models.placement import TierCapacity, place_model

GB = 1_000_000_000


def fleet(**gpus: Any) -> Fleet:
    """A fleet with these tiers, by what their `gpu` says, or by what of them is otherwise than usual."""
    document = read()
    usual = {key: value for key, value in document["tiers"]["a10g"].items() if key not in {"gpu", "vram_gb"}}
    given = {name: table if isinstance(table, dict) else {"gpu": table} for name, table in gpus.items()}
    document["tiers"] = {name.replace("_", "-"): {**usual, **table} for name, table in given.items()}
    document["models"] = []
    return parse(document, "fleet.toml")


def capacity(found: Fleet, tier: str) -> TierCapacity:
    return next(each for each in found.catalog_tiers() if each.name == tier)


def test_a_tier_has_the_memory_of_its_gpus() -> None:
    """Without a word of it a tier has what its GPUs have together; what is said counts, up to that."""
    found = fleet(l4="L4", l40s="l40s", h100_2="H100:2", b300="B300:8", small={"gpu": "H100:2", "vram_gb": 100}, cpu={})
    told = {each.name: (each.vram_bytes and each.vram_bytes // GB, each.gpus) for each in found.catalog_tiers()}

    assert told == {
        "l4": (24, 1),
        "l40s": (48, 1),
        "h100-2": (160, 2),
        "b300": (2304, 8),
        "small": (100, 2),
        "cpu": (None, 1),
    }


def test_of_a_list_the_smallest_counts_and_the_dearest_is_paid() -> None:
    """A tier that takes what is free can hold what the smallest of these holds, and may cost what the dearest costs."""
    found = fleet(
        either=["H100", "A100-80GB"], spread=["H200", "A100-40GB:2"], same=["H100:2", "A100-80GB"], h100="H100", l4="L4"
    )

    assert (capacity(found, "either").vram_bytes, capacity(found, "either").gpus) == (80 * GB, 1)
    assert (capacity(found, "spread").vram_bytes, capacity(found, "spread").gpus) == (80 * GB, 2)
    assert (capacity(found, "same").vram_bytes, capacity(found, "same").gpus) == (80 * GB, 1)
    assert found.dollars_per_hour("either") == found.dollars_per_hour("h100")
    assert found.dollars_per_hour("same") == pytest.approx(found.dollars_per_hour("h100") + 3.95, abs=0.01)
    assert found.tier("either").gpu_text == "H100 or A100-80GB"


def test_models_go_to_the_cheapest_tier_whose_gpus_hold_them() -> None:
    """What is too large for one GPU goes to a tier with several, and that tells of its share on each."""
    found = fleet(l4="L4", l40s="L40S", h100_2="H100:2", either=["H100", "A100-80GB"])
    placed = {size: place_model(size * GB, found.catalog_tiers()) for size in (10, 30, 60, 100)}

    assert {size: each.tier.name for size, each in placed.items()} == {
        10: "l4",
        30: "l40s",
        60: "either",
        100: "h100-2",
    }
    assert placed[100].facts[-1] == (
        "100 GB of weights need about 121 GB of memory; h100-2 has 160 GB on 2 GPUs, at $8.21 an hour"
    )


def test_a_gpu_of_tomorrow_needs_its_memory_and_its_price() -> None:
    """One that Modal has added since is taken once the file says what it has and what it costs; each is asked for."""
    document = read()
    document["tiers"]["h100"]["gpu"] = "R300:2"
    del document["tiers"]["h100"]["vram_gb"]
    with pytest.raises(BadFleet) as refused:
        parse(document, "fleet.toml")
    assert "tiers.h100.vram_gb = None: how much memory R300 has is not known here; say it" in str(refused.value)
    document["tiers"]["h100"]["vram_gb"] = 576
    with pytest.raises(BadFleet) as refused:
        parse(document, "fleet.toml")
    assert "tiers.h100.gpu = 'R300': no such GPU is known; one of T4, L4" in str(refused.value)
    assert "a newer one of Modal's needs its price at prices.gpu.R300" in str(refused.value)
    document["prices"]["gpu"]["r300"] = 0.002

    found = parse(document, "fleet.toml")

    assert capacity(found, "h100").vram_bytes == 576 * GB
    assert found.dollars_per_hour("h100") == pytest.approx(2 * 0.002 * 3600, abs=1)


@pytest.mark.parametrize(
    ("gpu", "priced"), [("A10G", "A10"), ("A100", "A100-40GB"), ("h100!", "H100"), ("B200+", "B200"), ("A10", "A10G")]
)
def test_a_gpu_of_two_names_has_one_price(gpu: str, priced: str) -> None:
    """Where Modal knows a GPU by two names, or gives a better one for the same price, the price stands under either."""
    document = read()
    document["tiers"]["a10g"] |= {"gpu": gpu, "vram_gb": 24}
    document["prices"]["gpu"] = {priced: 0.01, "H100": 0.01}

    assert parse(document, "fleet.toml").dollars_per_hour("a10g") == pytest.approx(36.3, abs=0.1)


def test_an_unpriced_gpu_is_refused() -> None:
    """What a tier costs is never made up: a GPU without a price is asked for one by its key."""
    document = read()
    document["tiers"]["h100"]["gpu"] = ["H100", "H200"]
    del document["prices"]["gpu"]["H200"]

    with pytest.raises(BadFleet, match=r"prices\.gpu\.H200: is missing, but tiers\.h100 asks for that GPU; add it"):
        parse(document, "fleet.toml")


def test_a_name_can_tell_the_gpus() -> None:
    """A tier that nobody declared, and that is named after GPUs, has the memory of these; another has no limit."""
    assert named_like("a10g") == GpuChoice("A10G")
    assert named_like("a100-80gb") == GpuChoice("A100-80GB")
    assert named_like("h100-2") == GpuChoice("H100", 2)
    assert named_like("a100-80gb-8") == GpuChoice("A100-80GB", 8)
    assert [named_like(name) for name in ("local", "a10g-5", "h100-0", "2", "small-2")] == [None] * 5
    assert all(named_like(kind.lower()) == GpuChoice(kind) for kind in KINDS)
