"""Values of a fleet file that a type alone cannot check: GPUs, names, cron lines. Refusals say what would be right."""

import re
from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any
from zoneinfo import available_timezones

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, Field, PlainValidator
from pydantic_core import PydanticCustomError

from app.fleet.gpus import GpuChoice
from app.fleet.gpus import parsed as gpu_choice
from jobs.access.limits import Limits
from jobs.core.errors import BadName, BadRequest
from jobs.core.model_name import ModelName
from jobs.models.aliases import need_alias
from jobs.registry.allowlist import REGISTRY_FORM, is_entry


def _gpus(value: Any) -> str | tuple[str, ...]:
    """One GPU, or a list of those that do, the one that is wanted most first."""
    if isinstance(value, str):
        _gpu(value)
        return value
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise PydanticCustomError("gpu", 'no GPU; one as in "H100:2", or a list of them, the best one first')
    if not value:
        raise PydanticCustomError("gpu", "is empty; at least one")
    choices = [_gpu(each, f"{each!r}: ") for each in value]
    if again := next((each for each in choices if choices.count(each) > 1), None):
        raise PydanticCustomError("gpu", "{kind} stands there twice; leave one out", {"kind": again.kind})
    return tuple(value)


def _gpu(text: str, said: str = "") -> GpuChoice:
    try:
        return gpu_choice(text)
    except ValueError as error:
        raise PydanticCustomError("gpu", "{why}", {"why": f"{said}{error}"}) from error


def _gpu_kind(text: str) -> str:
    choice = _gpu(text)
    if text.upper() != choice.kind:
        raise PydanticCustomError("gpu", "a price is that of one GPU; leave out its count")
    return choice.kind


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
        raise PydanticCustomError("tier", "names no tier; {looks_like}", {"looks_like": tier_form(text)})
    return text


def tier_form(text: str) -> str:
    """What a tier's name looks like, and the one that somebody may have meant by this text."""
    meant = re.sub(r"[^a-z0-9]+", "-", text.lower())[:MOST_OF_A_TIER].strip("-")
    return f"{TIER_FORM}{f'; perhaps {meant!r}' if TIER.fullmatch(meant) else ''}"


def _cron(text: str) -> str:
    try:
        CronSim(text, datetime(2026, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        remedy = "five fields, as in 0 8 * * 1-5: minute, hour, day, month, weekday"
        said = {"why": str(error), "remedy": remedy}
        raise PydanticCustomError("cron", "no cron line ({why}); {remedy}", said) from error
    return text


_timezones = cache(available_timezones)
"""Found by a walk through hundreds of files, so once."""


def _timezone(text: str) -> str:
    if text not in _timezones():
        raise PydanticCustomError("timezone", "no such timezone; a name as in Europe/Berlin, America/New_York or UTC")
    return text


def _minutes_of_an_hour(number: int) -> int:
    if 60 % number:
        raise PydanticCustomError("minutes", "does not divide an hour; 1, 2, 3, 4, 5, 6, 10, 12, 15, 20 or 30")
    return number


def _origin(text: str) -> str:
    if not ORIGIN.fullmatch(text):
        raise PydanticCustomError("origin", "no origin; {looks_like}", {"looks_like": ORIGIN_FORM})
    return text


def _budget(text: str) -> str:
    try:
        Limits.parse({"requests": text})
    except BadRequest as error:
        raise PydanticCustomError("budget", "no budget; as in 5/month, or 1/day,20/month") from error
    return text


ORIGIN = re.compile(r"(?=[^*]*\*?[^*]*\Z)(?:\*|[A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s/,]{1,253})")
"""A page's origin as browsers send it; a `*` may stand in it once, for anything, or alone for every page there is."""

ORIGIN_FORM = "as in https://chat.example.com, https://*.example.com, chrome-extension://* or *"

MOST_OF_A_TIER = 32

TIER = re.compile(rf"(?=.{{1,{MOST_OF_A_TIER}}}\Z)[a-z0-9]+(?:-[a-z0-9]+)*")
"""What a tier may be called: it names a server's log and class, and stands in labels of meters, headers and addresses.
No two such names make one class, nor one address."""

TIER_FORM = "small letters and digits, perhaps with dashes between them, like l4 or h100-2"

TierName = Annotated[str, AfterValidator(_tier)]
GpuKindName = Annotated[str, AfterValidator(_gpu_kind)]
"""One GPU of the price list, in capital letters."""

GpuRequest = Annotated[str | tuple[str, ...], PlainValidator(_gpus)]
ModelText = Annotated[str, AfterValidator(_model)]
AliasText = Annotated[str, AfterValidator(_alias)]
RegistryText = Annotated[str, AfterValidator(_registry)]
OriginText = Annotated[str, AfterValidator(_origin)]
BudgetText = Annotated[str, AfterValidator(_budget)]
CronLine = Annotated[str, AfterValidator(_cron)]
TimezoneName = Annotated[str, AfterValidator(_timezone)]
TickMinutes = Annotated[int, Field(ge=1, le=30), AfterValidator(_minutes_of_an_hour)]
