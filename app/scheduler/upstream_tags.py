"""Asks registries what the tags of some models mean now. A registry that does not answer is told, and fails nobody."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from app.scheduler.night_plan import UpstreamTag
from jobs.core.errors import Trouble
from jobs.core.model_name import ModelName
from jobs.registry.client import Registry

AT_ONCE = 8


def upstream(registry: Registry, names: Iterable[ModelName]) -> dict[ModelName, UpstreamTag]:
    """What the registry says of each model, by folded name. Only manifests are fetched: some hundred bytes each."""
    asked = list(names)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        told = pool.map(lambda name: _asked(registry, name), asked)
        return {name.folded(): each for name, each in zip(asked, told, strict=True)}


def _asked(registry: Registry, name: ModelName) -> UpstreamTag:
    try:
        return UpstreamTag(registry.manifest(name))
    except Trouble as trouble:
        return UpstreamTag(None, str(trouble))
