"""What a prune is to do, as a plan: from what is on disk, who uses it, and what the retention says. Pure.

It reads no disk and no clock, so a dry run and a real one follow the same plan. What is safe is told with its reason:
a plan that leaves something alone says why.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from jobs.core.model_name import ModelName
from jobs.core.retention import RetentionRules
from jobs.core.units import counted, human_bytes
from jobs.weights.survey import Stray, Survey, SurveyedModel

IN_USE = timedelta(days=1)
"""A model that was used so lately is in use: whoever talks to it pauses now and then."""

RemovalKind = Literal["model", "orphan", "unfinished", "trash"]


@dataclass(frozen=True)
class WeightsUse:
    """What happens use the weights, by folded name. Use is what was recorded; no file's time stands for it.

    Args:
        used: when each model was last used.
        used_since: from when on uses were recorded; None when there is no record at all.
        came: when a pull of the model ended.
        pulling: models that a live job pulls.
        staging: the slugs of the stagings that live jobs hold or will take over.
        loaded: models that a server has in memory.
        is_pruned: a prune is to be done, or being done.

    """

    used: Mapping[ModelName, datetime] = field(default_factory=dict)
    used_since: datetime | None = None
    came: Mapping[ModelName, datetime] = field(default_factory=dict)
    pulling: frozenset[ModelName] = frozenset()
    staging: frozenset[str] = frozenset()
    loaded: frozenset[ModelName] = frozenset()
    is_pruned: bool = False


@dataclass(frozen=True)
class Removal:
    """One thing that goes: to the trash, or out of it for good. `size` is what only it takes."""

    what: RemovalKind
    name: str
    size: int
    why: str
    path: Path | None = None

    def as_json(self) -> dict[str, Any]:
        return {"what": self.what, "name": self.name, "size": self.size, "why": self.why}


@dataclass(frozen=True)
class PrunePlan:
    """What goes to the trash, what leaves it for good, and what is worth saying."""

    throw: tuple[Removal, ...]
    delete: tuple[Removal, ...]
    notes: tuple[str, ...]
    usage_bytes: int
    trash_bytes: int
    quota_bytes: int | None
    grace: timedelta

    @property
    def is_empty(self) -> bool:
        return not self.throw and not self.delete

    @property
    def thrown_bytes(self) -> int:
        return sum(each.size for each in self.throw)

    @property
    def freed_bytes(self) -> int:
        return sum(each.size for each in self.delete)

    @property
    def summary(self) -> str:
        words = []
        if self.delete:
            words.append(f"{human_bytes(self.freed_bytes)} leave the trash for good")
        if self.throw:
            words.append(
                f"{human_bytes(self.thrown_bytes)} go to the trash, and count there until {_days(self.grace)} are over"
            )
        return "; ".join(words) or "nothing to prune"

    def of(self, what: RemovalKind) -> tuple[Removal, ...]:
        return tuple(each for each in self.throw if each.what == what)

    def as_json(self) -> dict[str, Any]:
        return {
            "throw": [each.as_json() for each in self.throw],
            "delete": [each.as_json() for each in self.delete],
            "thrown_bytes": self.thrown_bytes,
            "freed_bytes": self.freed_bytes,
            "usage_bytes": self.usage_bytes,
            "trash_bytes": self.trash_bytes,
            "quota_bytes": self.quota_bytes,
            "notes": list(self.notes),
        }

    def rows(self) -> Iterator[tuple[str, str, str, str]]:
        for each in self.delete:
            yield "delete", each.name, human_bytes(each.size), each.why
        for each in self.throw:
            yield "to trash", each.name, human_bytes(each.size), each.why


def plan(
    survey: Survey,
    use: WeightsUse,
    retention: RetentionRules,
    now: datetime,
    *,
    empty_trash: bool = False,
    began: datetime | None = None,
) -> PrunePlan:
    """What to remove, and why.

    Args:
        survey: what is on disk.
        use: who uses it, and who is at work.
        retention: what may stay.
        now: the time.
        empty_trash: do not wait for the grace of what lies in the trash.
        began: with `empty_trash`, since when what comes to the trash waits all the same; None is now.

    """
    notes = list(_notes(survey, use, retention))
    throw: list[Removal] = []
    if not survey.torn:
        orphans = () if use.pulling else survey.orphans
        throw += [_stray("orphan", each, "no model needs it") for each in orphans]
    throw += _unfinished(survey, use, retention, now)
    if not survey.torn:
        throw += _ModelRemovals(survey, use, retention, now).doomed(sum(each.size for each in throw), notes)
    expired = [
        Removal("trash", folder.path.name, folder.size, _expiry(folder.thrown_at, retention, now), folder.path)
        for folder in survey.trash
        if not survey.torn
        and (now - folder.thrown_at >= retention.grace or (empty_trash and (began is None or folder.thrown_at < began)))
    ]
    return PrunePlan(
        tuple(throw),
        tuple(expired),
        tuple(notes),
        survey.usage_bytes,
        survey.trash_bytes,
        retention.quota_bytes,
        retention.grace,
    )


class _ModelRemovals:
    """Which models go: those nobody used, then the least recently used while they take more than the quota."""

    def __init__(self, survey: Survey, use: WeightsUse, retention: RetentionRules, now: datetime) -> None:
        self._survey, self._use, self._retention, self._now = survey, use, retention, now
        manifests = [each.manifest for each in survey.known if each.manifest is not None]
        self._needs = Counter(layer.digest for manifest in manifests for layer in manifest.blobs)

    def doomed(self, others: int, notes: list[str]) -> Iterator[Removal]:
        """The models that go, the least recently used first; those that are safe are noted with their reason."""
        left = self._survey.usage_bytes - self._survey.trash_bytes - others
        for model in sorted(self._survey.models, key=lambda model: (self._last(model) or self._now, model.name)):
            why, safe = self._why(model, left), spared(model.name, self._use, self._retention, self._now)
            if why is not None and safe is not None:
                notes.append(f"{model.name} stays, though {why}: {safe}")
            elif why is not None:
                size = self._release(model)
                left -= size
                yield Removal("model", str(model.name), size, why)
        quota = self._retention.quota_bytes
        if quota is not None and left > quota:
            notes.append(
                f"{human_bytes(left)} would still be over the quota of {human_bytes(quota)}:"
                " all that is left is kept, in use, or of unknown use"
            )

    def _last(self, model: SurveyedModel) -> datetime | None:
        """When a model was last used, or came since; what was before the first record, nobody knows."""
        name, use = model.name.folded(), self._use
        if use.used_since is None:
            return None
        used = use.used.get(name, use.used_since)
        return max(used, model.modified_at, use.came.get(name, used))

    def _why(self, model: SurveyedModel, left: int) -> str | None:
        last, unused, quota = self._last(model), self._retention.unused, self._retention.quota_bytes
        if last is None:
            return None
        ever = "last used" if self._use.used.get(model.name.folded()) == last else "never used since"
        if unused is not None and self._now - last >= unused:
            return f"{ever} {last:%Y-%m-%d}, {counted((self._now - last).days, 'day')} ago"
        if quota is not None and left > quota:
            return f"over the quota of {human_bytes(quota)}, and {ever} {last:%Y-%m-%d}"
        return None

    def _release(self, model: SurveyedModel) -> int:
        """Count a model as gone; the bytes that only it needed."""
        self._needs.subtract(layer.digest for layer in model.manifest.blobs)
        return sum(layer.size for layer in model.manifest.blobs if not self._needs[layer.digest])


def spared(name: ModelName, use: WeightsUse, retention: RetentionRules, now: datetime) -> str | None:
    """Why a model is safe from every prune; None when it is not."""
    folded = name.folded()
    if folded in retention.kept:
        return retention.kept[folded]
    if folded in use.loaded:
        return "a server has it in memory"
    if folded in use.pulling:
        return "it is being pulled"
    used = use.used.get(folded)
    if used is not None and now - used < IN_USE:
        return f"used at {used:%H:%M} UTC"
    return None


def could_go(survey: Survey, plan: PrunePlan) -> str:
    """In words, for somebody whose pull does not fit: what prune could free, and which models take most."""
    parts = []
    thrown, deleted = plan.thrown_bytes, plan.freed_bytes
    if deleted:
        parts.append(f"{human_bytes(deleted)} in the trash whose grace is over: `ollama-modal prune`")
    if rest := survey.trash_bytes - deleted:
        parts.append(f"{human_bytes(rest)} in the trash: `ollama-modal prune --empty-trash`")
    if thrown:
        words = {"model": "unused models", "orphan": "blobs of no model", "unfinished": "unfinished pulls"}
        counts = Counter(str(each.what) for each in plan.throw)
        what = ", ".join(f"{counts[kind]} {word}" for kind, word in words.items() if counts[kind])
        grace = f"they count until the trash is emptied, after {_days(plan.grace)} or by --empty-trash"
        parts.append(f"{human_bytes(thrown)} by `ollama-modal prune`: {what}; {grace}")
    biggest = sorted(survey.models, key=lambda model: (-model.size, model.name))[:3]
    if biggest:
        shown = ", ".join(f"{model.name} ({human_bytes(model.size)})" for model in biggest)
        parts.append(f"delete a model, biggest first: {shown}")
    return f"could be freed: {'; '.join(parts)}" if parts else "nothing here could be freed: raise the quota"


def _unfinished(survey: Survey, use: WeightsUse, retention: RetentionRules, now: datetime) -> Iterator[Removal]:
    days = counted(round(retention.unfinished.total_seconds() / 3600), "hour")
    for stray in (*survey.of("partial"), *survey.of("part"), *survey.of("temp")):
        if now - stray.modified_at >= retention.unfinished:
            yield _stray("unfinished", stray, f"a {stray.kind} file that nobody touched for {days}")
    for folder in survey.stagings:
        if folder.slug not in use.staging and now - folder.modified_at >= retention.unfinished:
            why = f"the staging of a pull that nobody went on with for {days}"
            yield Removal("unfinished", folder.path.name, folder.size, why, folder.path)


def _stray(what: RemovalKind, stray: Stray, why: str) -> Removal:
    return Removal(what, stray.path.name, stray.size, why, stray.path)


def _expiry(thrown_at: datetime, retention: RetentionRules, now: datetime) -> str:
    if now - thrown_at < retention.grace:
        return f"in the trash since {thrown_at:%Y-%m-%d}; asked for before its grace is over"
    return f"in the trash since {thrown_at:%Y-%m-%d}, longer than its {_days(retention.grace)}"


def _notes(survey: Survey, use: WeightsUse, retention: RetentionRules) -> Iterator[str]:
    for torn in survey.torn:
        yield (
            f"the manifest of {torn.name} is torn, so nobody can tell which blobs it needs: no model and no blob goes,"
            f" and the trash stays; pull {torn.name} again, or delete it"
        )
    for broken in survey.incomplete:
        yield f"{broken.name} is broken ({broken.cause}) and left alone: pull it again, or delete it"
    if survey.orphans and use.pulling and not survey.torn:
        yield f"{_count(survey.orphans)} of no model: left alone while something is pulled, which may need them"
    wants_use = retention.unused is not None or retention.quota_bytes is not None
    if use.used_since is None and wants_use and survey.models:
        yield "no use was ever recorded, so nobody can tell which model is unused: none goes for that"
    unknown = survey.of("unknown")
    if unknown:
        shown = ", ".join(repr(stray.path.name) for stray in unknown[:3])
        files = counted(len(unknown), "file that is not ours is", "files that are not ours are")
        yield f"{files} never touched: {shown}{' …' if len(unknown) > 3 else ''}"


def _count(strays: tuple[Stray, ...]) -> str:
    size = human_bytes(sum(each.size for each in strays))
    return f"{counted(len(strays), 'blob')} ({size})"


def _days(span: timedelta) -> str:
    hours = span.total_seconds() / 3600
    return counted(round(hours / 24), "day") if hours >= 48 else counted(round(hours), "hour")
