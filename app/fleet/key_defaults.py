"""What a fleet file says of keys: what one may take whose line says nothing of it, and whether starts are charged."""

from functools import cached_property
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from app.fleet.values import BudgetText, TierName
from jobs.access.limits import OPTIONS, Limits


class KeyDefaults(BaseModel):
    """The words of a key's line, each with the type that it has in TOML."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    rpm: Annotated[int, Field(ge=1, le=9_999_999)] | None = None
    tpm: Annotated[int, Field(ge=1, le=999_999_999)] | None = None
    concurrent: Annotated[int, Field(ge=1, le=9_999_999)] | None = None
    requests: BudgetText | None = None
    tokens: BudgetText | None = None
    gpu_seconds: BudgetText | None = None
    dollars: BudgetText | None = None
    tiers: Annotated[list[TierName], Field(min_length=1)] | None = None
    wake: bool | None = None
    hold: bool | None = None

    @cached_property
    def limits(self) -> Limits:
        said = {name: value for name in OPTIONS if (value := getattr(self, name)) is not None}
        return Limits.parse({name: _said(value) for name, value in said.items()})


def _said(value: Any) -> str:
    """As a key's line has it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ",".join(value) if isinstance(value, list) else str(value)


class KeysConfig(BaseModel):
    """What keys may take."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    charge_cold: bool = False
    """Cold starts that a key caused, and the idle time after them, count in its dollars."""
    defaults: KeyDefaults = KeyDefaults()
