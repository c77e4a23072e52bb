"""What each key of a fleet file does, in a deployment and on one machine: one table, complete, and who reads it.

A key that does nothing in one of the two is named there at the start, so that nobody waits for what will not come. That
a key has its effect, tests show key by key.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from pydantic import BaseModel

from app.fleet.schema import Fleet


class Effect(NamedTuple):
    """What a key does; empty where it does nothing."""

    deployed: str
    here: str
    """On one machine."""


_MODAL = "asked of Modal for each container"
_OLLAMA = "the environment of the tier's servers"
_NIGHT = "what the night does"
_ALERTS = "what is told"
_SHOWN = "what a tier is shown to cost where it is rented"
_DEFAULT = "what a key may take that says nothing of it"
_OPEN = "what a request gets that leaves it open"
"""Of an Ollama that ran already, where its route has a field for it; which has none, `model_defaults.notes` says."""

KEYS: Mapping[str, Effect] = {
    "tiers.*.gpu": Effect(_MODAL, ""),
    "tiers.*.vram_gb": Effect("where models go that no tier is declared for", "the same"),
    "tiers.*.cpu_cores": Effect(_MODAL, ""),
    "tiers.*.memory_gb": Effect(_MODAL, ""),
    "tiers.*.min_containers": Effect(_MODAL, ""),
    "tiers.*.max_containers": Effect(_MODAL, ""),
    "tiers.*.buffer_containers": Effect(_MODAL, ""),
    "tiers.*.scaledown_window_seconds": Effect(_MODAL, ""),
    "tiers.*.startup_timeout_seconds": Effect("how long a start may take, and callers wait", "how long callers wait"),
    "tiers.*.target_concurrency": Effect(_MODAL, ""),
    "tiers.*.exit_grace_seconds": Effect(_MODAL, ""),
    "tiers.*.own_wakes_per_day": Effect("how often nights, windows and batches wake it", ""),
    "tiers.*.readers_ahead": Effect("how many read a model's blobs ahead of its engine", ""),
    "tiers.*.engine": Effect("which program answers, and so which routes are spoken", "the same"),
    "tiers.*.ollama.context_length": Effect(_OLLAMA, _OLLAMA),
    "tiers.*.ollama.num_parallel": Effect(_OLLAMA, _OLLAMA),
    "tiers.*.ollama.max_loaded_models": Effect(_OLLAMA, _OLLAMA),
    "tiers.*.ollama.flash_attention": Effect(_OLLAMA, _OLLAMA),
    "tiers.*.ollama.kv_cache_type": Effect(_OLLAMA, _OLLAMA),
    "tiers.*.ollama.keep_alive_seconds": Effect(_OLLAMA, _OLLAMA),
    "tiers.*.ollama.load_timeout_seconds": Effect(_OLLAMA, _OLLAMA),
    "tiers.*.ollama.load_mode": Effect(_OLLAMA, _OLLAMA),
    "models[].name": Effect("which model is meant", "the same"),
    "models[].tier": Effect("where it is answered", "the same"),
    "models[].pinned": Effect(_NIGHT, _NIGHT),
    "models[].warmed": Effect("what nights and starting servers load", "what nights load"),
    "models[].context": Effect(
        "what a request gets that asks for none or for more", "the same, on Ollama's own routes"
    ),
    "models[].parameters.temperature": Effect(_OPEN, _OPEN),
    "models[].parameters.top_p": Effect(_OPEN, _OPEN),
    "models[].parameters.top_k": Effect(_OPEN, _OPEN),
    "models[].parameters.min_p": Effect(_OPEN, _OPEN),
    "models[].parameters.typical_p": Effect(_OPEN, _OPEN),
    "models[].parameters.seed": Effect(_OPEN, _OPEN),
    "models[].parameters.stop": Effect(_OPEN, _OPEN),
    "models[].parameters.num_predict": Effect(_OPEN, _OPEN),
    "models[].parameters.repeat_penalty": Effect(_OPEN, _OPEN),
    "models[].parameters.repeat_last_n": Effect(_OPEN, _OPEN),
    "models[].parameters.presence_penalty": Effect(_OPEN, _OPEN),
    "models[].parameters.frequency_penalty": Effect(_OPEN, _OPEN),
    "models[].system": Effect("what goes before a conversation that brings none", "the same"),
    "aliases.*": Effect("which model answers to a name", "the same"),
    "windows[].tier": Effect("which tier is kept awake", "which server keeps the models"),
    "windows[].start": Effect("when", "the same"),
    "windows[].hours": Effect("for how long", "the same"),
    "windows[].models": Effect("what is loaded there", "the same"),
    "registries.allowed": Effect("what may be pulled from", "the same"),
    "gateway.origins": Effect("whose pages may ask", "the same"),
    "keys.charge_cold": Effect("whether starts count in the dollars of the key that caused them", ""),
    "keys.defaults.rpm": Effect(_DEFAULT, _DEFAULT),
    "keys.defaults.tpm": Effect(_DEFAULT, _DEFAULT),
    "keys.defaults.concurrent": Effect(_DEFAULT, _DEFAULT),
    "keys.defaults.requests": Effect(_DEFAULT, _DEFAULT),
    "keys.defaults.tokens": Effect(_DEFAULT, _DEFAULT),
    "keys.defaults.gpu_seconds": Effect(_DEFAULT, _DEFAULT),
    "keys.defaults.dollars": Effect(_DEFAULT, ""),
    "keys.defaults.tiers": Effect(_DEFAULT, _DEFAULT),
    "keys.defaults.wake": Effect(_DEFAULT, _DEFAULT),
    "keys.defaults.hold": Effect(_DEFAULT, _DEFAULT),
    "batches.start": Effect("when a batch begins that does not say", "the same"),
    "batches.quota_gb": Effect("what of files and results is refused and pruned", "the same"),
    "batches.keep_days": Effect("how long files and results stay", "the same"),
    "batches.most_lines": Effect("which batches are refused", "the same"),
    "batches.most_file_mb": Effect("which files are refused", "the same"),
    "batches.at_once": Effect("how many lines are in flight at most", "the same"),
    "volume.quota_gb": Effect("what is refused and pruned", "the same"),
    "volume.retention.unused_days": Effect(_NIGHT, _NIGHT),
    "volume.retention.trash_days": Effect(_NIGHT, _NIGHT),
    "volume.retention.unfinished_hours": Effect(_NIGHT, _NIGHT),
    "volume.retention.verify_days": Effect(_NIGHT, _NIGHT),
    "schedule.timezone": Effect("of all times in the file", "the same"),
    "schedule.nightly_hour": Effect("when the night is", "the same"),
    "schedule.tick_minutes": Effect("how often all is looked at", "how long jobs may wait untouched before it is told"),
    "alerts.kinds": Effect(_ALERTS, _ALERTS),
    "alerts.quota_percent": Effect(_ALERTS, _ALERTS),
    "alerts.nightly_late_hours": Effect(_ALERTS, _ALERTS),
    "alerts.monthly_budget_dollars": Effect(_ALERTS, ""),
    "alerts.on_budget": Effect("what ends when the month's budget is spent", ""),
    "alerts.webhook_secret": Effect("whom it is told", ""),
    "prices.as_of": Effect("shown beside each price", "the same"),
    "prices.source": Effect("shown beside each price", "the same"),
    "prices.cpu_core": Effect("what is said to be spent", _SHOWN),
    "prices.memory_gib": Effect("what is said to be spent", _SHOWN),
    "prices.gpu.*": Effect("what is said to be spent, and the cheapest tier", _SHOWN),
}
"""By their paths; `*` stands for a name of the file's own, `[]` for each table of a list."""

RENTED_ALERTS = ("budget", "platform", "wakes")
"""The kinds of alert that never come up where nothing is rented and nothing sleeps."""


def set_keys(fleet: Fleet) -> dict[str, list[str]]:
    """The keys that a file sets, by their pattern in `KEYS`, each with the paths where it stands."""
    found: dict[str, list[str]] = {}
    for pattern, path in _set_in(fleet, "", ""):
        found.setdefault(pattern, []).append(path)
    return found


def _set_in(value: object, pattern: str, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, BaseModel):
        for key in type(value).model_fields:
            if key in value.model_fields_set:
                yield from _set_in(getattr(value, key), f"{pattern}.{key}", f"{path}.{key}")
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from _set_in(each, f"{pattern}.*", f"{path}.{key}")
    elif isinstance(value, list) and value and isinstance(value[0], BaseModel):
        for index, each in enumerate(value):
            yield from _set_in(each, f"{pattern}[]", f"{path}[{index}]")
    else:
        yield pattern.removeprefix("."), path.removeprefix(".")
