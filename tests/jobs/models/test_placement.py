"""Promises of jobs.models.placement."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.models.gguf import MemoryFacts
from jobs.models.placement import LOCAL, TierCapacity, place_model, tuned, weigh
from tests.support.tiers import A10G, H100

GB = 1_000_000_000

SMALL = replace(A10G, context=8192, parallel=4, cache_type="q8_0")
LARGE = replace(H100, context=16384, parallel=4, cache_type="q8_0")

LLAMA = MemoryFacts("llama", 28, 131_072, 3_072, 24, (8,), 128, 128)
QWEN32 = MemoryFacts("qwen2", 64, 131_072, 5_120, 40, (8,), 128, 128)


@pytest.mark.parametrize(
    ("size", "tier"),
    [(2 * GB, A10G), (20 * GB, A10G), (20 * GB + 1, H100), (43 * GB, H100), (400 * GB, H100), (0, A10G)],
)
def test_without_a_header_a_fifth_more_than_the_weights_decides(size: int, tier: TierCapacity) -> None:
    """Weights and a fifth more decide, whatever order the tiers are named in; beyond all of them, the largest."""
    assert place_model(size, [A10G, H100]).tier == tier
    assert place_model(size, [H100, A10G]).tier == tier


def test_the_reason_can_be_read() -> None:
    """The reason names the size, the need and what the tier has, and warns where it is not enough."""
    assert place_model(20 * GB, [A10G]).reason == "20 GB of weights need about 24 GB of memory; a10g has 24 GB"
    placed = place_model(100 * GB, [A10G, H100])
    assert placed.facts == (
        "100 GB of weights need about 120 GB of memory; a10g has 24 GB",
        "100 GB of weights need about 120 GB of memory; h100 has 80 GB",
    )
    assert placed.warning == "h100 has 80 GB and 120 GB are needed: part of it runs on the CPU, slowly"


def test_contexts_take_their_share() -> None:
    """Layers, heads, context, parallelism and the cache's kind make the cache; the sum is told part by part."""
    weighed = weigh(2_019_377_376, SMALL, facts=LLAMA)

    assert weighed.cache_bytes == 28 * 8 * 256 * 8192 * 4 * 34 / 32
    assert weighed.need_bytes == 2_019_377_376 + weighed.cache_bytes + GB
    assert weighed.fact == (
        "2.0 GB of weights + 2.0 GB for 4 contexts of 8,192 tokens at q8_0 + 1.0 GB for the runner"
        " need 5.0 GB of memory; a10g has 24 GB"
    )
    halves = [weigh(0, replace(SMALL, cache_type=kind), facts=LLAMA).cache_bytes for kind in ("f16", "q8_0", "q4_0")]
    assert halves == sorted(halves, key=lambda size: size or 0, reverse=True)


def test_a_long_context_moves_a_model_to_a_larger_tier() -> None:
    """What a request asks for counts in place of the tier's own context, up to what the model was trained for."""
    assert place_model(2 * GB, [SMALL, LARGE], facts=LLAMA).tier == SMALL
    asked = place_model(2 * GB, [SMALL, LARGE], facts=LLAMA, context=120_000)
    assert asked.tier == LARGE
    assert len(asked.facts) == 2
    assert "4 contexts of 120,000 tokens" in asked.reason
    assert weigh(0, SMALL, facts=LLAMA, context=10**9).context == 131_072


def test_a_model_whose_weights_fit_may_not_fit_with_its_contexts() -> None:
    """A model of 32 billion parameters fits an A10G by its weights alone, and goes to the H100 with its contexts."""
    assert place_model(19_851_335_840, [A10G, H100]).tier == A10G
    assert place_model(19_851_335_840, [SMALL, LARGE], facts=QWEN32).tier == LARGE


def test_some_models_have_one_context() -> None:
    """What only embeds keeps no cache; architectures that take one request at a time have one context."""
    assert weigh(GB, SMALL, facts=replace(LLAMA, pools=True)).cache_bytes == 0
    assert weigh(GB, SMALL, facts=replace(LLAMA, architecture="qwen35moe")).parallel == 1
    assert weigh(GB, SMALL, facts=replace(LLAMA, has_vision=True)).words.count("to see with") == 1


