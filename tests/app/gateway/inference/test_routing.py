"""Promises of app.gateway.inference.routing."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.gateway.catalog.state import KnownState
from app.gateway.inference.routing import Router
from jobs.core.errors import BadName, NotFound
from jobs.core.model_name import ModelName
from jobs.models.card import Card, KnownModel
from jobs.models.gguf import GgufHeader
from jobs.models.near_names import NearNames
from jobs.models.placement import LOCAL, TierCapacity
from tests.support.gateways import A10G_TIER, H100_TIER
from tests.support.stores import Store

GB = 1_000_000_000

LLAMA = GgufHeader(
    3,
    {
        "general.architecture": "llama",
        "llama.block_count": 28,
        "llama.context_length": 131_072,
        "llama.embedding_length": 3_072,
        "llama.attention.head_count": 24,
        "llama.attention.head_count_kv": 8,
        "llama.attention.key_length": 128,
        "llama.attention.value_length": 128,
    },
    (),
    0,
)


def model(name: str, size: int = 2 * GB, header: GgufHeader | None = LLAMA) -> KnownModel:
    card = Card({}, header, "") if header else None
    return KnownModel(ModelName.parse(name), "f00", size, datetime(2026, 1, 1, tzinfo=UTC), {}, (), card)


class Given:
    """A source that has these models."""

    def __init__(self, *models: KnownModel) -> None:
        self.models = models

    def stamp(self, _: Any) -> Any:
        return self.models

    def read(self) -> tuple[KnownModel, ...]:
        return self.models


Make = Callable[..., Router]


@pytest.fixture
def make(store: Store) -> Make:
    def make(
        *models: KnownModel,
        tiers: tuple[TierCapacity, ...] = (A10G_TIER, H100_TIER),
        declared: dict[str, str] | None = None,
    ) -> Router:
        known_state = KnownState(store.facts, Given(*models), store.clock)
        known_state.refresh()
        return Router(known_state, tiers, lambda name: (declared or {}).get(str(name.folded())))

    return make


def test_the_cheapest_tier_that_fits_answers(make: Make) -> None:
    """Without a declaration, memory and price decide, and the route says both in words and in numbers."""
    route = make(model("llama3.2")).route("llama3.2")

    assert (route.tier, str(route.model), route.served_name) == ("a10g", "llama3.2:latest", "llama3.2:latest")
    (fact,) = route.facts
    assert fact == (
        "2.0 GB of weights + 2.0 GB for 4 contexts of 8,192 tokens at q8_0 + 1.0 GB for the runner"
        " need 5.0 GB of memory; a10g has 24 GB, at $1.42 an hour"
    )
    told = route.as_json()
    assert json.loads(json.dumps(told)) == told
    assert told | {"facts": []} == {
        "model": "llama3.2:latest",
        "alias": None,
        "tier": "a10g",
        "engine": "ollama",
        "declared": False,
        "fits": True,
        "weights_bytes": 2 * GB,
        "cache_bytes": 1_996_488_704,
        "need_bytes": 4_996_488_704,
        "vram_bytes": 24 * GB,
        "context": 8192,
        "parallel": 4,
        "dollars_per_hour": 1.42,
        "facts": [],
        "warning": None,
    }


def test_a_declared_tier_wins(make: Make) -> None:
    """A model goes where the fleet declares it, though a smaller tier would hold it; the route says so."""
    route = make(model("llama3.2"), declared={"llama3.2:latest": "h100"}).route("LLAMA3.2")

    assert (route.tier, route.is_declared, route.warning) == ("h100", True, None)
    assert route.facts[0] == "h100 is declared for it"


def test_a_declared_tier_that_is_too_small_is_warned_of(make: Make) -> None:
    """A declaration is followed even where the model does not fit, and the route warns in words."""
    route = make(model("big", 60 * GB), declared={"big:latest": "a10g"}).route("big")

    assert route.tier == "a10g"
    assert route.warning == "a10g has 24 GB and 63 GB are needed: part of it runs on the CPU, slowly"
    assert not route.as_json()["fits"]


def test_a_declared_tier_without_servers_is_told(make: Make) -> None:
    """Where no server stands for the declared tier, the model is placed by its size, and the route says why."""
    route = make(model("llama3.2"), tiers=(LOCAL,), declared={"llama3.2:latest": "h100"}).route("llama3.2")

    assert (route.tier, route.is_declared) == ("local", False)
    assert route.facts[0] == "it is declared for 'h100', of which there is no server here"


def test_a_long_context_asks_for_more(make: Make) -> None:
    """The context that a request asks for counts, and so the same model may be answered elsewhere."""
    router = make(model("llama3.2"))

    assert router.route("llama3.2", context=120_000).tier == "h100"
    assert router.route("llama3.2", context=120_000).as_json()["context"] == 120_000
    assert router.route("llama3.2", context=2048).tier == "a10g"


def test_the_largest_answers_where_none_fits(make: Make) -> None:
    """Beyond every tier the largest answers, with a warning."""
    route = make(model("huge", 400 * GB, None)).route("huge")

    assert route.tier == "h100"
    assert route.warning == "h100 has 80 GB and 480 GB are needed: part of it runs on the CPU, slowly"
    assert len(route.facts) == 2


def test_an_unknown_model_is_not_found_with_what_comes_near(make: Make) -> None:
    """Nothing is substituted: the error names other tags and like names, and how to pull what was asked for."""
    router = make(model("llama3.2:3b"), model("llama3.2:1b"), model("qwen2.5:0.5b"), model("hf.co/acme/demo:Q4_K_M"))

    with pytest.raises(NotFound, match=r"model 'llama3.2:latest' not found") as raised:
        router.route("llama3.2")
    assert raised.value.hint == ("there is llama3.2:1b, llama3.2:3b; to pull it: `ollama-modal pull llama3.2:latest`")
    with pytest.raises(NotFound) as raised:
        router.route("qwen25:0.5b")
    assert "there is qwen2.5:0.5b;" in str(raised.value.hint)
    with pytest.raises(NotFound) as raised:
        router.route("demo")
    assert "there is hf.co/acme/demo:Q4_K_M;" in str(raised.value.hint)
    with pytest.raises(NotFound) as raised:
        router.route("mixtral")
    assert raised.value.hint == "to pull it: `ollama-modal pull mixtral:latest`"


def test_what_a_caller_may_not_see_is_not_named(make: Make) -> None:
    """Models that a caller may not use are not found by it, nor told as near."""
    router = make(model("secret:1"), model("secret:2"))

    with pytest.raises(NotFound) as raised:
        router.route("secret:1", may_see=lambda name: name.tag == "2")
    assert raised.value.hint == "there is secret:2; to pull it: `ollama-modal pull secret:1`"


def test_what_is_no_name_is_refused(make: Make) -> None:
    """Names are parsed by Ollama's grammar before anything is looked up."""
    router = make(model("llama3.2"))
    for text in ("", "../x", "a b", "x@sha256:00"):
        with pytest.raises(BadName):
            router.route(text)


NAMES = st.from_regex(r"[a-z][a-z0-9.]{0,8}(:[a-z0-9]{1,4})?", fullmatch=True).map(ModelName.parse)


@given(NAMES, st.lists(NAMES, max_size=10, unique=True))
def test_near_matches_are_few_and_known(name: ModelName, known: list[ModelName]) -> None:
    """At most three names, all of them known; another tag of the same model always counts as near."""
    near = NearNames(known).near(name)

    assert len(near) <= 3
    assert set(near) <= set(known)
    if siblings := [each for each in known if each.model == name.model]:
        assert near[0] in siblings
