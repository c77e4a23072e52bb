"""What is known, in memory: the whole models, what the servers reported last, the generation of the weights.

One thread keeps it fresh, and all others read at no cost. It never asks a server on a GPU. What cannot be learnt stays
as it was known, with its age, and `trouble` says why.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from loguru import logger

from app.model_server.report import REPORT_STALE, Report, ReportsOf
from jobs.core.clock import Clock
from jobs.core.model_name import ModelName
from jobs.models.aliases import Alias, Aliases
from jobs.models.card import KnownModel
from jobs.models.near_names import NearNames
from jobs.store import keys
from jobs.store.protocols import DictLike

EVERY = timedelta(seconds=5)


class ModelsSource(Protocol):
    """Where the models come from."""

    def stamp(self, _generation: Any, /) -> Any:
        """Cheap to ask; equal to the last one means that nothing has changed since."""

    def read(self) -> Sequence[KnownModel]:
        """All whole models."""


@dataclass(frozen=True)
class _Models:
    listed: tuple[KnownModel, ...] = ()
    by_name: Mapping[ModelName, KnownModel] = field(default_factory=dict)
    near: NearNames = field(default_factory=NearNames)
    names: frozenset[str] = frozenset()
    stamp: Any = None
    at: datetime | None = None


@dataclass(frozen=True)
class _Reported:
    """What the ledger says."""

    reports: tuple[Report, ...] = ()
    by_tier: Mapping[str, tuple[Report, ...]] = field(default_factory=dict)
    generation: Any = None
    at: datetime | None = None


class KnownState:
    """Any thread may read, and `refresh`. What is known is kept in a few values that never change and are replaced as a
    whole by the thread that refreshes, under `_refreshing`; a reader takes one of them without a lock.

    Args:
        facts: the ledger's dict: the reports and the generation.
        source: where the models come from.
        clock: for ages and pauses.
        every: how long a refresh may wait for the next.
        aliases: the other names of models that are declared; those that were made, the ledger tells.
        learnt: called in the thread that refreshes when other models are known than before.

    """

    def __init__(
        self,
        facts: DictLike,
        source: ModelsSource,
        clock: Clock,
        *,
        every: timedelta = EVERY,
        aliases: Aliases | None = None,
        learnt: Callable[[], object] = lambda: None,
    ) -> None:
        self._facts = facts
        self._source = source
        self._clock = clock
        self._every = every
        self._learnt = learnt
        #: Held by the one thread that looks things up; never by a reader.
        self._refreshing = threading.Lock()
        #: Replaced under `_refreshing`, read by any thread.
        self._models = _Models()
        #: Replaced under `_refreshing`, read by any thread.
        self._reported = _Reported()
        #: Replaced under `_refreshing`, read by any thread; the same object for as long as they are the same.
        self._aliases = aliases or Aliases()
        self._reports_of_all = ReportsOf(facts)
        #: Why something could not be learnt, by what it is. Replaced under `_refreshing`, read by any thread.
        self._troubles: dict[str, str] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep_fresh, name="known state", daemon=True)

    # What is known

    def models(self) -> tuple[KnownModel, ...]:
        """Newest first, as Ollama lists them."""
        return self._models.listed

    def find(self, name: ModelName) -> KnownModel | None:
        """The model of this name in any case, under the spelling it is stored with."""
        return self._models.by_name.get(name.folded())

    @property
    def names(self) -> frozenset[str]:
        """The names of the models, as they are stored."""
        return self._models.names

    @property
    def aliases(self) -> Aliases:
        """The other names of models, whether these are here or not."""
        return self._aliases

    def resolve(self, name: ModelName) -> tuple[KnownModel | None, Alias | None]:
        """The model that is asked for by this name; and the alias that it is, where it is no model's own name.

        Of an alias whose model is not here only the alias is told.
        """
        if (model := self.find(name)) is not None:
            return model, None
        alias = self._aliases.of(name)
        return (None, None) if alias is None else (self.find(alias.target), alias)

    def aliases_of(self, model: KnownModel) -> list[ModelName]:
        """The other names that lists show a model by; patterns are no names."""
        found = self._aliases.by_target.get(model.name.folded(), ())
        return [alias.name for alias in found if self.find(alias.name) is None]

    def near(self, name: ModelName, may_see: Callable[[ModelName], bool]) -> list[ModelName]:
        """The models whose names come near one that is not here, of those that may be seen."""
        return self._models.near.near(name, may_see)

    def reports(self, tier: str | None = None) -> tuple[Report, ...]:
        """What the servers said last, newest first; those of one tier if it is given.

        The same object until the next refresh, and at no cost: every request asks for it.
        """
        return self._reported.reports if tier is None else self._reported.by_tier.get(tier, ())

    def serving(self) -> tuple[Report, ...]:
        """The reports of servers that are up, as far as their age lets one believe it."""
        now = self._clock.now()
        return tuple(each for each in self.reports() if each.state == "serving" and now - each.at <= REPORT_STALE)

    @property
    def generation(self) -> Any:
        """Of the weights, as the ledger names it since they were changed last."""
        return self._reported.generation

    def age(self) -> timedelta | None:
        """How old the oldest part of all this is; None before each part was learnt once."""
        models_at, reported_at = self._models.at, self._reported.at
        return None if models_at is None or reported_at is None else self._clock.now() - min(models_at, reported_at)

    @property
    def trouble(self) -> str | None:
        """Why the last refresh did not learn everything, if it did not."""
        return "; ".join(self._troubles.values()) or None

    # How it stays fresh

    def start(self) -> None:
        """Refresh here once, then again and again in a thread."""
        self.refresh()
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def refresh(self) -> bool:
        """Look everything up; false when a part of it failed, which then stays as it was known."""
        with self._refreshing:
            is_reported = self._try("what the ledger tells", self._learn_reported)
            return self._try("which models there are", self._learn_models) and is_reported

    def _keep_fresh(self) -> None:
        while not self._stopping.is_set():
            self._clock.wait(self._every.total_seconds(), self._stopping)
            if not self._stopping.is_set():
                self.refresh()

    def _try(self, what: str, learn: Callable[[], None]) -> bool:
        try:
            learn()
        except Exception as error:  # noqa: BLE001 - whatever it is, the gateway goes on with what it knows
            why = f"{what} cannot be learnt: {type(error).__name__}: {error}"
            if self._troubles.get(what) != why:
                logger.warning("{}; what was known stays", why)
            self._troubles = {**self._troubles, what: why}
            return False
        if what in self._troubles:
            logger.info("{} is known again", what)
            self._troubles = {key: why for key, why in self._troubles.items() if key != what}
        return True

    def _learn_models(self) -> None:
        """The stamp is taken before the models are read, so it is never ahead of them."""
        at = self._clock.now()
        stamp = self._source.stamp(self._reported.generation)
        if self._models.at is not None and stamp == self._models.stamp:
            self._models = replace(self._models, at=at)
            return
        models = tuple(sorted(self._source.read(), key=lambda model: (-int(model.modified_at.timestamp()), model.name)))
        by_name = {model.name.folded(): model for model in models}
        near, names = NearNames(model.name for model in models), frozenset(str(model.name) for model in models)
        self._models = _Models(models, by_name, near, names, stamp, at)
        self._learnt()

    def _learn_reported(self) -> None:
        at = self._clock.now()
        generation = self._facts.get(keys.WEIGHTS_GENERATION)
        aliases = self._aliases.with_made(self._facts.get(keys.ALIASES))
        aliases.prepare()
        self._aliases = aliases
        before = {(each.tier, each.container): each for each in self._reported.reports}
        found = (
            each.heard(before.get((each.tier, each.container)), self._reported.at, at)
            for each in self._reports_of_all()
        )
        reports = tuple(sorted(found, key=lambda report: report.at, reverse=True))
        by_tier = {
            tier: tuple(each for each in reports if each.tier == tier) for tier in {each.tier for each in reports}
        }
        self._reported = _Reported(reports, by_tier, generation, at)
