"""How things stand, in memory: the whole models, what the servers reported last, the generation of the weights.

One thread keeps it fresh; everybody else only reads, at no cost. It never asks a server on a GPU. When a round fails,
what was known stays, with its age, and `trouble` says why.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

from loguru import logger

from app.freshness import GENERATION
from app.report import PREFIX, Report
from jobs.cards import Model
from jobs.clock import Clock
from jobs.names import ModelName
from jobs.protocols import DictLike

EVERY = timedelta(seconds=5)


class Source(Protocol):
    """Where the models come from."""

    def stamp(self, generation: Any) -> Any:
        """Cheap to ask; equal to the last one means that nothing has changed since."""

    def read(self) -> Sequence[Model]:
        """All whole models."""


@dataclass(frozen=True)
class Snapshot:
    """All that was known at one moment."""

    models: tuple[Model, ...] = ()
    reports: tuple[Report, ...] = ()
    generation: Any = None
    at: datetime | None = None
    by_name: dict[ModelName, Model] = field(default_factory=dict, repr=False)


class Standing:
    """Reads are safe from any thread.

    Args:
        facts: the ledger's dict: the reports and the generation.
        source: where the models come from.
        clock: for ages and pauses.
        every: how long a round may wait for the next.

    """

    def __init__(self, facts: DictLike, source: Source, clock: Clock, *, every: timedelta = EVERY) -> None:
        self._facts = facts
        self._source = source
        self._clock = clock
        self._every = every
        self._now = Snapshot()
        self._stamp: Any = None
        self._final: dict[str, Report] = {}
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="standing", daemon=True)
        self.trouble: str | None = None
        """Why the last round failed, if it did."""

    # What is known

    def models(self) -> tuple[Model, ...]:
        """Newest first, as Ollama lists them."""
        return self._now.models

    def find(self, name: ModelName) -> Model | None:
        """The model of this name in any case, under the spelling it is stored with."""
        return self._now.by_name.get(name.folded())

    def reports(self, tier: str | None = None) -> tuple[Report, ...]:
        """What the servers said last, newest first; those of one tier when it is named."""
        return tuple(each for each in self._now.reports if tier is None or each.tier == tier)

    @property
    def generation(self) -> Any:
        return self._now.generation

    def age(self) -> timedelta | None:
        """How old all this is; None before the first round that succeeded."""
        at = self._now.at
        return None if at is None else self._clock.now() - at

    # How it stays fresh

    def start(self) -> None:
        """Look once, then keep looking in a thread."""
        self.refresh()
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def nudge(self) -> None:
        """Look again soon: something has just changed."""
        self._wake.set()

    def refresh(self) -> bool:
        """One round; false when it failed, and everything stays as it was known."""
        try:
            self._now = self._round()
        except Exception as error:  # noqa: BLE001 - whatever it is, the gateway goes on with what it knows
            self._failed(f"{type(error).__name__}: {error}")
            return False
        if self.trouble:
            logger.info("how things stand is known again")
        self.trouble = None
        return True

    def _failed(self, why: str) -> None:
        if why != self.trouble:
            logger.warning("how things stand could not be learnt; what was known stays: {}", why)
        self.trouble = why

    def _keep(self) -> None:
        while not self._stopping.is_set():
            self._clock.wait(self._every.total_seconds(), self._wake)
            self._wake.clear()
            if not self._stopping.is_set():
                self.refresh()

    def _round(self) -> Snapshot:
        at = self._clock.now()
        generation = self._facts.get(GENERATION)
        stamp = self._source.stamp(generation)
        known = self._now
        models = known.models
        if known.at is None or stamp != self._stamp:
            models = tuple(sorted(self._source.read(), key=lambda model: (-model.modified_at.timestamp(), model.name)))
        snapshot = Snapshot(models, self._reports(), generation, at, {model.name.folded(): model for model in models})
        self._stamp = stamp
        return snapshot

    def _reports(self) -> tuple[Report, ...]:
        """Final ones are not asked for again: reading an entry of a `modal.Dict` keeps it from fading."""
        keys = [key for key in self._facts.keys() if key.startswith(PREFIX)]  # noqa: SIM118 - a DictLike, no dict
        self._final = {key: report for key, report in self._final.items() if key in keys}
        found = []
        for key in keys:
            report = self._final.get(key) or Report.from_json(self._facts.get(key))
            if report.is_final:
                self._final[key] = report
            found.append(report)
        return tuple(sorted(found, key=lambda report: report.at, reverse=True))
