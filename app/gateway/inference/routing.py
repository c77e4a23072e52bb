"""Which tier answers for a model, and why, in words and numbers. It substitutes nothing and asks no server.

A declared tier wins; else it is the cheapest whose memory holds the weights and the contexts, of those whose engine
speaks the route that is asked for. What no engine there speaks is refused, and nobody is woken for it. A name that is
not here is refused with the names that come near it and how to pull it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from app.engines.engine import Engine
from app.engines.ollama import OLLAMA
from app.engines.table import speaking
from app.gateway.catalog.state import KnownState
from app.gateway.protocol.headers import Header
from jobs.core.clock import Clock
from jobs.core.errors import NotFound, StoreUnavailable, Unsupported
from jobs.core.model_name import ModelName
from jobs.models.aliases import Alias
from jobs.models.card import KnownModel
from jobs.models.model_settings import UNSET, ModelSettings, SettingsOf, unset
from jobs.models.placement import TierCapacity, Weighed, place_model, too_large, weigh


@dataclass(frozen=True)
class Route:
    """Where requests for a model go.

    Args:
        model: as it is stored.
        served_name: how the server is asked for it.
        tier: the kind of server.
        facts: why, each in a sentence.
        weighed: the memory that it takes there.
        weights_bytes: the size of the model.
        is_declared: the tier was declared for it, and not worked out.
        warning: what is doubtful about it, in words.
        alias: the name that it was asked for by, where that is not the model's own.
        settings: what is set for the model.
        engine: what answers there.

    """

    model: ModelName
    served_name: str
    tier: str
    facts: tuple[str, ...]
    weighed: Weighed
    weights_bytes: int
    is_declared: bool = False
    warning: str | None = None
    alias: str = ""
    settings: ModelSettings = UNSET
    engine: Engine = OLLAMA

    @cached_property
    def told(self) -> tuple[Header, ...]:
        """What callers are told of it, as headers."""
        return (b"x-served-model", str(self.model).encode()), (b"x-served-tier", self.tier.encode())

    def as_json(self) -> dict[str, Any]:
        weighed = self.weighed
        return {
            "model": str(self.model),
            "alias": self.alias or None,
            "tier": self.tier,
            "engine": self.engine.name,
            "declared": self.is_declared,
            "fits": weighed.fits,
            "weights_bytes": self.weights_bytes,
            "cache_bytes": weighed.cache_bytes,
            "need_bytes": weighed.need_bytes,
            "vram_bytes": weighed.tier.vram_bytes,
            "context": weighed.context,
            "parallel": weighed.parallel,
            "dollars_per_hour": weighed.tier.dollars_per_hour,
            "facts": list(self.facts),
            "warning": self.warning,
        }


class Router:
    """Routes by what is known at this moment. Any thread may ask.

    Args:
        known: the models.
        tiers: those that there are servers of.
        declared_tier: the tier that was declared for a model, if one was.
        settings: what was set for a model.
        engines: what answers on each tier; Ollama where nothing is said.

    """

    def __init__(
        self,
        known: KnownState,
        tiers: Sequence[TierCapacity],
        declared_tier: Callable[[ModelName], str | None] = lambda _: None,
        settings: SettingsOf = unset,
        engines: Mapping[str, Engine] | None = None,
    ) -> None:
        self._engines = {tier.name: (engines or {}).get(tier.name, OLLAMA) for tier in tiers}
        #: By path, the tiers that speak it; filled by any thread, each with the same.
        self._speaking: dict[str, tuple[str, ...]] = {}
        self._known = known
        self._tiers = {tier.name: tier for tier in tiers}
        self._declared_tier = declared_tier
        self.settings = settings

    def subject(self, name: ModelName) -> ModelName:
        """The model that a name is about: that behind an alias, which alone decides who may ask for it."""
        model, alias = self._known.resolve(name)
        if model is not None:
            return model.name
        return name if alias is None else alias.target

    def speaking(self, path: str) -> tuple[str, ...]:
        """The tiers whose engine speaks a path; all of them where none is said."""
        if (found := self._speaking.get(path)) is None:
            found = tuple(name for name, engine in self._engines.items() if not path or engine.speaks(path))
            self._speaking[path] = found
        return found

    def route(
        self,
        text: str,
        *,
        context: int | None = None,
        may_see: Callable[[ModelName], bool] = lambda _: True,
        path: str = "",
    ) -> Route:
        """Where a request for this model goes.

        Args:
            text: the model, as the caller wrote it.
            context: the context length that the request asks for.
            may_see: which names the caller may be told of.
            path: of the table, that the engine has to speak; empty where nothing is asked of it.

        Raises:
            BadName: the text is no model's name.
            NotFound: there is no such model; the hint names those that come near, and how to pull it.
            Unsupported: the model's tier does not speak that path, or none does; the hint names one that does.

        """
        name = ModelName.parse(text)
        model, alias = self._known.resolve(name)
        if model is None or not may_see(model.name):
            raise self._unknown(name, alias, may_see)
        settings = self.settings(model.name)
        route = self._placed(model, settings.context_for(context), path)
        asked_as = str(name) if alias is not None else ""
        renamed = [f"{alias.text} is an alias of {model.name}, by {alias.by}"] if alias is not None else []
        facts = (*renamed, *route.facts, *_told(settings))
        return replace(route, alias=asked_as, settings=settings, facts=facts)

    def _placed(self, model: KnownModel, context: int | None, path: str) -> Route:
        declared = self._declared_tier(model.name)
        speaking = self.speaking(path)
        if declared in self._tiers:
            if declared not in speaking:
                raise self._unspoken(model.name, declared, path)
            return self._with_engine(self._declared(model, self._tiers[declared], context))
        if not speaking:
            raise self._unspoken(model.name, None, path)
        tiers = [self._tiers[name] for name in speaking]
        placed = place_model(model.size, tiers, facts=model.facts, context=context)
        no_server = [f"it is declared for {declared!r}, of which there is no server here"] if declared else []
        mute = [f"{name} does not speak {path}" for name in self._tiers if name not in speaking]
        facts = (*no_server, *mute, *placed.facts)
        return self._with_engine(_route(model, placed.weighed, facts, warning=placed.warning))

    def _with_engine(self, route: Route) -> Route:
        engine = self._engines[route.tier]
        told = () if engine is OLLAMA else (f"{route.tier} is answered by {engine.title}",)
        return replace(route, engine=engine, facts=(*route.facts, *told))

    def _unspoken(self, name: ModelName, declared: str | None, path: str) -> Unsupported:
        """Why a path is not spoken for a model, what to ask instead, and which tier could."""
        engine = self._engines[declared] if declared else next(iter(self._engines.values()), OLLAMA)
        ways = [way] if (way := engine.instead.get(path)) else []
        if able := self.speaking(path):
            ways.append(f"tier {' or '.join(map(repr, able))} speaks it: declare the model for that in the fleet file")
        else:
            names = " or ".join(f'"{each.name}"' for each in speaking(path))
            ways.append(f"a tier with engine = {names} in the fleet file would speak it")
        what = (
            f"{str(name)!r} is declared for tier {declared!r}, whose engine {engine.title} does not speak {path}"
            if declared
            else f"no tier here speaks {path}: {engine.title} does not speak {path}"
        )
        return Unsupported(what, hint="; or ".join(ways))

    def _declared(self, model: KnownModel, tier: TierCapacity, context: int | None) -> Route:
        weighed = weigh(model.size, tier, facts=model.facts, context=context)
        facts = (f"{tier.name} is declared for it", weighed.fact)
        return _route(model, weighed, facts, is_declared=True, warning=None if weighed.fits else too_large(weighed))

    def _unknown(self, name: ModelName, alias: Alias | None, may_see: Callable[[ModelName], bool]) -> NotFound:
        if alias is not None and may_see(alias.target):
            return missing_target(name, alias)
        aliases = self._known.aliases.near(name, lambda each: may_see(each) and self._known.find(each) is not None)
        near = [*self._known.near(name, may_see), *aliases]
        alike = f"there is {', '.join(map(str, near))}; " if near else ""
        return NotFound(f"model {str(name)!r} not found", hint=f"{alike}to pull it: `ollama-modal pull {name}`")


def missing_target(name: ModelName, alias: Alias) -> NotFound:
    """What is told of an alias whose model is not here."""
    return NotFound(
        f"model {str(name)!r} not found: {alias.text} is an alias of {str(alias.target)!r}, which is not here",
        hint=f"pull that: `ollama-modal pull {alias.target}`",
    )


def _told(settings: ModelSettings) -> list[str]:
    """What is set for a model, for people."""
    parts = [f"a context of {settings.context:,} tokens"] if settings.context else []
    parts += [f"{name} {value}" for name, value in settings.parameters.items()]
    parts += ["a system prompt"] if settings.system else []
    return [f"set for it: {', '.join(parts)}"] if parts else []


def _route(
    model: KnownModel, weighed: Weighed, facts: tuple[str, ...], *, is_declared: bool = False, warning: str | None
) -> Route:
    return Route(
        model=model.name,
        served_name=str(model.name),
        tier=weighed.tier.name,
        facts=facts,
        weighed=weighed,
        weights_bytes=model.size,
        is_declared=is_declared,
        warning=warning,
    )


class FreshRouter:
    """Routes for whoever asks now and then: what is known is looked up anew when it is older than it may be, and once
    more where a model is not found, which may have come a moment ago. Threads may share one.

    Args:
        known: what is here.
        router: routes by that.
        clock: the time.
        seconds: how old it may be.

    """

    def __init__(self, known: KnownState, router: Router, clock: Clock, seconds: float) -> None:
        self._known = known
        self._router = router
        self._clock = clock
        self._seconds = seconds
        #: Written by any thread that looks; two that look at once look twice.
        self._looked_at = float("-inf")

    def route(self, model: str) -> Route:
        """Where requests to this model go.

        Raises:
            Trouble: it is not here.
            StoreUnavailable: that cannot be known now.

        """
        self._look(self._seconds)
        try:
            return self._router.route(model)
        except NotFound:
            self._look(MISSED_SECONDS)
            return self._router.route(model)

    def _look(self, seconds: float) -> None:
        if self._clock.monotonic() - self._looked_at > seconds:
            if not self._known.refresh():
                raise StoreUnavailable(f"which models are here is not known now: {self._known.trouble}")
            self._looked_at = self._clock.monotonic()


MISSED_SECONDS = 0.1
"""Models that nobody has are looked for no more often."""
