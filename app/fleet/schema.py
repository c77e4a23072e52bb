"""What should be: tiers, models, windows, quota, times and prices, as `fleet.toml` declares them.

A wrong file is refused as a whole, before anything is created. Each problem is a line that says which key, which value,
what is wrong and what would be right. The ranges are those that the platform enforces, some of them only after a
deployment has begun. It creates nothing.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import date, datetime, timedelta
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from app.engines.engine import Engine, EngineName
from app.engines.table import ENGINES
from app.fleet import gpus
from app.fleet.batches import BatchesConfig
from app.fleet.file import FLEET_FILE, BadFleet, Times, read
from app.fleet.key_defaults import KeysConfig
from app.fleet.misnamed import misnamed, nearest_key
from app.fleet.parameters import ParametersConfig
from app.fleet.right_parts import right_parts
from app.fleet.schedule import due
from app.fleet.values import (
    AliasText,
    CronLine,
    GpuKindName,
    GpuRequest,
    ModelText,
    OriginText,
    RegistryText,
    TickMinutes,
    TierName,
    TimezoneName,
)
from jobs.access.limits import Limits
from jobs.core.model_name import ModelName
from jobs.core.retention import RetentionRules
from jobs.models.aliases import Aliases
from jobs.models.model_settings import UNSET, ModelSettings
from jobs.models.placement import TierCapacity
from jobs.registry.allowlist import USUAL, Registries

GB = 1_000_000_000

QUEUE_FOR_A_GPU = timedelta(minutes=5)
"""On top of a server's own start: there may be none free at once."""


def _beside(key: str, message: str) -> PydanticCustomError:
    """A key of a table that is wrong only beside another one."""
    return PydanticCustomError("beside", message, {"key": key})


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class OllamaSettings(_Table):
    """What one server is told by its environment, in Ollama's words, whatever its engine."""

    context_length: Annotated[int, Field(ge=512, le=1_048_576)]
    num_parallel: Annotated[int, Field(ge=1, le=64)]
    max_loaded_models: Annotated[int, Field(ge=1, le=64)]
    flash_attention: bool
    kv_cache_type: Literal["f16", "q8_0", "q4_0"]
    keep_alive_seconds: Annotated[int, Field(ge=-1, le=86_400)]
    """Negative: as long as the server lives."""
    load_timeout_seconds: Annotated[int, Field(ge=30, le=3600)]
    load_mode: Literal["mmap", "none", "dio"] | None = None
    """How the engine reads a model's file: mapped, by plain reads, or past the page cache. Left out, it chooses itself,
    and maps where a GPU has memory of its own. By `use_mmap` of a request, a model would be loaded anew for each caller
    that does not send it.
    """

    @model_validator(mode="after")
    def _cache_fits(self) -> Self:
        if self.kv_cache_type != "f16" and not self.flash_attention:
            raise _beside("kv_cache_type", "a quantised cache needs flash_attention = true; set that, or f16 here")
        return self

    def environ(self) -> dict[str, str]:
        return {
            "OLLAMA_CONTEXT_LENGTH": str(self.context_length),
            "OLLAMA_NUM_PARALLEL": str(self.num_parallel),
            "OLLAMA_MAX_LOADED_MODELS": str(self.max_loaded_models),
            "OLLAMA_FLASH_ATTENTION": "1" if self.flash_attention else "0",
            "OLLAMA_KV_CACHE_TYPE": self.kv_cache_type,
            "OLLAMA_KEEP_ALIVE": str(self.keep_alive_seconds),
            "OLLAMA_LOAD_TIMEOUT": f"{self.load_timeout_seconds}s",
            # Ollama hands its environment on to the engine, whose own name it is (llama.cpp, common/arg.cpp).
            **({"LLAMA_ARG_LOAD_MODE": self.load_mode} if self.load_mode else {}),
        }


