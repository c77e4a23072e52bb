"""What Modal itself asks for at this moment, for commands that tell what something costs.

The fleet's prices stand in for it where it cannot be had: no permission, no network, or a rate that is missing.
"""

from collections.abc import Callable, Mapping
from datetime import date
from decimal import Decimal

from loguru import logger

from app.fleet.schema import Fleet, PricesConfig
from app.resources import deployment
from jobs.core.errors import Trouble

SOURCE = "modal billing rates"

CPU, MEMORY, GPU = "cpu_hour_cost", "mem_gib_hour_cost", "gpu_hour_cost_"
_OTHERWISE = {"A10": "a10g", "A100": "a100_40gb", "H100!": "h100", "B200+": "b200"}
"""Which the list does not call by the name that is asked for; the others are, in small letters."""

Rates = Mapping[str, Decimal]


def modal_rates() -> Rates:
    """Dollars per hour, by Modal's own names for what is rented."""
    return deployment.rates()


def priced(fleet: Fleet, today: date, ask: Callable[[], Rates] = modal_rates) -> Fleet:
    """The fleet at Modal's rates; as it was, with a warning, when they cannot be had."""
    try:
        rates = dict(ask())
    except Trouble as error:
        logger.warning("Modal does not tell its rates, the fleet's are taken: {}", error)
        return fleet
    choices = [choice for tier in fleet.tiers.values() for choice in tier.gpu_choices]
    needed = [name for choice in choices if (name := fleet.prices.priced_as(choice)) is not None]
    if missing := [key for key in (CPU, MEMORY, *map(_key, needed)) if key not in rates]:
        logger.warning("Modal tells no rate {}, the fleet's prices are taken", ", ".join(missing))
        return fleet
    prices = PricesConfig(
        as_of=today,
        source=SOURCE,
        cpu_core=_per_second(rates[CPU]),
        memory_gib=_per_second(rates[MEMORY]),
        gpu={name: _per_second(rates[_key(name)]) for name in fleet.prices.gpu if _key(name) in rates},
    )
    return fleet.model_copy(update={"prices": prices})


def _key(gpu: str) -> str:
    return GPU + _OTHERWISE.get(gpu, gpu.lower().replace("-", "_"))


def _per_second(hourly: Decimal) -> float:
    return float(hourly) / 3600