def test_ollamas_own_choice_of_context_depends_on_the_memory() -> None:
    """A tier that says nothing gets the context that Ollama would take there."""
    assert [weigh(0, tier).context for tier in (A10G, replace(A10G, vram_bytes=26 * GB), H100)] == [4096, 32768, 262144]


def test_the_cheapest_wins_where_all_have_a_price() -> None:
    """A larger tier that costs less is taken first; while one price is missing, the smaller tier is."""
    bargain = replace(H100, dollars_per_hour=1.0)
    assert place_model(GB, [replace(A10G, dollars_per_hour=2.0), bargain]).tier == bargain
    assert "at $1.00 an hour" in place_model(GB, [replace(A10G, dollars_per_hour=2.0), bargain]).reason
    assert place_model(GB, [A10G, bargain]).tier == A10G


def test_servers_of_this_machine_are_tuned_by_its_environment() -> None:
    """What the environment tells an Ollama server counts for its tier; what Ollama would pass over is passed over."""
    told = {"OLLAMA_CONTEXT_LENGTH": "16384", "OLLAMA_NUM_PARALLEL": " 2 ", "OLLAMA_KV_CACHE_TYPE": "q4_0"}
    assert tuned(A10G, told) == replace(A10G, context=16384, parallel=2, cache_type="q4_0")
    assert tuned(A10G, {"OLLAMA_CONTEXT_LENGTH": "long", "OLLAMA_KV_CACHE_TYPE": "zip"}) == A10G


TWO = replace(LARGE, name="two", vram_bytes=160 * GB, gpus=2)


def test_of_several_gpus_one_is_taken_while_it_has_air() -> None:
    """Ollama loads a model on one GPU up to four fifths of it, and spreads a larger one over all of them, each of which
    has a runner's share of its own (ollama server/sched.go:1009-1034, 1064)."""
    small, large = weigh(50 * GB, TWO, facts=QWEN32), weigh(60 * GB, TWO, facts=QWEN32)
    cache = small.cache_bytes or 0

    assert small.need_bytes == 50 * GB + cache + GB
    assert large.need_bytes == 60 * GB + cache + 2 * GB
    assert "2.0 GB for the runner on 2 GPUs" in large.fact
    assert large.fact.endswith("two has 160 GB on 2 GPUs")
    assert weigh(60 * GB, TWO).need_bytes == 73 * GB
    assert not weigh(160 * GB, TWO).fits


@given(st.integers(0, 400 * GB), st.integers(1, 8), st.booleans())
def test_more_gpus_never_hold_less(size: int, gpus: int, has_header: bool) -> None:
    """What fits one GPU fits a tier with more of the same."""
    facts = QWEN32 if has_header else None
    several = replace(LARGE, vram_bytes=80 * GB * gpus, gpus=gpus)

    assert weigh(size, several, facts=facts).fits or not weigh(size, LARGE, facts=facts).fits


def test_one_machine_takes_everything_and_promises_nothing() -> None:
    """The local tier has no limit and no GPU that a model could fall from."""
    placed = place_model(900 * GB, [LOCAL])
    assert placed.tier is LOCAL
    assert not placed.tier.gpu_promised
    assert "no known limit" in placed.reason


def test_no_tier_at_all_is_a_mistake_of_the_caller() -> None:
    """Placing on nothing says so."""
    with pytest.raises(ValueError, match="no tier"):
        place_model(1, [])


@given(
    st.integers(0, 10**13),
    st.lists(st.sampled_from([SMALL, LARGE, LOCAL]), min_size=1),
    st.one_of(st.none(), st.sampled_from([LLAMA, QWEN32])),
    st.one_of(st.none(), st.integers(1, 10**6)),
)
def test_a_larger_tier_is_never_chosen_while_a_smaller_one_holds_it(
    size: int, tiers: list[TierCapacity], facts: MemoryFacts | None, context: int | None
) -> None:
    """No tier given is smaller than the chosen one and still large enough; where none is, a warning says so."""
    placed = place_model(size, tiers, facts=facts, context=context)
    weighed = [weigh(size, tier, facts=facts, context=context) for tier in tiers]
    fitting = [each.tier for each in weighed if each.fits]
    wanted = min(fitting, key=memory) if fitting else max(tiers, key=memory)
    assert memory(placed.tier) == memory(wanted)
    assert (placed.warning is None) == bool(fitting)


def memory(tier: TierCapacity) -> float:
    return float("inf") if tier.vram_bytes is None else tier.vram_bytes