class TierConfig(_Table):
    """A kind of server. Without `gpu` it promises none."""

    gpu: GpuRequest | None = None
    """With several, Modal gives the first that is free."""
    vram_gb: Annotated[int, Field(ge=1, le=4000)] | None = None
    """Of all GPUs of a container together; left out, as much as they are known to have."""
    cpu_cores: Annotated[int, Field(ge=1, le=64)]
    memory_gb: Annotated[int, Field(ge=1, le=336)]
    min_containers: Annotated[int, Field(ge=0, le=100)]
    max_containers: Annotated[int, Field(ge=1, le=100)]
    buffer_containers: Annotated[int, Field(ge=0, le=100)]
    scaledown_window_seconds: Annotated[int, Field(ge=2, le=3600)]
    startup_timeout_seconds: Annotated[int, Field(ge=60, le=3600)]
    target_concurrency: Annotated[int, Field(ge=1, le=1000)]
    exit_grace_seconds: Annotated[int, Field(ge=0, le=3600)]
    own_wakes_per_day: Annotated[int, Field(ge=0, le=1000)]
    """How often the night, the windows and the batches together may wake it in a day."""
    readers_ahead: Annotated[int, Field(ge=0, le=64)] = 16
    """How many readers bring a model's blobs from the volume while the engine loads it; 0 leaves it to the engine."""
    engine: EngineName = "ollama"
    """What answers on it, and so which routes it speaks. The settings below count for either."""
    ollama: OllamaSettings

    @property
    def gpu_choices(self) -> tuple[gpus.GpuChoice, ...]:
        """What a container may come with, the one that is wanted most first; none for a tier without a GPU."""
        asked_for = (self.gpu,) if isinstance(self.gpu, str) else self.gpu or ()
        return tuple(map(gpus.parsed, asked_for))

    @property
    def gpu_text(self) -> str | None:
        """For people."""
        return self.gpu if self.gpu is None or isinstance(self.gpu, str) else " or ".join(self.gpu)

    @property
    def least_gpus(self) -> gpus.GpuChoice | None:
        """The one of its choices that has the least memory: by that it is weighed what a container of it can hold."""
        return gpus.least(self.gpu_choices) if self.gpu_choices else None

    @property
    def least_vram_gb(self) -> int | None:
        """What the GPUs of any container of it have together."""
        return self.vram_gb or (self.least_gpus.memory_gb if self.least_gpus else None)

    @property
    def longest_start(self) -> timedelta:
        """How long a caller may have to wait for a server of it."""
        return timedelta(seconds=self.startup_timeout_seconds) + QUEUE_FOR_A_GPU

    @property
    def memory_mib(self) -> int:
        return self.memory_gb * 1024

    @model_validator(mode="after")
    def _limits_agree(self) -> Self:
        if self.min_containers > self.max_containers:
            raise _beside("min_containers", "is above max_containers; lower it, or raise that")
        if self.gpu is None and self.vram_gb is not None:
            raise _beside("vram_gb", "there is no gpu; say which, or leave this out too for a tier without one")
        if (smallest := self.least_gpus) is not None:
            unknown = [each.kind for each in self.gpu_choices if each.memory_gb is None]
            if unknown and self.vram_gb is None:
                raise _beside(
                    "vram_gb", f"how much memory {unknown[0]} has is not known here; say it, of all GPUs together"
                )
            if self.vram_gb is not None and smallest.memory_gb is not None and self.vram_gb > smallest.memory_gb:
                each = f"{smallest.count} of {smallest.kind} have" if smallest.count > 1 else f"{smallest.kind} has"
                raise _beside("vram_gb", f"{each} {smallest.memory_gb}; lower it, or leave it out")
        return self


class ModelConfig(_Table):
    name: ModelText
    tier: str
    pinned: bool = False
    warmed: bool = False
    context: Annotated[int, Field(ge=512, le=1_048_576)] | None = None
    """Tokens, for requests that ask for none or for more; else what a request asks for, or the tier's."""
    parameters: ParametersConfig = ParametersConfig()
    system: Annotated[str, Field(min_length=1, max_length=65_536)] | None = None

    @property
    def parsed(self) -> ModelName:
        return ModelName.parse(self.name)

    @property
    def settings(self) -> ModelSettings:
        return ModelSettings(self.context, self.parameters.options(), self.system or "")


class WindowConfig(_Table):
    """When models of a tier are kept loaded before anybody asks."""

    tier: str
    start: CronLine
    hours: Annotated[int, Field(ge=1, le=24)]
    models: Annotated[list[ModelText], Field(min_length=1)]

    def is_open(self, at: datetime, timezone: ZoneInfo) -> bool:
        """Whether its last start before `at` is less than its hours ago, by hours that really pass."""
        return self.opened_at(at, timezone) is not None

    def opened_at(self, at: datetime, timezone: ZoneInfo) -> datetime | None:
        """The first of the starts that keep it open at that time; None when it is shut."""
        start = next(due(self.start, timezone, at - timedelta(hours=self.hours)), None)
        return start if start is not None and start <= at else None


