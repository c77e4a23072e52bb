"""What the servers have in memory now: by their reports, and by what this gateway has seen since it read them.

A server reports now and then; a caller who has just been answered with a model, or has unloaded it, asks at once. So
what went through here is remembered for each tier until a report says more. Where asking a server costs nothing it is
asked instead, once for all who want to know; a server on a rented GPU never is, because that would wake it.

Each gateway knows what it saw itself. What went through another one, or past both, it learns by the reports.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

from loguru import logger

from app.gateway.catalog.state import KnownState
from app.model_server.report import REPORT_STALE, Loaded, Report
from jobs.core.clock import Clock
from jobs.core.errors import BadName, Trouble
from jobs.core.model_name import ModelName
from jobs.models.placement import Weighed

Ask = Callable[[], Awaitable[Sequence[Loaded]]]

KEEP = timedelta(minutes=5)
"""How long Ollama keeps a model that nobody said anything of."""

SETTLING = timedelta(seconds=2)
"""So far the clocks of two containers may be apart, and so long Ollama may take to let a model go."""

REUSED_SECONDS = 0.5
"""So long a server's answer stands for callers who come later, where nothing went through here meanwhile."""

ASK_SECONDS = 2.0
"""So long a server may take to answer; one that loads from a slow disk does not. Then what is known has to do."""

