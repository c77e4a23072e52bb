"""A name is looked up at the same cost among ten models as among thousands."""

import pytest

from app.fleet.schema import load
from jobs.core.model_name import ModelName
from jobs.models.near_names import LOOKED_AT, NearNames
from tests.support.call_counts import calls


@pytest.mark.parametrize("asked", ["modell-12", "m", "zzzz", "model-0499", "x" * 80, "model-" * 13])
def test_an_unknown_model_costs_the_same_among_many(asked: str) -> None:
    """Only so many names are compared, and only so many looked at, however many are known."""
    looked: list[ModelName] = []

    def may_see(name: ModelName) -> bool:
        looked.append(name)
        return True

    def cost(known: int) -> int:
        names = NearNames(ModelName.parse(f"model-{number:04d}:q4") for number in range(known))
        return calls(lambda: names.near(ModelName.parse(asked), may_see))

    few, many = cost(500), cost(2_000)
    assert many <= 1.3 * few + 50
    assert len(looked) <= 2 * LOOKED_AT


def test_a_declared_tier_is_looked_up() -> None:
    """The tier of a model is found at the same cost among a thousand declared models as among ten."""
    fleet = load()
    kind = type(fleet.models[0])

    def cost(declared: int) -> int:
        models = [kind(name=f"m{number}", tier="a10g") for number in range(declared)]
        many = fleet.model_copy(update={"models": models})
        assert many.declared_tier(ModelName.parse("M7")) == "a10g"
        return calls(lambda: many.declared_tier(ModelName.parse("nobody")))

    assert cost(1_000) == cost(10)