class RetentionConfig(_Table):
    """How long weights stay that nobody needs, and how often all of them are read."""

    unused_days: Annotated[int, Field(ge=1, le=3650)]
    trash_days: Annotated[int, Field(ge=1, le=365)]
    unfinished_hours: Annotated[int, Field(ge=1, le=8760)]
    verify_days: Annotated[int, Field(ge=1, le=365)]


class VolumeConfig(_Table):
    quota_gb: Annotated[int, Field(ge=1, le=1_000_000)]
    retention: RetentionConfig

    @property
    def quota_bytes(self) -> int:
        return self.quota_gb * GB


class SourcesConfig(_Table):
    """Where models may come from."""

    allowed: Annotated[list[RegistryText], Field(min_length=1)] = list(USUAL)


class GatewayConfig(_Table):
    """Who may ask the gateway beside those who always may."""

    origins: list[OriginText] = []
    """Of pages, beside those of the machine that shows them and programs with pages."""


class ScheduleConfig(_Table):
    timezone: TimezoneName
    nightly_hour: Annotated[int, Field(ge=0, le=23)]
    tick_minutes: TickMinutes

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)

    @property
    def times(self) -> Times:
        return Times.of(self.tick_minutes, self.nightly_hour, self.timezone)


Dollars = Annotated[float, Field(ge=0)]


class PricesConfig(_Table):
    """Dollars per second of a container, as they were on a day."""

    as_of: date
    source: Annotated[str, Field(min_length=1)]
    cpu_core: Dollars
    memory_gib: Dollars
    gpu: dict[GpuKindName, Dollars]

    def per_second(self, tier: TierConfig) -> float:
        """Of a container of that tier; with the dearest of the GPUs that it may come with.

        Raises:
            BadFleet: there is no price for one of them.

        """
        dearest = max(map(self._of_choice, tier.gpu_choices), default=0.0)
        return self.cpu_core * tier.cpu_cores + self.memory_gib * tier.memory_gb + dearest

    def _of_choice(self, choice: gpus.GpuChoice) -> float:
        if (priced := self.priced_as(choice)) is None:
            raise BadFleet(f"prices.gpu.{choice.kind}: is missing; add it")
        return self.gpu[priced] * choice.count

    def priced_as(self, choice: gpus.GpuChoice) -> str | None:
        """The key of its price; None where it has none."""
        return next((name for name in choice.price_names if name in self.gpu), None)


AlertKind = Literal["job", "worker", "tier", "quota", "pinned", "budget", "nightly", "wakes", "platform"]


class AlertsConfig(_Table):
    """What somebody is told of."""

    kinds: list[AlertKind]
    quota_percent: Annotated[int, Field(ge=1, le=100)]
    nightly_late_hours: Annotated[int, Field(ge=1, le=24)]
    monthly_budget_dollars: Annotated[float, Field(gt=0)] | None = None
    on_budget: Literal["alert", "no_wakes", "refuse"] = "alert"
    """What happens once that is spent: it is told; nothing wakes a tier any more; or no request to a model is taken."""
    webhook_secret: Annotated[str, Field(min_length=1)] | None = None
    """The Modal secret that has OLLAMA_MODAL_WEBHOOK. Without it incidents are only recorded."""