FOR_EVER = timedelta(seconds=(2**63 - 1) // 1_000_000_000)
"""What Ollama makes of a negative keep-alive: the longest time that Go can count (api/types.go)."""

MOST_ENTRIES = 256
"""Models and contexts whose place in memory is remembered."""

UNREPORTED = "not reported yet"
"""Of a container that has answered, and has no report here."""


class _Note(NamedTuple):
    """What was seen of one model; without `loaded` it was unloaded."""

    at: datetime
    loaded: Loaded | None
    """Without the moment until which it is kept, which `entry` has."""
    keep: timedelta = KEEP
    busy: int = 0
    """Requests of ours that it answers now."""

    @property
    def entry(self) -> Loaded | None:
        """As a report would have it."""
        return self.loaded and replace(self.loaded, expires_at=self.at + _length(self.keep))

    def stays(self, now: datetime) -> bool:
        """Whether the model is in memory still, as far as it was seen."""
        return self.loaded is not None and (self.busy > 0 or self.at + _length(self.keep) > now)


@dataclass(frozen=True)
class _Tier:
    """What was seen of one tier.

    Args:
        notes: by the model's folded name, a text, which is quick to find; changed by the event loop, and copied by
            whoever goes through them.
        absent_at: when nothing of it was up: what was reported before is in memory no longer.
        answer: what its server answered last, and when it was asked.

    """

    notes: dict[str, _Note] = field(default_factory=dict)
    absent_at: datetime | None = None
    answer: tuple[datetime, tuple[Loaded, ...]] | None = None


class _Use:
    """A request that a server answers with a model, from beginning to end."""

    __slots__ = ("_end", "_folded", "_tier")

    def __init__(self, end: Callable[[str, str], object], tier: str, folded: str) -> None:
        self._end = end
        self._tier = tier
        self._folded = folded

    def __enter__(self) -> None:
        """It is under way already."""

    def __exit__(self, *_: object) -> None:
        self._end(self._tier, self._folded)


class LoadedModels:
    """Written by the event loop; `reports` may be asked by any thread.

    Args:
        known: the models, and what the servers reported.
        clock: the time.
        weigh: the memory that a model takes on its tier, with so long a context if one is asked for.
        keep: of each tier, how long it keeps a model of which a request says nothing.
        ask: what each tier has in memory, where asking costs nothing.

    """

    def __init__(
        self,
        known: KnownState,
        clock: Clock,
        weigh: Callable[[ModelName, int | None], Weighed],
        keep: Mapping[str, timedelta],
        ask: Mapping[str, Ask] | None = None,
    ) -> None:
        self._known = known
        self._clock = clock
        self._weigh = weigh
        self._keep = keep
        self._ask = ask or {}
        #: Has every tier from the beginning. Values are replaced as a whole by the event loop, but for the notes, into
        #: which it puts whole ones; any thread may read, and copies the notes first.
        self._tiers = {tier: _Tier() for tier in keep}
        #: What is in memory of a model, by how it is asked for, for as long as the models are the same. These six are
        #: the event loop's own.
        self._entries: dict[tuple[str, Any], Loaded] = {}
        self._models: object = None
        self._asking = asyncio.Lock()
        self._asked_at = float("-inf")
        self._seen = 0
        self._seen_when_asked = 0

    # What is seen

    def used(
        self, tier: str, name: str, settings: Mapping[str, Any], keep: timedelta | None
    ) -> AbstractContextManager[None]:
        """From now on until the end of what is returned, a server answers with this model, and keeps it afterwards.

        Args:
            tier: which kind of server.
            name: how it was asked for the model.
            settings: the options of the request that a load depends on.
            keep: how long it is to be kept afterwards, below zero for ever; None is as before.

        """
        folded = _folded_text(name)
        self._note(tier, name, folded, settings, keep, busy=1)
        return _Use(self._ended, tier, folded)

    def loaded(self, tier: str, name: str, settings: Mapping[str, Any], keep: timedelta | None = None) -> None:
        """A server of the tier has this model in memory."""
        self._note(tier, name, _folded_text(name), settings, keep)

    def answered(self, tier: str, name: str) -> None:
        """A server has answered with this model, all at once, and keeps it as before: as `used` from beginning to end.

        Args:
            tier: which kind of server.
            name: how it was asked for the model.

        """
        notes, folded = self._tiers[tier].notes, _folded_text(name)
        before = notes.get(folded)
        keep = before.keep if before is not None and before.loaded is not None else self._keep[tier]
        busy = before.busy if before is not None else 0
        entry = self._entry(name, None) if busy or keep else None
        notes[folded] = _Note(self._clock.now(), entry, keep, busy)
        self._seen += 1

    def _note(
        self,
        tier: str,
        name: str,
        folded: str,
        settings: Mapping[str, Any],
        keep: timedelta | None,
        *,
        busy: int = 0,
    ) -> None:
        notes = self._tiers[tier].notes
        before = notes.get(folded)
        if keep is None:
            keep = before.keep if before is not None and before.loaded is not None else self._keep[tier]
        entry = self._entry(name, settings.get("num_ctx"))
        notes[folded] = _Note(self._clock.now(), entry, keep, busy + (before.busy if before is not None else 0))
        self._seen += 1

    def unloaded(self, tier: str, name: str) -> None:
        """A server of the tier was told to unload this model, and has said that it does."""
        notes, folded = self._tiers[tier].notes, _folded_text(name)
        busy = note.busy if (note := notes.get(folded)) else 0
        notes[folded] = _Note(self._clock.now(), None, busy=busy)
        self._seen += 1

    def absent(self, tier: str) -> None:
        """No server of the tier is there."""
        self._tiers[tier] = _Tier(absent_at=self._clock.now())
        self._seen += 1

    def _ended(self, tier: str, folded: str) -> None:
        """Ollama counts the time to keep a model from the end of its last request."""
        notes = self._tiers[tier].notes
        if (note := notes.get(folded)) is None:  # the tier was lost meanwhile
            return
        busy = max(0, note.busy - 1)
        notes[folded] = _Note(self._clock.now(), note.loaded if busy or note.keep else None, note.keep, busy)
        self._seen += 1

    def _entry(self, name: str, asked: Any) -> Loaded:
        """What is in memory, worked out once for as long as the models stay the same."""
        models = self._known.models()
        if models is not self._models or len(self._entries) > MOST_ENTRIES:
            self._models = models
            self._entries.clear()
        entry = self._entries.get((name, asked))
        if entry is None:
            entry = self._entries[name, asked] = self._worked_out(ModelName.parse(name), asked)
        return entry

    def _worked_out(self, name: ModelName, asked: Any) -> Loaded:
        """As near as can be told without asking: the sizes are those of the weights, as Ollama tells them of a runner
        that says nothing."""
        model = self._known.find(name)
        own = model.card.options.get("num_ctx") if model and model.card else None
        asked = asked or own
        try:
            weighed = self._weigh(name, asked if isinstance(asked, int) and asked > 0 else None)
        except Trouble:
            weighed = None  # it was deleted meanwhile
        size = model.size if model else 0
        on_gpu = min(size, weighed.tier.vram_bytes or 0) if weighed and weighed.tier.gpu_promised else 0
        context = weighed.context if weighed else 0
        return Loaded(str(name), size, on_gpu, context, model.digest if model else "")

    # Asking

    async def refresh(self) -> None:
        """Ask the servers where that costs nothing, so that what follows is no older than this call.

        Of all who come while they are asked, the first has them asked once more, for all.
        """
        if not self._ask:
            return
        now = self._clock.monotonic
        came = now()
        async with self._asking:
            is_quiet = self._seen == self._seen_when_asked and now() - self._asked_at < REUSED_SECONDS
            if self._asked_at >= came or is_quiet:
                return
            self._seen_when_asked, self._asked_at = self._seen, now()
            await asyncio.gather(*(self._ask_tier(tier, ask) for tier, ask in self._ask.items()))

    async def _ask_tier(self, tier: str, ask: Ask) -> None:
        at = self._clock.now()
        try:
            async with asyncio.timeout(ASK_SECONDS):
                loaded = tuple(await ask())
        except (TimeoutError, Trouble) as trouble:
            logger.debug("tier {} did not say what it has loaded: {}", tier, trouble)
            return
        self._tiers[tier] = replace(self._tiers[tier], answer=(at, loaded))

    # What is known

    def reports(self) -> tuple[Report, ...]:
        """The reports of servers that are up, each with what is in its memory as far as it is known now."""
        serving: dict[str, list[Report]] = {tier: [] for tier in self._tiers}
        for each in self._known.serving():
            serving.setdefault(each.tier, []).append(each)
        return tuple(report for tier, reports in serving.items() for report in self._of_tier(tier, reports))

    def _of_tier(self, tier: str, reports: list[Report]) -> list[Report]:
        if (seen := self._tiers.get(tier)) is None:
            return reports
        now = self._clock.now()
        told_at = min((each.at for each in reports), default=_LONG_AGO)  # by all: any of them may be meant
        if seen.absent_at is not None:
            reports = [replace(each, loaded=()) if each.at < seen.absent_at else each for each in reports]
        heard_at = _LONG_AGO
        if seen.answer is not None and seen.answer[0] > max(told_at, now - REPORT_STALE) and len(reports) <= 1:
            heard_at = seen.answer[0]
            report = reports[0] if reports else self._unreported(tier, heard_at)
            reports = [replace(report, loaded=seen.answer[1])]
        memory = [_Memory(each) for each in reports]
        where = {folded: each for each in reversed(memory) for folded in each.entries}
        for text, note in seen.notes.copy().items():  # in one step
            folded = ModelName.parse(text)
            settles = timedelta(0) if note.loaded else SETTLING
            if told_at > note.at + SETTLING or heard_at > note.at + settles:
                continue
            entry = note.entry
            if entry is None or not note.stays(now):
                # Of several servers, nobody can tell which one it was that let it go.
                if len(memory) == 1:
                    memory[0].entries.pop(folded, None)
                continue
            if not memory:
                if not note.busy and now - note.at > REPORT_STALE:
                    continue  # for so long a server that is there would have said something
                memory.append(_Memory(self._unreported(tier, note.at)))
            where.setdefault(folded, memory[0]).put(folded, entry)
        return [each.as_report() for each in memory]

    def _unreported(self, tier: str, at: datetime) -> Report:
        """Of a container that has answered, though it has no report here that says so."""
        waking = (each for each in self._known.reports(tier) if each.state == "waking")
        return replace(next(waking, Report(tier, UNREPORTED, "", at)), state="serving", at=at)


_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


def _length(keep: timedelta) -> timedelta:
    return FOR_EVER if keep < timedelta(0) else keep


class _Memory:
    """What a server has in memory, while notes are added to its report: by the model's folded name."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self.entries: dict[ModelName | str, Loaded] = {_folded(each.name) or each.name: each for each in report.loaded}

    def put(self, folded: ModelName, entry: Loaded) -> None:
        """This model was seen in memory; sizes that the server told itself are better."""
        known = self.entries.pop(folded, None)
        if known is not None and known.context == entry.context:
            entry = replace(entry, size=known.size, size_vram=known.size_vram)
        self.entries[folded] = entry

    def as_report(self) -> Report:
        return replace(self._report, loaded=tuple(self.entries.values()))


@lru_cache(maxsize=4096)
def _folded(name: str) -> ModelName | None:
    try:
        return ModelName.parse(name).folded()
    except BadName:
        return None


@lru_cache(maxsize=4096)
def _folded_text(name: str) -> str:
    return str(ModelName.parse(name).folded())
