"""What should be, against what is: the steps of a night, each with its reason. Pure.

`nightly` posts these steps and `plan` prints them, so what is printed is what would be done. It asks no registry, reads
no disk and posts nothing: what is known is handed in.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from app.fleet.schedule import NIGHT
from app.fleet.schema import Fleet
from jobs.core.model_name import ModelName
from jobs.core.units import counted, human_bytes
from jobs.ledger.job import BY_NIGHTLY, Job
from jobs.ledger.kinds import KINDS
from jobs.telemetry.nightly_report import ReadShare
from jobs.weights.history import Memory
from jobs.weights.manifest import Manifest
from jobs.weights.prune_plan import PrunePlan
from jobs.weights.survey import Broken, SurveyedModel


@dataclass(frozen=True)
class UpstreamTag:
    """What the registry says of a model: its manifest, or why it said nothing."""

    manifest: Manifest | None
    trouble: str = ""


@dataclass(frozen=True)
class Actual:
    """How it is.

    Args:
        found: what stands behind each manifest, whole or broken.
        upstream: what the registry says of the models that the fleet declares and that are here.
        memory: what was used, verified, and rolled back.
        pruning: what a prune would do.
        tonight: the jobs that were posted since this night began.
        tiers: those that have a server; None for all.
        batches_due: why files of batches are to be looked through; empty where nothing of them is due.

    """

    found: tuple[SurveyedModel | Broken, ...]
    upstream: Mapping[ModelName, UpstreamTag]
    memory: Memory
    pruning: PrunePlan
    tonight: tuple[Job, ...] = ()
    tiers: frozenset[str] | None = None
    batches_due: str = ""


@dataclass(frozen=True)
class NightStep:
    """A job to post, and why; `size` is how many bytes it is about, where that is known."""

    kind: str
    subject: str
    request: Mapping[str, Any]
    why: str
    size: int | None = None

    def as_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "subject": self.subject, "why": self.why, "size": self.size}


@dataclass(frozen=True)
class Night:
    """What this night is for, in the order in which it is posted, and what is worth saying."""

    steps: tuple[NightStep, ...]
    pruning: PrunePlan
    notes: tuple[str, ...] = field(default=())
    share: ReadShare | None = None

    @property
    def summary(self) -> str:
        return f"{counted(len(self.steps), 'job')} to post" if self.steps else "all is as it should be"

    def as_json(self) -> dict[str, Any]:
        return {
            "steps": [step.as_json() for step in self.steps],
            "pruning": self.pruning.as_json(),
            "notes": list(self.notes),
        }

    def rows(self) -> Iterator[tuple[str, str, str, str]]:
        for step in self.steps:
            yield step.kind, step.subject, "" if step.size is None else human_bytes(step.size), step.why
            if step.kind == "prune":
                yield from ((f"  {do}", what, size, why) for do, what, size, why in self.pruning.rows())


def asked_about(fleet: Fleet, found: tuple[SurveyedModel | Broken, ...]) -> tuple[ModelName, ...]:
    """The declared models that are here, whole: of these the registry is asked whether there is a newer one."""
    whole = {each.name.folded() for each in found if isinstance(each, SurveyedModel)}
    return tuple(model.parsed for model in fleet.models if model.parsed.folded() in whole)


def night(fleet: Fleet, actual: Actual, now: datetime) -> Night:
    """The steps that lead from what is to what should be, and have not been taken this night.

    What its prune throws is gone by then: it is neither read, nor brought anew, nor counted.
    """
    since = {(job.kind, job.subject) for job in actual.tonight}
    notes: list[str] = []
    going = {ModelName.parse(each.name).folded() for each in actual.pruning.of("model")}
    actual = replace(actual, found=tuple(each for each in actual.found if each.name.folded() not in going))
    pulls = list(_pulls(fleet, actual, notes))
    coming = {step.subject for step in pulls} | {subject for kind, subject in since if kind == "pull"}
    steps = [*_prune(actual), *pulls, *_verifications(fleet, actual, coming, now), *_warm(fleet, actual, coming)]
    steps += _prune_batches(actual)
    notes += [f"{each.name} is torn: pull it again, or delete it" for each in actual.found if each.manifest is None]
    return Night(
        tuple(step for step in steps if (step.kind, step.subject) not in since),
        actual.pruning,
        (*notes, *actual.pruning.notes),
        _share(fleet, actual, steps, now),
    )


def _prune(actual: Actual) -> Iterator[NightStep]:
    """First of all: what leaves the trash makes room for what is pulled."""
    if not actual.pruning.is_empty:
        size = actual.pruning.thrown_bytes + actual.pruning.freed_bytes
        yield NightStep(*KINDS["prune"].request(), actual.pruning.summary, size)


def _prune_batches(actual: Actual) -> Iterator[NightStep]:
    if actual.batches_due:
        yield NightStep(*KINDS["prune_batches"].request(), actual.batches_due)


def _pulls(fleet: Fleet, actual: Actual, notes: list[str]) -> Iterator[NightStep]:
    whole = {each.name.folded(): each for each in actual.found if isinstance(each, SurveyedModel)}
    for model in fleet.models:
        name = model.parsed.folded()
        request = KINDS["pull"].request(model.name)
        if name not in whole:
            if model.pinned:
                yield NightStep(*request, "the fleet pins it, and it is not here in whole")
            continue
        newer = _newer(whole[name], actual, notes)
        if newer is not None:
            why = f"its tag moved upstream, from {whole[name].digest[:12]} to {newer.digest[:12]}"
            yield NightStep(*request, why, newer.size)


def _newer(model: SurveyedModel, actual: Actual, notes: list[str]) -> Manifest | None:
    """What the tag means upstream now, when that is something else, and nobody has rolled back from it."""
    name = model.name.folded()
    upstream = actual.upstream.get(name)
    if upstream is None:
        return None
    if upstream.manifest is None:
        notes.append(f"whether {model.name} moved upstream could not be learnt: {upstream.trouble}")
        return None
    if _parts(upstream.manifest) == _parts(model.manifest):
        return None
    left = actual.memory.left.get(name)
    if left is not None and left.digest == upstream.manifest.digest:
        notes.append(
            f"{model.name} stays: the newer {left.digest[:12]} was rolled back from on {left.at:%Y-%m-%d};"
            f" `ollama-modal pull {model.name}` takes that one after all"
        )
        return None
    return upstream.manifest


def _parts(manifest: Manifest) -> tuple[str, ...]:
    """What a model is made of. Ollama writes the same manifest in other bytes, so its own digest does not tell."""
    return (manifest.config.digest, *(layer.digest for layer in manifest.layers))


def _verifications(fleet: Fleet, actual: Actual, coming: set[str], now: datetime) -> Iterator[NightStep]:
    """Those read longest ago, until the night's share is reached; and all whose time runs out before the next night.

    A night has one share: when part of it is posted, the rest waits for the next.
    """
    if any(job.kind == "verify" and job.posted_by == BY_NIGHTLY for job in actual.tonight):
        return
    longest = timedelta(days=fleet.volume.retention.verify_days)
    sizes = {each.name.folded(): each.manifest.size for each in actual.found if each.manifest is not None}
    share = -(-sum(sizes.values()) // fleet.volume.retention.verify_days)  # in whole bytes, and never short of it
    broken = {each.name.folded() for each in actual.found if isinstance(each, Broken)}
    verified = actual.memory.verified
    never = datetime.min.replace(tzinfo=now.tzinfo)
    for name in sorted(sizes, key=lambda name: (name not in broken, verified.get(name, never), name)):
        last = verified.get(name)
        is_due = name in broken or (last is not None and now - last >= longest - NIGHT)
        if str(name) in coming or (share <= 0 and not is_due):
            continue
        share -= sizes[name]
        why = "never read in full" if last is None else f"read in full last on {last:%Y-%m-%d}"
        why = "blobs of it are missing" if name in broken else why
        yield NightStep(*KINDS["verify"].request(str(name)), why, sizes[name])


def _share(fleet: Fleet, actual: Actual, steps: Iterable[NightStep], now: datetime) -> ReadShare:
    """How far all weights are read after these steps. What is hashed as it comes counts as read."""
    days = fleet.volume.retention.verify_days
    tonight = {step.subject for step in steps if step.kind in {"pull", "verify"}}
    verified = actual.memory.verified
    sizes = {each.name.folded(): each.manifest.size for each in actual.found if each.manifest is not None}
    total = sum(sizes.values())
    unread = sum(
        size
        for name, size in sizes.items()
        if str(name) not in tonight and (name not in verified or now - verified[name] > timedelta(days=days))
    )
    nights = -(-unread * days // total) if total else 0  # each reads its share of the whole, or more
    return ReadShare(total, days, now + nights * NIGHT)


def _warm(fleet: Fleet, actual: Actual, coming: set[str]) -> Iterator[NightStep]:
    """One that comes tonight is left alone, or the second run of a night would do more than the first."""
    whole = {each.name.folded() for each in actual.found if isinstance(each, SurveyedModel)}
    for model in fleet.models:
        name = model.parsed.folded()
        if model.warmed and name in whole and str(name) not in coming:
            tier = model.tier if actual.tiers is None or model.tier in actual.tiers else None
            yield NightStep(*KINDS["warm"].request(model.name, {"tier": tier}), "the fleet warms it each night")