class Fleet(_Table):
    tiers: Annotated[dict[TierName, TierConfig], Field(min_length=1)]
    models: list[ModelConfig] = []
    aliases: dict[AliasText, ModelText] = {}
    windows: list[WindowConfig] = []
    registries: SourcesConfig = SourcesConfig()
    gateway: GatewayConfig = GatewayConfig()
    keys: KeysConfig = KeysConfig()
    batches: BatchesConfig = BatchesConfig()
    volume: VolumeConfig
    schedule: ScheduleConfig
    alerts: AlertsConfig
    prices: PricesConfig

    def dollars_per_hour(self, tier: str) -> float:
        """What one container of a tier costs while it is up, by the prices of that day."""
        return round(self.prices.per_second(self.tier(tier)) * 3600, 2)

    def default_limits(self, *, rented: bool) -> Limits:
        """What a key may take that says nothing of it; of dollars only where servers are paid by the second."""
        limits = self.keys.defaults.limits
        kept = tuple(each for each in limits.budgets if rented or each.unit != "dollars")
        return replace(limits, budgets=kept)

    def tier(self, name: str) -> TierConfig:
        """
        Raises:
            BadFleet: it is not declared.
        """
        if name not in self.tiers:
            raise BadFleet(f"there is no tier {name!r}; the fleet file declares {', '.join(self.tiers)}")
        return self.tiers[name]

    def engine_of(self, tier: str) -> Engine:
        """What answers on a tier."""
        return ENGINES[self.tier(tier).engine]

    def models_of(self, tier: str) -> list[ModelConfig]:
        return [model for model in self.models if model.tier == tier]

    def catalog_tiers(self) -> list[TierCapacity]:
        """The tiers as the jobs know them."""
        return [
            TierCapacity(
                name,
                None if tier.least_vram_gb is None else tier.least_vram_gb * GB,
                gpu_promised=tier.gpu is not None,
                gpus=tier.least_gpus.count if tier.least_gpus else 1,
                context=tier.ollama.context_length,
                parallel=tier.ollama.num_parallel,
                cache_type=tier.ollama.kv_cache_type,
                keep_alive=timedelta(seconds=tier.ollama.keep_alive_seconds),
                dollars_per_hour=self.dollars_per_hour(name),
            )
            for name, tier in self.tiers.items()
        ]

    def retention(self) -> RetentionRules:
        """What a prune may take. What the fleet wants to be there, it never takes."""
        table = self.volume.retention
        kept: dict[ModelName, str] = {
            alias.target.folded(): f"the fleet's alias {alias.text!r} stands for it" for alias in self.named.all
        }
        for window in self.windows:
            kept |= {ModelName.parse(text).folded(): f"a window of {window.tier} loads it" for text in window.models}
        kept |= {model.parsed.folded(): "the fleet warms it" for model in self.models if model.warmed}
        kept |= {model.parsed.folded(): "the fleet pins it" for model in self.models if model.pinned}
        return RetentionRules(
            unused=timedelta(days=table.unused_days),
            grace=timedelta(days=table.trash_days),
            unfinished=timedelta(hours=table.unfinished_hours),
            quota_bytes=self.volume.quota_bytes,
            kept=kept,
        )

    def declared_tier(self, name: ModelName) -> str | None:
        """The tier that is declared for a model, if one is."""
        return self.tiers_by_model.get(name.folded())

    @cached_property
    def tiers_by_model(self) -> Mapping[ModelName, str]:
        """The tier of each declared model, by its folded name; of two for the same name the first counts."""
        return {model.parsed.folded(): model.tier for model in reversed(self.models)}

    @cached_property
    def named(self) -> Aliases:
        """The other names of models that are declared."""
        return Aliases(self.aliases)

    def settings_of(self, name: ModelName) -> ModelSettings:
        """What is set for a model."""
        return self.settings_by_model.get(name.folded(), UNSET)

    @cached_property
    def settings_by_model(self) -> Mapping[ModelName, ModelSettings]:
        """What is set for models, by their folded names; those that nothing is set for are left out."""
        return {model.parsed.folded(): model.settings for model in self.models if model.settings}

    def may_pull_from(self) -> Registries:
        return Registries.of(
            self.registries.allowed, "add it to `allowed` of [registries] in the fleet file, and deploy or start again"
        )

    def windows_open(self, at: datetime) -> list[WindowConfig]:
        return [window for window in self.windows if window.is_open(at, self.schedule.zone)]

    def misfits(self) -> Iterator[str]:
        """What each table says rightly by itself, but wrongly beside the others."""
        tiers = f"one of {', '.join(self.tiers)}"
        for key, name in self._tiers_named():
            if name not in self.tiers:
                yield f"{key} = {name!r}: there is no such tier; {tiers}"
        first_index: dict[ModelName, int] = {}
        for index, model in enumerate(self.models):
            first = first_index.setdefault(model.parsed.folded(), index)
            if first != index:
                yield f"models[{index}].name = {model.name!r}: is models[{first}] again; leave one of them out"
            if not self.may_pull_from().allow(model.parsed):
                host = model.parsed.host
                problem = f"nothing is pulled from {host!r}; add that to registries.allowed"
                yield f"models[{index}].name = {model.name!r}: {problem}"
        yield from misnamed(self.named, first_index)
        for name, tier in self.tiers.items():
            for choice in tier.gpu_choices:
                if self.prices.priced_as(choice) is None:
                    yield _unpriced(name, choice)
            warmed = [model.name for model in self.models_of(name) if model.warmed]
            if len(warmed) > tier.ollama.max_loaded_models:
                yield (
                    f"tiers.{name}.ollama.max_loaded_models = {tier.ollama.max_loaded_models}: {len(warmed)} models are"
                    f" warmed there; at least {len(warmed)}, or warm fewer"
                )

    def _tiers_named(self) -> Iterator[tuple[str, str]]:
        yield from ((f"models[{index}].tier", model.tier) for index, model in enumerate(self.models))
        yield from ((f"windows[{index}].tier", window.tier) for index, window in enumerate(self.windows))
        yield from ((f"keys.defaults.tiers[{at}]", name) for at, name in enumerate(self.keys.defaults.tiers or ()))


