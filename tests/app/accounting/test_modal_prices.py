"""Prices as Modal tells them itself, by the names that its list has; and the fleet's where it does not."""

from collections.abc import Mapping
from datetime import date
from decimal import Decimal

import pytest

from app.accounting.modal_prices import Rates, priced
from app.fleet.schema import load
from jobs.core.errors import Forbidden

TODAY = date(2026, 11, 24)
FLEET = load()
RATES = {
    "cpu_hour_cost": "0.0500",
    "cpu_hour_cost_sandbox": "0.1419",
    "mem_gib_hour_cost": "0.0080",
    "gpu_hour_cost_t4": "0.59",
    "gpu_hour_cost_a10g": "1.10",
    "gpu_hour_cost_a100_80gb": "2.50",
    "gpu_hour_cost_h100": "4.00",
}


def rates(listed: Mapping[str, str] = RATES) -> Rates:
    return {name: Decimal(text) for name, text in listed.items()}


def test_modals_own_rates_are_taken_with_their_day() -> None:
    """Each tier costs what its GPU, cores and memory cost now; the estimate says from when and where that is."""
    fleet = priced(FLEET, TODAY, rates)

    assert fleet.dollars_per_hour("a10g") == round(1.10 + 4 * 0.05 + 16 * 0.008, 2)
    assert fleet.dollars_per_hour("h100") == round(4.00 + 8 * 0.05 + 64 * 0.008, 2)
    assert (fleet.prices.as_of, fleet.prices.source) == (TODAY, "modal billing rates")
    assert set(fleet.prices.gpu) == {"T4", "A10", "A100-80GB", "H100"}
    assert FLEET.prices.as_of == date(2026, 9, 15)


@pytest.mark.parametrize("missing", ["cpu_hour_cost", "mem_gib_hour_cost", "gpu_hour_cost_a10g"])
def test_a_list_without_what_is_needed_is_no_list(missing: str) -> None:
    """Half of today's prices beside half of another day's would be no day's: the fleet's are taken as they are."""
    assert priced(FLEET, TODAY, lambda: rates({key: text for key, text in RATES.items() if key != missing})) == FLEET


def test_whoever_may_not_ask_goes_by_the_fleet() -> None:
    """A token without permission, or a network that is down, is no reason not to tell an estimate."""

    def refuse() -> Rates:
        raise Forbidden("this token may not see billing")

    assert priced(FLEET, TODAY, refuse) == FLEET
