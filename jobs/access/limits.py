"""What one key may take: requests, tokens, seconds of a GPU and dollars, by minute, day and month. Pure.

As words of a key's line, and as options of the command: `rpm=60 tpm=20000 concurrent=4 dollars=5/month wake=no`. What
is not said is not limited.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self, cast, get_args

from jobs.core.errors import BadRequest

Unit = Literal["requests", "tokens", "gpu_seconds", "dollars"]
Period = Literal["day", "month"]
UNITS: tuple[Unit, ...] = get_args(Unit)
PERIODS: tuple[Period, ...] = get_args(Period)

COUNTS = ("rpm", "tpm", "concurrent")
"""Requests a minute, tokens a minute, requests at once."""

SWITCHES = ("wake", "hold")
"""Whether it may wake a tier that is asleep, and whether its callers may be held until one is awake."""

OPTIONS = (*COUNTS, *UNITS, "tiers", *SWITCHES)

_AMOUNT = re.compile(r"(\d{1,9}(?:\.\d{1,4})?)/(day|month)", re.ASCII)
_TIER = re.compile(r"[a-z0-9][a-z0-9-]{0,63}", re.ASCII)


@dataclass(frozen=True, order=True)
class Budget:
    """So much of something in a day or a month, both in the fleet's time zone."""

    unit: Unit
    period: Period
    amount: float

    def __str__(self) -> str:
        return f"{self.unit}={self.text}"

    @property
    def text(self) -> str:
        """As it is written: a million without an exponent, which no reader takes."""
        return f"{f'{self.amount:.4f}'.rstrip('0').rstrip('.')}/{self.period}"


@dataclass(frozen=True)
class Limits:
    """None, and no budget, is no limit; no tiers are all of them."""

    rpm: int | None = None
    tpm: int | None = None
    concurrent: int | None = None
    budgets: tuple[Budget, ...] = ()
    tiers: tuple[str, ...] = ()
    may_wake: bool | None = None
    may_hold: bool | None = None

    @classmethod
    def parse(cls, options: Mapping[str, str]) -> Self:
        """Read options as a line or a document has them; a unit may have a day's and a month's budget, by a comma.

        Raises:
            BadRequest: one is not known, or has a value that says nothing; it names both and shows one that is right.

        """
        if unknown := sorted(set(options) - set(OPTIONS)):
            raise BadRequest(f"{unknown[0]!r} is no limit", hint=f"limits are {', '.join(OPTIONS)}")
        return cls(
            rpm=_count("rpm", options.get("rpm")),
            tpm=_count("tpm", options.get("tpm")),
            concurrent=_count("concurrent", options.get("concurrent")),
            budgets=tuple(sorted(each for unit in UNITS if unit in options for each in _budgets(unit, options[unit]))),
            tiers=_tiers(options["tiers"]) if "tiers" in options else (),
            may_wake=_switch("wake", options.get("wake")),
            may_hold=_switch("hold", options.get("hold")),
        )

    def options(self) -> dict[str, str]:
        """What `parse` reads, in the order in which lines have it."""
        told = {name: str(value) for name in COUNTS if (value := getattr(self, name)) is not None}
        for unit in UNITS:
            if mine := [each.text for each in self.budgets if each.unit == unit]:
                told[unit] = ",".join(mine)
        told |= {"tiers": ",".join(self.tiers)} if self.tiers else {}
        switches = zip(SWITCHES, (self.may_wake, self.may_hold), strict=True)
        return told | {name: "yes" if value else "no" for name, value in switches if value is not None}

    def or_else(self, defaults: "Limits") -> "Limits":
        """These, and where they say nothing, the defaults: budgets by unit."""
        said = {each.unit for each in self.budgets}
        mine, theirs = (vars(each) for each in (self, defaults))
        both = {name: theirs[name] if value in (None, ()) else value for name, value in mine.items()}
        rest = tuple(each for each in defaults.budgets if each.unit not in said)
        return Limits(**{**both, "budgets": tuple(sorted((*self.budgets, *rest)))})


NO_LIMITS = Limits()


def _count(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    what = "tokens" if name == "tpm" else "requests"
    if not re.fullmatch(r"[1-9]\d{0,8}" if name == "tpm" else r"[1-9]\d{0,6}", text, re.ASCII):
        raise BadRequest(f"{name}={text!r} is no number of {what}", hint=f"a whole number from 1, as in {name}=60")
    return int(text)


def _budgets(unit: Unit, text: str) -> list[Budget]:
    parts = [_AMOUNT.fullmatch(part) for part in text.split(",")]
    budgets = [Budget(unit, cast("Period", part[2]), float(part[1])) for part in parts if part and float(part[1]) > 0]
    if len(budgets) != len(parts) or len({each.period for each in budgets}) != len(budgets):
        raise BadRequest(
            f"{unit}={text!r} is no budget", hint=f"an amount above 0 for a day or a month, as in {unit}=5/month"
        )
    return budgets


def _tiers(text: str) -> tuple[str, ...]:
    tiers = tuple(text.split(","))
    if not all(map(_TIER.fullmatch, tiers)):
        raise BadRequest(f"tiers={text!r} names no tiers", hint="names of the fleet's, as in tiers=a10g,l4")
    return tiers


def _switch(name: str, text: str | None) -> bool | None:
    if text is None or text in ("yes", "no"):
        return None if text is None else text == "yes"
    raise BadRequest(f"{name}={text!r} is neither yes nor no", hint=f"as in {name}=no")
