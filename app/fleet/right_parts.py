"""What is right by itself of a fleet file that is wrong elsewhere, so that its other mistakes are told in the same go.

Each part that is wrong is replaced by a harmless one of its kind, in its place. What is then found of such a part is
about something that nobody wrote, and is not to be told.
"""

import tomllib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

_HARMLESS = tomllib.loads("""
[tier]
cpu_cores = 1
memory_gb = 1
min_containers = 0
max_containers = 1
buffer_containers = 0
scaledown_window_seconds = 300
startup_timeout_seconds = 300
target_concurrency = 1
exit_grace_seconds = 0
own_wakes_per_day = 0
ollama.context_length = 4096
ollama.num_parallel = 1
ollama.max_loaded_models = 64
ollama.flash_attention = false
ollama.kv_cache_type = "f16"
ollama.keep_alive_seconds = 300
ollama.load_timeout_seconds = 300

[tables.volume]
quota_gb = 1
retention = {unused_days = 1, trash_days = 1, unfinished_hours = 1, verify_days = 1}

[tables.schedule]
timezone = "UTC"
nightly_hour = 0
tick_minutes = 5

[tables.alerts]
kinds = []
quota_percent = 100
nightly_late_hours = 24
""")
_TABLES: Mapping[str, Any] = _HARMLESS["tables"]
"""Of the tables that have to be there; another one is left out when it is wrong."""

_HELD_AGAINST = {"tiers", "registries", "prices"}
"""What all others are held against: where one of these is wrong as a whole, nothing more can be told."""

Location = tuple[int | str, ...]


class RightParts(NamedTuple):
    """The document with harmless parts in place of the wrong ones, and the paths of those."""

    document: Mapping[str, Any]
    replaced: tuple[str, ...]

    def wrote(self, problem: str) -> bool:
        """Whether a problem, which begins with its key, is about what somebody wrote."""
        return not any(problem.startswith(f"{path}{end}") for path in self.replaced for end in (".", "[", " ", ":"))


def right_parts(document: Mapping[str, Any], wrong: Iterable[Location]) -> RightParts | None:
    """None where too little is right to hold the rest against."""
    parts, replaced = dict(document), list[str]()
    for location in wrong:
        table, name = str(location[0]), location[1] if len(location) > 1 else None
        if table == "tiers" and name is not None:
            parts[table] = {**parts[table], name: _HARMLESS["tier"]}
            replaced.append(f"tiers.{name}")
        elif table in {"models", "windows"} and isinstance(name, int):
            entry = _entry(table, name, next(iter(document["tiers"])))
            parts[table] = [entry if index == name else each for index, each in enumerate(parts[table])]
            replaced.append(f"{table}[{name}]")
        elif table in _HELD_AGAINST:
            return None
        else:
            parts.pop(table, None)
            parts |= {table: _TABLES[table]} if table in _TABLES else {}
            replaced.append(table)
    return RightParts(parts, tuple(replaced))


def _entry(table: str, index: int, tier: str) -> dict[str, Any]:
    if table == "models":
        return {"name": f"replaced-{index}", "tier": tier}
    return {"tier": tier, "start": "0 0 * * *", "hours": 1, "models": ["replaced"]}
