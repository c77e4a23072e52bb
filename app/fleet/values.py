"""Values of a fleet file that a type alone cannot check: GPUs, names, cron lines. Refusals say what would be right."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any
from zoneinfo import available_timezones

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from jobs.core.errors import BadName
from jobs.core.model_name import ModelName
from jobs.models.aliases import need_alias
from jobs.registry.allowlist import REGISTRY_FORM, is_entry

# Modal's list of August 2026, with the older names it still takes; its client passes on any text.
GPUS = (
    *("T4", "L4", "A10", "A10G", "L40S", "A100", "A100-40GB", "A100-80GB", "RTX-PRO-6000"),
    *("H100", "H100!", "H200", "B200", "B200+"),
)
MOST_GPUS = 8


def _gpu(text: str) -> str:
    name, colon, count = text.partition(":")
    if name.upper() not in GPUS:
        raise PydanticCustomError("gpu", "no such GPU; one of {known}, perhaps with a count as in H100:2", _known(GPUS))
    if colon and not (count.isdecimal() and 1 <= int(count) <= MOST_GPUS):
        raise PydanticCustomError("gpu", "a count is from 1 to {most}, as in H100:2", {"most": MOST_GPUS})
    return text


def _model(text: str) -> str:
    try:
        ModelName.parse(text)
    except BadName as error:
        raise PydanticCustomError("model", "{message}; {hint}", {"message": str(error), "hint": error.hint}) from error
    return text


def _alias(text: str) -> str:
    try:
        return need_alias(text)
    except BadName as error:
        raise PydanticCustomError("alias", "{message}; {hint}", {"message": str(error), "hint": error.hint}) from error


def _registry(text: str) -> str:
    if not is_entry(text):
        raise PydanticCustomError("registry", "no registry; {looks_like}", {"looks_like": REGISTRY_FORM})
    return text


def _tier(text: str) -> str:
    if not TIER.fullmatch(text):
        raise PydanticCustomError("tier", "names no tier; {looks_like}", {"looks_like": TIER_FORM})
    return text


def _cron(text: str) -> str:
    try:
        CronSim(text, datetime(2026, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        remedy = "five fields, as in 0 8 * * 1-5: minute, hour, day, month, weekday"
        said = {"why": str(error), "remedy": remedy}
        raise PydanticCustomError("cron", "no cron line ({why}); {remedy}", said) from error
    return text


def _timezone(text: str) -> str:
    if text not in available_timezones():
        raise PydanticCustomError("timezone", "no such timezone; a name as in Europe/Berlin, America/New_York or UTC")
    return text


def _minutes_of_an_hour(number: int) -> int:
    if 60 % number:
        raise PydanticCustomError("minutes", "does not divide an hour; 1, 2, 3, 4, 5, 6, 10, 12, 15, 20 or 30")
    return number


def _known(names: tuple[str, ...]) -> dict[str, Any]:
    return {"known": ", ".join(names)}


def _origin(text: str) -> str:
    if not ORIGIN.fullmatch(text):
        raise PydanticCustomError("origin", "no origin; {looks_like}", {"looks_like": ORIGIN_FORM})
    return text


ORIGIN = re.compile(r"(?=[^*]*\*?[^*]*\Z)(?:\*|[A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s/,]{1,253})")
"""A page's origin as browsers send it; a `*` may stand in it once, for anything, or alone for every page there is."""

ORIGIN_FORM = "as in https://chat.example.com, https://*.example.com, chrome-extension://* or *"

TIER = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
"""What a tier may be called: it names a server's log, and stands in labels of meters and in headers."""

TIER_FORM = "small letters, digits and dashes, like a10g or h100"

TierName = Annotated[str, AfterValidator(_tier)]
GpuName = Annotated[str, AfterValidator(_gpu)]
ModelText = Annotated[str, AfterValidator(_model)]
AliasText = Annotated[str, AfterValidator(_alias)]
RegistryText = Annotated[str, AfterValidator(_registry)]
OriginText = Annotated[str, AfterValidator(_origin)]
CronLine = Annotated[str, AfterValidator(_cron)]
TimezoneName = Annotated[str, AfterValidator(_timezone)]
TickMinutes = Annotated[int, Field(ge=1, le=30), AfterValidator(_minutes_of_an_hour)]
