"""What one key may take, as words say it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.access.limits import PERIODS, UNITS, Budget, Limits, Period, Unit
from jobs.core.errors import BadRequest

COUNT = st.none() | st.integers(1, 9_999_999)
SWITCH = st.none() | st.booleans()
AMOUNT = st.integers(1, 10**13 - 1).map(lambda parts: parts / 10**4) | st.sampled_from([0.5, 0.01, 1e6, 999_999_999.0])


def budgets(found: dict[tuple[Unit, Period], float]) -> tuple[Budget, ...]:
    return tuple(sorted(Budget(unit, period, amount) for (unit, period), amount in found.items()))


BUDGETS = st.dictionaries(st.tuples(st.sampled_from(UNITS), st.sampled_from(PERIODS)), AMOUNT).map(budgets)
TIERS = st.lists(st.from_regex(r"[a-z0-9][a-z0-9-]{0,8}", fullmatch=True), max_size=3, unique=True).map(tuple)
LIMITS = st.builds(Limits, COUNT, COUNT, COUNT, BUDGETS, TIERS, SWITCH, SWITCH)


@given(LIMITS)
def test_limits_survive_their_words(limits: Limits) -> None:
    """What limits say as words is read as the same limits."""
    assert Limits.parse(limits.options()) == limits


@given(LIMITS, LIMITS)
def test_defaults_fill_what_is_not_said(limits: Limits, defaults: Limits) -> None:
    """What a key says of its own stands; where it says nothing the defaults do, budgets by what they are of."""
    both = limits.or_else(defaults)

    for name in ("rpm", "tpm", "concurrent", "may_wake", "may_hold"):
        mine = getattr(limits, name)
        assert getattr(both, name) == (getattr(defaults, name) if mine is None else mine)
    for unit in UNITS:
        mine, theirs, now = ([each for each in of.budgets if each.unit == unit] for of in (limits, defaults, both))
        assert now == (mine or theirs)
    assert both.tiers == (limits.tiers or defaults.tiers)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rpm": "0"}, "rpm='0' is no number of requests"),
        ({"tpm": "1e3"}, "tpm='1e3' is no number of tokens"),
        ({"dollars": "5"}, "dollars='5' is no budget"),
        ({"dollars": "0/month"}, "dollars='0/month' is no budget"),
        ({"dollars": "-1/day"}, "dollars='-1/day' is no budget"),
        ({"dollars": "nan/day"}, "dollars='nan/day' is no budget"),
        ({"dollars": "1/day,2/day"}, "is no budget"),
        ({"tokens": "5/week"}, "is no budget"),
        ({"tiers": "A10G"}, "names no tiers"),
        ({"tiers": ""}, "names no tiers"),
        ({"wake": "maybe"}, "wake='maybe' is neither yes nor no"),
        ({"colour": "red"}, "'colour' is no limit"),
    ],
)
def test_a_wrong_limit_is_refused(options: dict[str, str], says: str) -> None:
    """A word that says nothing is refused, with one that would: no mistake makes a key wider."""
    with pytest.raises(BadRequest) as refused:
        Limits.parse(options)

    assert says in str(refused.value)
    assert refused.value.hint
