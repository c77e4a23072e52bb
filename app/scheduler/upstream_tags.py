"""Asks registries what the tags of some models mean now. One that does not answer is noted, and fails nobody."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from app.scheduler.night_plan import UpstreamTag
from jobs.core.errors import Trouble
from jobs.core.model_name import ModelName
from jobs.registry.client import Registry

AT_ONCE = 8


def upstream_tags(registry: Registry, names: Iterable[ModelName]) -> dict[ModelName, UpstreamTag]:
    """What the registry says of each model, by folded name. Only manifests are fetched: some hundred bytes each."""
    models = list(names)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        tags = pool.map(lambda name: _upstream_tag(registry, name), models)
        return {name.folded(): tag for name, tag in zip(models, tags, strict=True)}


def _upstream_tag(registry: Registry, name: ModelName) -> UpstreamTag:
    try:
        return UpstreamTag(registry.manifest(name))
    except Trouble as trouble:
        return UpstreamTag(None, str(trouble))