def _unpriced(tier: str, choice: gpus.GpuChoice) -> str:
    if choice.memory_gb is None:
        newer = f"a newer one of Modal's needs its price at prices.gpu.{choice.kind}"
        return f"tiers.{tier}.gpu = {choice.kind!r}: no such GPU is known; one of {', '.join(gpus.KINDS)}; {newer}"
    return f"prices.gpu.{choice.kind}: is missing, but tiers.{tier} asks for that GPU; add it"


def load(path: Path = FLEET_FILE) -> Fleet:
    """The fleet that the file declares.

    Raises:
        BadFleet: with every problem on a line of its own.

    """
    return parse(read(path), str(path))


@cache
def declared() -> Fleet:
    """The fleet of this deployment."""
    return load()


def parse(document: Mapping[str, Any], source: str) -> Fleet:
    try:
        fleet = Fleet.model_validate(document)
    except ValidationError as error:
        details = error.errors(include_url=False)
        problems = [*map(_worded, details), *_misfits_of_the_rest(document, details)]
    else:
        problems = list(fleet.misfits())
        if not problems:
            return fleet
    raise BadFleet(f"{source} is refused:", problems)


def _misfits_of_the_rest(document: Mapping[str, Any], details: list[ErrorDetails]) -> list[str]:
    """What does not fit together among what is right by itself, as far as that can be told."""
    parts = right_parts(document, (each["loc"] for each in details))
    try:
        rest = Fleet.model_validate(parts.document) if parts else None
    except ValidationError:
        return []
    return [each for each in rest.misfits() if parts.wrote(each)] if parts and rest else []


_WORDS: dict[str, str] = {
    "missing": "is missing; add it",
    "extra_forbidden": "there is no such key; remove it or mend its spelling",
    "int_type": "not a whole number; write it without quotes and point",
    "float_type": "not a number; write it without quotes",
    "date_type": "not a date; write it without quotes, as in 2026-09-15",
    "string_too_short": "is empty; say it",
    "bool_type": "neither true nor false; write one of them, without quotes",
    "string_type": "not a text; put it in quotes",
    "greater_than_equal": "too small; at least {ge}",
    "greater_than": "too small; more than {gt}",
    "less_than_equal": "too large; at most {le}",
    "literal_error": "not one of the choices; {expected}",
    "too_short": "is empty; at least one",
    "model_type": "not a table",
    "dict_type": "not a table",
    "list_type": "not a list; put it in brackets",
}


def _worded(detail: ErrorDetails) -> str:
    """`path.to.key = value: what is wrong; what would be right`."""
    context, value = detail.get("ctx", {}), detail["input"]
    path = [part for part in detail["loc"] if part != "[key]"]
    if detail["type"] == "beside":
        path.append(context["key"])
        value = value.get(context["key"])
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
    words = _WORDS.get(detail["type"])
    said = words.format(**context) if words else detail["msg"]
    if detail["type"] == "extra_forbidden" and (meant := nearest_key(Fleet, path)):
        said = f"there is no such key; `{meant}` is there, is that meant?"
    return f"{where}: {said}" if detail["type"] == "missing" else f"{where} = {_short(value)}: {said}"


def _short(value: Any) -> str:
    try:
        shown = re.sub(r"\s+", " ", repr(value))
    except ValueError:  # a whole number of thousands of digits, which Python does not write out
        return "a number without end"
    return shown if len(shown) <= 60 else f"{shown[:57]}…"
